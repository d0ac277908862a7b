// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab beside a model: objects of every size and alignment hold what was written to them until they are freed,
//! whatever else is allocated, freed and resized meanwhile; and all pages come back.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one argument covers the pair")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod support;

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use mm::gfp::Gfp;
use mm::slab::{CacheFlags, CacheSpec, Fault, FaultKind, MIN_ALIGN, Settings, ZERO_SIZE};
use proptest::prelude::*;
use support::{HostSlab, MODES, Machine, all_are};

thread_local! {
    static FAULTS: RefCell<Vec<Fault>> = const { RefCell::new(Vec::new()) };
}

/// Collects what the slab reports on this thread.
fn collect(fault: &Fault) {
    FAULTS.with(|faults| faults.borrow_mut().push(*fault));
}

fn faults() -> Vec<FaultKind> {
    FAULTS.with(|faults| faults.borrow_mut().drain(..).map(|fault| fault.kind).collect())
}

fn settings(mode: &str) -> Settings {
    support::settings(mode, collect)
}

/// An object of the model.
struct Object {
    at: NonNull<u8>,
    size: usize,
    align: usize,
    fill: u8,
}

impl Object {
    fn new(at: NonNull<u8>, size: usize, align: usize, fill: u8) -> Self {
        let object = Self { at, size, align, fill };
        object.check_place();
        // SAFETY: a new object of that size.
        unsafe { at.write_bytes(fill, size) };
        object
    }

    fn check_place(&self) {
        let natural = if self.size.is_power_of_two() { self.size.min(4096) } else { 1 };
        let align = self.align.max(MIN_ALIGN).max(natural);
        assert!(self.size == 0 || self.at.addr().get().is_multiple_of(align), "{} at {:?}", self.size, self.at);
    }

    fn check(&self, upto: usize) {
        // SAFETY: the object was written when it was made.
        let bytes = unsafe { std::slice::from_raw_parts(self.at.as_ptr(), upto.min(self.size)) };
        assert!(all_are(bytes, self.fill), "an object of {} bytes changed", self.size);
    }
}

fn free(slab: &HostSlab<'_>, object: Object, sized: bool) {
    object.check(object.size);
    // SAFETY: the model's own object, which it gives up.
    unsafe {
        if sized {
            slab.kfree_sized(object.at, object.size, object.align);
        } else {
            slab.kfree(object.at);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Alloc { size: usize, align: usize, zero: bool },
    Free { at: usize, sized: bool },
    Resize { at: usize, size: usize },
    Reclaim,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 1..600_usize,
        3 => (3..13_u32).prop_flat_map(|log| (1_usize << log)..(2 << log)),
        1 => (0..14_u32).prop_map(|log| 1 << log),
        1 => 3900..4200_usize,
        1 => 4096..40_000_usize,
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let align = prop_oneof![4 => Just(8), 1 => (0..13_u32).prop_map(|log| 1 << log)];
    let op = prop_oneof![
        6 => (size(), align, any::<bool>()).prop_map(|(size, align, zero)| Op::Alloc { size, align, zero }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(at, sized)| Op::Free { at, sized }),
        3 => (any::<usize>(), size()).prop_map(|(at, size)| Op::Resize { at, size }),
        1 => Just(Op::Reclaim),
    ];
    prop::collection::vec(op, 1..if cfg!(miri) { 30 } else { 400 })
}

fn run(mode: &str, ops: &[Op]) {
    let machine = Machine::new(1 << 11);
    let slab = machine.slab(settings(mode));
    // The CPU's arrays are made with the first object.
    // SAFETY: allocated here.
    unsafe { slab.kfree(slab.kmalloc(8, Gfp::KERNEL).unwrap()) };
    slab.reclaim();
    let before = machine.pages.taken();
    let mut objects: Vec<Object> = Vec::new();
    for (number, op) in ops.iter().enumerate() {
        let fill = number as u8 | 1;
        match *op {
            Op::Alloc { size, align, zero } => {
                let gfp = if zero { Gfp::KERNEL | Gfp::ZERO } else { Gfp::KERNEL };
                if let Ok(at) = slab.kmalloc_aligned(size, align, gfp) {
                    // SAFETY: a new object.
                    assert!(unsafe { slab.ksize(at) }.unwrap() >= size);
                    if zero || mode == "init" {
                        // SAFETY: zeroed memory of that size.
                        let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), size) };
                        assert!(all_are(bytes, 0));
                    }
                    objects.push(Object::new(at, size, align, fill));
                }
            }
            Op::Free { at, sized } if !objects.is_empty() => {
                let object = objects.swap_remove(at % objects.len());
                free(&slab, object, sized);
            }
            Op::Resize { at, size } if !objects.is_empty() => {
                let index = at % objects.len();
                let old = &objects[index];
                // SAFETY: the model's own object.
                if let Ok(moved) = unsafe { slab.krealloc_aligned(old.at, size, old.align, Gfp::KERNEL) } {
                    let kept = Object { at: moved, size: old.size.min(size), align: old.align, fill: old.fill };
                    kept.check(kept.size);
                    objects[index] = Object::new(moved, size, old.align, fill);
                }
            }
            Op::Reclaim => {
                slab.reclaim();
            }
            _ => {}
        }
    }
    for object in objects.drain(..) {
        free(&slab, object, false);
    }
    slab.reclaim();
    assert_eq!(machine.pages.taken(), before, "pages were lost");
    assert_eq!(faults(), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 3 } else { 60 }, failure_persistence: None, ..Default::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "random sequences take Miri too long; the cases below do not")]
    fn objects_keep_their_content_and_pages_come_back(mode in 0..MODES.len(), ops in ops()) {
        run(MODES[mode], &ops);
    }
}

