// SPDX-License-Identifier: MIT OR Apache-2.0
//! Freeing what readers without locks may still look at: after every CPU has passed a *quiescent state*.
//!
//! A reader looks at shared objects between two quiescent states of its CPU: in the tick, when idle, when it changes
//! threads. Whoever takes an object out of reach gives it to [`Rcu::defer`]; it is freed when every CPU that takes
//! part has passed a quiescent state since. The time between is a *grace period*; objects that come meanwhile wait for
//! the next one.
//!
//! An object brings the room for its place in the list, an [`RcuHead`], so deferring cannot fail and may be done in
//! interrupt context. Readers may go on reading all of it but the head.

mod grace;

/// The atomics of [`grace`]: the test of its orderings brings others.
mod atomic {
    pub(super) use core::sync::atomic::{AtomicU64, Ordering};
}

use core::cell::Cell;
use core::fmt;
use core::mem;
use core::ptr::{self, NonNull};

use self::grace::Grace;
use crate::arch::{Arch, MAX_CPUS};
use crate::kvmalloc::Kvmalloc;
use crate::slab::{PageSource, Slab};
use crate::sync::{IrqSpinLock, Rank};

/// What an object holds that is to be freed by [`Rcu::defer`].
#[derive(Debug)]
#[repr(C)]
pub struct RcuHead {
    next: Cell<*mut RcuHead>,
    /// The object's first byte.
    object: Cell<*mut u8>,
}

impl RcuHead {
    /// Not in a list.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: Cell::new(ptr::null_mut()), object: Cell::new(ptr::null_mut()) }
    }
}

impl Default for RcuHead {
    fn default() -> Self {
        Self::new()
    }
}

/// Deferred objects.
struct Lists {
    /// Waiting for the grace period that runs.
    waiting: *mut RcuHead,
    /// Came since it began.
    next: *mut RcuHead,
    nr: usize,
}

// SAFETY: the objects belong to the lists, wherever their lock is held.
unsafe impl Send for Lists {}

/// Who frees what has waited long enough: where the objects came from.
pub trait Frees {
    /// Frees an object.
    ///
    /// # Safety
    ///
    /// It came from here, and nobody uses it from now on.
    unsafe fn free(&self, object: NonNull<u8>);
}

impl<A: Arch, S: PageSource> Frees for Slab<'_, A, S> {
    unsafe fn free(&self, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.kfree(object) };
    }
}

impl<A: Arch, S: PageSource + Copy + Send> Frees for Kvmalloc<'_, '_, A, S> {
    unsafe fn free(&self, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        let freed = unsafe { Self::free(self, object) };
        debug_assert!(freed.is_ok(), "an object that was deferred is one");
    }
}

/// Grace periods, and the objects that wait for them.
pub struct Rcu {
    grace: Grace<MAX_CPUS>,
    lists: IrqSpinLock<Lists>,
}

impl Rcu {
    /// Nobody takes part yet.
    #[must_use]
    pub const fn new() -> Self {
        let lists = Lists { waiting: ptr::null_mut(), next: ptr::null_mut(), nr: 0 };
        Self {
            grace: Grace::new([const { atomic::AtomicU64::new(0) }; MAX_CPUS], atomic::AtomicU64::new(0)),
            lists: IrqSpinLock::new(Rank::SLAB, lists),
        }
    }

    /// This CPU takes part from now on: it must pass quiescent states, or nothing is freed.
    pub fn online(&self, arch: &impl Arch) {
        self.grace.online(arch.cpu());
    }

    /// This CPU takes no longer part: it reads nothing until it is online again.
    pub fn offline(&self, arch: &impl Arch) {
        self.grace.offline(arch.cpu());
    }

    /// Defers the freeing of an object: [`kfree_rcu`](Slab::kfree_rcu) without the slab.
    ///
    /// # Safety
    ///
    /// 1. `head` lies in the object at `object`, which came from what [`poll`](Self::poll) is called with, and is out
    ///    of reach of new readers.
    /// 2. Nothing but readers uses the object from now on, and they leave the head alone.
    pub unsafe fn defer(&self, arch: &impl Arch, object: NonNull<u8>, head: NonNull<RcuHead>) {
        let mut lists = self.lists.lock(arch);
        // SAFETY: (2): the head is the list's.
        let entry = unsafe { head.as_ref() };
        entry.object.set(object.as_ptr());
        entry.next.set(lists.next);
        lists.next = head.as_ptr();
        lists.nr += 1;
    }

    /// This CPU is in a quiescent state: no reader on it holds a pointer to a shared object. Frees what has waited long
    /// enough, and begins the next grace period if objects wait. Returns how many were freed.
    pub fn quiescent(&self, arch: &impl Arch, source: &impl Frees) -> usize {
        self.grace.quiescent(arch.cpu());
        self.poll(arch, source)
    }

    /// Frees what has waited long enough, without saying anything of this CPU. Returns how many were freed.
    pub fn poll(&self, arch: &impl Arch, source: &impl Frees) -> usize {
        let mut lists = self.lists.lock(arch);
        if lists.nr == 0 || !self.grace.is_over() {
            return 0;
        }
        let mut over = mem::replace(&mut lists.waiting, ptr::null_mut());
        if !lists.next.is_null() {
            lists.waiting = mem::replace(&mut lists.next, ptr::null_mut());
            self.grace.begin();
        }
        drop(lists);
        let mut nr = 0;
        while let Some(head) = NonNull::new(over) {
            // SAFETY: the list's, by `defer`.
            let entry = unsafe { head.as_ref() };
            over = entry.next.get();
            if let Some(object) = NonNull::new(entry.object.get()) {
                // SAFETY: every reader that could see it has passed a quiescent state.
                unsafe { source.free(object) };
                nr += 1;
            }
        }
        self.lists.lock(arch).nr -= nr;
        nr
    }

    /// Objects that wait.
    pub fn nr_waiting(&self, arch: &impl Arch) -> usize {
        self.lists.lock(arch).nr
    }
}

impl Default for Rcu {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Rcu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rcu").field("grace", &self.grace).finish_non_exhaustive()
    }
}

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Frees an object after a grace period of `rcu`.
    ///
    /// # Safety
    ///
    /// As for [`Rcu::defer`]; `rcu` is polled with this slab.
    pub unsafe fn kfree_rcu(&self, rcu: &Rcu, object: NonNull<u8>, head: NonNull<RcuHead>) {
        // SAFETY: the caller's promise.
        unsafe { rcu.defer(self.arch(), object, head) };
    }
}
