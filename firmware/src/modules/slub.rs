// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's `slub_kunit`: damages objects on purpose, and expects the slab to find each case. The reports in the log
//! between the results are what is tested.

mod nolock;

use mm::gfp::Gfp;
use mm::rcu::RcuHead;
use mm::slab::{CacheError, CacheFlags, CacheRef, CacheSpec, Debug};

use super::garbage::{cache_alloc, cache_free, fill, is_all, kfree, kmalloc, peek, poke};
use super::registry::Module;
use super::{Case, check, ktap};
use crate::slab::{KernelSlab, slab};
use crate::{rcu, thread};

pub(super) const MODULE: Module =
    Module { name: "slub_kunit", parameters: &[], run: |_, is_enough| ktap::run("slub_test", &CASES, is_enough) };

const CASES: [Case; 11] = [
    ("test_clobber_zone", clobber_zone),
    ("test_next_pointer", || Err("SKIP free slots are bits: there is no pointer")),
    ("test_first_word", first_word),
    ("test_clobber_50th_byte", clobber_50th_byte),
    ("test_clobber_redzone_free", clobber_redzone_free),
    ("test_kmalloc_redzone_access", kmalloc_redzone_access),
    ("test_kfree_rcu", kfree_rcu),
    ("test_kfree_rcu_wq_destroy", kfree_rcu_destroy),
    ("test_leak_destroy", leak_destroy),
    ("test_krealloc_redzone_zeroing", krealloc_redzone_zeroing),
    ("test_kmalloc_kfree_nolock", nolock::kmalloc_kfree_nolock),
];

const SIZE: usize = 64;
const NO_MEMORY: &str = "no memory";
const NOT_FOUND: &str = "the damage is not found";

fn the_slab() -> Result<&'static KernelSlab, &'static str> {
    slab().ok_or("there is no slab")
}

/// A cache, an object of it, and the damage: when the object is free already, or while it is in use.
fn damaged(flags: CacheFlags, is_free: bool, at: usize, value: u8) -> Result<(), &'static str> {
    let slab = the_slab()?;
    let spec = CacheSpec { flags: flags | CacheFlags::NO_USER_FLAGS, ..CacheSpec::new("TestSlub", SIZE) };
    let cache = slab.cache_create(spec).map_err(|_| NO_MEMORY)?;
    let object = cache_alloc(slab, cache, Gfp::KERNEL).ok_or(NO_MEMORY)?;
    // A slab with no object in use may go back at once, and be looked at no more.
    let other = cache_alloc(slab, cache, Gfp::KERNEL).ok_or(NO_MEMORY)?;
    if is_free {
        // SAFETY: allocated above.
        unsafe { cache_free(slab, cache, object) };
    }
    let before = slab.nr_faults();
    // SAFETY: the slot and its red zones are there as long as the cache; only we use it.
    let kept = unsafe { peek(object, at) };
    // SAFETY: as above; that is what the slab is to find.
    unsafe { poke(object, at, value) };
    let found = slab.validate();
    let reported = slab.nr_faults() - before;
    // Made good, so that it is found once and not again.
    // SAFETY: as above.
    unsafe { poke(object, at, kept) };
    if !is_free {
        // SAFETY: allocated above.
        unsafe { cache_free(slab, cache, object) };
    }
    // SAFETY: allocated above.
    unsafe { cache_free(slab, cache, other) };
    let destroyed = destroy(slab, cache);
    check(found >= 1 && reported >= 1, NOT_FOUND)?;
    destroyed.map_err(|_| "the cache cannot be destroyed")
}

fn destroy(slab: &KernelSlab, cache: CacheRef) -> Result<(), CacheError> {
    // SAFETY: nobody else knows the cache.
    unsafe { slab.cache_destroy(cache) }
}

fn clobber_zone() -> Result<(), &'static str> {
    damaged(CacheFlags::RED_ZONE, false, SIZE, 0x12)
}

fn first_word() -> Result<(), &'static str> {
    damaged(CacheFlags::POISON, true, 0, 0x78)
}

fn clobber_50th_byte() -> Result<(), &'static str> {
    damaged(CacheFlags::POISON, true, 50, 0x9a)
}

fn clobber_redzone_free() -> Result<(), &'static str> {
    damaged(CacheFlags::RED_ZONE, true, SIZE, 0xab)
}