#[test]
fn every_size_and_alignment_is_served_where_it_was_promised() {
    let step = if cfg!(miri) { 1511 } else { 1 };
    for &mode in MODES {
        let machine = Machine::new(1 << 10);
        let slab = machine.slab(settings(mode));
        let mut live = Vec::new();
        for size in (1..9000).step_by(step) {
            for align in (0..13).map(|log| 1 << log) {
                let at = slab.kmalloc_aligned(size, align, Gfp::KERNEL).unwrap();
                live.push(Object::new(at, size, align, size as u8));
                if live.len() > 40 {
                    free(&slab, live.swap_remove(size % 40), size % 2 == 0);
                }
            }
        }
        live.into_iter().for_each(|object| free(&slab, object, false));
        assert_eq!(faults(), [], "{mode}");
    }
}

#[test]
fn a_size_that_no_memory_has_is_an_error_at_any_alignment() {
    for &mode in MODES {
        let machine = Machine::new(64);
        let slab = machine.slab(settings(mode));
        for size in [usize::MAX, usize::MAX - 40, usize::MAX / 2, isize::MAX as usize + 1] {
            for align in [1, MIN_ALIGN, 64, 4096, 1 << 40] {
                assert!(slab.kmalloc_aligned(size, align, Gfp::KERNEL).is_err(), "{mode} {size:#x} {align:#x}");
            }
        }
        assert_eq!(faults(), []);
    }
}

#[test]
fn no_bytes_are_an_object_that_need_not_be_freed() {
    for &mode in MODES {
        let machine = Machine::new(64);
        let slab = machine.slab(settings(mode));
        assert_eq!(slab.kmalloc(0, Gfp::KERNEL), Ok(ZERO_SIZE));
        // SAFETY: allowed for this pointer.
        unsafe { slab.kfree(ZERO_SIZE) };
        // SAFETY: the same.
        let object = unsafe { slab.krealloc(Some(ZERO_SIZE), 10, Gfp::KERNEL) }.unwrap();
        // SAFETY: the object from above.
        assert_eq!(unsafe { slab.krealloc(Some(object), 0, Gfp::KERNEL) }, Ok(ZERO_SIZE));
        assert_eq!(faults(), []);
        assert!(slab.kmalloc(usize::MAX, Gfp::KERNEL).is_err());
        assert!(slab.kmalloc((4 << 20) + 1, Gfp::KERNEL).is_err());
        assert!(slab.kcalloc(usize::MAX / 2, 4, Gfp::KERNEL).is_err());
    }
}

