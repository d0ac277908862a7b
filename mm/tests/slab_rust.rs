// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab under Rust's own collections: as `#[global_allocator]` would have it, and through `KBox` and `KVec`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper may fail loudly")]

mod support;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::OnceLock;

use mm::arch::host::Host;
use mm::slab::{CacheError, CacheFlags, Settings};
use support::{Machine, Pages, all_are};

type Source = &'static Pages;

mm::kernel_allocators! {
    /// The test's slab.
    pub(crate) static SLAB: Global<Host<'static>, Source>;
}

struct Shared(Machine);
// SAFETY: all of it may be used from any thread; the raw pointer of the memory is only kept to free it.
unsafe impl Sync for Shared {}
// SAFETY: the same.
unsafe impl Send for Shared {}

static MACHINE: OnceLock<Shared> = OnceLock::new();

fn start() -> &'static Machine {
    let machine = &MACHINE.get_or_init(|| Shared(Machine::new(1 << 12))).0;
    SLAB.start(|| Ok::<_, ()>(machine.slab(Settings::new(512 << 20, 1, |fault| panic!("{fault}"))))).unwrap();
    machine
}

#[test]
fn collections_grow_shrink_and_drop() {
    start();
    let mut numbers = KVec::new_in(Kmalloc);
    for number in 0..3000_u64 {
        numbers.try_reserve(1).unwrap();
        numbers.push(number);
    }
    assert!(numbers.iter().copied().eq(0..3000));
    numbers.truncate(10);
    numbers.shrink_to_fit();
    assert!(numbers.iter().copied().eq(0..10));
    let boxed = KBox::try_new_in([7_u8; 100], Kmalloc).unwrap();
    assert_eq!(boxed.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 700);
}

#[test]
fn running_out_is_an_error_of_the_fallible_api() {
    start();
    let mut bytes: KVec<u8> = KVec::new_in(Kmalloc);
    assert!(bytes.try_reserve(64 << 20).is_err());
    assert!(bytes.try_reserve(1000).is_ok());
}

#[test]
fn layouts_of_every_kind_are_served_and_freed_by_their_size() {
    start();
    for size in (1..10_000).step_by(if cfg!(miri) { 501 } else { 7 }) {
        for align in [1, 2, 8, 16, 64, 256, 4096] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layout has a size.
            let object = unsafe { Kmalloc.alloc_zeroed(layout) };
            assert!(!object.is_null() && object.addr().is_multiple_of(align));
            // SAFETY: allocated above.
            assert!(all_are(unsafe { std::slice::from_raw_parts(object, size) }, 0));
            // SAFETY: the same.
            unsafe { object.write_bytes(0x5c, size) };
            let longer = size * 2;
            // SAFETY: the same, with the new size.
            let object = unsafe { Kmalloc.realloc(object, layout, longer) };
            // SAFETY: allocated above, with what was written.
            assert!(all_are(unsafe { std::slice::from_raw_parts(object, size) }, 0x5c));
            // SAFETY: the same.
            unsafe { Kmalloc.dealloc(object, Layout::from_size_align(longer, align).unwrap()) };
        }
    }
}

#[test]
fn a_typed_cache_drops_its_values_and_reports_what_is_left() {
    use std::cell::Cell;
    thread_local!(static DROPPED: Cell<usize> = const { Cell::new(0) });
    struct Loud([u64; 5]);
    impl Drop for Loud {
        fn drop(&mut self) {
            DROPPED.with(|dropped| dropped.set(dropped.get() + self.0[0] as usize));
        }
    }
    let machine = Machine::new(64);
    let slab = machine.slab(Settings::new(64 << 20, 1, |fault| panic!("{fault}")));
    let cache = mm::slab::Cache::new(&slab, "loud", CacheFlags::empty()).unwrap();
    let mut values: Vec<_> = (0..100).map(|_| cache.alloc(Loud([1; 5]), mm::gfp::Gfp::KERNEL).unwrap()).collect();
    values.truncate(40);
    assert_eq!(DROPPED.with(Cell::get), 60);
    drop(values);
    assert_eq!(DROPPED.with(Cell::get), 100);
    drop(cache);
    assert!(matches!(mm::slab::Cache::<(), _, _>::new(&slab, "none", CacheFlags::empty()), Err(CacheError::Size(0))));
}

/// No bytes need no memory, but an address that is aligned.
#[test]
fn no_bytes_are_aligned_and_become_some_and_none_again() {
    use mm::allocators::Allocator;

    start();
    let layout = |bytes| Layout::from_size_align(bytes, 64).unwrap();
    let nothing = Kmalloc.allocate(layout(0)).unwrap().cast::<u8>();
    assert!(nothing.addr().get().is_multiple_of(64));
    // SAFETY: a block of the slab with that layout, which is not used by its old address.
    let grown = unsafe { Kmalloc.grow(nothing, layout(0), layout(100)) }.unwrap().cast::<u8>();
    assert!(grown.addr().get().is_multiple_of(64));
    // SAFETY: the same.
    let shrunk = unsafe { Kmalloc.shrink(grown, layout(100), layout(0)) }.unwrap().cast::<u8>();
    assert!(shrunk.addr().get().is_multiple_of(64));
    // SAFETY: the same; it is given up.
    unsafe { Kmalloc.deallocate(shrunk, layout(0)) };
}
