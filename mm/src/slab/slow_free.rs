// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the arrays do not take: frees by way of the packed heap, the caches' slabs and whole pages.

use core::panic::Location;
use core::ptr::NonNull;

use super::cache::Inner;
use super::even::Size;
use super::fault::{Fault, FaultKind};
use super::heap::{Freed, Heap, Wrong};
use super::table::{HEAP, LARGE, NONE, TAIL, Tag};
use super::{GROUP_LARGE, PageSource, Refused, Slab, ZERO_SIZE};
use crate::addr::{NR_ORDERS, PAGE_SIZE};
use crate::arch::Arch;

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Gives memory back that the slab took for itself.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree); it came from the heap or is whole pages.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn give_own(&self, object: NonNull<u8>) {
        let tag = self.table.get(object.addr().get());
        if tag < LARGE {
            // SAFETY: the caller's promise.
            unsafe { Self::kfree_heap(object, tag, self, Location::caller()) };
        } else if let Some(size) = Size::of_tag(tag) {
            // SAFETY: the same.
            if let Err(kind) = unsafe { self.even_put(size, object) } {
                self.refuse(kind, tag, object, Location::caller());
            }
        } else {
            // SAFETY: the same.
            unsafe { self.kfree_large(object, tag, Location::caller()) };
        }
    }

    /// Frees an object of the packed heap. (The arguments stand as in those that call it.)
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree); `tag` is that of the object's frame, of the heap.
    #[inline(always)]
    pub(super) unsafe fn kfree_heap(object: NonNull<u8>, tag: Tag, this: &Self, caller: &'static Location<'static>) {
        if tag == HEAP + GROUP_LARGE as Tag {
            // SAFETY: the caller's promise.
            unsafe { Self::kfree_heap_large(object, tag, this, caller) };
        } else {
            // SAFETY: the same.
            unsafe { Self::kfree_heap_mixed(object, tag, this, caller) };
        }
    }

    /// The same in a frame of large objects.
    ///
    /// # Safety
    ///
    /// As for [`kfree_heap`](Self::kfree_heap).
    #[inline(never)]
    unsafe fn kfree_heap_large(object: NonNull<u8>, tag: Tag, this: &Self, caller: &'static Location<'static>) {
        // SAFETY: the caller's promise.
        let free = |heap: &mut Heap, inside| unsafe { heap.free_large(inside) };
        // SAFETY: the same.
        if let Err(kind) = unsafe { this.heap_free(GROUP_LARGE, object, free) } {
            this.refuse(kind, tag, object, caller);
        }
    }

    /// The same in another frame.
    ///
    /// # Safety
    ///
    /// As for [`kfree_heap`](Self::kfree_heap).
    #[inline(never)]
    unsafe fn kfree_heap_mixed(object: NonNull<u8>, tag: Tag, this: &Self, caller: &'static Location<'static>) {
        let group = usize::from(tag - HEAP);
        // SAFETY: the caller's promise.
        let free = |heap: &mut Heap, inside| unsafe { heap.free_mixed(group, inside) };
        // SAFETY: the same.
        if let Err(kind) = unsafe { this.heap_free(group, object, free) } {
            this.refuse(kind, tag, object, caller);
        }
    }

    /// Frees an object of whole pages.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree); `tag` is that of the object's frame, of a large block.
    #[inline(never)]
    pub(super) unsafe fn kfree_large(&self, object: NonNull<u8>, tag: Tag, caller: &'static Location<'static>) {
        // SAFETY: the caller's promise.
        if let Err(kind) = unsafe { self.large_free(object) } {
            self.refuse(kind, tag, object, caller);
        }
    }

    /// Frees an object of a cache.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree); the object's frame has the cache's tag.
    #[inline(never)]
    pub(super) unsafe fn kfree_cache(&self, object: NonNull<u8>, inner: &Inner, caller: &'static Location<'static>) {
        // SAFETY: the caller's promise.
        if let Err(kind) = unsafe { self.cache_free_slow(inner, object, caller) } {
            self.refuse(kind, inner.tag, object, caller);
        }
    }

    /// Frees an object that is neither of the heap nor of whole pages.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree); `tag` is that of the object's frame.
    #[inline(never)]
    pub(super) unsafe fn kfree_tagged(&self, object: NonNull<u8>, tag: Tag, caller: &'static Location<'static>) {
        // SAFETY: the caller's promise.
        if let Err(kind) = unsafe { self.free_tagged(tag, object, caller) } {
            self.refuse(kind, tag, object, caller);
        }
    }

    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree); `tag` is that of the object's frame.
    #[inline(always)]
    unsafe fn free_tagged(
        &self,
        tag: Tag,
        object: NonNull<u8>,
        caller: &'static Location<'static>,
    ) -> Result<(), Refused> {
        match tag {
            NONE if object == ZERO_SIZE => Ok(()),
            TAIL => Err(FaultKind::NotAnObject),
            _ => match self.inner(tag) {
                // SAFETY: the caller's promise.
                Some(inner) => unsafe { self.cache_free_slow(inner, object, caller) },
                None if self.is_in_large(object) => Err(FaultKind::NotAnObject),
                None => Err(FaultKind::NotSlab),
            },
        }
    }

    /// Whether a frame without a tag is part of a large block.
    #[cold]
    fn is_in_large(&self, object: NonNull<u8>) -> bool {
        let addr = object.addr().get();
        let pfn = self.phys(addr).pfn().as_raw();
        (1..NR_ORDERS as Tag).any(|order| {
            let frames = (pfn % (1 << order)) as usize;
            self.table.get(addr.wrapping_sub(frames * PAGE_SIZE as usize)) == LARGE + order
        })
    }

    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree); the object lies in a frame of that group, which `free` is for.
    #[inline(always)]
    unsafe fn heap_free(
        &self,
        group: usize,
        object: NonNull<u8>,
        free: impl FnOnce(&mut Heap, *mut u8) -> Result<Freed, Wrong>,
    ) -> Result<(), Refused> {
        let inside = self.own(object.as_ptr());
        let mut heap = self.heap.lock(self.arch);
        if self.settings.init_on_free {
            // SAFETY: the tag says that it lies in a frame of the heap, of that group.
            let bytes = unsafe { heap.size(group, inside) }.map_err(Refused::from)?;
            // SAFETY: the object's own bytes, which nothing uses any more.
            unsafe { inside.write_bytes(0, bytes) };
        }
        // SAFETY: the tag says that it lies in a frame of the heap.
        if unsafe { self.is_kept(inside) } {
            return Err(FaultKind::DoubleFree);
        }
        let freed = free(&mut heap, inside).map_err(Refused::from)?;
        drop(heap);
        if let Some(frame) = freed.frame {
            self.give_frame(frame.as_ptr());
        }
        if freed.corrupt {
            self.report_links(object.addr().get(), freed.bytes);
        }
        Ok(())
    }

    /// Says that links of free memory were found overwritten.
    #[cold]
    #[inline(never)]
    pub(super) fn report_links(&self, object: usize, bytes: usize) {
        self.report(Fault::new(FaultKind::HeapLinks, "kmalloc", object, bytes));
    }
}
