// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at all objects of caches: leaks, owners, damage.

use core::panic::Location;

use super::cache::Inner;
use super::debug::Debug;
use super::fault::{Fault, FaultKind};
use super::table::{FIRST_CACHE, Tag};
use super::{NR_TAGS, PageSource, Slab};
use crate::arch::Arch;

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Reports the objects of a cache that are still in use: first their number, then each.
    pub(super) fn report_leaks(&self, inner: &Inner, in_use: usize, caller: &'static Location<'static>) {
        let mut fault = Fault::new(FaultKind::ObjectsRemaining(in_use), inner.spec.name, 0, inner.spec.size);
        fault.caller = Some(caller);
        self.report(fault);
        let mut after = 0;
        // One at a time, as nothing is reported with a lock held.
        while let Some(object) = self.next_used(inner, after) {
            after = object.addr();
            let mut fault = Fault::new(FaultKind::Leaked, inner.spec.name, object.addr(), inner.spec.size);
            // SAFETY: a slot of this cache.
            (fault.allocated, fault.freed) = unsafe { inner.slot.owners(object) };
            // SAFETY: the object's bytes.
            self.report(unsafe { fault.with_bytes(object, inner.spec.size) });
        }
    }

    /// Calls `each` with the owner and the size of every object in use whose owner is known.
    pub(super) fn each_owned(&self, mut each: impl FnMut(&'static Location<'static>, usize)) {
        for tag in FIRST_CACHE..NR_TAGS as Tag {
            self.look(tag, |inner| {
                if inner.slot.debug.contains(Debug::OWNER) {
                    self.each_owned_of(inner, &mut each);
                }
            });
        }
    }

    fn each_owned_of(&self, inner: &Inner, each: &mut impl FnMut(&'static Location<'static>, usize)) {
        let slabs = inner.slabs.lock(self.arch);
        // SAFETY: the lock is held.
        for page in unsafe { slabs.iter() } {
            let used = |object: *mut u8, free: bool| {
                // SAFETY: a slot of this cache.
                if !free && let (Some(track), _) = unsafe { inner.slot.owners(object) } {
                    // SAFETY: the same.
                    each(track.caller, unsafe { inner.slot.asked(object) });
                }
            };
            // SAFETY: a slab of this cache, whose lock is held.
            unsafe { inner.cut.walk(page, used) };
        }
    }

    /// Checks every object of every cache and of the packed heap, as `slabinfo -v` does: what is found is reported.
    /// Returns how many faults. Debugged caches only have what can be checked in their objects.
    pub fn validate(&self) -> usize {
        let before = self.nr_faults();
        for tag in FIRST_CACHE..NR_TAGS as Tag {
            let mut after = 0;
            // One at a time, as nothing is reported with a lock held, or while the cache is looked at.
            while let Some(Some((object, fault))) = self.look(tag, |inner| self.validate_next(inner, after)) {
                after = object;
                if let Some(fault) = fault {
                    self.report(fault);
                }
            }
        }
        (self.nr_faults() - before) as usize
    }

    /// Checks the object with the lowest address above `after`. Returns its address, and what is wrong if something is.
    #[inline(never)]
    fn validate_next(&self, inner: &Inner, after: usize) -> Option<(usize, Option<Fault>)> {
        if inner.slot.is_plain() {
            return None;
        }
        let slabs = inner.slabs.lock(self.arch);
        let mut next: Option<(*mut u8, bool)> = None;
        // SAFETY: the lock is held.
        for page in unsafe { slabs.iter() } {
            let nearer = |object: *mut u8, free: bool| {
                if object.addr() > after && next.is_none_or(|(next, _)| object.addr() < next.addr()) {
                    next = Some((object, free));
                }
            };
            // SAFETY: a slab of this cache, whose lock is held.
            unsafe { inner.cut.walk(page, nearer) };
        }
        let (object, free) = next?;
        let keep = inner.keeps_content();
        let kind = if free {
            // SAFETY: a slot of this cache, whose state cannot change while the lock is held.
            unsafe { inner.slot.check_free(object, keep) }
        } else {
            // SAFETY: the same.
            unsafe { inner.slot.check_used(object, keep) }
        };
        let fault = kind.map(|kind| {
            let mut fault = Fault::new(kind, inner.spec.name, object.addr(), inner.spec.size);
            // SAFETY: a slot of this cache.
            (fault.allocated, fault.freed) = unsafe { inner.slot.owners(object) };
            // SAFETY: the object's bytes.
            unsafe { fault.with_bytes(object, inner.spec.size) }
        });
        Some((object.addr(), fault))
    }

    /// The object in use with the lowest address above `after`.
    pub(super) fn next_used(&self, inner: &Inner, after: usize) -> Option<*mut u8> {
        let slabs = inner.slabs.lock(self.arch);
        let mut next: Option<*mut u8> = None;
        // SAFETY: the lock is held.
        for page in unsafe { slabs.iter() } {
            // SAFETY: a slab of this cache, whose lock is held.
            unsafe {
                inner.cut.walk(page, |object, free| {
                    let nearer = next.is_none_or(|next| object.addr() < next.addr());
                    if !free && object.addr() > after && nearer {
                        next = Some(object);
                    }
                });
            }
        }
        next
    }
}
