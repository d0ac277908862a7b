// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Linux tests of its slab, case by case under Linux's names: `slub_kunit`. Cases with grace periods are in
//! `percpu.rs`, that with interrupts in `slab_interrupts.rs`.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod support;

use std::cell::RefCell;
use std::ptr::NonNull;

use mm::gfp::Gfp;
use mm::slab::{
    CacheError, CacheFlags, CacheRef, CacheSpec, DebugSpec, Fault, FaultKind, RED_ACTIVE, Settings, report,
};
use support::{HostSlab, Machine};

thread_local! {
    static FAULTS: RefCell<Vec<Fault>> = const { RefCell::new(Vec::new()) };
}

fn collect(fault: &Fault) {
    FAULTS.with(|faults| faults.borrow_mut().push(*fault));
}

fn faults() -> Vec<Fault> {
    FAULTS.with(|faults| faults.borrow_mut().drain(..).collect())
}

fn with_slab(debug: &'static str, test: impl FnOnce(&HostSlab<'_>)) {
    let machine = Machine::new(1 << 10);
    let debug = DebugSpec::parse(debug).unwrap();
    let slab = machine.slab(Settings { debug, ..Settings::new(64 << 20, 1, collect) });
    test(&slab);
}

fn cache(slab: &HostSlab<'_>, name: &'static str, size: usize, flags: CacheFlags) -> CacheRef {
    slab.cache_create(CacheSpec { flags: flags | CacheFlags::NO_USER_FLAGS, ..CacheSpec::new(name, size) }).unwrap()
}

fn poke(object: NonNull<u8>, offset: isize, byte: u8) {
    // SAFETY: inside the slot, as the tests mean it.
    unsafe { object.as_ptr().wrapping_offset(offset).write(byte) };
}

fn alloc(slab: &HostSlab<'_>, cache: CacheRef) -> NonNull<u8> {
    slab.cache_alloc(cache, Gfp::KERNEL).unwrap()
}

fn give(slab: &HostSlab<'_>, cache: CacheRef, object: NonNull<u8>) {
    // SAFETY: the test's own object.
    unsafe { slab.cache_free(cache, object) };
}

#[test]
fn test_clobber_zone() {
    with_slab("-", |slab| {
        let cache = cache(slab, "TestSlub_RZ_alloc", 64, CacheFlags::RED_ZONE);
        let object = alloc(slab, cache);
        poke(object, 64, 0x12);
        assert_eq!(slab.validate(), 1);
        let fault = faults()[0];
        assert_eq!(fault.kind, FaultKind::RightRedzone { offset: 64, found: 0x12, expected: RED_ACTIVE });
        let text = fault.to_string();
        assert!(text.contains("BUG TestSlub_RZ_alloc (size 64): Right Redzone overwritten"), "{text}");
        assert!(text.contains("First byte 0x12 instead of 0xcc"), "{text}");
    });
}

/// Linux clobbers the free pointer. Ours stands outside the objects, so what is clobbered is free memory of the heap.
#[test]
fn test_next_pointer() {
    let machine = Machine::new(64);
    let slab = machine.slab(Settings { tiny: Some(true), ..Settings::new(1 << 20, 1, collect) });
    let objects: Vec<_> = (0..3).map(|_| slab.kmalloc(64, Gfp::KERNEL).unwrap()).collect();
    // SAFETY: allocated above.
    unsafe { slab.kfree(objects[1]) };
    (0..8).for_each(|offset| poke(objects[1], offset, 0x12));
    // SAFETY: allocated above.
    unsafe { slab.kfree(objects[0]) };
    assert_eq!(faults().iter().map(|fault| fault.kind).collect::<Vec<_>>(), [FaultKind::HeapLinks]);
}

#[test]
fn test_first_word() {
    with_slab("-", |slab| {
        let cache = cache(slab, "TestSlub_1th_word_free", 64, CacheFlags::POISON);
        let object = alloc(slab, cache);
        give(slab, cache, object);
        poke(object, 0, 0x78);
        assert_eq!(slab.validate(), 1);
        assert_eq!(faults()[0].kind, FaultKind::Poison { offset: 0, found: 0x78, expected: 0x6b });
    });
}

#[test]
fn test_clobber_50th_byte() {
    with_slab("-", |slab| {
        let cache = cache(slab, "TestSlub_50th_word_free", 64, CacheFlags::POISON);
        let object = alloc(slab, cache);
        give(slab, cache, object);
        poke(object, 50, 0x9a);
        assert_eq!(slab.validate(), 1);
        assert_eq!(faults()[0].kind, FaultKind::Poison { offset: 50, found: 0x9a, expected: 0x6b });
        // The next allocation meets it as well.
        alloc(slab, cache);
        assert_eq!(faults().len(), 1);
    });
}

