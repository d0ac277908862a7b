// SPDX-License-Identifier: MIT OR Apache-2.0
//! What went wrong in Linux's `vrealloc`, a test each.

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::arch::Arch;
use mm::gfp::Gfp;
use mm::vmalloc::{Kind, Request};

use crate::machine::Machine;

fn bytes(bytes: u64) -> Request {
    Request::new(bytes, Gfp::KERNEL)
}

fn byte(machine: &Machine, virt: VirtAddr, offset: u64) -> *mut u8 {
    let phys = machine.vmalloc.translate(VirtAddr::new(virt.as_raw() + offset)).unwrap();
    machine.model.direct_map(phys)
}

#[test]
fn the_size_asked_for_is_kept_apart_from_the_pages() {
    let mut machine = Machine::new(256);
    let virt = machine.alloc(&bytes(5000)).unwrap();
    let area = machine.vmalloc.find(virt).unwrap();
    assert_eq!((area.bytes, area.size()), (5000, 2 * PAGE_SIZE));
    machine.tear_down();
}

#[test]
fn growth_within_the_pages_moves_nothing_and_takes_nothing() {
    let mut machine = Machine::new(256);
    let virt = machine.alloc(&bytes(5000)).unwrap();
    let before = machine.source.in_use();
    assert_eq!(machine.resize(virt, &bytes(8192)), Ok(virt));
    assert_eq!(machine.source.in_use(), before);
    assert_eq!(machine.vmalloc.find(virt).unwrap().bytes, 8192);
    machine.tear_down();
}

#[test]
fn growth_beyond_the_pages_stays_in_place_while_addresses_are_free() {
    let mut machine = Machine::new(1024);
    let virt = machine.alloc(&bytes(64 << 10)).unwrap();
    let first = machine.vmalloc.translate(virt);
    assert_eq!(machine.resize(virt, &bytes(1 << 20)), Ok(virt));
    assert_eq!(machine.vmalloc.translate(virt), first);
    machine.tear_down();
}

#[test]
fn growth_against_a_neighbour_moves_addresses_but_no_data() {
    let mut machine = Machine::new(1024);
    let virt = machine.alloc(&bytes(64 << 10)).unwrap();
    let neighbour = machine.alloc(&bytes(4096)).unwrap();
    let first = machine.vmalloc.translate(virt);
    let moved = machine.resize(virt, &bytes(1 << 20)).unwrap();
    assert_ne!(moved, virt);
    assert_eq!(machine.vmalloc.translate(moved), first);
    assert_eq!(machine.vmalloc.translate(virt), None);
    assert_eq!(machine.vmalloc.usage().lazy_pages, 0, "frames wait that are in use");
    machine.free(neighbour);
    machine.tear_down();
}

#[test]
fn what_becomes_visible_by_growth_is_zero_if_wanted() {
    let machine = Machine::new(256);
    let zero = |bytes| Request::new(bytes, Gfp::KERNEL | Gfp::ZERO);
    let virt = machine.vmalloc.alloc(&zero(3 * PAGE_SIZE)).unwrap();
    // Stale bytes behind what is asked for from now on.
    for offset in 0..PAGE_SIZE {
        // SAFETY: a page of the area.
        unsafe { byte(&machine, virt, offset).write(0xee) };
    }
    machine.vmalloc.resize(Some(virt), &zero(100)).unwrap();
    assert_eq!(machine.vmalloc.resize(Some(virt), &zero(2 * PAGE_SIZE)), Ok(Some(virt)));
    for offset in 0..2 * PAGE_SIZE {
        // SAFETY: a page of the area.
        let found = unsafe { byte(&machine, virt, offset).read() };
        assert_eq!(found, if offset < 100 { 0xee } else { 0 }, "{offset}");
    }
    machine.vmalloc.free(virt).unwrap();
    machine.tear_down();
}

