// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's `test_meminit`: does memory come without what its last owner left there? It does with `init_on_alloc=1` or
//! `init_on_free=1`; as on Linux, without them the tests fail that ask for no zeros themselves.

use core::ptr::NonNull;

use mm::addr::{Order, PAGE_SIZE};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::slab::{CacheFlags, CacheRef, CacheSpec};

use super::garbage::{cache_alloc, cache_free, fill, is_all, kfree, kmalloc};
use super::registry::{Module, Values};
use crate::slab::{KernelSlab, slab};
use crate::vmalloc::{vfree, vmalloc};
use crate::{boot, memory, println, rcu};

pub(super) const MODULE: Module = Module { name: "test_meminit", parameters: &[], run };

/// What came of the tests so far.
#[derive(Default)]
struct Score {
    total: u32,
    failed: u32,
}

impl Score {
    fn note(&mut self, what: &str, bytes: usize, passed: Option<bool>) {
        // Without memory nothing was tried.
        let Some(passed) = passed else { return };
        self.total += 1;
        if !passed {
            self.failed += 1;
            println!("test_meminit: {what} of {bytes} bytes failed");
        }
    }
}

type Group = fn(&KernelSlab, &mut Score);

fn run(_: &Values, is_enough: &mut dyn FnMut() -> bool) -> Result<(), &'static str> {
    let slab = slab().ok_or("there is no slab")?;
    let mut sum = Score::default();
    let groups: [(&str, Group); 4] = [
        ("test_pages", test_pages),
        ("test_kvmalloc", test_kvmalloc),
        ("test_kmemcache", test_kmemcache),
        ("test_rcu_persistent", test_rcu_persistent),
    ];
    for (name, group) in groups {
        if is_enough() {
            return Err("it was ended");
        }
        let mut score = Score::default();
        group(slab, &mut score);
        println!("test_meminit: {name}: {} of {} passed", score.total - score.failed, score.total);
        sum = Score { total: sum.total + score.total, failed: sum.failed + score.failed };
    }
    if sum.failed == 0 {
        println!("test_meminit: all {} tests passed!", sum.total);
        return Ok(());
    }
    println!("test_meminit: failures: {} out of {}", sum.failed, sum.total);
    let fills = boot::machine().is_some_and(|machine| machine.options.fill.on_alloc || machine.options.fill.on_free);
    Err(if fills { "memory kept what its last owner wrote" } else { "boot with init_on_alloc=1 or init_on_free=1" })
}

/// Takes memory, fills it, gives it back, and takes as much again.
fn again(bytes: usize, take: &dyn Fn() -> Option<NonNull<u8>>, give: &dyn Fn(NonNull<u8>)) -> Option<bool> {
    let memory = take()?;
    // SAFETY: just allocated.
    unsafe { fill(memory, bytes) };
    give(memory);
    let memory = take()?;
    // SAFETY: as above.
    let is_clean = unsafe { is_all(memory, bytes, 0) };
    give(memory);
    Some(is_clean)
}

fn test_pages(_: &KernelSlab, score: &mut Score) {
    let Some(machine) = boot::machine() else { return };
    let pages = machine.memory.pages;
    for order in Order::all() {
        let take = || {
            let block = pages.alloc(Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY, order).ok()?;
            NonNull::new(core::ptr::with_exposed_provenance_mut(
                memory::direct_map(block.pfn().addr()).as_raw() as usize
            ))
        };
        let give = |memory: NonNull<u8>| {
            let phys = memory.addr().get() as u64 - memory::direct_map(mm::addr::PhysAddr::ZERO).as_raw();
            let pfn = mm::addr::PhysAddr::new_saturating(phys).pfn();
            let _ = pages.free(PageBlock::from_raw(pfn, order));
        };
        score.note("pages", order.bytes() as usize, again(order.bytes() as usize, &take, &give));
    }
}

fn test_kvmalloc(slab: &KernelSlab, score: &mut Score) {
    for bytes in (0..20).map(|shift| 1_usize << shift) {
        // SAFETY: each is given back once, by `again`.
        let give = |memory| unsafe { kfree(slab, memory) };
        score.note("kmalloc", bytes, again(bytes, &|| kmalloc(slab, bytes, Gfp::KERNEL), &give));
        // SAFETY: as above.
        let give = |memory| unsafe { vfree(memory) };
        score.note("vmalloc", bytes, again(bytes, &|| vmalloc(bytes as u64).ok(), &give));
    }
}

