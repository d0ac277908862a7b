// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which array an object of the slab goes to, and which it may come from.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod support;

use std::cell::RefCell;
use std::ptr::NonNull;

use mm::gfp::Gfp;
use mm::slab::{CacheFlags, CacheSpec, Fault, FaultKind, Settings};
use support::{HostSlab, Machine};

thread_local! {
    static FAULTS: RefCell<Vec<FaultKind>> = const { RefCell::new(Vec::new()) };
}

fn with_slab(test: impl FnOnce(&HostSlab<'_>)) {
    let machine = Machine::new(1 << 10);
    let collect = |fault: &Fault| FAULTS.with(|faults| faults.borrow_mut().push(fault.kind));
    test(&machine.slab(Settings::new(512 << 20, 1, collect)));
}

fn alloc(slab: &HostSlab<'_>, bytes: usize) -> NonNull<u8> {
    slab.kmalloc(bytes, Gfp::KERNEL).unwrap()
}

fn free(slab: &HostSlab<'_>, object: NonNull<u8>) {
    // SAFETY: a test's own object, or one that is to be refused.
    unsafe { slab.kfree(object) };
}

fn size(slab: &HostSlab<'_>, object: NonNull<u8>) -> usize {
    // SAFETY: a test's own object.
    unsafe { slab.ksize(object) }.unwrap()
}

#[test]
fn an_object_comes_from_a_slightly_larger_size_before_a_new_one_is_cut() {
    for (larger, smaller) in [(340, 300), (1100, 950), (3950, 3600), (4096, 3900)] {
        with_slab(|slab| {
            let object = alloc(slab, larger);
            free(slab, object);
            assert_eq!(alloc(slab, smaller), object);
            assert!(size(slab, object) >= larger);
            // Where nothing is at hand, and from sizes that are much larger, a new one is.
            let other = alloc(slab, smaller);
            assert!(other != object && size(slab, other) < larger + 8);
            free(slab, object);
            assert_ne!(alloc(slab, larger / 2), object);
            free(slab, other);
        });
    }
    with_slab(|slab| {
        // A power of two is aligned to itself, which others are not.
        let object = alloc(slab, 520);
        free(slab, object);
        assert_ne!(alloc(slab, 512), object);
    });
}

#[test]
fn an_object_that_shrank_goes_to_the_array_of_its_new_size() {
    with_slab(|slab| {
        let object = alloc(slab, 2500);
        // SAFETY: allocated above.
        let shrunk = unsafe { slab.krealloc(Some(object), 800, Gfp::KERNEL) }.unwrap();
        assert!(shrunk == object && size(slab, object) < 1000);
        free(slab, object);
        let other = alloc(slab, 2500);
        assert!(size(slab, other) >= 2500);
        free(slab, other);
        assert_eq!(slab.nr_faults(), 0);
    });
}

#[test]
fn zeros_are_zeros_where_an_object_has_more_room_than_was_asked_for() {
    let is_zero = |object: NonNull<u8>, from: usize, to: usize| {
        // SAFETY: the test's own object, of at least `to` bytes, all written before.
        (from..to).all(|at| unsafe { object.as_ptr().wrapping_add(at).read() } == 0)
    };
    for (larger, smaller) in [(340, 300), (1024, 950), (1100, 950), (4096, 3900)] {
        with_slab(|slab| {
            let dirty = |bytes| {
                let object = alloc(slab, bytes);
                // SAFETY: the test's own object.
                unsafe { object.write_bytes(0xaa, size(slab, object)) };
                object
            };
            free(slab, dirty(larger));
            let zeroed = slab.kmalloc(smaller, Gfp::KERNEL | Gfp::ZERO).unwrap();
            assert!(is_zero(zeroed, 0, size(slab, zeroed)));
            free(slab, dirty(larger));
            let object = dirty(smaller);
            assert!(size(slab, object) >= larger);
            let change = |object, bytes| {
                // SAFETY: the test's own object.
                unsafe { slab.krealloc(Some(object), bytes, Gfp::KERNEL | Gfp::ZERO) }.unwrap()
            };
            let shorter = change(object, smaller - 100);
            assert!(is_zero(shorter, smaller - 100, size(slab, shorter)));
            let longer = change(shorter, larger);
            assert!(is_zero(longer, smaller - 100, larger) && !is_zero(longer, 0, smaller - 100));
            free(slab, longer);
            free(slab, zeroed);
            assert_eq!(slab.nr_faults(), 0);
        });
    }
}

#[test]
fn what_is_no_object_of_the_heap_is_refused() {
    with_slab(|slab| {
        let (first, second) = (alloc(slab, 1000), alloc(slab, 1000));
        for wrong in [8, 16, 256, 512] {
            free(slab, first.map_addr(|addr| addr.saturating_add(wrong)));
        }
        free(slab, second);
        free(slab, second);
        slab.reclaim();
        free(slab, second);
        let expected = [FaultKind::NotAnObject; 4].into_iter().chain([FaultKind::DoubleFree; 2]);
        assert!(FAULTS.take().into_iter().eq(expected));
        free(slab, first);
    });
}

#[test]
fn a_free_that_is_refused_is_not_counted() {
    with_slab(|slab| {
        let spec = CacheSpec { flags: CacheFlags::NO_ARRAYS, ..CacheSpec::new("bare", 64) };
        let cache = slab.cache_create(spec).unwrap();
        let object = slab.cache_alloc(cache, Gfp::KERNEL).unwrap();
        for _ in 0..2 {
            // SAFETY: allocated above; the second free is refused, as nothing else came there.
            unsafe { slab.cache_free(cache, object) };
        }
        assert_eq!(FAULTS.take(), [FaultKind::DoubleFree]);
        assert_eq!(slab.caches().find(|cache| cache.name == "bare").unwrap().active_objects, 0);
        // SAFETY: nobody else knows the cache.
        unsafe { slab.cache_destroy(cache) }.unwrap();
    });
}

#[test]
fn what_the_heap_has_in_use_is_its_objects() {
    with_slab(|slab| {
        let before = slab.info().heap_bytes;
        let objects = [300, 1000, 3000].map(|bytes| alloc(slab, bytes));
        let sizes: usize = objects.iter().map(|object| size(slab, *object)).sum();
        assert_eq!(slab.info().heap_bytes, before + sizes);
        objects.into_iter().for_each(|object| free(slab, object));
    });
}

#[test]
fn caches_beyond_the_thirtieth_work_without_arrays() {
    with_slab(|slab| {
        let caches: Vec<_> =
            (0..40).map(|nr| slab.cache_create(CacheSpec::new("many", 24 + 8 * nr)).unwrap()).collect();
        for cache in caches {
            let objects: Vec<_> = (0..100).map(|_| slab.cache_alloc(cache, Gfp::KERNEL).unwrap()).collect();
            let mut sorted = objects.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), objects.len());
            // SAFETY: allocated above.
            objects.into_iter().for_each(|object| unsafe { slab.cache_free(cache, object) });
            // SAFETY: nobody else knows the cache.
            unsafe { slab.cache_destroy(cache) }.unwrap();
        }
        assert_eq!(slab.nr_faults(), 0);
    });
}

#[test]
fn objects_move_in_steps_that_grow_while_all_go_the_same_way() {
    with_slab(|slab| {
        let cache = slab.cache_create(CacheSpec::new("steps", 32)).unwrap();
        let taken = || slab.caches().find(|cache| cache.name == "steps").unwrap().active_objects;
        let mut steps = Vec::new();
        let objects: Vec<_> = (0..160)
            .map(|_| {
                let before = taken();
                let object = slab.cache_alloc(cache, Gfp::KERNEL).unwrap();
                steps.push(taken() - before);
                object
            })
            .collect();
        steps.retain(|step| *step > 0);
        // One is for the caller.
        assert_eq!(steps[..12], [4, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16].map(|more| 1 + more));
        // SAFETY: allocated above.
        objects.into_iter().for_each(|object| unsafe { slab.cache_free(cache, object) });
        assert!(taken() <= 31);
        // SAFETY: nobody else knows the cache.
        unsafe { slab.cache_destroy(cache) }.unwrap();
        assert_eq!(slab.nr_faults(), 0);
    });
}
