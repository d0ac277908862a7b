// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tables say, on a plain host; order and barriers are the MMU model's business.

use super::dump::Marker;
use super::*;
use crate::arch::host::Host;

const BASE: u64 = 0x4000_0000;
const DIRECT: u64 = 0xffff_0000_0000_0000;

struct Frames(core::ops::Range<u64>);

impl TableSource for Frames {
    fn table(&mut self) -> Option<PhysAddr> {
        self.0.next().and_then(|n| PhysAddr::new(BASE + n * PAGE_SIZE))
    }

    fn give_back(&mut self, table: PhysAddr) {
        // The last one taken, first: all that these tests need.
        assert_eq!(table.as_raw(), BASE + (self.0.start - 1) * PAGE_SIZE);
        self.0.start -= 1;
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
    let mut tree = PageTable::new(Host::new(pa(BASE), &mut words), Regime::Upper, &mut frames).unwrap();
    test(&mut tree, &mut frames);
    assert_eq!(tree.validate(), Ok(()));
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

#[test]
fn running_out_of_tables_leaves_nothing_behind() {
    // Needs three tables and then three more; there are five.
    with_tree(6, |tree, frames| {
        let pieces = [(1u64 << 39) - 0x1000, 1 << 39].map(|at| (va(DIRECT + at), pa(0x1000)));
        let taken = frames.0.start;
        let across = Piece { phys: pa(0x1000), size: 0x2000 };
        let result = tree.map_pieces(pieces[0].0, core::iter::once(across), Attributes::DATA, frames);
        assert_eq!(result, Err(MapError::NoTable));
        assert_eq!(frames.0.start, taken);
        assert_eq!(tree.leaves().count(), 0);
        assert_eq!(tree.tables(), 1);
        // The same in two steps: the first fits.
        assert_eq!(tree.map(pieces[0].0, pieces[0].1, 0x1000, Attributes::DATA, frames), Ok(()));
        assert_eq!(tree.map(pieces[1].0, pieces[1].1, 0x1000, Attributes::DATA, frames), Err(MapError::NoTable));
        assert_eq!(tree.tables(), 4);
    });
}

#[test]
fn pieces_follow_each_other_and_a_late_conflict_undoes_all() {
    with_tree(8, |tree, frames| {
        let pieces = [0x9000, 0x3000, 0x7000].map(|phys| Piece { phys: pa(phys), size: 0x1000 });
        tree.map_pieces(va(DIRECT), pieces.into_iter(), Attributes::DATA, frames).unwrap();
        for (n, piece) in pieces.iter().enumerate() {
            assert_eq!(tree.translate(va(DIRECT + n as u64 * 0x1000)), Some(piece.phys));
        }
        // Three pages up to the first of those: the last one is in the way.
        let before: Vec<_> = tree.leaves().collect();
        let result = tree.map_pieces(va(DIRECT + 0x2000), pieces.into_iter(), Attributes::DATA, frames);
        assert_eq!(result, Err(MapError::AlreadyMapped(va(DIRECT + 0x2000))));
        assert_eq!(tree.leaves().collect::<Vec<_>>(), before);
    });
}

#[test]
fn the_dump_has_the_columns_of_linux() {
    with_tree(8, |tree, frames| {
        tree.map(va(DIRECT + 0x1000), pa(0x1000), 0x1000, Attributes::TEXT, frames).unwrap();
        tree.map(va(DIRECT + 0x20_0000), pa(0x20_0000), 0x20_0000, Attributes::DATA, frames).unwrap();
        tree.map(va(DIRECT + 0x40_0000), pa(0x9000), 0x1000, Attributes::DEVICE, frames).unwrap();
        let mut text = String::new();
        let markers = [Marker { start: va(DIRECT), name: "Linear Mapping start" }];
        let markers = [markers[0], Marker { start: va(DIRECT + 0x40_0000), name: "vmalloc() area" }];
        tree.dump(&mut text, &markers).unwrap();
        assert_eq!(
            text,
            "---[ Linear Mapping start ]---\n\
             0xffff000000001000-0xffff000000002000           4K PTE     ro x  SHD AF            UXN MEM/NORMAL\n\
             0xffff000000200000-0xffff000000400000           2M PMD     RW NX SHD AF        BLK UXN MEM/NORMAL\n\
             ---[ vmalloc() area ]---\n\
             0xffff000000400000-0xffff000000401000           4K PTE     RW NX SHD AF            UXN DEVICE/nGnRE\n"
        );
        assert_eq!(tree.check_wx().to_string(), "Checked W+X mappings: passed, no W+X pages found");
    });
}

#[test]
fn a_page_that_is_writable_and_executable_is_found() {
    with_tree(4, |tree, frames| {
        tree.map(va(DIRECT), pa(0), 0x3000, Attributes::TEXT, frames).unwrap();
        // No change can make such a page, so one is put there by hand.
        let (spot, entry) = tree.locate(va(DIRECT + 0x1000), PAGE_LEVEL);
        tree.store(spot.table, 1, entry.with_write(true));
        assert_eq!(tree.check_wx(), dump::WxReport { pages: 1, first: Some(va(DIRECT + 0x1000)) });
        tree.store(spot.table, 1, entry);
    });
}

#[test]
fn leaves_can_be_read_from_any_address_on() {
    with_tree(12, |tree, frames| {
        for at in [0x1000, 0x20_0000, 0x4000_0000, 0x80_0000_0000] {
            tree.map(
                va(DIRECT + at),
                pa(at & 0x20_0000),
                0x1000 << (9 * u32::from(at == 0x20_0000)),
                Attributes::DATA,
                frames,
            )
            .unwrap();
        }
        let all: Vec<_> = tree.leaves().collect();
        let mut probes = vec![0, DIRECT, DIRECT + 0x3000, u64::MAX];
        probes.extend(all.iter().flat_map(|l| [l.virt.as_raw() - 1, l.virt.as_raw(), l.virt.as_raw() + l.size() - 1]));
        probes.extend(all.iter().map(|l| l.virt.as_raw() + l.size()));
        for probe in probes {
            let expected: Vec<_> = all.iter().filter(|l| l.virt.as_raw() + (l.size() - 1) >= probe).copied().collect();
            assert_eq!(tree.leaves_from(va(probe)).collect::<Vec<_>>(), expected, "{probe:#x}");
        }
    });
}