/// Behind the 18 bytes that were asked for, in a slot of 32.
fn kmalloc_redzone_access() -> Result<(), &'static str> {
    const ASKED: usize = 18;
    let slab = the_slab()?;
    if slab.is_tiny() || !slab.settings().debug.of("kmalloc-32").contains(Debug::RED_ZONE) {
        return Err("SKIP it takes slub_debug=Z, and no tiny slab");
    }
    let object = kmalloc(slab, ASKED, Gfp::KERNEL).ok_or(NO_MEMORY)?;
    let before = slab.nr_faults();
    // SAFETY: bytes of the slot.
    let kept = unsafe { peek(object, ASKED) };
    // SAFETY: as above; that is what the slab is to find.
    unsafe { poke(object, ASKED, b'a') };
    let found = slab.validate();
    // SAFETY: as above.
    unsafe { poke(object, ASKED, kept) };
    // SAFETY: allocated above.
    unsafe { kfree(slab, object) };
    check(found >= 1 && slab.nr_faults() > before, NOT_FOUND)
}

/// An object that is freed when all readers are through.
fn deferred() -> Result<(&'static KernelSlab, CacheRef), &'static str> {
    let slab = the_slab()?;
    let cache = slab.cache_create(CacheSpec::new("TestSlub_rcu", SIZE)).map_err(|_| NO_MEMORY)?;
    let object = cache_alloc(slab, cache, Gfp::KERNEL).ok_or(NO_MEMORY)?;
    let head = object.cast::<RcuHead>();
    // SAFETY: just allocated, large enough and aligned.
    unsafe { head.write(RcuHead::new()) };
    // SAFETY: nobody else knows of it.
    unsafe { rcu::kfree_rcu(object, head) };
    Ok((slab, cache))
}

fn wait_for_grace() {
    const MOST_WAITS: usize = 500;
    for _ in 0..MOST_WAITS {
        if rcu::nr_waiting() == 0 {
            break;
        }
        thread::sleep(10);
    }
}

fn kfree_rcu() -> Result<(), &'static str> {
    let (slab, cache) = deferred()?;
    let before = slab.nr_faults();
    wait_for_grace();
    destroy(slab, cache).map_err(|_| "the object was not freed")?;
    check(slab.nr_faults() == before, "a fault was reported")
}

/// Destroyed too early, the cache is still there for the object to come back to.
fn kfree_rcu_destroy() -> Result<(), &'static str> {
    let (slab, cache) = deferred()?;
    let early = destroy(slab, cache);
    wait_for_grace();
    match early {
        Ok(()) => Ok(()),
        Err(_) => destroy(slab, cache).map_err(|_| "the object was not freed"),
    }
}

fn leak_destroy() -> Result<(), &'static str> {
    let slab = the_slab()?;
    let cache = slab.cache_create(CacheSpec::new("TestSlub_leak", SIZE)).map_err(|_| NO_MEMORY)?;
    let object = cache_alloc(slab, cache, Gfp::KERNEL).ok_or(NO_MEMORY)?;
    let before = slab.nr_faults();
    let refused = destroy(slab, cache);
    let reported = slab.nr_faults() - before;
    // SAFETY: allocated above.
    unsafe { cache_free(slab, cache, object) };
    destroy(slab, cache).map_err(|_| "it cannot be destroyed afterwards")?;
    check(refused == Err(CacheError::InUse(1)), "the leak is not told")?;
    check(reported == 2, "not one report of the cache and one of the object")
}

/// 48, 40 and 56 bytes in one slot, then 112 in another: what is new is zero, what was there stays.
fn krealloc_redzone_zeroing() -> Result<(), &'static str> {
    let slab = the_slab()?;
    let gfp = Gfp::KERNEL | Gfp::ZERO;
    let before = slab.nr_faults();
    let mut object = kmalloc(slab, 48, gfp).ok_or(NO_MEMORY)?;
    // SAFETY: ours, of that size.
    unsafe { fill(object, 48) };
    let mut good = true;
    for (bytes, kept) in [(40, 40), (56, 40), (112, 40)] {
        // SAFETY: the old address is forgotten.
        object = match unsafe { slab.krealloc(Some(object), bytes, gfp) } {
            Ok(object) => object,
            Err(_) => break,
        };
        // SAFETY: ours, of that size now.
        good &= unsafe { is_all(object, kept, 0xa5) };
        // SAFETY: as above.
        let new = unsafe { object.add(kept) };
        // SAFETY: as above.
        good &= unsafe { is_all(new, bytes - kept, 0) };
    }
    let found = slab.validate();
    // SAFETY: ours.
    unsafe { kfree(slab, object) };
    check(good, "what is new is not zero, or what was there is lost")?;
    check(found == 0 && slab.nr_faults() == before, "a fault was reported")
}
