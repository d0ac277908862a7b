// SPDX-License-Identifier: MIT OR Apache-2.0
//! Per-CPU objects beside a model, and objects that are freed after a grace period.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper may fail loudly")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one argument covers the pair")]

mod support;

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use mm::gfp::Gfp;
use mm::percpu::{PerCpu, PerCpuPtr, UNIT};
use mm::rcu::{BATCH, Frees, Rcu, RcuHead};
use mm::slab::{CacheError, CacheSpec, Settings};
use proptest::prelude::*;
use support::{Machine, all_are};

fn settings() -> Settings {
    Settings { tiny: Some(true), ..Settings::new(16 << 20, 1, |fault| panic!("{fault}")) }
}

fn copies(object: PerCpuPtr, nr_cpus: usize) -> impl Iterator<Item = &'static mut [u8]> {
    (0..nr_cpus).map(move |cpu| {
        let copy = object.of(cpu).unwrap();
        // SAFETY: the test's own object.
        unsafe { std::slice::from_raw_parts_mut(copy.as_ptr(), object.size()) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 3 } else { 60 }, failure_persistence: None, ..Default::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "random sequences take Miri too long; the cases below do not")]
    fn every_cpu_has_its_own_copy(
        nr_cpus in 1..9_usize,
        ops in prop::collection::vec((any::<bool>(), 1..600_usize, 0..8_u32, any::<usize>()), 1..if cfg!(miri) { 20 } else { 100 }),
    ) {
        let machine = Machine::new(512);
        let slab = machine.slab(settings());
        let before = machine.pages.taken();
        let percpu = PerCpu::new(&slab, nr_cpus);
        let mut live: Vec<(PerCpuPtr, u8)> = Vec::new();
        for (number, (allocate, bytes, align, at)) in ops.into_iter().enumerate() {
            if allocate || live.is_empty() {
                let Ok(object) = percpu.alloc(bytes, 1 << align, Gfp::KERNEL) else { continue };
                for (cpu, copy) in copies(object, nr_cpus).enumerate() {
                    prop_assert!(copy.as_ptr().addr().is_multiple_of(1 << align));
                    prop_assert!(all_are(copy, 0));
                    copy.fill((number as u8).wrapping_add(cpu as u8));
                }
                live.push((object, number as u8));
            } else {
                let (object, fill) = live.swap_remove(at % live.len());
                for (cpu, copy) in copies(object, nr_cpus).enumerate() {
                    prop_assert!(all_are(copy, fill.wrapping_add(cpu as u8)));
                }
                // SAFETY: the test's own object.
                let freed = unsafe { percpu.free(object) };
                prop_assert!(freed);
            }
        }
        for (object, _) in live {
            // SAFETY: the test's own object.
            let freed = unsafe { percpu.free(object) };
                prop_assert!(freed);
        }
        prop_assert_eq!(percpu.bytes(), 0);
        prop_assert_eq!(machine.pages.taken(), before);
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_lost() {
    let machine = Machine::new(64);
    let slab = machine.slab(settings());
    let percpu = PerCpu::new(&slab, 4);
    assert!(percpu.alloc(0, 8, Gfp::KERNEL).is_err());
    assert!(percpu.alloc(UNIT + 1, 8, Gfp::KERNEL).is_err());
    assert!(percpu.alloc(8, 3, Gfp::KERNEL).is_err());
    let object = percpu.alloc(UNIT, 8, Gfp::KERNEL).unwrap();
    assert_eq!(object.of(4), None);
    let before = machine.pages.taken();
    machine.pages.left.store(0, Ordering::Relaxed);
    assert!(percpu.alloc(8, 8, Gfp::KERNEL).is_err());
    assert_eq!(machine.pages.taken(), before);
    // SAFETY: allocated above; the second free is refused.
    assert_eq!(unsafe { (percpu.free(object), percpu.free(object)) }, (true, false));
}

#[repr(C)]
struct Node {
    value: u64,
    head: RcuHead,
}

fn node(slab: &support::HostSlab<'_>) -> (NonNull<u8>, NonNull<RcuHead>) {
    let object = slab.kmalloc(size_of::<Node>(), Gfp::KERNEL).unwrap();
    let node = object.cast::<Node>();
    // SAFETY: a new object of that size.
    unsafe { node.write(Node { value: 42, head: RcuHead::new() }) };
    // SAFETY: inside the object.
    (object, unsafe { NonNull::new_unchecked(&raw mut (*node.as_ptr()).head) })
}

/// slub_kunit's, and that objects which come while others wait do so for a grace period of their own.
#[test]
fn test_kfree_rcu() {
    let machine = Machine::new(64);
    let slab = machine.slab(settings());
    let rcu = Rcu::new();
    let (arch, objects) = (&machine.host, slab.info().heap_objects);
    rcu.online(arch);
    let nodes: Vec<_> = (0..10).map(|_| node(&slab)).collect();
    for (object, head) in &nodes[..5] {
        // SAFETY: the test's own objects, each with its head.
        unsafe { slab.kfree_rcu(&rcu, *object, *head) };
    }
    // The period begins with the first call; another quiescent state ends it.
    assert_eq!(rcu.poll(arch, &slab), 0);
    // SAFETY: still there for readers.
    assert_eq!(unsafe { nodes[0].0.cast::<Node>().as_ref().value }, 42);
    for (object, head) in &nodes[5..] {
        // SAFETY: the same.
        unsafe { slab.kfree_rcu(&rcu, *object, *head) };
    }
    assert_eq!(rcu.nr_waiting(arch), 10);
    assert_eq!(rcu.quiescent(arch, &slab), 5);
    assert_eq!(rcu.quiescent(arch, &slab), 5);
    assert_eq!((rcu.nr_waiting(arch), slab.info().heap_objects), (0, objects));
}

/// slub_kunit's: a cache that is destroyed while an object of it waits stays until that has come back.
#[test]
fn test_kfree_rcu_wq_destroy() {
    let machine = Machine::new(64);
    let slab = machine.slab(Settings { tiny: Some(true), ..Settings::new(16 << 20, 1, |_| {}) });
    let rcu = Rcu::new();
    let arch = &machine.host;
    rcu.online(arch);
    let cache = slab.cache_create(CacheSpec::new("TestSlub_kfree_rcu_wq", 64)).unwrap();
    let head = slab.cache_alloc(cache, Gfp::KERNEL).unwrap().cast::<RcuHead>();
    // SAFETY: a new object, large enough.
    unsafe { head.write(RcuHead::new()) };
    // SAFETY: the test's own object, with its head.
    unsafe { slab.kfree_rcu(&rcu, head.cast(), head) };
    // SAFETY: nobody else uses the cache.
    assert_eq!(unsafe { slab.cache_destroy(cache) }, Err(CacheError::InUse(1)));
    assert_eq!((rcu.quiescent(arch, &slab), rcu.quiescent(arch, &slab)), (0, 1));
    // SAFETY: the same.
    assert_eq!(unsafe { slab.cache_destroy(cache) }, Ok(()));
    assert_eq!(slab.nr_faults(), 2, "that it was destroyed too early");
}

/// Notes the numbers of what it frees.
struct Noting<'a>(&'a support::HostSlab<'a>, RefCell<Vec<u64>>);

impl Frees for Noting<'_> {
    unsafe fn free(&self, object: NonNull<u8>) {
        // SAFETY: a node, which is the caller's to free.
        let value = unsafe { object.cast::<Node>().read() }.value;
        self.1.borrow_mut().push(value);
        // SAFETY: as above.
        unsafe { self.0.kfree(object) };
    }
}

#[test]
fn however_many_wait_a_call_frees_so_many_and_the_first_first() {
    let machine = Machine::new(64);
    let slab = machine.slab(settings());
    let rcu = Rcu::new();
    let arch = &machine.host;
    rcu.online(arch);
    let source = Noting(&slab, RefCell::default());
    let defer = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let (object, head) = node(&slab);
            // SAFETY: a node.
            unsafe { object.cast::<Node>().as_mut().value = number };
            // SAFETY: the test's own object, with its head.
            let waiting = unsafe { slab.kfree_rcu(&rcu, object, head) };
            assert_eq!(waiting, rcu.nr_waiting(arch));
        }
    };
    let many = BATCH as u64 * 3;
    defer(0..many + 7);
    assert_eq!(rcu.quiescent(arch, &source), 0);
    // They are through; those that come wait for a period of their own, and behind them.
    defer(many + 7..many + 20);
    let freed: Vec<_> = (0..5).map(|_| rcu.quiescent(arch, &source)).collect();
    assert_eq!(freed, [BATCH, BATCH, BATCH, 20, 0]);
    assert!(source.1.borrow().iter().copied().eq(0..many + 20));
    assert_eq!(rcu.nr_waiting(arch), 0);
}
