// SPDX-License-Identifier: MIT OR Apache-2.0
//! What areas look like in the tables, and areas of other kinds.

use mm::addr::{Order, PAGE_SIZE, PhysAddr, VirtAddr};
use mm::arch::Arch;
use mm::gfp::Gfp;
use mm::pgtable::{Attributes, PageTable, Regime};
use mm::slab::PageSource;
use mm::vmalloc::{Config, Kind, Request};

use crate::machine::{CPUS, Machine, START, config};

/// Sizes of the descriptors that map an area, and whether they are contiguous.
fn leaves(machine: &Machine, virt: VirtAddr, bytes: u64) -> Vec<(u64, bool)> {
    let root = PhysAddr::new(0x4000_0000).unwrap();
    // SAFETY: only reads; the root is the first frame that the machine took.
    let tree = unsafe { PageTable::from_root(machine.model, root, Regime::Upper) };
    let leaves = tree.leaves_from(virt).take_while(|leaf| leaf.virt.as_raw() < virt.as_raw() + bytes);
    leaves.map(|leaf| (leaf.size(), leaf.descriptor.is_contiguous())).collect()
}

#[test]
fn large_areas_are_mapped_by_blocks_and_groups() {
    let mut machine = Machine::new(4096);
    let mib = machine.alloc(&Request::new(2 << 20, Gfp::KERNEL)).unwrap();
    assert_eq!(leaves(&machine, mib, 2 << 20), [(2 << 20, false)]);
    let group = machine.alloc(&Request::new(64 << 10, Gfp::KERNEL)).unwrap();
    assert_eq!(leaves(&machine, group, 64 << 10), [(PAGE_SIZE, true); 16]);
    let small = machine.alloc(&Request::new(20 << 10, Gfp::KERNEL)).unwrap();
    assert_eq!(leaves(&machine, small, 20 << 10), [(PAGE_SIZE, false); 5]);
    machine.tear_down();
}

#[test]
fn without_huge_everything_is_a_page() {
    let mut machine = Machine::with(4096, Config { huge: false, ..config(4096) });
    let virt = machine.alloc(&Request::new(4 << 20, Gfp::KERNEL)).unwrap();
    assert_eq!(leaves(&machine, virt, 4 << 20), [(PAGE_SIZE, false); 1024]);
    machine.tear_down();
}

#[test]
fn frames_of_others_are_mapped_and_unmapped_at_once() {
    let machine = Machine::new(256);
    let block = machine.source.take(Order::new(2).unwrap(), Gfp::KERNEL).unwrap();
    let frames: Vec<_> = (0..4).rev().map(|n| block.pfn().addr().checked_add(n * PAGE_SIZE).unwrap().pfn()).collect();
    let map = || {
        // SAFETY: the frames are ours.
        let virt = unsafe { machine.vmalloc.map(&frames, Attributes::DATA, 0x1234) }.unwrap();
        for (n, frame) in frames.iter().enumerate() {
            let at = VirtAddr::new(virt.as_raw() + n as u64 * PAGE_SIZE + 5);
            assert_eq!(machine.vmalloc.translate(at), frame.addr().checked_add(5));
            machine.expect(0, at, frame.addr().checked_add(5).unwrap());
        }
        virt
    };
    // Anew, and at addresses that are at hand.
    let virt = map();
    machine.vmalloc.unmap(virt).unwrap();
    (0..CPUS).for_each(|cpu| machine.model.expect_unmapped(cpu, virt));
    assert_eq!(map(), virt);
    let area = machine.vmalloc.find(VirtAddr::new(virt.as_raw() + 3 * PAGE_SIZE)).unwrap();
    assert_eq!((area.kind, area.pages, area.caller), (Kind::Map, 4, 0x1234));
    machine.vmalloc.unmap(virt).unwrap();
    (0..CPUS).for_each(|cpu| machine.model.expect_unmapped(cpu, virt));
    // The model reports it if anybody can still reach them.
    machine.source.give(block);
    machine.tear_down();
}

#[test]
fn device_registers_keep_their_offset_and_read_as_zeros() {
    let machine = Machine::new(256);
    let phys = PhysAddr::new(0x900_0404).unwrap();
    // SAFETY: the model has nothing there.
    let virt = unsafe { machine.vmalloc.map_io(phys, 0x1000, Attributes::DEVICE, 0) }.unwrap();
    assert_eq!(machine.vmalloc.translate(virt), Some(phys));
    let area = machine.vmalloc.find(virt).unwrap();
    assert_eq!((area.kind, area.pages, area.phys), (Kind::Io, 2, PhysAddr::new(0x900_0000)));
    let mut buffer = [7; 16];
    assert_eq!((machine.vmalloc.read(virt, &mut buffer), buffer), (0, [0; 16]));
    machine.vmalloc.unmap(virt).unwrap();
    machine.tear_down();
}

#[test]
fn what_an_area_holds_can_be_read_across_pages_and_behind_its_end() {
    let mut machine = Machine::new(256);
    let virt = machine.alloc(&Request::new(2 * PAGE_SIZE, Gfp::KERNEL | Gfp::ZERO)).unwrap();
    let second = machine.vmalloc.translate(VirtAddr::new(virt.as_raw() + PAGE_SIZE)).unwrap();
    // SAFETY: a page of an area of ours.
    unsafe { machine.model.direct_map(second).wrapping_add(8).write_bytes(0x5a, 8) };
    let mut buffer = [1; 40];
    let at = |offset| VirtAddr::new(virt.as_raw() + offset);
    assert_eq!(machine.vmalloc.read(at(PAGE_SIZE - 8), &mut buffer), 40);
    assert_eq!(buffer[16..24], [0x5a; 8]);
    assert_eq!(buffer[24..], [0; 16]);
    assert_eq!(machine.vmalloc.read(at(2 * PAGE_SIZE - 8), &mut buffer), 8);
    assert_eq!(buffer[8..], [0; 32]);
    assert_eq!(machine.vmalloc.read(VirtAddr::new(START - 8), &mut buffer), 32.min(buffer.len() - 8));
    machine.tear_down();
}

#[test]
fn an_area_is_found_by_any_of_its_addresses_and_by_none_behind_it() {
    let mut machine = Machine::new(1024);
    let areas: Vec<_> =
        [1, 7, 300].map(|pages| machine.alloc(&Request::new(pages * PAGE_SIZE, Gfp::KERNEL)).unwrap()).into();
    for (virt, pages) in areas.iter().zip([1, 7, 300]) {
        for offset in [0, 1, pages * PAGE_SIZE - 1, (pages + 3) * PAGE_SIZE - 1] {
            let found = machine.vmalloc.find(VirtAddr::new(virt.as_raw() + offset)).unwrap();
            assert_eq!((found.start, found.pages), (*virt, pages));
        }
    }
    assert_eq!(machine.vmalloc.find(VirtAddr::new(START + (1 << 29))), None);
    assert_eq!(machine.vmalloc.find(VirtAddr::new(0)), None);
    machine.tear_down();
}
