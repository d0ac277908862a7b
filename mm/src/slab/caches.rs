// SPDX-License-Identifier: MIT OR Apache-2.0
//! Caches of a slab: making and destroying them, and what their objects need beyond the arrays.

use core::panic::Location;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use super::cache::{CacheError, CacheSpec, Inner};
use super::fault::FaultKind;
use super::front::{self, Fronts};
use super::page::{List, NotUsed};
use super::table::{FIRST_CACHE, NONE, Tag};
use super::{NR_TAGS, PageSource, SetupError, Slab};
use crate::addr::PAGE_SIZE;
use crate::arch::Arch;
use crate::gfp::Gfp;

/// A handle of a cache: plain data, to be copied and passed around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheRef {
    /// A tag.
    tag: u32,
}

impl CacheRef {
    #[inline(always)]
    pub(super) const fn tag(self) -> Tag {
        self.tag as Tag
    }

    /// The tag as it is kept, which needs no widening.
    #[inline(always)]
    pub(super) const fn index(self) -> u32 {
        self.tag
    }
}

impl From<NotUsed> for FaultKind {
    fn from(why: NotUsed) -> Self {
        match why {
            NotUsed::Free => Self::DoubleFree,
            NotUsed::NoObject => Self::NotAnObject,
        }
    }
}

/// A cache's bit among those that are being destroyed.
const fn bit_of(tag: Tag) -> u64 {
    1 << (tag.wrapping_sub(FIRST_CACHE) & 63)
}

const _: () = assert!(super::table::NR_CACHES <= 64 && FIRST_CACHE != 0);

