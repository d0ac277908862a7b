// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's `test_meminit`, group by group under Linux's names: garbage is written, freed and allocated again, and nothing of it
//! may be seen; but what readers under RCU may still look at stays.
#![expect(clippy::panic, reason = "a test helper may fail loudly")]

mod support;

use std::ptr::NonNull;

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::Arch;
use mm::arch::host::Host;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, Fill, Pages};
use mm::slab::{CacheFlags, CacheRef, CacheSpec, Settings};
use support::{HostSlab, Machine, all_are};

/// Objects of a cache that are used one after another.
const ROUNDS: usize = if cfg!(miri) { 4 } else { 20 };

/// The sizes of caches: 8 to 4096 bytes.
fn sizes() -> impl Iterator<Item = usize> {
    (3..13).step_by(if cfg!(miri) { 4 } else { 1 }).map(|log| 1 << log)
}

fn give(slab: &HostSlab<'_>, cache: CacheRef, object: NonNull<u8>) {
    // SAFETY: the test's own object.
    unsafe { slab.cache_free(cache, object) };
}

/// All ways to ask for zeroed memory.
fn each_way(test: impl Fn(&HostSlab<'_>, Gfp)) {
    for tiny in [false, true] {
        let ways: &[_] = if cfg!(miri) { &["alloc"] } else { &["", "alloc", "free"] };
        for &init in ways {
            let machine = Machine::new(1 << 10);
            let mut settings = Settings { tiny: Some(tiny), ..Settings::new(64 << 20, 1, |fault| panic!("{fault}")) };
            settings.init_on_alloc = init == "alloc";
            settings.init_on_free = init == "free";
            let slab = machine.slab(settings);
            // What is freed zeroed is zero when it comes again; fresh pages are not the slab's affair.
            test(&slab, if init == "alloc" { Gfp::KERNEL } else { Gfp::KERNEL | Gfp::ZERO });
        }
    }
}

fn is_zero(object: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: an object of that size, written.
    all_are(unsafe { std::slice::from_raw_parts(object.as_ptr(), bytes) }, 0)
}

fn garbage(object: NonNull<u8>, bytes: usize) {
    // SAFETY: an object of that size.
    unsafe { object.write_bytes(0xd5, bytes) };
}

/// Blocks of every order, from an allocator that fills what changes hands.
#[test]
fn test_pages() {
    const FRAMES: u64 = if cfg!(miri) { 32 } else { 4096 };
    let ways: &[_] = if cfg!(miri) { &["free"] } else { &["", "alloc", "free"] };
    for &init in ways {
        let mut memblock = Memblock::new();
        let end = PhysAddr::new(FRAMES * PAGE_SIZE).unwrap();
        memblock.add(PhysRange::new(PhysAddr::ZERO, end).unwrap(), 0).unwrap();
        let mut words = vec![0; FRAMES as usize * 512];
        let host = Host::new(PhysAddr::ZERO, &mut words);
        let fill = Fill { on_alloc: init == "alloc", on_free: init == "free", poison: false };
        let config = Config { fill, ..Config::DEFAULT };
        let mut metadata = vec![!0; Pages::<Host<'_>>::metadata_bytes(&memblock, &config) as usize / 8];
        let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
        let gfp = if init.is_empty() { Gfp::MEMALLOC | Gfp::ZERO } else { Gfp::MEMALLOC };
        for order in Order::all().take_while(|order| order.pages() <= FRAMES / 2) {
            for _ in 0..2 {
                let block = pages.alloc(gfp, order).unwrap();
                let memory = NonNull::new(host.direct_map(block.pfn().addr())).unwrap();
                assert!(is_zero(memory, order.bytes() as usize), "{init}, order {order:?}");
                garbage(memory, order.bytes() as usize);
                pages.free(block).unwrap();
            }
        }
    }
}

#[test]
fn test_kvmalloc() {
    each_way(|slab, gfp| {
        for size in (0..20).step_by(if cfg!(miri) { 6 } else { 1 }).map(|log| 1 << log) {
            let object = slab.kmalloc(size, gfp).unwrap();
            garbage(object, size);
            // SAFETY: allocated above.
            unsafe { slab.kfree(object) };
            let object = slab.kmalloc(size, gfp).unwrap();
            assert!(is_zero(object, size), "{size}");
            // SAFETY: allocated above.
            unsafe { slab.kfree(object) };
        }
    });
}

/// Each size with and without a constructor, RCU and zeros; a constructor and zeros exclude each other.
#[test]
fn test_kmemcache() {
    each_way(|slab, gfp| {
        for (size, bits) in sizes().flat_map(|size| (0..8).map(move |bits| (size, bits))) {
            let (has_ctor, keeps, zero) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            if has_ctor && zero {
                continue;
            }
            let spec = CacheSpec {
                flags: if keeps { CacheFlags::TYPESAFE_BY_RCU } else { CacheFlags::empty() },
                // SAFETY: the constructor's object, of eight bytes at least.
                ctor: has_ctor.then_some(|object| unsafe { object.write_bytes(0x41, 8) }),
                ..CacheSpec::new("test_meminit", size)
            };
            let cache = slab.cache_create(spec).unwrap();
            let gfp = if has_ctor {
                Gfp::KERNEL
            } else if zero {
                Gfp::KERNEL | Gfp::ZERO
            } else {
                gfp
            };
            for _ in 0..ROUNDS {
                let object = slab.cache_alloc(cache, gfp).unwrap();
                if has_ctor {
                    // SAFETY: what the constructor left.
                    assert_eq!(unsafe { object.cast::<u64>().read() }, 0x4141_4141_4141_4141);
                } else {
                    assert!(is_zero(object, size) || keeps && !gfp.contains(Gfp::ZERO), "{size}");
                    garbage(object, size);
                }
                give(slab, cache, object);
            }
            slab.cache_shrink(cache);
            // SAFETY: nobody else uses it.
            unsafe { slab.cache_destroy(cache) }.unwrap();
        }
    });
}

#[test]
fn test_kmemcache_bulk() {
    each_way(|slab, gfp| {
        for size in sizes() {
            let cache = slab.cache_create(CacheSpec::new("bulk", size)).unwrap();
            let mut objects = [NonNull::dangling(); 10];
            for _ in 0..3 {
                slab.cache_alloc_bulk(cache, gfp, &mut objects).unwrap();
                assert!(objects.iter().all(|object| is_zero(*object, size)));
                objects.iter().for_each(|object| garbage(*object, size));
                // SAFETY: allocated above.
                unsafe { slab.cache_free_bulk(cache, &objects) };
            }
            // SAFETY: nobody else uses it.
            unsafe { slab.cache_destroy(cache) }.unwrap();
        }
    });
}

#[test]
fn test_rcu_persistent() {
    each_way(|slab, _| {
        for size in sizes() {
            let spec = CacheSpec { flags: CacheFlags::TYPESAFE_BY_RCU, ..CacheSpec::new("persistent", size) };
            let cache = slab.cache_create(spec).unwrap();
            let objects: Vec<_> = (0..ROUNDS).map(|_| slab.cache_alloc(cache, Gfp::KERNEL).unwrap()).collect();
            for object in &objects {
                garbage(*object, size);
                give(slab, cache, *object);
            }
            for object in &objects {
                // SAFETY: the slab's type is kept until the cache goes.
                let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), size) };
                assert!(all_are(bytes, 0xd5), "{size}: content is lost");
            }
            // SAFETY: nobody else uses it.
            unsafe { slab.cache_destroy(cache) }.unwrap();
        }
    });
}
