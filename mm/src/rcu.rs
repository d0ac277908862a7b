// SPDX-License-Identifier: MIT OR Apache-2.0
//! Freeing what readers without locks may still look at: after every CPU has passed a *quiescent state*.
//!
//! A reader looks at shared objects between two quiescent states of its CPU: in the tick, when idle, when it changes
//! threads. Whoever takes an object out of reach gives it to [`Rcu::defer`]; it is freed when every CPU that takes
//! part has passed a quiescent state since. The time between is a *grace period*; objects that come meanwhile wait for
//! the next one. However many have waited long enough, a call frees [`BATCH`] of them at most, and later calls the rest: so
//! a tick stays short.
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

/// Objects that one call frees at most.
pub const BATCH: usize = 64;

/// Deferred objects in the order in which they came.
struct List {
    first: *mut RcuHead,
    /// Of no meaning while there is no first.
    last: *mut RcuHead,
}

impl List {
    const fn new() -> Self {
        Self { first: ptr::null_mut(), last: ptr::null_mut() }
    }

    /// Puts the objects from `first` to `last`, which lead to each other, behind those of the list. O(1).
    ///
    /// # Safety
    ///
    /// They are deferred objects in no list, and those of this one are there.
    unsafe fn append(&mut self, first: NonNull<RcuHead>, last: *mut RcuHead) {
        match NonNull::new(self.first) {
            None => self.first = first.as_ptr(),
            // SAFETY: the list is not empty, so its last is a deferred object.
            Some(_) => unsafe { &*self.last }.next.set(first.as_ptr()),
        }
        self.last = last;
    }

    /// Takes up to `nr` objects from the front. O(nr).
    ///
    /// # Safety
    ///
    /// The objects of the list are there.
    unsafe fn take(&mut self, nr: usize) -> *mut RcuHead {
        let first = self.first;
        let mut last = ptr::null_mut();
        for _ in 0..nr {
            // SAFETY: an object of the list.
            let Some(head) = (unsafe { self.first.as_ref() }) else { break };
            last = self.first;
            self.first = head.next.get();
        }
        // SAFETY: as above.
        if let Some(last) = unsafe { last.as_ref() } {
            last.next.set(ptr::null_mut());
        }
        first
    }
}

/// All deferred objects.
struct Lists {
    /// Have waited long enough.
    over: List,
    /// Waiting for the grace period that runs.
    waiting: List,
    /// Came since it began.
    next: List,
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
        let lists = Lists { over: List::new(), waiting: List::new(), next: List::new(), nr: 0 };
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

    /// Defers the freeing of an object: [`kfree_rcu`](Slab::kfree_rcu) without the slab. Returns how many wait now: who
    /// defers in great numbers should [`poll`](Self::poll) as well, since those that do so otherwise free but so many at
    /// once. O(1).
    ///
    /// # Safety
    ///
    /// 1. `head` lies in the object at `object`, which came from what [`poll`](Self::poll) is called with, and is out
    ///    of reach of new readers.
    /// 2. Nothing but readers uses the object from now on, and they leave the head alone.
    pub unsafe fn defer(&self, arch: &impl Arch, object: NonNull<u8>, head: NonNull<RcuHead>) -> usize {
        let mut lists = self.lists.lock(arch);
        // SAFETY: (2): the head is the list's.
        let entry = unsafe { head.as_ref() };
        entry.object.set(object.as_ptr());
        entry.next.set(ptr::null_mut());
        // SAFETY: (1), (2): it is there until it is freed, as the others are.
        unsafe { lists.next.append(head, head.as_ptr()) };
        lists.nr += 1;
        lists.nr
    }

    /// This CPU is in a quiescent state: no reader on it holds a pointer to a shared object. Frees up to [`BATCH`] objects
    /// that have waited long enough, and begins the next grace period if objects wait. Returns how many were freed.
    pub fn quiescent(&self, arch: &impl Arch, source: &impl Frees) -> usize {
        self.grace.quiescent(arch.cpu());
        self.poll(arch, source)
    }

    /// Frees up to [`BATCH`] objects that have waited long enough, without saying anything of this CPU. Returns how many
    /// were freed.
    pub fn poll(&self, arch: &impl Arch, source: &impl Frees) -> usize {
        let mut lists = self.lists.lock(arch);
        if lists.nr == 0 {
            return 0;
        }
        if self.grace.is_over() {
            let waiting = mem::replace(&mut lists.waiting, List::new());
            if let Some(first) = NonNull::new(waiting.first) {
                // SAFETY: deferred objects, which are there until they are freed below.
                unsafe { lists.over.append(first, waiting.last) };
            }
            if !lists.next.first.is_null() {
                lists.waiting = mem::replace(&mut lists.next, List::new());
                self.grace.begin();
            }
        }
        // SAFETY: as above.
        let mut over = unsafe { lists.over.take(BATCH) };
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
    /// Frees an object after a grace period of `rcu`. Returns how many wait now.
    ///
    /// # Safety
    ///
    /// As for [`Rcu::defer`]; `rcu` is polled with this slab.
    pub unsafe fn kfree_rcu(&self, rcu: &Rcu, object: NonNull<u8>, head: NonNull<RcuHead>) -> usize {
        // SAFETY: the caller's promise.
        unsafe { rcu.defer(self.arch(), object, head) }
    }
}