#[test]
#[cfg_attr(miri, ignore = "the mark of a free object is not read under Miri")]
fn a_second_free_is_found_wherever_the_object_is() {
    for &mode in MODES {
        for size in [8, 24, 100, 256, 300, 512, 1000, 1024, 2048, 3000, 4096, 5000] {
            let machine = Machine::new(256);
            let slab = machine.slab(settings(mode));
            let objects: Vec<_> = (0..50)
                .map(|n| {
                    slab.kmalloc(size, Gfp::KERNEL).unwrap_or_else(|_| panic!("{mode} {size} {n} {:?}", slab.info()))
                })
                .collect();
            for object in &objects {
                // SAFETY: allocated above.
                unsafe { slab.kfree(*object) };
            }
            for object in &objects {
                // SAFETY: the second free, which the slab must refuse; the memory is still mapped.
                unsafe { slab.kfree(*object) };
            }
            let found = faults();
            assert_eq!(found.len(), 50, "{mode} {size}: {found:?}");
            let fits = |kind: &FaultKind| matches!(kind, FaultKind::DoubleFree | FaultKind::NotSlab);
            assert!(found.iter().all(fits), "{mode} {size}: {found:?}");
            let again: Vec<_> = (0..50).map(|_| slab.kmalloc(size, Gfp::KERNEL).unwrap()).collect();
            let mut distinct = again.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 50, "an object was handed out twice");
        }
    }
}

#[test]
fn powers_of_two_stay_aligned_whatever_was_freed_in_their_size() {
    for &mode in MODES {
        let machine = Machine::new(512);
        let slab = machine.slab(settings(mode));
        for size in [512_usize, 1024, 2048, 4096] {
            for round in 0..if cfg!(miri) { 1 } else { 20 } {
                let near = (0..8).map(|n| {
                    let at = slab.kmalloc_aligned(size - n, MIN_ALIGN << (n % 3), Gfp::KERNEL).unwrap();
                    // SAFETY: the object from above, which becomes smaller.
                    unsafe { slab.krealloc(Some(at), size - 8 - n, Gfp::KERNEL) }.unwrap()
                });
                let near: Vec<_> = near.collect();
                // SAFETY: allocated above.
                near.into_iter().for_each(|at| unsafe { slab.kfree(at) });
                let objects: Vec<_> = (0..10)
                    .map(|_| Object::new(slab.kmalloc(size, Gfp::KERNEL).unwrap(), size, MIN_ALIGN, round))
                    .collect();
                objects.into_iter().for_each(|object| free(&slab, object, round % 2 == 0));
            }
        }
        let small = slab.kmalloc(4096, Gfp::KERNEL).unwrap();
        // SAFETY: not an object: refused.
        unsafe { slab.kfree(NonNull::new(small.as_ptr().wrapping_add(8)).unwrap()) };
        assert!(matches!(faults()[..], [FaultKind::NotAnObject]), "{mode}");
        // SAFETY: allocated above.
        unsafe { slab.kfree(small) };
        assert_eq!(faults(), [], "{mode}");
    }
}

#[test]
fn pointers_that_are_no_objects_are_refused() {
    for &mode in MODES {
        let machine = Machine::new(256);
        let slab = machine.slab(settings(mode));
        let object = slab.kmalloc(700, Gfp::KERNEL).unwrap();
        let large = slab.kmalloc(9000, Gfp::KERNEL).unwrap();
        for wrong in
            [object.as_ptr().wrapping_add(16), large.as_ptr().wrapping_add(8), large.as_ptr().wrapping_add(4096)]
        {
            // SAFETY: not an object: refused.
            unsafe { slab.kfree(NonNull::new(wrong).unwrap()) };
            assert!(matches!(faults()[..], [FaultKind::NotAnObject | FaultKind::DoubleFree]), "{mode}");
        }
        // SAFETY: allocated above.
        unsafe { (slab.kfree(object), slab.kfree(large)) };
        assert_eq!(faults(), []);
    }
}

