// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tables say, on a plain host; order and barriers are the MMU model's business.

use super::*;
use crate::arch::host::Host;

const BASE: u64 = 0x4000_0000;
const DIRECT: u64 = 0xffff_0000_0000_0000;

struct Frames(core::ops::Range<u64>);

impl TableSource for Frames {
    fn table(&mut self) -> Option<PhysAddr> {
        self.0.next().and_then(|n| PhysAddr::new(BASE + n * PAGE_SIZE))
    }
}

fn pa(raw: u64) -> PhysAddr {
    PhysAddr::new(raw).unwrap()
}

fn va(raw: u64) -> VirtAddr {
    VirtAddr::new(raw)
}

/// A tree with at most `tables` tables, in garbage, as memory is at boot.
fn with_tree(tables: u64, test: impl FnOnce(&mut PageTable<Host<'_>>, &mut Frames)) {
    let mut words = vec![0xdead_beef_dead_beef; tables as usize * ENTRIES];
    let mut frames = Frames(0..tables);
    let mut tree = PageTable::new(Host::new(pa(BASE), &mut words), Half::Upper, &mut frames).unwrap();
    test(&mut tree, &mut frames);
}

#[test]
fn a_range_is_mapped_with_the_largest_descriptors_that_fit() {
    with_tree(8, |tree, frames| {
        // 1 GiB - 2 MiB - 4 KiB up to 2 GiB + 2 MiB + 64 KiB + 4 KiB: every size at least once.
        let start = 0x4000_0000 - 0x20_1000;
        let end = 0x8000_0000 + 0x20_0000 + 0x1_0000 + 0x1000;
        tree.map(va(DIRECT + start), pa(start), end - start, Attributes::DATA, frames).unwrap();
        let kinds: Vec<_> = tree.leaves().map(|l| (l.virt.as_raw() - DIRECT, l.level, l.reach())).collect();
        let mut expected = vec![(start, 3, 0x1000), (0x3fe0_0000, 2, 0x20_0000), (0x4000_0000, 1, 0x4000_0000)];
        expected.push((0x8000_0000, 2, 0x20_0000));
        expected.extend((0..16).map(|n| (0x8020_0000 + n * 0x1000, 3, 0x1_0000)));
        expected.push((0x8021_0000, 3, 0x1000));
        assert_eq!(kinds, expected);
        for at in [start, start + 0xfff, 0x3fff_ffff, 0x7fff_ffff, end - 1] {
            assert_eq!(tree.translate(va(DIRECT + at)), Some(pa(at)), "{at:#x}");
        }
        assert_eq!(tree.translate(va(DIRECT + start - 1)), None);
        assert_eq!(tree.translate(va(DIRECT + end)), None);
    });
}

#[test]
fn a_contiguous_group_needs_both_sides_aligned_and_all_sixteen_entries() {
    with_tree(8, |tree, frames| {
        // Virtual and physical addresses differ by one page: no group may form.
        tree.map(va(DIRECT), pa(0x1000), 0x4_0000, Attributes::DATA, frames).unwrap();
        assert!(tree.leaves().all(|leaf| !leaf.descriptor.is_contiguous()));
    });
    with_tree(8, |tree, frames| {
        // 15 pages, then a whole group, then 15 pages.
        tree.map(va(DIRECT + 0x1000), pa(0x1000), 46 * 0x1000, Attributes::DATA, frames).unwrap();
        let hinted: Vec<_> = tree.leaves().filter(|l| l.descriptor.is_contiguous()).map(|l| l.virt).collect();
        assert_eq!(hinted.len(), 16);
        assert_eq!(hinted[0], va(DIRECT + 0x1_0000));
    });
    with_tree(8, |tree, frames| {
        tree.map(va(DIRECT + (32 << 20)), pa(32 << 20), 32 << 20, Attributes::DATA, frames).unwrap();
        assert!(tree.leaves().all(|leaf| leaf.level == 2 && leaf.reach() == 32 << 20));
        assert_eq!(tree.leaves().count(), 16);
    });
}

#[test]
fn bad_requests_are_errors() {
    with_tree(4, |tree, frames| {
        let mut map = |virt, phys, size| tree.map(va(virt), pa(phys), size, Attributes::DATA, frames);
        assert_eq!(map(DIRECT + 1, 0, 0x1000), Err(MapError::Misaligned(va(DIRECT + 1))));
        assert_eq!(map(DIRECT, 0, 0x10), Err(MapError::Misaligned(va(DIRECT))));
        assert_eq!(map(0, 0, 0x1000), Err(MapError::OutOfRange(va(0))));
        assert_eq!(map(u64::MAX - 0xfff, 0, 0x2000), Err(MapError::OutOfRange(va(u64::MAX - 0xfff))));
        assert_eq!(map(DIRECT, 1 << 48, 0x1000), Err(MapError::OutOfRange(va(DIRECT))));
        assert_eq!(map(DIRECT, 0, 0), Ok(()));
        assert_eq!(map(DIRECT, 0, 0x1000), Ok(()));
        assert_eq!(map(DIRECT, 0, 0x2000), Err(MapError::AlreadyMapped(va(DIRECT))));
        assert_eq!(map(DIRECT + (1 << 39), 0, 0x1000), Err(MapError::NoTable));
    });
}

#[test]
fn the_last_page_of_the_address_space_can_be_mapped() {
    with_tree(4, |tree, frames| {
        let last = va(u64::MAX - 0xfff);
        tree.map(last, pa(0x1000), 0x1000, Attributes::RODATA, frames).unwrap();
        assert_eq!(tree.translate(va(u64::MAX)), Some(pa(0x1fff)));
        assert_eq!(tree.leaves().map(|l| l.virt).collect::<Vec<_>>(), [last]);
    });
}

#[test]
fn max_tables_is_never_too_few() {
    let sizes: &[u64] = match cfg!(miri) {
        true => &[0x1000, 0x1_0000],
        false => &[0x1000, 0x1_0000, 0x20_0000, 0x20_1000, 0x4000_0000, 0x4020_1000],
    };
    for start in [0, 0x1000, 0x1f_f000, 0x3fff_f000, 0x7f_c000_0000] {
        for shift in [0, 0x1000, 0x20_0000] {
            for &size in sizes {
                let bound = max_tables(va(DIRECT + start), pa(start + shift), size);
                with_tree(bound + 1, |tree, frames| {
                    let result = tree.map(va(DIRECT + start), pa(start + shift), size, Attributes::DATA, frames);
                    assert_eq!(result, Ok(()), "{start:#x}+{size:#x} to +{shift:#x}: bound {bound}");
                });
            }
        }
    }
}