#[test]
fn test_clobber_redzone_free() {
    with_slab("-", |slab| {
        let cache = cache(slab, "TestSlub_RZ_free", 64, CacheFlags::RED_ZONE);
        let object = alloc(slab, cache);
        give(slab, cache, object);
        poke(object, 64, 0xab);
        assert_eq!(slab.validate(), 1);
        assert_eq!(faults()[0].kind, FaultKind::RightRedzone { offset: 64, found: 0xab, expected: 0xbb });
    });
}

#[test]
fn test_kmalloc_redzone_access() {
    with_slab("ZU", |slab| {
        let object = slab.kmalloc(18, Gfp::KERNEL).unwrap();
        poke(object, 18, 0xab);
        poke(object, -1, 0xab);
        // SAFETY: allocated above.
        unsafe { slab.kfree(object) };
        let fault = faults()[0];
        assert_eq!(fault.kind, FaultKind::LeftRedzone { offset: -1, found: 0xab, expected: RED_ACTIVE });
        assert!(fault.allocated.unwrap().caller.file().ends_with("slab_linux.rs"));
        let object = slab.kmalloc(18, Gfp::KERNEL).unwrap();
        poke(object, 18, 0xab);
        // SAFETY: allocated above.
        unsafe { slab.kfree(object) };
        assert_eq!(faults()[0].kind, FaultKind::RightRedzone { offset: 18, found: 0xab, expected: RED_ACTIVE });
    });
}

#[test]
fn test_leak_destroy() {
    with_slab("-", |slab| {
        let cache = cache(slab, "TestSlub_leak_destroy", 64, CacheFlags::STORE_USER);
        let object = alloc(slab, cache);
        // SAFETY: nobody else uses the cache.
        assert_eq!(unsafe { slab.cache_destroy(cache) }, Err(CacheError::InUse(1)));
        let found = faults();
        assert_eq!(found.len(), 2, "the sum, and the object");
        assert_eq!(found[0].kind, FaultKind::ObjectsRemaining(1));
        assert_eq!((found[1].kind, found[1].object), (FaultKind::Leaked, object.addr().get()));
        assert!(found[1].allocated.is_some());
        give(slab, cache, object);
        // SAFETY: nobody else uses the cache.
        assert_eq!(unsafe { slab.cache_destroy(cache) }, Ok(()));
    });
}

#[test]
fn test_krealloc_redzone_zeroing() {
    with_slab("Z", |slab| {
        let gfp = Gfp::KERNEL | Gfp::ZERO;
        let byte = |object: NonNull<u8>, at: usize| {
            // SAFETY: inside the slot.
            unsafe { object.as_ptr().wrapping_add(at).read() }
        };
        let object = slab.kmalloc(48, gfp).unwrap();
        assert!((48..64).all(|at| byte(object, at) == RED_ACTIVE));
        // SAFETY: allocated above.
        unsafe { object.write_bytes(0xff, 48) };
        // SAFETY: the same.
        let shorter = unsafe { slab.krealloc(Some(object), 40, gfp) }.unwrap();
        assert_eq!(shorter, object);
        assert!((40..64).all(|at| byte(object, at) == RED_ACTIVE));
        // SAFETY: the same.
        let longer = unsafe { slab.krealloc(Some(object), 56, gfp) }.unwrap();
        assert_eq!(longer, object);
        assert!((40..56).all(|at| byte(object, at) == 0));
        assert!((56..64).all(|at| byte(object, at) == RED_ACTIVE));
        // SAFETY: the same.
        let moved = unsafe { slab.krealloc(Some(object), 112, gfp) }.unwrap();
        assert_ne!(moved, object);
        assert!((0..40).all(|at| byte(moved, at) == 0xff));
        assert!((40..112).all(|at| byte(moved, at) == 0));
        assert!((112..128).all(|at| byte(moved, at) == RED_ACTIVE));
        assert!(faults().is_empty());
    });
}

/// Both files of `slabinfo` and `kmem`, from a slab with owners.
#[test]
fn owners_are_counted_by_call_site() {
    with_slab("U", |slab| {
        let objects: Vec<_> = (0..5).map(|_| slab.kmalloc(100, Gfp::KERNEL).unwrap()).collect();
        let one = slab.kmalloc(10, Gfp::KERNEL).unwrap();
        let mut sites = [None; 4];
        assert_eq!(slab.call_sites(&mut sites), (2, 0));
        let [Some(first), Some(second), ..] = sites else { panic!("no sites") };
        assert_eq!((first.objects, first.bytes, second.objects, second.bytes), (5, 500, 1, 10));
        let mut text = String::new();
        report::kmem(&mut text, &[first, second], 0).unwrap();
        assert!(text.lines().nth(1).unwrap().contains("slab_linux.rs"), "{text}");
        // SAFETY: allocated above.
        objects.into_iter().chain([one]).for_each(|object| unsafe { slab.kfree(object) });
    });
}