#[test]
fn powers_of_two_lie_side_by_side_and_their_frames_go_back() {
    for mode in ["tiny", "default"] {
        let machine = Machine::new(256);
        let slab = machine.slab(settings(mode));
        // The arrays stay, where there are any.
        let first = Object::new(slab.kmalloc(512, Gfp::KERNEL).unwrap(), 512, 512, 1);
        free(&slab, first, false);
        slab.reclaim();
        for size in [512, 1024, 2048] {
            let before = slab.pages();
            let mut objects: Vec<_> = (0..80)
                .map(|number| Object::new(slab.kmalloc(size, Gfp::KERNEL).unwrap(), size, size, number))
                .collect();
            let frames = slab.pages() - before;
            assert!(frames <= 80 * size / 4096 + 2, "{mode} {size}: {frames} frames");
            // Of each frame some, then the rest.
            let half: Vec<_> = objects.extract_if(.., |object| object.at.addr().get() / size % 2 == 0).collect();
            half.into_iter().chain(objects).enumerate().for_each(|(nr, object)| free(&slab, object, nr % 2 == 0));
            slab.reclaim();
            assert_eq!(slab.pages(), before, "{mode} {size}");
        }
        assert_eq!(faults(), [], "{mode}");
    }
}

#[test]
fn a_stray_write_into_a_free_power_of_two_is_found_and_goes_nowhere() {
    let machine = Machine::new(64);
    let slab = machine.slab(settings("tiny"));
    let objects: Vec<_> = (0..8).map(|_| slab.kmalloc(1024, Gfp::KERNEL).unwrap()).collect();
    // SAFETY: allocated above.
    unsafe { (slab.kfree(objects[1]), slab.kfree(objects[5])) };
    // SAFETY: a use after free, on purpose: both links are overwritten.
    unsafe { objects[1].write_bytes(0x41, 32) };
    // SAFETY: allocated above. The links move into this object, which has a lower address.
    unsafe { slab.kfree(objects[0]) };
    assert_eq!(faults(), [FaultKind::HeapLinks]);
    let again: Vec<_> =
        (0..8).map(|number| Object::new(slab.kmalloc(1024, Gfp::KERNEL).unwrap(), 1024, 8, number)).collect();
    again.into_iter().for_each(|object| free(&slab, object, false));
}

#[test]
fn an_object_freed_to_the_wrong_cache_stays_where_it_is() {
    for &mode in MODES {
        let machine = Machine::new(256);
        let slab = machine.slab(settings(mode));
        let a = slab.cache_create(CacheSpec::new("a", 100)).unwrap();
        let b = slab.cache_create(CacheSpec::new("b", 100)).unwrap();
        let object = slab.cache_alloc(a, Gfp::KERNEL).unwrap();
        let other = slab.kmalloc(3000, Gfp::KERNEL).unwrap();
        // SAFETY: refused.
        unsafe { (slab.cache_free(b, object), slab.cache_free(b, other)) };
        let found = faults();
        assert_eq!(found[0], FaultKind::WrongCache("a"), "{mode}");
        assert!(matches!(found[1], FaultKind::WrongCache(_)), "{mode}");
        // SAFETY: allocated above; kfree finds the cache by itself.
        unsafe { (slab.kfree(object), slab.kfree(other)) };
        // SAFETY: no object of either is in use.
        assert_eq!(unsafe { (slab.cache_destroy(a), slab.cache_destroy(b)) }, (Ok(()), Ok(())));
        assert_eq!(faults(), []);
    }
}

