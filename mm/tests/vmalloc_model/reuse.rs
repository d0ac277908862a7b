// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas that are handed on with their frames: the next of that length gets them, if nothing tells them apart.

use std::sync::atomic::Ordering;

use mm::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use mm::gfp::Gfp;
use mm::pgtable::{Access, Attributes, Change, MemoryType};
use mm::tlb::Event;
use mm::vmalloc::{Config, Kind, Request};

use crate::machine::{Machine, Random, config};

fn pages(pages: u64) -> Request {
    Request::new(pages * PAGE_SIZE, Gfp::KERNEL)
}

fn frames(machine: &Machine, virt: VirtAddr, pages: u64) -> Vec<PhysAddr> {
    let at = |page| machine.vmalloc.translate(VirtAddr::new(virt.as_raw() + page * PAGE_SIZE)).unwrap();
    (0..pages).map(at).collect()
}

#[test]
fn the_next_of_a_length_gets_the_same_frames_at_the_same_addresses_without_a_flush() {
    for largest in [10, 0] {
        let mut machine = Machine::with(2048, Config { lazy_pages: 1 << 20, ..config(2048) });
        machine.source.largest.store(largest, Ordering::Relaxed);
        for length in [1, 5, 16, 37, 512, 300] {
            let virt = machine.alloc(&pages(length)).unwrap();
            let before = frames(&machine, virt, length);
            for round in 0..20 {
                machine.free(virt);
                let gfp = if round % 2 == 0 { Gfp::KERNEL | Gfp::ZERO } else { Gfp::ATOMIC };
                let kind = if round % 3 == 0 { Kind::User } else { Kind::Alloc };
                let request = Request { kind, caller: round, ..Request::new(length * PAGE_SIZE - round, gfp) };
                assert_eq!(machine.alloc(&request), Ok(virt));
                assert_eq!(frames(&machine, virt, length), before);
                let area = machine.vmalloc.find(virt).unwrap();
                assert_eq!((area.kind, area.caller, area.bytes), (kind, round, length * PAGE_SIZE - round));
            }
            machine.free(virt);
            machine.check();
        }
        assert_eq!(machine.tlb.counters().get(Event::RemoteFlush), 0);
        machine.tear_down();
    }
}

#[test]
fn an_area_that_was_mapped_otherwise_is_not_handed_on() {
    let mut machine = Machine::with(1024, Config { lazy_pages: 1 << 20, ..config(1024) });
    let other = Attributes { memory: MemoryType::Normal, access: Access::ReadOnly };
    let read_only = machine.alloc(&Request { attributes: other, ..pages(3) }).unwrap();
    let changed = machine.alloc(&pages(4)).unwrap();
    let neighbours = [5, 6].map(|length| machine.alloc(&pages(length)).unwrap());
    // SAFETY: nobody writes there.
    unsafe { machine.vmalloc.change(changed, PAGE_SIZE, Change::ReadOnly) }.unwrap();
    let moved = machine.alloc(&pages(7)).unwrap();
    let behind = machine.alloc(&pages(1)).unwrap();
    let moved = machine.resize(moved, &pages(64)).unwrap();
    for (virt, length) in [(read_only, 3), (changed, 4), (moved, 64)] {
        machine.free(virt);
        let next = machine.alloc(&pages(length)).unwrap();
        assert_ne!(next, virt, "{length}");
        machine.free(next);
    }
    for (virt, length) in neighbours.into_iter().zip([5, 6]).chain([(behind, 1)]) {
        machine.free(virt);
        assert_eq!(machine.alloc(&pages(length)), Ok(virt));
    }
    machine.tear_down();
}

#[test]
fn a_request_that_is_particular_about_its_frames_or_its_mapping_gets_fresh_ones() {
    let mut machine = Machine::with(1024, Config { lazy_pages: 1 << 20, ..config(1024) });
    let virt = machine.alloc(&pages(2)).unwrap();
    machine.free(virt);
    let other = Attributes { memory: MemoryType::Normal, access: Access::ReadOnly };
    for request in [
        Request { gfp: Gfp::KERNEL | Gfp::DMA, ..pages(2) },
        Request { gfp: Gfp::KERNEL | Gfp::THISNODE, ..pages(2) },
        Request { attributes: other, ..pages(2) },
        Request { align: 1 << 20, ..pages(2) },
    ] {
        let fresh = machine.alloc(&request).unwrap();
        assert_ne!(fresh, virt);
    }
    machine.source.recycles.store(false, Ordering::Relaxed);
    assert_ne!(machine.alloc(&pages(2)), Ok(virt));
    machine.source.recycles.store(true, Ordering::Relaxed);
    assert_eq!(machine.alloc(&pages(2)), Ok(virt));
    machine.tear_down();
}

#[test]
fn an_area_that_is_being_given_back_is_not_handed_on() {
    let mut machine = Machine::with(1024, Config { lazy_pages: 1 << 20, ..config(1024) });
    machine.source.largest.store(0, Ordering::Relaxed);
    let virt = machine.alloc(&pages(100)).unwrap();
    machine.free(virt);
    assert_eq!(machine.vmalloc.flush_some(), 64);
    assert_eq!(machine.vmalloc.usage().lazy_pages, 36);
    machine.check();
    assert_ne!(machine.alloc(&pages(100)), Ok(virt));
    machine.tear_down();
}

#[test]
fn lengths_without_a_list_wait_as_before() {
    let mut machine = Machine::with(16384, Config { lazy_pages: 1 << 20, ..config(16384) });
    let areas: Vec<_> = (0..24).map(|n| machine.alloc(&pages(300 + n)).unwrap()).collect();
    for virt in &areas {
        machine.free(*virt);
    }
    machine.check();
    // Each list is for one length: the last of these found none.
    for (n, virt) in areas.iter().enumerate() {
        assert_eq!(machine.alloc(&pages(300 + n as u64)) == Ok(*virt), n < 16, "{n}");
    }
    machine.tear_down();
}

#[test]
fn what_is_freed_and_asked_for_at_random_stays_whole() {
    let mut machine = Machine::with(4096, Config { lazy_pages: 200, ..config(4096) });
    let (mut random, mut areas) = (Random(11), Vec::new());
    for step in 0..if cfg!(miri) { 60 } else { 3000 } {
        if areas.len() < 20 && random.below(2) == 0 {
            machine.source.largest.store(random.below(3) * 5, Ordering::Relaxed);
            let length = if random.below(10) == 0 { 261 + random.below(30) } else { 1 + random.below(12) };
            areas.push(machine.alloc(&pages(length)).unwrap());
        } else if !areas.is_empty() {
            machine.free(areas.swap_remove(random.below(areas.len() as u64) as usize));
        }
        if step % 50 == 0 {
            machine.check();
        }
        if step % 100 == 99 {
            machine.vmalloc.flush_some();
        }
    }
    machine.tear_down();
}
