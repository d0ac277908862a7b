// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where it ends: memory, addresses, and what callers may get wrong.

use std::sync::atomic::Ordering;

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::gfp::Gfp;
use mm::pgtable::Attributes;
use mm::tlb::Event;
use mm::vmalloc::{BadArea, Config, Request, VmallocError};

use crate::machine::{Machine, START, config};

fn pages(pages: u64) -> Request {
    Request::new(pages * PAGE_SIZE, Gfp::KERNEL)
}

#[test]
fn out_of_memory_at_every_step_loses_nothing() {
    for largest in [10, 0] {
        let mut failures = 0;
        for left in 0.. {
            let mut machine = Machine::new(1024);
            machine.source.largest.store(largest, Ordering::Relaxed);
            machine.source.left.store(left, Ordering::Relaxed);
            let result = machine.alloc(&pages(100)).and_then(|virt| machine.resize(virt, &pages(300)));
            failures += usize::from(result.is_err());
            if let Err(error) = result {
                assert_eq!(error, VmallocError::NoMemory);
            }
            machine.source.left.store(u64::MAX, Ordering::Relaxed);
            let done = result.is_ok();
            machine.tear_down();
            if done {
                break;
            }
        }
        assert!(failures > 5, "{failures}");
    }
}

#[test]
fn out_of_memory_while_an_area_moves_leaves_it_where_it_was() {
    for left in (0..400).step_by(7) {
        let mut machine = Machine::new(1024);
        let virt = machine.alloc(&pages(100)).unwrap();
        let _behind = machine.alloc(&pages(1)).unwrap();
        machine.source.largest.store(0, Ordering::Relaxed);
        machine.source.left.store(left, Ordering::Relaxed);
        let result = machine.resize(virt, &pages(300));
        assert_eq!(result.is_ok(), !machine.areas().contains(&virt));
        machine.source.left.store(u64::MAX, Ordering::Relaxed);
        machine.check();
        machine.tear_down();
    }
}

#[test]
fn out_of_addresses_is_an_error_after_everything_that_waits_was_reaped() {
    let mut machine = Machine::with(1024, Config { size: 64 * PAGE_SIZE, lazy_pages: 1 << 20, ..config(1024) });
    for _ in 0..100 {
        // Each takes more than half: the one before must be reaped.
        let virt = machine.alloc(&pages(40)).unwrap();
        assert_eq!(machine.alloc(&pages(40)), Err(VmallocError::NoSpace));
        machine.free(virt);
    }
    machine.tear_down();
}

#[test]
fn addresses_that_an_area_moved_away_from_are_reaped_too() {
    let mut machine = Machine::with(1024, Config { size: 64 * PAGE_SIZE, lazy_pages: 1 << 20, ..config(1024) });
    // 13 pages from 0, then 4; moved to 23 from 32 on, since those are aligned; then 15 in between.
    let virt = machine.alloc(&pages(10)).unwrap();
    let neighbour = machine.alloc(&pages(1)).unwrap();
    let moved = machine.resize(virt, &pages(20)).unwrap();
    let between = machine.alloc(&pages(12)).unwrap();
    // Nothing waits but addresses, and without them this does not fit.
    assert_eq!(machine.vmalloc.usage().lazy_pages, 0);
    assert_eq!(machine.alloc(&pages(10)), Ok(virt));
    [virt, neighbour, moved, between].into_iter().for_each(|virt| machine.free(virt));
    machine.tear_down();
}

#[test]
fn out_of_memory_is_an_error_after_everything_that_waits_was_reaped() {
    let mut machine = Machine::with(256, Config { lazy_pages: 1 << 20, ..config(256) });
    machine.source.largest.store(0, Ordering::Relaxed);
    let virt = machine.alloc(&pages(150)).unwrap();
    machine.free(virt);
    assert_eq!(machine.vmalloc.usage().lazy_pages, 150);
    // The source has no shrinker: the caller asks.
    assert_eq!(machine.alloc(&pages(149)), Err(VmallocError::NoMemory));
    machine.vmalloc.purge();
    machine.alloc(&pages(149)).unwrap();
    machine.tear_down();
}