#[test]
fn running_dry_at_every_page_is_an_error_and_loses_nothing() {
    for &mode in MODES {
        for dry in (0..60).step_by(if cfg!(miri) { 13 } else { 1 }).take(if cfg!(miri) { 2 } else { 60 }) {
            let machine = Machine::new(512);
            let slab = machine.slab(settings(mode));
            slab.reclaim();
            let before = machine.pages.taken();
            machine.pages.left.store(dry, Ordering::Relaxed);
            let mut objects = Vec::new();
            let cache = slab.cache_create(CacheSpec::new("dry", 900));
            let mut failed = 0;
            for number in 0..if cfg!(miri) { 16 } else { 200_usize } {
                let size = [20, 90, 200, 300, 1500, 3000, 5000, 20_000][number % 8];
                match slab.kmalloc(size, Gfp::KERNEL) {
                    Ok(at) => objects.push(Object::new(at, size, 8, number as u8)),
                    Err(_) => failed += 1,
                }
                if let Ok(cache) = cache
                    && let Ok(object) = slab.cache_alloc(cache, Gfp::KERNEL)
                {
                    // SAFETY: allocated above.
                    unsafe { slab.cache_free(cache, object) };
                }
            }
            assert!(failed > 0 || dry > 20 || cfg!(miri), "{mode} {dry}");
            objects.into_iter().for_each(|object| free(&slab, object, false));
            if let Ok(cache) = cache {
                // SAFETY: no object is in use.
                unsafe { slab.cache_destroy(cache) }.unwrap();
            }
            slab.reclaim();
            let arrays = slab.info().array_pages as u64;
            assert_eq!(machine.pages.taken() - arrays, before, "{mode} {dry}");
            assert_eq!(faults(), []);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "nothing but many allocations")]
fn small_memory_is_handed_out_almost_whole() {
    let machine = Machine::new(256);
    let slab = machine.slab(settings("tiny"));
    let (mut bytes, mut number) = (0, 1_usize);
    loop {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = (8 << (number >> 60 & 7)) + (number >> 33) % (8 << (number >> 60 & 7));
        match slab.kmalloc(size, Gfp::KERNEL) {
            Ok(_) => bytes += size,
            Err(_) => break,
        }
    }
    assert!(bytes * 100 >= 256 * 4096 * 93, "{bytes} of {}", 256 * 4096);
}

#[test]
fn a_stray_write_into_free_memory_of_the_heap_is_found_and_goes_nowhere() {
    let machine = Machine::new(64);
    let slab = machine.slab(settings("tiny"));
    let objects: Vec<_> = (0..8).map(|_| slab.kmalloc(400, Gfp::KERNEL).unwrap()).collect();
    // SAFETY: allocated above.
    unsafe { slab.kfree(objects[2]) };
    // SAFETY: a use after free, on purpose: both links are overwritten.
    unsafe { objects[2].write_bytes(0x41, 16) };
    // SAFETY: allocated above. Merging meets the broken links.
    unsafe { slab.kfree(objects[3]) };
    assert_eq!(faults(), [FaultKind::HeapLinks]);
    let again: Vec<_> =
        (0..8).map(|number| Object::new(slab.kmalloc(400, Gfp::KERNEL).unwrap(), 400, 8, number)).collect();
    again.into_iter().for_each(|object| free(&slab, object, false));
}

#[test]
fn caches_beyond_the_last_tag_are_refused_and_nothing_is_lost() {
    let machine = Machine::new(256);
    let slab = machine.slab(settings("default"));
    let before = slab.info();
    let mut caches = Vec::new();
    while let Ok(cache) = slab.cache_create(CacheSpec::new("many", 64)) {
        caches.push(cache);
    }
    assert!(caches.len() > 50);
    for cache in caches {
        // SAFETY: no object is in use.
        unsafe { slab.cache_destroy(cache) }.unwrap();
    }
    slab.reclaim();
    assert_eq!(slab.info().heap_objects, before.heap_objects);
}

#[test]
fn specifications_that_cannot_be_are_refused() {
    let machine = Machine::new(256);
    let slab = machine.slab(settings("default"));
    let spec = CacheSpec::new("bad", 64);
    for bad in [
        CacheSpec { size: 0, ..spec },
        CacheSpec { size: 65_537, ..spec },
        CacheSpec { align: 3, ..spec },
        CacheSpec { align: 8192, ..spec },
    ] {
        assert!(slab.cache_create(bad).is_err(), "{bad:?}");
    }
    let aligned =
        slab.cache_create(CacheSpec { flags: CacheFlags::HWCACHE_ALIGN, ..CacheSpec::new("line", 40) }).unwrap();
    assert!(slab.cache_alloc(aligned, Gfp::KERNEL).unwrap().addr().get().is_multiple_of(64));
}
