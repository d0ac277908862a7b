// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab on a CPU that is interrupted whenever it can be: before each masked section and behind it, by somebody who
//! allocates, frees and, now and then, finds no memory and has the slab give back what it keeps at hand.
#![expect(clippy::indexing_slicing, reason = "test helpers index arrays")]

mod support;

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use mm::addr::{PhysAddr, VirtAddr};
use mm::arch::host::Host;
use mm::arch::{Arch, CacheOp, Dsb, IrqState, MmuFeatures, Tlbi};
use mm::gfp::Gfp;
use mm::slab::{CacheRef, CacheSpec, Slab};
use support::{MODES, Machine, Pages, all_are, settings};

type InterruptedSlab<'a> = Slab<'a, Interrupted<'a>, &'a Pages>;

thread_local! {
    static IS_MASKED: Cell<bool> = const { Cell::new(false) };
    /// The slab, while it is interrupted.
    static SLAB: Cell<Option<NonNull<InterruptedSlab<'static>>>> = const { Cell::new(None) };
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
    static CALLBACKS: Cell<usize> = const { Cell::new(0) };
}

/// An object of the interrupts.
struct Held {
    at: NonNull<u8>,
    bytes: usize,
    /// Whose it is, if it came from a cache.
    cache: Option<CacheRef>,
}

thread_local!(static CACHE: Cell<Option<CacheRef>> = const { Cell::new(None) });

/// What the interrupts write into their objects.
const FILL: u8 = 0xa5;

/// What an interrupt does.
fn interrupt() {
    let Some(slab) = SLAB.get() else { return };
    // SAFETY: it is set only as long as the slab is there.
    let slab = unsafe { slab.as_ref() };
    let count = CALLBACKS.get();
    CALLBACKS.set(count + 1);
    let pages = slab.source();
    if count.is_multiple_of(7) {
        pages.left.store(if count.is_multiple_of(3) { 0 } else { usize::MAX }, Ordering::Relaxed);
    }
    HELD.with_borrow_mut(|held| {
        if held.len() > 6 || count % 5 > 2 && !held.is_empty() {
            let index = count % held.len();
            give(slab, held.swap_remove(index));
            return;
        }
        let bytes = [8, 64, 64, 200, 300, 700, 3000, 4096, 9000][count % 9];
        let cache = CACHE.get().filter(|_| count.is_multiple_of(4));
        let object = match cache {
            Some(cache) => slab.cache_alloc(cache, Gfp::ATOMIC),
            None => slab.kmalloc(bytes, Gfp::ATOMIC),
        };
        if let Ok(at) = object {
            let bytes = if cache.is_some() { CACHED } else { bytes };
            // SAFETY: a new object of that size.
            unsafe { at.write_bytes(FILL, bytes) };
            held.push(Held { at, bytes, cache });
        }
    });
}

fn give(slab: &InterruptedSlab<'_>, object: Held) {
    // SAFETY: an object of an interrupt.
    assert!(all_are(unsafe { std::slice::from_raw_parts(object.at.as_ptr(), object.bytes) }, FILL));
    match object.cache {
        // SAFETY: the same; it is given up.
        Some(cache) => unsafe { slab.cache_free(cache, object.at) },
        // SAFETY: the same.
        None => unsafe { slab.kfree(object.at) },
    }
}

/// A host whose one thread is interrupted.
struct Interrupted<'a>(&'a Host<'static>);

impl Interrupted<'_> {
    /// The interrupt that waits, if it may come now.
    fn take_interrupt(&self) {
        if !IS_MASKED.replace(true) {
            interrupt();
            IS_MASKED.set(false);
        }
    }
}