/// Names of the kmalloc caches, Linux's where it has them.
const NAMES: [(u16, &str); 22] = [
    (8, "kmalloc-8"),
    (16, "kmalloc-16"),
    (24, "kmalloc-24"),
    (32, "kmalloc-32"),
    (48, "kmalloc-48"),
    (64, "kmalloc-64"),
    (80, "kmalloc-80"),
    (96, "kmalloc-96"),
    (112, "kmalloc-112"),
    (128, "kmalloc-128"),
    (160, "kmalloc-160"),
    (192, "kmalloc-192"),
    (224, "kmalloc-224"),
    (256, "kmalloc-256"),
    (320, "kmalloc-320"),
    (384, "kmalloc-384"),
    (448, "kmalloc-448"),
    (512, "kmalloc-512"),
    (1024, "kmalloc-1k"),
    (2048, "kmalloc-2k"),
    (4096, "kmalloc-4k"),
    (8192, "kmalloc-8k"),
];

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Makes the kmalloc caches.
    pub(super) fn make_classes(&self) -> Result<(), SetupError> {
        for size in self.classes {
            let name = NAMES.iter().find(|(named, _)| named == size).map_or("kmalloc", |(_, name)| *name);
            let size = usize::from(*size);
            // Each class has the alignment of the largest power of two that divides it.
            let align = (1 << size.trailing_zeros()).min(PAGE_SIZE as usize);
            let spec = CacheSpec { align, ..CacheSpec::new(name, size) };
            self.cache_create(spec).map_err(|_| SetupError::OutOfMemory)?;
        }
        Ok(())
    }

    /// Calls `look` with the cache of a tag, if there is one; it stays until `look` has returned. That is short, since
    /// interrupts are masked, and calls neither this nor the user's report.
    pub(super) fn look<R>(&self, tag: Tag, look: impl FnOnce(&Inner) -> R) -> Option<R> {
        let state = self.arch.mask_interrupts();
        let result = self.looking.at(self.arch.cpu(), tag, || self.inner(tag).map(look));
        // SAFETY: the state was taken above.
        unsafe { self.arch.restore_interrupts(state) };
        result.flatten()
    }

    /// Makes a cache. Its descriptor comes from the packed heap; slabs are taken when they are needed. With more than thirty
    /// at once, kmalloc's included, the rest has no per-CPU arrays: every operation goes to the slabs.
    ///
    /// # Errors
    ///
    /// [`CacheError`] if the size or alignment cannot be, there are too many caches, or no memory.
    pub fn cache_create(&self, spec: CacheSpec) -> Result<CacheRef, CacheError> {
        // Checked before anything is taken.
        let policy = self.settings.policy(spec.name);
        let inner = Inner::new(spec, NONE, policy)?;
        let bytes = size_of::<Inner>();
        let memory = self.heap_alloc(super::GROUP_SMALL, bytes, align_of::<Inner>(), Gfp::KERNEL);
        let memory = memory.ok_or(CacheError::OutOfMemory)?.cast::<Inner>();
        let registry = self.registry.lock(self.arch);
        let mut slots = (FIRST_CACHE..).zip(&self.caches);
        let is_nobodys =
            |tag, slot: &AtomicPtr<Inner>| *registry & bit_of(tag) == 0 && slot.load(Ordering::Relaxed).is_null();
        let Some((tag, slot)) = slots.find(|(tag, slot)| is_nobodys(*tag, slot)) else {
            drop(registry);
            // SAFETY: allocated above, and nobody else knows it.
            unsafe { self.give_own(memory.cast()) };
            return Err(CacheError::TooMany);
        };
        let inner = inner.with_tag(tag);
        for block in self.fronts.iter().map(|block| block.load(Ordering::Acquire)) {
            // SAFETY: a CPU's block; no CPU uses the array of a tag that no cache has.
            let fronts = unsafe { Fronts::new(block) };
            if fronts.is_some() {
                self.enable(fronts, &inner);
            }
        }
        // SAFETY: allocated above with the size and alignment of the value.
        unsafe { memory.write(inner) };
        slot.store(memory.as_ptr(), Ordering::Release);
        drop(registry);
        Ok(CacheRef { tag: tag.into() })
    }

    /// Sets up a cache's array in a CPU's block.
    fn enable(&self, fronts: Fronts, inner: &Inner) {
        if inner.capacity == 0 {
            fronts.disable(inner.tag);
            return;
        }
        fronts.enable(inner.tag, inner.capacity);
        let index = usize::from(inner.tag - FIRST_CACHE);
        if let Some(size) = self.classes.get(index).filter(|_| !self.settings.debug_any()) {
            let below = index.checked_sub(1).and_then(|below| self.classes.get(below)).map_or(0, |size| *size);
            let steps = usize::from(below) >> front::STEP_SHIFT..usize::from(*size) >> front::STEP_SHIFT;
            steps.for_each(|step| fronts.set_by_size(step, inner.tag));
        }
    }

    /// Gives this CPU its block of arrays, if the slab has any and there is memory.
    #[cold]
    pub(super) fn online(&self) {
        let Some(memory) = self.large_alloc(front::BYTES, 8, Gfp::NOWAIT) else { return };
        // SAFETY: the caller's new memory, of whole pages; the table lives as long as the slab.
        let fronts = unsafe { Fronts::init(memory.as_ptr(), self.table.raw()) };
        let pages = self.table.count_large(memory.addr().get());
        let registry = self.registry.lock(self.arch);
        let slot = self.fronts.get(self.arch.cpu());
        let Some(slot) = slot.filter(|slot| slot.load(Ordering::Relaxed) == Fronts::nothing()) else {
            drop(registry);
            // SAFETY: allocated above, and nobody else knows it.
            unsafe { self.give_own(memory) };
            return;
        };
        self.enable_quick(fronts);
        for tag in FIRST_CACHE..NR_TAGS as Tag {
            if let Some(inner) = self.inner(tag) {
                self.enable(fronts, inner);
            }
        }
        slot.store(fronts.block(), Ordering::Release);
        self.arch.set_local(fronts.block());
        drop(registry);
        self.counters.large_pages.fetch_sub(pages, Ordering::Relaxed);
        self.counters.front_pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Empties one array of a CPU's block.
    ///
    /// # Safety
    ///
    /// The block is this CPU's, or no CPU uses the array while this runs.
    unsafe fn drain_front(&self, inner: &Inner, block: *mut u8) {
        let mut empty = List::new();
        let mut slabs = inner.slabs.lock(self.arch);
        // SAFETY: the lock masks interrupts; the rest is the caller's promise.
        let front = inner.front(unsafe { Fronts::new(block) });
        front.take_last(inner.capacity, |object| {
            // What is no object is lost.
            // SAFETY: what was pushed to the array has the cache's tag.
            let _ = unsafe { slabs.put_one(&inner.cut, inner.keep, object, &mut empty) };
        });
        drop(slabs);
        self.give_slabs(inner, empty);
    }

    /// Empties all arrays of this CPU.
    pub fn drain_this_cpu(&self) {
        let state = self.arch.mask_interrupts();
        let block = self.block_of_this_cpu();
        // SAFETY: this CPU's block, and interrupts are masked.
        unsafe { self.drain_quick(block) };
        if block != Fronts::nothing() {
            for tag in FIRST_CACHE..NR_TAGS as Tag {
                self.look(tag, |inner| {
                    if inner.capacity > 0 {
                        // SAFETY: this CPU's block, and interrupts are masked.
                        unsafe { self.drain_front(inner, block) };
                    }
                });
            }
        }
        // SAFETY: the state was taken above.
        unsafe { self.arch.restore_interrupts(state) };
    }

    /// Gives the empty slabs of a cache back.
    pub(super) fn give_empty_slabs(&self, inner: &Inner) -> usize {
        let mut nr = 0;
        loop {
            let empty = inner.slabs.lock(self.arch).take_empty(&inner.cut);
            let Some(page) = empty else { return nr };
            self.give_slab(inner, page);
            nr += 1;
        }
    }

    /// Gives a cache's empty slabs back, this CPU's array included. For a cache with
    /// [`TYPESAFE_BY_RCU`](super::CacheFlags::TYPESAFE_BY_RCU) the caller has waited for a grace period. Returns how many
    /// slabs went back.
    pub fn cache_shrink(&self, cache: CacheRef) -> usize {
        let Some(inner) = self.inner(cache.tag()) else { return 0 };
        if inner.capacity > 0 {
            let state = self.arch.mask_interrupts();
            let block = self.block_of_this_cpu();
            if block != Fronts::nothing() {
                // SAFETY: this CPU's block, and interrupts are masked.
                unsafe { self.drain_front(inner, block) };
            }
            // SAFETY: the state was taken above.
            unsafe { self.arch.restore_interrupts(state) };
        }
        self.give_empty_slabs(inner)
    }

    /// Destroys a cache. Objects that are still in use are reported, each with its owner where owners are tracked;
    /// then the cache stays, so that they can still be freed, and can be destroyed again.
    ///
    /// # Safety
    ///
    /// No other call of this cache runs or begins meanwhile, and after success its handles are not used.
    ///
    /// # Errors
    ///
    /// [`CacheError::InUse`] with the number of objects.
    #[track_caller]
    pub unsafe fn cache_destroy(&self, cache: CacheRef) -> Result<(), CacheError> {
        let caller = Location::caller();
        let Some(inner) = self.inner(cache.tag()) else { return Ok(()) };
        if inner.capacity > 0 {
            for block in &self.fronts {
                let block = block.load(Ordering::Acquire);
                if block != Fronts::nothing() {
                    // SAFETY: no CPU uses this cache's arrays, by the caller's promise.
                    unsafe { self.drain_front(inner, block) };
                }
            }
        }
        self.give_empty_slabs(inner);
        let in_use = inner.slabs.lock(self.arch).nr_taken;
        if in_use > 0 {
            self.report_leaks(inner, in_use, caller);
            return Err(CacheError::InUse(in_use));
        }
        let slot = self.caches.get(usize::from(cache.tag() - FIRST_CACHE));
        let mut registry = self.registry.lock(self.arch);
        *registry |= bit_of(cache.tag());
        let memory = slot.map(|slot| slot.swap(ptr::null_mut(), Ordering::AcqRel));
        drop(registry);
        // With no lock held: who looks at it may wait for one.
        while self.looking.is_at(cache.tag()) {
            core::hint::spin_loop();
        }
        registry = self.registry.lock(self.arch);
        for block in &self.fronts {
            // SAFETY: no CPU uses this cache's arrays, by the caller's promise.
            let fronts = unsafe { Fronts::new(block.load(Ordering::Acquire)) };
            if fronts.is_some() {
                fronts.disable(cache.tag());
            }
        }
        *registry &= !bit_of(cache.tag());
        drop(registry);
        if let Some(memory) = memory.and_then(NonNull::new) {
            // SAFETY: the descriptor came from the heap, and nothing refers to it any more.
            unsafe { self.give_own(memory.cast()) };
        }
        Ok(())
    }

    /// Destroys all caches and gives back what is kept at hand, the CPUs' arrays included; for a slab that was made for
    /// a while. What is still in use stays.
    ///
    /// # Safety
    ///
    /// No other call of this slab runs or begins meanwhile or later, and no handle of a cache is used. An
    /// [`Arch`] that keeps [`local`](Arch::local) itself is used for no other slab later, but on this CPU.
    pub unsafe fn close(&self) {
        for tag in FIRST_CACHE..NR_TAGS as Tag {
            // SAFETY: the caller's promise. A cache with objects stays.
            let _ = unsafe { self.cache_destroy(CacheRef { tag: tag.into() }) };
        }
        for slot in &self.fronts {
            let block = slot.swap(Fronts::nothing(), Ordering::AcqRel);
            // SAFETY: no CPU uses it any more.
            unsafe { self.drain_quick(block) };
            // SAFETY: the same.
            let fronts = unsafe { Fronts::new(block) };
            if let Some(block) = NonNull::new(fronts.memory()).filter(|_| fronts.is_some()) {
                let pages = self.table.count_large(block.addr().get());
                self.counters.front_pages.fetch_sub(pages, Ordering::Relaxed);
                self.counters.large_pages.fetch_add(pages, Ordering::Relaxed);
                // SAFETY: the block came from there, and no CPU uses it any more.
                unsafe { self.give_own(block) };
            }
        }
        self.arch.set_local(Fronts::nothing());
        self.reclaim();
    }
}
