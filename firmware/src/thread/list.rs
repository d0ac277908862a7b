// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue of threads, linked through the threads themselves: nothing is allocated to wait.

use super::Thread;

/// Threads, first in, first out. A thread is in one list at most.
#[derive(Debug)]
pub(super) struct List {
    head: *const Thread,
    tail: *const Thread,
}

// SAFETY: a list is the only user of its threads' links, and is behind a lock itself.
unsafe impl Send for List {}

impl List {
    pub(super) const fn new() -> Self {
        Self { head: core::ptr::null(), tail: core::ptr::null() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Adds a thread that is in no list.
    pub(super) fn push(&mut self, thread: &'static Thread) {
        thread.next.set(core::ptr::null());
        // SAFETY: null, or a thread of the list, which is there as long as it is in it.
        match unsafe { self.tail.as_ref() } {
            Some(last) => last.next.set(thread),
            None => self.head = thread,
        }
        self.tail = thread;
    }

    /// Takes the first.
    pub(super) fn pop(&mut self) -> Option<&'static Thread> {
        // SAFETY: as above.
        let first = unsafe { self.head.as_ref() }?;
        self.head = first.next.get();
        if self.head.is_null() {
            self.tail = core::ptr::null();
        }
        Some(first)
    }

    /// Moves the threads that `is_due` to the end of `other`; both keep their order.
    pub(super) fn move_to(&mut self, other: &mut Self, is_due: impl Fn(&Thread) -> bool) {
        let mut left = core::mem::replace(self, Self::new());
        while let Some(thread) = left.pop() {
            if is_due(thread) { other.push(thread) } else { self.push(thread) }
        }
    }
}