// SAFETY: those of the host; an interrupt comes only while they are not masked, and is over before anything else goes on.
unsafe impl Arch for Interrupted<'_> {
    fn cpu(&self) -> usize {
        self.0.cpu()
    }

    fn mask_interrupts(&self) -> IrqState {
        self.take_interrupt();
        IrqState(IS_MASKED.replace(true).into())
    }

    unsafe fn restore_interrupts(&self, state: IrqState) {
        IS_MASKED.set(state.0 != 0);
        self.take_interrupt();
    }

    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        self.0.direct_map(phys)
    }

    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.0.load_descriptor(table, index) }
    }

    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.0.store_descriptor(table, index, descriptor) };
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        // SAFETY: the caller's promise.
        unsafe { self.0.zero_table(table) };
    }

    fn dsb(&self, kind: Dsb) {
        self.0.dsb(kind);
    }

    fn isb(&self) {
        self.0.isb();
    }

    fn tlbi(&self, op: Tlbi, operand: u64) {
        self.0.tlbi(op, operand);
    }

    fn mmu_features(&self) -> MmuFeatures {
        self.0.mmu_features()
    }

    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.0.replace_live(entries, count, first, step) };
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        self.0.with_others_stopped(body);
    }

    unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.0.maintain_cache(op, virt, size) };
    }
}

/// Bytes of the cache's objects.
const CACHED: usize = 72;
/// Objects in use at once, and how often all are taken and freed.
const OBJECTS: usize = if cfg!(miri) { 6 } else { 300 };
const ROUNDS: usize = if cfg!(miri) { 1 } else { 60 };

/// Takes objects and frees them in another order, resizes some, and looks at each: what it holds is its own.
fn cycle(slab: &InterruptedSlab<'_>, cache: CacheRef, round: usize) {
    let mut live: Vec<(NonNull<u8>, usize, bool)> = Vec::new();
    for number in 0..OBJECTS {
        let bytes = [64, 64, 16, 250, 600, 2000, 4096, 5000][(number + round) % 8];
        let is_cached = number % 4 == 3;
        let object = if is_cached { slab.cache_alloc(cache, Gfp::KERNEL) } else { slab.kmalloc(bytes, Gfp::KERNEL) };
        let Ok(mut at) = object else { continue };
        let mut bytes = if is_cached { CACHED } else { bytes };
        if !is_cached && number % 5 == 0 {
            // SAFETY: the object from above, whose content is of no worth.
            if let Ok(moved) = unsafe { slab.krealloc(Some(at), bytes + 100, Gfp::KERNEL) } {
                (at, bytes) = (moved, bytes + 100);
            }
        }
        // SAFETY: an object of that size.
        unsafe { at.write_bytes(number as u8, bytes) };
        live.push((at, bytes, is_cached));
    }
    assert!(!live.is_empty());
    while !live.is_empty() {
        let (at, bytes, is_cached) = live.swap_remove(round * 31 % live.len());
        // SAFETY: written above.
        let content = unsafe { std::slice::from_raw_parts(at.as_ptr(), bytes) };
        assert!(all_are(content, content[0]), "an object of {bytes} bytes changed");
        if is_cached {
            // SAFETY: allocated above.
            unsafe { slab.cache_free(cache, at) };
        } else {
            // SAFETY: the same.
            unsafe { slab.kfree(at) };
        }
    }
}

/// The last case of slub_kunit, under Linux's name. An interrupt of theirs may come while its CPU holds a lock, and has calls
/// of its own; ours masks interrupts meanwhile.
#[test]
fn test_kmalloc_kfree_nolock() {
    for &mode in MODES {
        let machine = Machine::new(1 << 11);
        let arch = Interrupted(&machine.host);
        let slab = machine.slab_on(&arch, settings(mode, |fault| panic!("{fault}")));
        let cache = slab.cache_create(CacheSpec::new("sampled", CACHED)).unwrap();
        // SAFETY: only the lifetime is forgotten: the pointer is taken back before the slab goes.
        SLAB.set(Some(NonNull::from(&slab).cast()));
        CACHE.set(Some(cache));
        CALLBACKS.set(0);
        (0..ROUNDS).for_each(|round| cycle(&slab, cache, round));
        SLAB.set(None);
        CACHE.set(None);
        machine.pages.left.store(usize::MAX, Ordering::Relaxed);
        assert!(CALLBACKS.get() > OBJECTS * ROUNDS, "{mode}");
        HELD.take().into_iter().for_each(|object| give(&slab, object));
        // SAFETY: all are freed, and nobody else uses the slab.
        unsafe { slab.cache_destroy(cache) }.unwrap();
        // SAFETY: the same.
        unsafe { slab.close() };
        assert_eq!((slab.nr_faults(), slab.info().heap_objects), (0, 0), "{mode}");
        assert_eq!(machine.pages.taken(), 0, "{mode}: pages were lost");
    }
}
