// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing an object's size where it is.

use core::panic::Location;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::even::Size;
use super::frame::GRANULE;
use super::heap::granules;
use super::table::{HEAP, LARGE, ODD};
use super::{Fault, PageSource, SIZED, Slab};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::arch::Arch;

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Bytes of the object that hold content: what was asked for where that is kept, else all of it.
    ///
    /// # Safety
    ///
    /// `object` is an object of this slab in use.
    pub(crate) unsafe fn content_size(&self, object: NonNull<u8>) -> Option<usize> {
        match self.inner(self.table.get(object.addr().get())) {
            // SAFETY: the caller's promise.
            Some(inner) => Some(unsafe { inner.slot.asked(self.own(object.as_ptr())) }),
            // SAFETY: the caller's promise.
            None => unsafe { self.ksize(object) },
        }
    }

    /// Makes the object `bytes` long in place, if that can be done. With `zero`, bytes that it gains and those that
    /// it has beyond are zeroed.
    ///
    /// # Safety
    ///
    /// `object` is an object of this slab in use, which the caller owns.
    pub(crate) unsafe fn resize(
        &self,
        object: NonNull<u8>,
        bytes: usize,
        zero: bool,
        caller: &'static Location<'static>,
    ) -> bool {
        let tag = self.table.get(object.addr().get());
        let inside = self.own(object.as_ptr());
        let (old, new) = match tag {
            HEAP..LARGE => {
                if bytes > super::heap::LARGEST {
                    return false;
                }
                // As long as those of its array, where it may go by its size.
                let room = if bytes > SIZED { self.quick_size(granules(bytes), 1) * GRANULE } else { bytes };
                let group = (tag - HEAP).into();
                let mut heap = self.heap.lock(self.arch);
                // SAFETY: the tag says that it lies in a frame of the heap, of that group.
                let Ok(old) = (unsafe { heap.size(group, inside) }) else { return false };
                // SAFETY: the same, and the caller owns the object.
                let resized = unsafe { heap.resize(group, inside, room) };
                let Ok(Some(new)) = resized else { return false };
                (old.min(bytes), new)
            }
            LARGE..=ODD => {
                let pages = self.table.count_large(object.addr().get());
                // An object that would fit a frame with others moves there.
                if bytes <= super::heap::LARGEST / 2 || bytes.div_ceil(PAGE_SIZE as usize) > pages {
                    return false;
                }
                let mut nr = bytes.div_ceil(PAGE_SIZE as usize);
                if !S::SPLITS {
                    nr = pages;
                } else if nr < pages {
                    self.cut_large(object, nr, pages);
                }
                (bytes, nr << PAGE_SHIFT)
            }
            _ if let Some(size) = Size::of_tag(tag) => {
                if bytes > size.bytes() {
                    return false;
                }
                (bytes, size.bytes())
            }
            _ => {
                let Some(inner) = self.inner(tag) else { return false };
                if bytes > inner.spec.size {
                    return false;
                }
                // Whoever validates looks at the zones under the lock. What is not debugged has none.
                let slabs = (!inner.slot.is_plain()).then(|| inner.slabs.lock(self.arch));
                // SAFETY: an object of this cache in use.
                let old = unsafe { inner.slot.asked(inside) };
                // SAFETY: the same.
                let damage = unsafe { inner.slot.check_used(inside, inner.keeps_content()) };
                // SAFETY: the same.
                let owners = unsafe { inner.slot.owners(inside) };
                // SAFETY: the same.
                unsafe { inner.slot.resize(inside, bytes) };
                drop(slabs);
                if let Some(kind) = damage {
                    let mut fault = Fault::new(kind, inner.spec.name, object.addr().get(), inner.spec.size);
                    (fault.allocated, fault.freed) = owners;
                    fault.caller = Some(caller);
                    self.report(fault);
                }
                // Behind what was asked for is a red zone, or spare room.
                let end = if inner.slot.is_plain() { inner.spec.size } else { bytes };
                (if inner.slot.is_plain() { bytes } else { old.min(bytes) }, end)
            }
        };
        if zero && old < new {
            // SAFETY: the object's own bytes behind what it keeps.
            unsafe { inside.wrapping_add(old).write_bytes(0, new - old) };
        }
        true
    }

    /// Gives the pages of a large object from `nr` on back.
    fn cut_large(&self, object: NonNull<u8>, nr: usize, old: usize) {
        let rest = self.own(object.as_ptr()).wrapping_add(nr * PAGE_SIZE as usize);
        self.counters.large_pages.fetch_sub(old - nr, Ordering::Relaxed);
        self.table.clear_large(object.addr().get(), old);
        self.table.set_large(object.addr().get(), nr);
        self.give_parts(rest, old - nr);
    }
}