#[test]
fn nonsense_is_refused() {
    let mut machine = Machine::new(256);
    let ask = |request: Request| machine.vmalloc.alloc(&request);
    assert_eq!(ask(pages(0)), Err(VmallocError::Zero));
    assert_eq!(ask(pages(257)), Err(VmallocError::TooLarge(257 * PAGE_SIZE)));
    assert_eq!(ask(Request::new(u64::MAX, Gfp::KERNEL)), Err(VmallocError::TooLarge(u64::MAX)));
    assert_eq!(ask(Request { align: 24, ..pages(1) }), Err(VmallocError::Alignment(24)));
    assert_eq!(ask(Request { align: 1 << 40, ..pages(1) }), Err(VmallocError::Alignment(1 << 40)));
    assert_eq!(ask(Request { attributes: Attributes::DEVICE, ..pages(1) }), Err(VmallocError::Attributes));
    let virt = machine.alloc(&pages(4)).unwrap();
    let free = |raw: u64| machine.vmalloc.free(VirtAddr::new(raw));
    let raw = virt.as_raw();
    for wrong in [0, 8, raw + 8, START - PAGE_SIZE, START + (1 << 30)] {
        assert_eq!(free(wrong), Err(BadArea::Address(VirtAddr::new(wrong))), "{wrong:#x}");
    }
    for none in [raw + PAGE_SIZE, raw + 4 * PAGE_SIZE, raw + (1 << 20)] {
        assert_eq!(free(none), Err(BadArea::None(VirtAddr::new(none))), "{none:#x}");
    }
    assert_eq!(machine.vmalloc.unmap(virt), Err(BadArea::Kind(virt)));
    let reserved = machine.vmalloc.reserve(PAGE_SIZE, 0).unwrap();
    assert_eq!(machine.vmalloc.free(reserved), Err(BadArea::Kind(reserved)));
    machine.vmalloc.unmap(reserved).unwrap();
    assert_eq!(machine.vmalloc.unmap(reserved), Err(BadArea::None(reserved)));
    machine.tear_down();
}

#[test]
fn one_flush_pays_for_many_and_what_waits_is_bounded() {
    const LIMIT: u64 = 64;
    let mut machine = Machine::with(1024, Config { lazy_pages: LIMIT, ..config(1024) });
    let flushes = |machine: &Machine| machine.tlb.counters().get(Event::RemoteFlushAll);
    let areas: Vec<_> = (0..500).map(|_| machine.alloc(&pages(1)).unwrap()).collect();
    for virt in areas {
        machine.free(virt);
        assert!(machine.vmalloc.usage().lazy_pages <= 2 * LIMIT);
    }
    // A page and its guard each.
    assert_eq!(flushes(&machine), 500 * 2 / (LIMIT + 2));
    machine.tear_down();
}

#[test]
fn a_call_gives_back_a_bounded_number_of_blocks() {
    let mut machine = Machine::with(1024, Config { lazy_pages: 1 << 20, ..config(1024) });
    machine.source.largest.store(0, Ordering::Relaxed);
    let areas = [(); 2].map(|()| machine.alloc(&pages(300)).unwrap());
    areas.into_iter().for_each(|virt| machine.free(virt));
    let mut calls = 0;
    while machine.vmalloc.usage().lazy_pages > 0 {
        let before = machine.vmalloc.usage().lazy_pages;
        machine.vmalloc.flush_some();
        assert!((1..=64).contains(&(before - machine.vmalloc.usage().lazy_pages)));
        calls += 1;
    }
    assert!(calls >= 10);
    machine.tear_down();
}

#[test]
#[cfg_attr(miri, ignore = "too much memory")]
fn a_long_area_is_unmapped_by_parts() {
    const PAGES: u64 = 20_000;
    for huge in [false, true] {
        let mut machine = Machine::with(24_000, Config { lazy_pages: 1 << 20, huge, ..config(24_000) });
        let small = [(); 8].map(|()| machine.alloc(&pages(1)).unwrap());
        // Not through the machine, which would write to all of it.
        let long = machine.vmalloc.alloc(&pages(PAGES)).unwrap();
        let is_mapped = |machine: &Machine, page: u64| {
            machine.vmalloc.translate(VirtAddr::new(long.as_raw() + page * PAGE_SIZE)).is_some()
        };
        assert!(is_mapped(&machine, PAGES - 1));
        machine.vmalloc.free(long).unwrap();
        assert_eq!(machine.vmalloc.free(long), Err(BadArea::None(long)), "freed twice");
        assert!(machine.vmalloc.find(long).is_none());
        assert_eq!(machine.vmalloc.usage().lazy_pages, PAGES);
        machine.check();
        // By blocks it is 40 descriptors, and done; by pages not.
        assert!(!is_mapped(&machine, 0));
        let mapped = |machine: &Machine| (0..PAGES).filter(|page| is_mapped(machine, *page)).count() as u64;
        let mut left = mapped(&machine);
        assert_eq!(left > 0, !huge);
        for virt in small {
            machine.free(virt);
            let now = mapped(&machine);
            assert!(now <= left && left - now <= 8192);
            assert!(left == 0 || now < left);
            left = now;
        }
        assert_eq!(left, 0);
        machine.vmalloc.purge();
        // Another one, and nobody frees anything behind it.
        let long = machine.vmalloc.alloc(&pages(PAGES)).unwrap();
        machine.vmalloc.free(long).unwrap();
        machine.vmalloc.purge();
        machine.tear_down();
    }
}
