// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exhaustion at every allocation: a piece of work that asks the slab for everything it has is done again and again, and each
//! time another of its allocations finds no memory. That is an error, the content of what is held stays, and all pages come
//! back.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper may fail loudly")]

mod support;

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use mm::arch::host::Host;
use mm::gfp::Gfp;
use mm::percpu::PerCpu;
use mm::slab::{Cache, CacheFlags, CacheSpec, FailSlab, OutOfMemory, ZERO_SIZE};
use support::{HostSlab, MODES, Machine, Pages, all_are, settings};

type Source = &'static Pages;

mm::kernel_allocators! {
    /// What the vector below is made from.
    static SLAB: Global<Host<'static>, Source>;
}

type Done = Result<(), OutOfMemory>;

fn is_all(object: NonNull<u8>, bytes: usize, byte: u8) -> bool {
    // SAFETY: an object of that size, written.
    all_are(unsafe { std::slice::from_raw_parts(object.as_ptr(), bytes) }, byte)
}

fn fill(object: NonNull<u8>, bytes: usize, byte: u8) {
    // SAFETY: an object of that size.
    unsafe { object.write_bytes(byte, bytes) };
}

fn free(slab: &HostSlab<'_>, object: NonNull<u8>) {
    // SAFETY: the caller's own object, which it gives up.
    unsafe { slab.kfree(object) };
}

/// Objects of every way that `kmalloc` has, all in use at once.
fn kmalloc(slab: &HostSlab<'_>) -> Done {
    let mut live = Vec::new();
    let mut result = Ok(());
    for (number, bytes) in [8, 20, 64, 200, 256, 300, 512, 1500, 2048, 3000, 4096, 5000, 20_000].into_iter().enumerate()
    {
        let object = match number % 3 {
            0 => slab.kmalloc(bytes, Gfp::KERNEL),
            1 => slab.kzalloc(bytes, Gfp::KERNEL),
            _ => slab.kmalloc_aligned(bytes, 64, Gfp::KERNEL),
        };
        match object {
            Ok(object) => {
                assert!(number % 3 != 1 || is_all(object, bytes, 0));
                fill(object, bytes, bytes as u8);
                live.push((object, bytes));
            }
            Err(error) => result = Err(error),
        }
    }
    for (object, bytes) in live {
        assert!(is_all(object, bytes, bytes as u8), "an object of {bytes} bytes changed");
        free(slab, object);
    }
    result
}

/// An object that grows and shrinks. Where it cannot, it stays where it is, with all that it holds.
fn krealloc(slab: &HostSlab<'_>) -> Done {
    let (mut object, mut bytes) = (None, 0);
    let mut result = Ok(());
    for wanted in [10, 60, 64, 250, 400, 390, 1024, 3000, 4096, 9000, 30_000, 8192, 4000, 100] {
        // SAFETY: the object, which is forgotten if it moved.
        match unsafe { slab.krealloc(object, wanted, Gfp::KERNEL) } {
            Ok(moved) => {
                assert!(is_all(moved, bytes.min(wanted), 0x5c), "{bytes} to {wanted}");
                fill(moved, wanted, 0x5c);
                (object, bytes) = (Some(moved), wanted);
            }
            Err(error) => {
                assert!(object.is_none_or(|object| is_all(object, bytes, 0x5c)), "{bytes} to {wanted}");
                result = Err(error);
            }
        }
    }
    // SAFETY: as above; nothing is left of it.
    assert_eq!(unsafe { slab.krealloc(object, 0, Gfp::KERNEL) }, Ok(ZERO_SIZE));
    result
}

/// Caches of each kind: objects one by one and in bulk, all or none.
fn caches(slab: &HostSlab<'_>) -> Done {
    let mut result = Ok(());
    for flags in [CacheFlags::empty(), CacheFlags::TYPESAFE_BY_RCU, CacheFlags::POISON | CacheFlags::RED_ZONE] {
        let Ok(cache) = slab.cache_create(CacheSpec { flags, ..CacheSpec::new("dry", 900) }) else {
            result = Err(OutOfMemory);
            continue;
        };
        let mut bulk = [NonNull::dangling(); 20];
        match slab.cache_alloc_bulk(cache, Gfp::KERNEL, &mut bulk) {
            // SAFETY: just allocated.
            Ok(()) => unsafe { slab.cache_free_bulk(cache, &bulk) },
            Err(error) => result = Err(error),
        }
        match slab.cache_alloc(cache, Gfp::KERNEL) {
            // SAFETY: just allocated.
            Ok(object) => unsafe { slab.cache_free(cache, object) },
            Err(error) => result = Err(error),
        }
        // SAFETY: nobody else knows the cache. If an object of a failed bulk was lost, it tells.
        assert_eq!(unsafe { slab.cache_destroy(cache) }, Ok(()));
    }
    result
}

thread_local!(static DROPPED: Cell<usize> = const { Cell::new(0) });

struct Loud([u64; 70]);

impl Drop for Loud {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + self.0.iter().sum::<u64>() as usize);
    }
}

