// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same random ranges mapped, changed and unmapped by `aarch64-paging` and here: every page leads to the same frame
//! with the same attributes. Which descriptors say so may differ.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]
#![cfg(not(miri))]

use core::ptr::NonNull;
use std::alloc::{Layout, dealloc};
use std::collections::BTreeMap;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PageTable as Table, RootTable, Translation, VaRange};
use mm::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use mm::arch::host::Host;
use mm::pgtable::{Access, Attributes, Change, Descriptor, MemoryType, PageTable, Regime, TableSource};
use mm::tlb::Tlb;
use proptest::prelude::*;

/// Around the end of a GiB: 16 MiB.
const FIRST: u64 = (1 << 30) - (8 << 20);
const SIZE: u64 = 16 << 20;
const FRAMES: u64 = 64;
const CONTIGUOUS: u64 = 1 << 52;

/// Their tables, on the heap.
struct Heap;

impl Translation<El1Attributes> for Heap {
    fn allocate_table(&mut self) -> (NonNull<Table<El1Attributes>>, PhysicalAddress) {
        let table = Table::new();
        (table, PhysicalAddress(table.as_ptr().expose_provenance()))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<Table<El1Attributes>>) {
        // SAFETY: `Table::new` allocates one from the global allocator.
        unsafe { dealloc(table.as_ptr().cast(), Layout::new::<Table<El1Attributes>>()) };
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<Table<El1Attributes>> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(pa.0)).unwrap()
    }
}

/// Our tables.
struct Frames(Vec<u64>);

impl TableSource for Frames {
    fn table(&mut self) -> Option<PhysAddr> {
        self.0.pop().and_then(PhysAddr::new)
    }

    fn give_back(&mut self, table: PhysAddr) {
        self.0.push(table.as_raw());
    }
}

fn attributes(kind: u8) -> Attributes {
    let access = [Access::ReadOnly, Access::ReadWrite, Access::ReadExecute, Access::UserReadWrite][kind as usize % 4];
    let memory = if kind >= 4 { MemoryType::NormalNonCacheable } else { MemoryType::Normal };
    Attributes { memory, access }
}

/// What a page descriptor of these attributes says, without page bit and hint.
fn meaning(bits: u64) -> u64 {
    bits & !(CONTIGUOUS | 2)
}

fn their_pages(table: &RootTable<El1And0, Heap>) -> BTreeMap<u64, u64> {
    let mut pages = BTreeMap::new();
    let all = MemoryRegion::new(FIRST as usize, (FIRST + SIZE) as usize);
    table
        .walk_range(&all, &mut |region, descriptor, level| {
            if descriptor.is_valid() && (level == 3 || !descriptor.is_table_or_page()) {
                let size = PAGE_SIZE << (9 * (3 - level));
                for virt in (region.start().0 as u64..region.end().0 as u64).step_by(PAGE_SIZE as usize) {
                    let output = descriptor.output_address().0 as u64 + virt % size;
                    pages.insert(virt, output | meaning(descriptor.flags().bits() as u64));
                }
            }
            Ok(())
        })
        .unwrap();
    pages
}

fn our_pages(tree: &PageTable<&Host<'_>>) -> BTreeMap<u64, u64> {
    let pages = |leaf: mm::pgtable::Leaf| {
        (0..leaf.size()).step_by(PAGE_SIZE as usize).map(move |offset| {
            let output = leaf.descriptor.address().as_raw() + offset;
            (leaf.virt.as_raw() + offset, output | meaning(leaf.descriptor.attribute_bits()))
        })
    };
    tree.leaves().flat_map(pages).collect()
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Map { offset: u64, shift: u64 },
    Unmap,
    Change,
}

fn operation() -> impl Strategy<Value = (Op, u64, u64, u8)> {
    let near = prop_oneof![Just(0x1000_u64), Just(0x1_0000), Just(0x20_0000)];
    let op = prop_oneof![
        3 => prop_oneof![Just(0), Just(0x1000), Just(0x1_0000), Just(0x20_0000)]
            .prop_map(|shift| Op::Map { offset: 1 << 32, shift }),
        2 => Just(Op::Unmap),
        1 => Just(Op::Change),
    ];
    let place = (near.clone(), 0..SIZE / 0x1000).prop_map(|(near, n)| n * 0x1000 / near * near);
    let size = (near, 1..5_u64).prop_map(|(near, n)| near * n);
    (op, place, size, 0..8_u8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn translations_agree(operations in prop::collection::vec(operation(), 1..40)) {
        let mut words = vec![0xdead_beef_dead_beef; FRAMES as usize * 512];
        let host = Host::new(PhysAddr::ZERO, &mut words);
        let mut frames = Frames((0..FRAMES).map(|n| n * PAGE_SIZE).collect());
        let tlb = Tlb::new(&host);
        let mut ours = PageTable::new(&host, Regime::Lower, &mut frames).unwrap();
        let mut theirs = RootTable::with_va_range(Heap, 0, El1And0, VaRange::Lower);
        for (op, place, size, kind) in operations {
            let size = size.min(SIZE - place);
            let (virt, raw) = (VirtAddr::new(FIRST + place), FIRST + place);
            let region = MemoryRegion::new(raw as usize, (raw + size) as usize);
            let flags = |phys: u64| {
                let page = Descriptor::leaf_of(Regime::Lower, 3, PhysAddr::ZERO, attributes(kind), false);
                (PhysicalAddress(phys as usize), El1Attributes::from_bits_retain((page.as_raw() & !2) as usize))
            };
            match op {
                Op::Map { offset, shift } => {
                    let phys = offset + place + shift;
                    let mapped = ours.map(virt, PhysAddr::new(phys).unwrap(), size, attributes(kind), &mut frames);
                    if mapped.is_ok() {
                        let (phys, flags) = flags(phys);
                        theirs.map_range(&region, phys, flags, Constraints::empty()).unwrap();
                    }
                }
                Op::Unmap => {
                    ours.unmap(virt, size, &tlb, &mut frames).unwrap().flush(&tlb).release();
                    // They ignore the address, but subtract from it.
                    let nowhere = PhysicalAddress(raw as usize);
                    theirs.map_range(&region, nowhere, El1Attributes::empty(), Constraints::empty()).unwrap();
                }
                Op::Change => {
                    let before = our_pages(&ours);
                    let change = Change::Attributes(attributes(kind));
                    if ours.change(virt, size, change, &tlb, &mut frames).is_ok() {
                        for (&page, &old) in before.range(raw..raw + size) {
                            let (phys, flags) = flags(old & 0x0000_ffff_ffff_f000);
                            let region = MemoryRegion::new(page as usize, page as usize + PAGE_SIZE as usize);
                            theirs.map_range(&region, phys, flags, Constraints::empty()).unwrap();
                        }
                    }
                }
            }
            ours.validate().unwrap();
        }
        prop_assert_eq!(our_pages(&ours), their_pages(&theirs));
    }
}