/// What a constructor leaves.
const MARK: u8 = 0x3c;
const MARKED: usize = 8;

fn construct(object: NonNull<u8>) {
    // SAFETY: the cache's object, at least so many bytes.
    unsafe { object.write_bytes(MARK, MARKED) };
}

/// The sizes of caches: 8 to 4096 bytes.
fn sizes() -> impl Iterator<Item = usize> {
    (0..10).map(|shift| MARKED << shift)
}

/// A cache for one test.
fn with_cache(slab: &KernelSlab, spec: CacheSpec, test: &dyn Fn(CacheRef) -> Option<bool>) -> Option<bool> {
    let cache = slab.cache_create(spec).ok()?;
    let passed = test(cache);
    // SAFETY: the test is over, and nobody else knows the cache.
    unsafe { slab.cache_destroy(cache) }.is_ok().then_some(passed?)
}

/// Whether an object is as its cache promises.
fn is_as_promised(object: NonNull<u8>, size: usize, has_ctor: bool, is_zeroed: bool) -> bool {
    if has_ctor {
        // SAFETY: the caller's object.
        return unsafe { is_all(object, MARKED, MARK) };
    }
    // SAFETY: as above.
    !is_zeroed || unsafe { is_all(object, size, 0) }
}

fn test_kmemcache(slab: &KernelSlab, score: &mut Score) {
    const ROUNDS: usize = 10;
    for size in sizes() {
        for (has_ctor, keeps, zero) in (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0)) {
            if has_ctor && zero {
                continue;
            }
            let flags = if keeps { CacheFlags::TYPESAFE_BY_RCU } else { CacheFlags::empty() };
            let ctor = has_ctor.then_some(construct as fn(NonNull<u8>));
            let spec = CacheSpec { flags, ctor, ..CacheSpec::new("test_meminit", size) };
            let gfp = if zero { Gfp::KERNEL | Gfp::ZERO } else { Gfp::KERNEL };
            let spoil = |object: NonNull<u8>| {
                let kept = if has_ctor { MARKED } else { 0 };
                // SAFETY: an object of the cache, larger than what the constructor wrote.
                let rest = unsafe { object.add(kept) };
                // SAFETY: as above.
                unsafe { fill(rest, size - kept) };
            };
            let one_by_one = |cache| {
                (0..ROUNDS).try_fold(true, |passed, _| {
                    let object = cache_alloc(slab, cache, gfp)?;
                    let good = is_as_promised(object, size, has_ctor, zero || !keeps);
                    spoil(object);
                    // SAFETY: allocated above.
                    unsafe { cache_free(slab, cache, object) };
                    Some(passed && good)
                })
            };
            score.note("kmem_cache", size, with_cache(slab, spec, &one_by_one));
            let in_bulk = |cache| {
                let mut objects = [NonNull::dangling(); ROUNDS];
                let mut passed = true;
                for _ in 0..2 {
                    slab.cache_alloc_bulk(cache, gfp, &mut objects).ok()?;
                    for object in objects {
                        passed &= is_as_promised(object, size, has_ctor, zero || !keeps);
                        spoil(object);
                        // SAFETY: allocated above.
                        unsafe { cache_free(slab, cache, object) };
                    }
                }
                Some(passed)
            };
            score.note("kmem_cache, in bulk", size, with_cache(slab, spec, &in_bulk));
        }
    }
}

/// What readers may still look at is not touched by the free.
fn test_rcu_persistent(slab: &KernelSlab, score: &mut Score) {
    for size in sizes() {
        let flags = CacheFlags::TYPESAFE_BY_RCU;
        let spec = CacheSpec { flags, ctor: Some(construct), ..CacheSpec::new("test_meminit", size) };
        let passed = with_cache(slab, spec, &|cache| {
            let object = cache_alloc(slab, cache, Gfp::KERNEL)?;
            // SAFETY: allocated above.
            unsafe { fill(object, size) };
            let is_kept = rcu::read(|| {
                // SAFETY: allocated above.
                unsafe { cache_free(slab, cache, object) };
                // SAFETY: the memory stays one of this type's until readers are through.
                unsafe { is_all(object, size, 0xa5) }
            });
            rcu::synchronize();
            Some(is_kept)
        });
        score.note("an object under RCU", size, passed);
    }
}

const _: () = assert!(PAGE_SIZE as usize == MARKED << 9);