#[test]
fn sizes_around_every_boundary_of_16_bytes() {
    let machine = Machine::new(256);
    let virt = machine.vmalloc.alloc(&bytes(1)).unwrap();
    for size in (1..200).chain((1..200).rev()).chain(PAGE_SIZE - 17..PAGE_SIZE + 17) {
        assert_eq!(machine.vmalloc.resize(Some(virt), &bytes(size)), Ok(Some(virt)));
        assert_eq!(machine.vmalloc.find(virt).unwrap().bytes, size);
    }
    machine.vmalloc.free(virt).unwrap();
    machine.tear_down();
}

#[test]
fn shrinking_gives_pages_back() {
    let mut machine = Machine::new(4096);
    let virt = machine.alloc(&bytes(10 << 20)).unwrap();
    let before = machine.source.in_use();
    assert_eq!(machine.resize(virt, &bytes(2 << 20)), Ok(virt));
    assert_eq!(before - machine.source.in_use(), 2048);
    // In the middle of a block, and of a contiguous group. The table that a block needs to be split is one frame more.
    assert_eq!(machine.resize(virt, &bytes(5 * PAGE_SIZE)), Ok(virt));
    assert_eq!(before - machine.source.in_use(), 2048 + 507 - 1);
    machine.tear_down();
}

#[test]
fn frames_that_moved_are_not_given_back_before_their_old_addresses_are_forgotten() {
    let mut machine = Machine::new(1024);
    let virt = machine.alloc(&bytes(64 << 10)).unwrap();
    let neighbour = machine.alloc(&bytes(4096)).unwrap();
    let moved = machine.resize(virt, &bytes(128 << 10)).unwrap();
    assert_ne!(moved, virt);
    // The model reports a frame that comes back while a TLB may lead to it.
    machine.resize(moved, &bytes(4096)).unwrap();
    machine.check();
    machine.free(neighbour);
    machine.tear_down();
}

#[test]
fn growth_after_shrinking_takes_pages_again() {
    let mut machine = Machine::new(1024);
    let virt = machine.alloc(&bytes(1 << 20)).unwrap();
    assert_eq!(machine.resize(virt, &bytes(4096)), Ok(virt));
    assert_eq!(machine.vmalloc.find(virt).unwrap().pages, 1);
    assert_eq!(machine.resize(virt, &bytes(512 << 10)), Ok(virt));
    assert_eq!(machine.vmalloc.find(virt).unwrap().pages, 128);
    machine.tear_down();
}

#[test]
fn a_shrunk_area_is_not_read_behind_its_end() {
    let mut machine = Machine::new(256);
    let virt = machine.alloc(&bytes(4 * PAGE_SIZE)).unwrap();
    machine.resize(virt, &bytes(PAGE_SIZE)).unwrap();
    let mut buffer = vec![1; 4 * PAGE_SIZE as usize];
    assert_eq!(machine.vmalloc.read(virt, &mut buffer), PAGE_SIZE as usize);
    machine.tear_down();
}

#[test]
fn an_area_for_users_keeps_its_pages() {
    let machine = Machine::new(256);
    let request = |bytes: u64| Request { kind: Kind::User, ..Request::new(bytes, Gfp::KERNEL | Gfp::ZERO) };
    let virt = machine.vmalloc.alloc(&request(8 * PAGE_SIZE)).unwrap();
    assert_eq!(machine.vmalloc.resize(Some(virt), &request(PAGE_SIZE)), Ok(Some(virt)));
    let area = machine.vmalloc.find(virt).unwrap();
    assert_eq!((area.pages, area.bytes, area.kind), (8, PAGE_SIZE, Kind::User));
    machine.vmalloc.free(virt).unwrap();
    machine.tear_down();
}

#[test]
fn nothing_becomes_an_area_and_an_area_becomes_nothing() {
    let machine = Machine::new(256);
    assert_eq!(machine.vmalloc.resize(None, &bytes(0)), Ok(None));
    let virt = machine.vmalloc.resize(None, &bytes(100)).unwrap().unwrap();
    assert_eq!(machine.vmalloc.find(virt).unwrap().bytes, 100);
    assert_eq!(machine.vmalloc.resize(Some(virt), &bytes(0)), Ok(None));
    assert_eq!(machine.vmalloc.find(virt), None);
    assert!(machine.vmalloc.resize(Some(virt), &bytes(10)).is_err());
    machine.tear_down();
}
