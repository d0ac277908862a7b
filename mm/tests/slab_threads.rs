// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab with several CPUs at once, each a thread: what one allocated another frees, and caches come and go while others
//! run out of memory. Miri sees every access that nothing orders.
#![expect(clippy::panic, reason = "a test helper may fail loudly")]

mod support;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use mm::gfp::Gfp;
use mm::slab::{CacheSpec, Settings};
use support::{MODES, Machine, all_are};

fn settings(mode: &str) -> Settings {
    support::settings(mode, |fault| panic!("{fault}"))
}

/// An object on its way to another thread.
struct Sent(NonNull<u8>);

// SAFETY: whoever sends it uses it no more.
unsafe impl Send for Sent {}

#[test]
fn threads_free_what_others_allocated() {
    for &mode in MODES {
        let machine = Machine::new(1 << 12);
        let slab = machine.slab(settings(mode));
        let rounds = if cfg!(miri) { 2 } else { 40 };
        let objects = if cfg!(miri) { 40 } else { 400 };
        let (send, receive) = std::sync::mpsc::sync_channel::<Vec<Sent>>(2);
        std::thread::scope(|scope| {
            let slab = &slab;
            scope.spawn(move || {
                for round in 0..rounds {
                    let batch = (0..objects).map(|number| {
                        let size = 8 + (number * 37 + round) % 700;
                        let at = slab.kmalloc(size, Gfp::KERNEL).unwrap();
                        // SAFETY: a new object.
                        unsafe { at.write_bytes(size as u8, size) };
                        Sent(at)
                    });
                    send.send(batch.collect()).unwrap();
                }
            });
            scope.spawn(move || {
                for (round, batch) in receive.into_iter().enumerate() {
                    for (number, at) in batch.into_iter().enumerate() {
                        let size = 8 + (number * 37 + round) % 700;
                        // SAFETY: the other thread's object, which it gave away.
                        let bytes = unsafe { std::slice::from_raw_parts(at.0.as_ptr(), size) };
                        assert!(all_are(bytes, size as u8));
                        // SAFETY: the same.
                        unsafe { slab.kfree(at.0) };
                    }
                }
            });
        });
        slab.reclaim();
        assert_eq!(slab.nr_faults(), 0);
    }
}

#[test]
fn a_cache_comes_and_goes_while_others_give_back_what_they_keep() {
    for &mode in MODES {
        let machine = Machine::new(1 << 10);
        let slab = machine.slab(settings(mode));
        let is_over = AtomicBool::new(false);
        let rounds = if cfg!(miri) { 3 } else { 300 };
        std::thread::scope(|scope| {
            let (slab, is_over) = (&slab, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let object = slab.kmalloc(100, Gfp::KERNEL).unwrap();
                    // What a CPU does that finds no memory, and what the reports do.
                    slab.reclaim();
                    assert!(slab.caches().all(|cache| cache.active_objects <= cache.objects));
                    assert_eq!(slab.validate(), 0);
                    // SAFETY: allocated above.
                    unsafe { slab.kfree(object) };
                }
            });
            for round in 0..rounds {
                let cache = slab.cache_create(CacheSpec::new("short", 40 + round)).unwrap();
                let objects: Vec<_> = (0..5).map(|_| slab.cache_alloc(cache, Gfp::KERNEL).unwrap()).collect();
                // SAFETY: allocated above.
                objects.into_iter().for_each(|object| unsafe { slab.cache_free(cache, object) });
                // SAFETY: nobody else knows the cache.
                unsafe { slab.cache_destroy(cache) }.unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(slab.nr_faults(), 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "the mark of a free object is not read under Miri")]
fn a_second_free_by_a_cpu_that_never_allocated_is_found() {
    for &mode in MODES {
        for size in [8, 64, 250, 300, 512, 700, 1024, 2048, 4000, 4096, 8192] {
            let machine = Machine::new(1 << 8);
            let slab = machine.slab(support::settings(mode, |_| ()));
            let object = Sent(slab.kmalloc(size, Gfp::KERNEL).unwrap());
            // SAFETY: allocated above.
            unsafe { slab.kfree(object.0) };
            let slab = &slab;
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let object = object;
                    // SAFETY: freed already: refused.
                    unsafe { slab.kfree(object.0) };
                });
            });
            assert_eq!(slab.nr_faults(), 1, "{mode} {size}");
        }
    }
}