/// Values in a typed cache: those that found no room are dropped as the others are.
fn typed(slab: &HostSlab<'_>) -> Done {
    const VALUES: usize = 15;
    let cache = Cache::new(slab, "loud", CacheFlags::empty()).map_err(|_| OutOfMemory)?;
    DROPPED.set(0);
    let values: Vec<_> = (0..VALUES).map(|_| cache.alloc(Loud([1; 70]), Gfp::KERNEL)).collect();
    let failed = values.iter().filter(|value| value.is_err()).count();
    assert_eq!(DROPPED.get(), failed * 70);
    drop(values);
    assert_eq!(DROPPED.get(), VALUES * 70);
    if failed == 0 { Ok(()) } else { Err(OutOfMemory) }
}

/// Objects for each CPU, in several chunks.
fn percpu(slab: &HostSlab<'_>) -> Done {
    let percpu = PerCpu::new(slab, 3);
    let mut result = Ok(());
    let mut live = Vec::new();
    for bytes in [64, 4000, 200, 3000, 4096] {
        match percpu.alloc(bytes, 8, Gfp::KERNEL) {
            Ok(object) => live.push(object),
            Err(error) => result = Err(error),
        }
    }
    for object in live {
        for copy in (0..3).map(|cpu| object.of(cpu).unwrap()) {
            assert!(is_all(copy, object.size(), 0));
            fill(copy, object.size(), 0xd5);
        }
        // SAFETY: allocated above.
        assert!(unsafe { percpu.free(object) });
    }
    assert_eq!(percpu.bytes(), 0);
    result
}

type Work = fn(&HostSlab<'_>) -> Done;

const WORK: [(&str, Work); 5] =
    [("kmalloc", kmalloc), ("krealloc", krealloc), ("caches", caches), ("typed", typed), ("percpu", percpu)];

/// What finds no memory.
#[derive(Clone, Copy, Debug)]
enum Failing {
    /// The slab's allocation of that number, and no other.
    One,
    /// That and all behind it.
    All,
    /// The page allocator's of that number.
    OnePage,
    /// That and all behind it.
    AllPages,
}

/// Does the work with the failure at that place. Returns whether an allocation failed.
fn attempt(mode: &str, what: &str, work: Work, failing: Failing, at: usize) -> bool {
    let machine = Machine::new(256);
    let mut settings = settings(mode, |fault| panic!("{fault}"));
    if let Failing::One | Failing::All = failing {
        let times = if let Failing::One = failing { 1 } else { u32::MAX };
        settings.failslab = FailSlab { probability: 100, interval: 1, space: at as u32, times };
    }
    let slab = machine.slab(settings);
    slab.reclaim();
    let before = (machine.pages.taken(), slab.info().heap_objects);
    if let Failing::OnePage | Failing::AllPages = failing {
        machine.pages.fails_once.store(matches!(failing, Failing::OnePage), Ordering::Relaxed);
        machine.pages.left.store(at, Ordering::Relaxed);
    }
    let result = work(&slab);
    let has_failed = match failing {
        Failing::OnePage => machine.pages.left.load(Ordering::Relaxed) == usize::MAX,
        Failing::AllPages => machine.pages.left.load(Ordering::Relaxed) == 0,
        Failing::One | Failing::All => result.is_err(),
    };
    slab.reclaim();
    let arrays = slab.info().array_pages as u64;
    let after = (machine.pages.taken() - arrays, slab.info().heap_objects);
    assert_eq!(after, before, "{mode}, {what}, {failing:?} {at}");
    assert_eq!(slab.validate(), 0, "{mode}, {what}, {failing:?} {at}");
    has_failed
}

#[test]
fn at_every_allocation_that_there_is() {
    for &mode in if cfg!(miri) { &["tiny"] } else { MODES } {
        for (what, work) in WORK {
            // Under Miri some of them.
            let all = [Failing::OnePage, Failing::AllPages, Failing::One, Failing::All];
            let (step, ways) = if cfg!(miri) { (7, 1) } else { (1, 4) };
            for failing in all.into_iter().take(ways) {
                let failures = (0..).step_by(step).take_while(|at| attempt(mode, what, work, failing, *at)).count();
                assert!(failures > 0 && failures < 300, "{mode}, {what}, {failing:?}: {failures} failures");
            }
        }
    }
}

#[test]
fn a_vector_that_cannot_grow_keeps_what_it_has() {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| Machine::new(256));
    SLAB.start(|| Ok::<_, ()>(machine.slab(settings("default", |fault| panic!("{fault}"))))).unwrap();
    let numbers = if cfg!(miri) { 300 } else { 6000 };
    for at in 0.. {
        machine.pages.left.store(at, Ordering::Relaxed);
        let mut vector = KVec::new_in(Kmalloc);
        let failed = (0..numbers).any(|number: u64| {
            let is_full = vector.try_reserve(1).is_err();
            if !is_full {
                vector.push(number);
            }
            is_full
        });
        assert!(vector.iter().copied().eq(0..vector.len() as u64));
        assert!(failed || vector.len() as u64 == numbers);
        drop(vector);
        machine.pages.left.store(usize::MAX, Ordering::Relaxed);
        SLAB.get().unwrap().reclaim();
        if !failed {
            assert!(at > 1, "it never ran dry");
            break;
        }
    }
}
