// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUs with regions of their own.

use std::sync::atomic::Ordering;

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::gfp::Gfp;
use mm::pgtable::Change;
use mm::tlb::Event;
use mm::vmalloc::{BadArea, Config, REGION_STRIDE, Request, VmallocError};

use crate::machine::{CPUS, Machine, START, config};

fn pages(count: u64) -> Request {
    Request::new(count * PAGE_SIZE, Gfp::KERNEL)
}

fn region_of(virt: VirtAddr) -> u64 {
    (virt.as_raw() - START) / REGION_STRIDE
}

fn machine(frames: u64) -> Machine {
    Machine::with(frames, Config { regions: CPUS, ..config(frames) })
}

#[test]
fn each_cpu_allocates_from_its_own_and_anybody_frees() {
    let mut machine = machine(4096);
    let model = machine.model;
    for round in 0..3 {
        let areas: Vec<_> =
            (0..CPUS * 8).map(|n| model.on(n % CPUS, || machine.alloc(&pages(n as u64 % 40 + 1)).unwrap())).collect();
        for (n, virt) in areas.iter().enumerate() {
            assert_eq!(region_of(*virt), (n % CPUS) as u64);
            assert!(machine.vmalloc.contains(*virt));
        }
        machine.check();
        let moved = model.on(0, || machine.resize(areas[1], &pages(100)).unwrap());
        assert_eq!(region_of(moved), 1);
        for (n, virt) in areas.iter().enumerate() {
            let virt = if n == 1 { moved } else { *virt };
            model.on((n + round) % CPUS, || machine.free(virt));
        }
        machine.check();
    }
    machine.tear_down();
}

#[test]
fn what_is_no_area_is_refused_in_every_region() {
    let mut machine = machine(1024);
    let virt = machine.model.on(2, || machine.alloc(&pages(2)).unwrap());
    let (stride, free) = (REGION_STRIDE, |raw: u64| machine.vmalloc.free(VirtAddr::new(raw)));
    // In a region that is not in use, in gaps, and behind all.
    for wrong in [START + stride, START + 2 * stride - PAGE_SIZE, START + CPUS as u64 * stride, START - PAGE_SIZE] {
        assert_eq!(free(wrong), Err(BadArea::Address(VirtAddr::new(wrong))), "{wrong:#x}");
    }
    let beside = virt.as_raw() + PAGE_SIZE;
    assert_eq!(free(beside), Err(BadArea::None(VirtAddr::new(beside))));
    assert!(machine.vmalloc.find(VirtAddr::new(START)).is_none());
    // Nothing goes from one region to another.
    // SAFETY: it is refused.
    let changed = unsafe { machine.vmalloc.change(virt, stride, Change::ReadOnly) };
    assert!(changed.is_err());
    machine.tear_down();
}

#[test]
fn without_addresses_of_its_own_a_cpu_takes_others() {
    let mut machine = Machine::with(1024, Config { size: 64 * PAGE_SIZE, regions: CPUS, ..config(1024) });
    let model = machine.model;
    // The others are in use; then one CPU takes more than half of each region.
    let small: Vec<_> = (0..CPUS).map(|cpu| model.on(cpu, || machine.alloc(&pages(1)).unwrap())).collect();
    let large: Vec<_> = (0..CPUS).map(|_| model.on(3, || machine.alloc(&pages(40)).unwrap())).collect();
    let mut regions: Vec<_> = large.iter().map(|virt| region_of(*virt)).collect();
    assert_eq!(regions[0], 3);
    regions.sort_unstable();
    assert!(regions.into_iter().eq(0..CPUS as u64));
    assert_eq!(model.on(3, || machine.alloc(&pages(40))), Err(VmallocError::NoSpace));
    small.into_iter().chain(large).for_each(|virt| machine.free(virt));
    machine.tear_down();
}

#[test]
fn without_memory_for_a_region_the_first_one_serves() {
    let mut machine = machine(256);
    let first = machine.alloc(&pages(1)).unwrap();
    machine.source.largest.store(0, Ordering::Relaxed);
    machine.source.left.store(0, Ordering::Relaxed);
    assert_eq!(machine.model.on(1, || machine.alloc(&pages(1))), Err(VmallocError::NoMemory));
    machine.source.left.store(1, Ordering::Relaxed);
    let second = machine.model.on(1, || machine.alloc(&pages(1))).unwrap();
    assert_eq!((region_of(first), region_of(second)), (0, 0));
    machine.tear_down();
}

#[test]
fn the_limit_is_for_all_together() {
    const LIMIT: u64 = 1024;
    let of = |regions| Machine::with(8192, Config { lazy_pages: LIMIT, regions, ..config(8192) });
    // Whoever frees alone has nearly all of it.
    let alone = |regions| {
        let mut machine = of(regions);
        let areas: Vec<_> = (0..3000).map(|_| machine.alloc(&pages(1)).unwrap()).collect();
        areas.into_iter().for_each(|virt| machine.free(virt));
        let flushes = machine.tlb.counters().get(Event::RemoteFlushAll);
        machine.tear_down();
        flushes
    };
    assert_eq!(alone(1), 5);
    assert!((5..=6).contains(&alone(CPUS)));
    // And all together have no more, even if most never come back.
    let mut machine = of(CPUS);
    let model = machine.model;
    for cpu in 0..CPUS {
        let areas: Vec<_> = (0..1200).map(|_| model.on(cpu, || machine.alloc(&pages(1)).unwrap())).collect();
        for virt in areas {
            model.on(cpu, || machine.free(virt));
            assert!(machine.vmalloc.usage().lazy_pages <= 2 * LIMIT);
        }
    }
    machine.check();
    machine.tear_down();
}
