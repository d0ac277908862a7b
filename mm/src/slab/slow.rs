// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the arrays do not serve: allocations by way of the packed heap, the caches' slabs and whole pages.

use core::panic::Location;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::cache::Inner;
use super::even::Size;
use super::fault::FaultKind;
use super::front;
use super::heap::{self, Wrong};
use super::quick::rounded;
use super::settings::CLASS_OF;
use super::table::{FIRST_CACHE, HEAP, NONE, Tag};
use super::{
    GROUP_DMA, GROUP_LARGE, GROUP_SMALL, LARGEST_PART, MIN_ALIGN, OutOfMemory, PageSource, SIZED, SPECIAL, Slab,
    ZERO_SIZE, call_not_jump_with, frame,
};
use crate::addr::{MAX_ORDER, Order, PAGE_SIZE, Pfn, PhysAddr};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;

/// Bytes of the largest block of pages.
const LARGEST_ALLOC: usize = (PAGE_SIZE as usize) << MAX_ORDER;

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// The way of an allocation that its own array does not serve, of `last` bytes and one: another array may. The arguments
    /// stand where those of [`kmalloc`](Self::kmalloc) in a function of a user's do, so that the fast path moves none of
    /// them.
    #[inline(never)]
    pub(super) fn kmalloc_slow(
        align: usize,
        gfp: Gfp,
        this: &Self,
        last: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let last = if last < front::LARGEST { last | this.step_mask } else { last };
        if gfp.intersects(SPECIAL) {
            return call_not_jump_with(Self::kmalloc_new(align, gfp, this, last, caller));
        }
        // A power of two is aligned to itself.
        let anywhere = || align <= MIN_ALIGN && last & last.wrapping_add(1) != 0;
        if last.wrapping_sub(SIZED) < this.quick_span {
            if anywhere() {
                if let Some(object) = this.kept_larger(last) {
                    return Ok(object);
                }
                return call_not_jump_with(Self::kmalloc_quick(align, gfp, this, last, caller));
            }
            if (last + 1).is_power_of_two() {
                return call_not_jump_with(Self::kmalloc_even(last + 1, gfp, this, align, caller));
            }
        } else if last < this.classed {
            if align <= MIN_ALIGN {
                return call_not_jump_with(Self::kmalloc_class(align, gfp, this, last, caller));
            }
        } else if let Some(pair) = this.kept_pair(last, align) {
            return Ok(pair);
        } else if last.wrapping_sub(this.largest_class) < this.only_heap && anywhere() {
            return call_not_jump_with(Self::kmalloc_cut(align, gfp, this, last, caller));
        }
        call_not_jump_with(Self::kmalloc_new(align, gfp, this, last, caller))
    }

    /// An object of a quick size that is in no array: cut from a frame of large ones.
    #[inline(never)]
    fn kmalloc_quick(
        _: usize,
        gfp: Gfp,
        this: &Self,
        last: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        this.online_quick();
        let nr = rounded(heap::granules(last + 1));
        let object = this.heap.lock(this.arch).cut_large(nr);
        match object {
            Some(object) => {
                // SAFETY: the caller's new object, of two words at least.
                unsafe { object.cast::<usize>().write(0) };
                Ok(object)
            }
            None => call_not_jump_with(Self::kmalloc_grown(nr, gfp, this, last, caller)),
        }
    }

    /// The same, of `nr` granules, from a new frame.
    #[inline(never)]
    fn kmalloc_grown(
        nr: usize,
        gfp: Gfp,
        this: &Self,
        last: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let frame = this.source.take(Order::ZERO, gfp).map(|block| this.arch.direct_map(block.pfn().addr()));
        let Some(frame) = frame.and_then(NonNull::new) else {
            return call_not_jump_with(this.kmalloc_any(last + 1, MIN_ALIGN, gfp, caller));
        };
        this.table.set_one(frame.addr().get(), HEAP + GROUP_LARGE as Tag);
        let mut heap = this.heap.lock(this.arch);
        // SAFETY: a frame of the page allocator's, the slab's alone.
        let object = unsafe { heap.cut_fresh(frame, nr) };
        drop(heap);
        let Some(object) = object else {
            return call_not_jump_with(this.kmalloc_any(last + 1, MIN_ALIGN, gfp, caller));
        };
        // SAFETY: the caller's new object, of two words at least.
        unsafe { object.cast::<usize>().write(0) };
        Ok(object)
    }

    /// An object of the heap that may lie at any granule, where there are no quick sizes.
    #[inline(never)]
    fn kmalloc_cut(
        align: usize,
        gfp: Gfp,
        this: &Self,
        last: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let (group, nr) = (this.group(last + 1), heap::granules(last + 1));
        let mut heap = this.heap.lock(this.arch);
        let object = if group == GROUP_SMALL { heap.cut_small(nr) } else { heap.cut_large(nr) };
        drop(heap);
        match object {
            Some(object) => {
                // SAFETY: the caller's new object, of two words at least.
                unsafe { object.cast::<usize>().write(0) };
                Ok(object)
            }
            None => call_not_jump_with(Self::kmalloc_heap(last + 1, gfp, this, align, caller)),
        }
    }

    /// The way of an allocation that no array serves.
    #[inline(never)]
    fn kmalloc_new(
        align: usize,
        gfp: Gfp,
        this: &Self,
        last: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let bytes = last.wrapping_add(1);
        if gfp.intersects(SPECIAL) || this.careful {
            this.kmalloc_any(bytes, align, gfp, caller)
        } else if bytes.wrapping_sub(this.largest_class + 1) < this.only_heap {
            // Nothing but the heap has objects between the largest class and a frame.
            Self::kmalloc_heap(bytes, gfp, this, align, caller)
        } else if bytes.wrapping_sub(this.first_large) < LARGEST_ALLOC - this.first_large {
            Self::kmalloc_large(bytes, gfp, this, align, caller)
        } else {
            this.kmalloc_any(bytes, align, gfp, caller)
        }
    }

    /// A power of two: of an even frame, if it is of such a size.
    #[inline(never)]
    fn kmalloc_even(
        bytes: usize,
        gfp: Gfp,
        this: &Self,
        align: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        if let Some(size) = Size::of(bytes / frame::GRANULE, align / frame::GRANULE)
            && let Some(object) = this.even_alloc(size, gfp)
        {
            return Ok(object);
        }
        Self::kmalloc_heap(bytes, gfp, this, align, caller)
    }

    /// Whole pages, if there are any.
    #[inline(never)]
    fn kmalloc_large(
        bytes: usize,
        gfp: Gfp,
        this: &Self,
        align: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        this.online_quick();
        if bytes.max(align) <= PAGE_SIZE as usize
            && let Some(page) = this.page_alloc(gfp)
        {
            return Ok(page);
        }
        match this.large_alloc(bytes, align, gfp) {
            Some(object) => Ok(object),
            None => this.kmalloc_any(bytes, align, gfp, caller),
        }
    }

    /// Of a class, up to the largest.
    #[inline(never)]
    fn kmalloc_class(
        align: usize,
        gfp: Gfp,
        this: &Self,
        last: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        // SAFETY: the index is masked to the table's length.
        let class = *unsafe { CLASS_OF.get_unchecked(last >> 3 & (CLASS_OF.len() - 1)) };
        let object = this
            .inner(FIRST_CACHE + Tag::from(class))
            .filter(|_| !this.careful && !gfp.intersects(SPECIAL))
            .and_then(|inner| this.refill(inner, gfp).or_else(|| this.cache_alloc_slow(inner, gfp, last + 1, caller)));
        match object {
            Some(object) => Ok(object),
            None => this.kmalloc_any(last + 1, align, gfp, caller),
        }
    }

    /// An object of the heap, if it has room for one.
    #[inline(never)]
    fn kmalloc_heap(
        bytes: usize,
        gfp: Gfp,
        this: &Self,
        align: usize,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let wanted = if bytes.is_power_of_two() { align.max(bytes) } else { align };
        let group = this.group(bytes);
        if wanted <= MIN_ALIGN || heap::fits(group, bytes, wanted) {
            this.online_quick();
            if let Some(object) = this.heap_alloc(group, bytes, wanted, gfp) {
                return Ok(object);
            }
        }
        this.kmalloc_any(bytes, align, gfp, caller)
    }

    /// The group of an object that is not for zone DMA.
    #[inline(always)]
    pub(super) fn group(&self, bytes: usize) -> usize {
        if bytes < self.small { GROUP_SMALL } else { GROUP_LARGE }
    }

    /// The long way of an allocation.
    #[cold]
    #[inline(never)]
    pub(super) fn kmalloc_any(
        &self,
        bytes: usize,
        align: usize,
        gfp: Gfp,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        if bytes == 0 {
            return Ok(ZERO_SIZE);
        }
        if self.settings.failslab.is_on() && self.fails() {
            return Err(OutOfMemory);
        }
        let object = match self.obtain(bytes, align, gfp, caller) {
            Some(object) => object,
            None => self.obtain_again(bytes, align, gfp, caller).ok_or(OutOfMemory)?,
        };
        if gfp.contains(Gfp::ZERO) || self.settings.init_on_alloc {
            // SAFETY: the caller's new object.
            let usable = unsafe { self.content_size(object) }.unwrap_or(bytes);
            // SAFETY: the same, of that many bytes.
            unsafe { object.write_bytes(0, usable) };
        }
        Ok(object)
    }

    /// The same once more, if somebody gave something back.
    #[cold]
    #[inline(never)]
    fn obtain_again(
        &self,
        bytes: usize,
        align: usize,
        gfp: Gfp,
        caller: &'static Location<'static>,
    ) -> Option<NonNull<u8>> {
        if self.reclaim() { self.obtain(bytes, align, gfp, caller) } else { None }
    }

    /// From a cache, the heap or the pages.
    #[inline(always)]
    pub(super) fn obtain(
        &self,
        bytes: usize,
        align: usize,
        gfp: Gfp,
        caller: &'static Location<'static>,
    ) -> Option<NonNull<u8>> {
        let dma = gfp.contains(Gfp::DMA);
        let (mut bytes, mut align) = (bytes, align);
        if dma {
            // A device may write it: no cache line of it is somebody else's too.
            let granule = self.arch.cache_granule() as usize;
            (bytes, align) = (bytes.checked_next_multiple_of(granule)?, align.max(granule));
        }
        // As SLUB promises, a power of two is aligned to itself.
        let align = if bytes.is_power_of_two() { align.max(bytes) } else { align };
        let rounded = bytes.checked_next_multiple_of(align)?;
        if !dma && let Some(inner) = self.class(rounded) {
            return self.cache_alloc_slow(inner, gfp, bytes, caller);
        }
        let group = if dma { GROUP_DMA } else { self.group(bytes) };
        if heap::fits(group, bytes, align) && (dma || bytes < self.first_large) {
            return self.heap_alloc(group, bytes, align, gfp);
        }
        self.large_alloc(bytes, align, gfp)
    }

    /// The kmalloc cache for objects of `bytes`, if there is one.
    #[inline]
    pub(super) fn class(&self, bytes: usize) -> Option<&Inner> {
        if bytes > self.largest_class {
            return None;
        }
        let index = self.classes.partition_point(|size| usize::from(*size) < bytes);
        if index == self.classes.len() {
            return None;
        }
        self.inner(FIRST_CACHE + index as Tag)
    }

    /// Whether a new object of this size would come from where this one did.
    pub(crate) fn is_at_home(&self, object: NonNull<u8>, bytes: usize, align: usize) -> bool {
        let tag = self.table.get(object.addr().get());
        let align = if bytes.is_power_of_two() { align.max(bytes) } else { align };
        let rounded = bytes.checked_next_multiple_of(align).unwrap_or(usize::MAX);
        if let Some(inner) = self.class(rounded) {
            return inner.tag == tag;
        }
        let nr = heap::granules(bytes);
        match (Size::of(nr, 1), Size::of_tag(tag)) {
            (Some(new), old) if self.quick => old == Some(new),
            // As long as those of the array that its size tells.
            (None, Some(old)) => self.quick_size(nr, 1) * frame::GRANULE <= old.bytes(),
            _ => tag < FIRST_CACHE,
        }
    }

    /// The cache of a tag.
    #[inline]
    pub(super) fn inner(&self, tag: Tag) -> Option<&Inner> {
        let inner = self.caches.get(usize::from(tag.wrapping_sub(FIRST_CACHE)))?.load(Ordering::Acquire);
        // SAFETY: null, or a cache that lives as long as its frames have its tag and somebody has its handle.
        unsafe { inner.as_ref() }
    }

    /// An object of the packed heap.
    #[inline(never)]
    pub(super) fn heap_alloc(&self, group: usize, bytes: usize, align: usize, gfp: Gfp) -> Option<NonNull<u8>> {
        let (nr, align) = (heap::granules(bytes), (align / frame::GRANULE).max(1));
        let nr = if group == GROUP_LARGE { self.quick_size(nr, align) } else { nr };
        if group == GROUP_LARGE
            && let Some(size) = Size::of(nr, align).filter(|_| align == nr)
        {
            let object = self.even_alloc(size, gfp);
            if object.is_some() || self.quick {
                // What lies in an array by its size comes from those frames.
                return object;
            }
        }
        let object = self.heap.lock(self.arch).alloc(group, nr, align);
        let object = object.or_else(|| self.heap_grow(group, nr, align, gfp))?;
        // SAFETY: the caller's new object, of two words at least.
        unsafe { object.cast::<usize>().write(0) };
        Some(object)
    }

    #[cold]
    pub(super) fn heap_grow(&self, group: usize, nr: usize, align: usize, gfp: Gfp) -> Option<NonNull<u8>> {
        if self.settings.one_group && group == GROUP_LARGE {
            let object = self.heap.lock(self.arch).alloc(GROUP_SMALL, nr, align);
            if object.is_some() {
                return object;
            }
        }
        let Some(block) = self.source.take(Order::ZERO, gfp - Gfp::ZERO) else {
            // The other group may have room: better an object in the wrong company than none.
            let other = match group {
                GROUP_SMALL => GROUP_LARGE,
                GROUP_LARGE => GROUP_SMALL,
                _ => return None,
            };
            return self.heap.lock(self.arch).alloc(other, nr, align);
        };
        let frame = NonNull::new(self.arch.direct_map(block.pfn().addr()))?;
        self.table.set_one(frame.addr().get(), HEAP + group as Tag);
        let mut heap = self.heap.lock(self.arch);
        // SAFETY: a frame of the page allocator's, the slab's alone.
        unsafe { heap.alloc_fresh(group, frame, nr, align) }
    }

    /// The same address, with access to the whole frame whatever the user's pointer was narrowed to.
    #[inline(always)]
    pub(super) fn own(&self, object: *mut u8) -> *mut u8 {
        self.whole.0.with_addr(object.addr())
    }

    /// The physical address of what the direct map shows at `addr`.
    #[inline(always)]
    pub(super) fn phys(&self, addr: usize) -> PhysAddr {
        PhysAddr::new_saturating(self.span.start().as_raw().wrapping_add(addr.wrapping_sub(self.window.0) as u64))
    }

    /// Takes a frame's tag away, and gives it back.
    #[inline(never)]
    pub(super) fn give_frame(&self, frame: *mut u8) {
        self.table.set_one(frame.addr(), NONE);
        self.give_frames(frame, 1);
    }

    /// Takes the tags of frames away, and gives them back.
    #[inline(never)]
    pub(super) fn give_tagged(&self, frame: *mut u8, nr: usize) {
        self.table.set(frame.addr(), nr, NONE);
        self.give_frames(frame, nr);
    }

    /// Gives `nr` frames back that are the slab's no more: a whole block, or where that is no power of two what is left of
    /// one that was taken apart.
    #[inline(always)]
    pub(super) fn give_frames(&self, frame: *mut u8, nr: usize) {
        let first = self.phys(frame.addr()).pfn();
        match Order::new(nr.trailing_zeros() as usize) {
            Some(order) if nr.is_power_of_two() => self.source.give(PageBlock::from_raw(first, order)),
            _ => self.give_parts(frame, nr),
        }
    }

    /// Gives `nr` frames of a block back that was taken apart, or of a source that always splits.
    pub(super) fn give_parts(&self, frame: *mut u8, nr: usize) {
        let most = if S::SPLITS { MAX_ORDER } else { LARGEST_PART };
        let mut pfn = self.phys(frame.addr()).pfn().as_raw();
        let end = pfn + nr as u64;
        while pfn < end {
            let order = (pfn.trailing_zeros()).min((end - pfn).ilog2()).min(most as u32);
            if let (Some(first), Some(order)) = (Pfn::new(pfn), Order::new(order as usize)) {
                self.source.give(PageBlock::from_raw(first, order));
            }
            pfn += 1 << order;
        }
    }

    /// Whether fault injection wants this allocation to fail.
    #[cold]
    pub(super) fn fails(&self) -> bool {
        let count = self.counters.failslab.fetch_add(1, Ordering::Relaxed);
        self.settings.failslab.fails(count)
    }
}

impl From<Wrong> for FaultKind {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Free => Self::DoubleFree,
            Wrong::NoObject => Self::NotAnObject,
        }
    }
}
