// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who looks at a cache without a handle of it: reports do, and whoever finds no memory and has all caches give back what they
//! keep. Meanwhile it may be destroyed.
//!
//! So a CPU says at which it looks, before it reads the table (a hazard pointer). Whoever destroys a cache takes it out of the
//! table first and then waits until nobody looks at it. Both sides write one word and then read the other's, with a fence
//! between: either the one sees that the cache is gone, or the other that it is looked at.
#![forbid(unsafe_code)]

use super::atomic::{AtomicU16, Ordering, fence};

/// For each of up to `N` CPUs the number of the cache that it looks at, or 0.
pub(super) struct Looking<const N: usize>([AtomicU16; N]);

impl<const N: usize> Looking<N> {
    /// From numbers that are all 0.
    pub(super) const fn new(numbers: [AtomicU16; N]) -> Self {
        Self(numbers)
    }

    /// Calls `look`, which reads the table and may use the cache of that number, if it is there. On each CPU one at a time.
    #[inline(always)]
    pub(super) fn at<R>(&self, cpu: usize, number: u16, look: impl FnOnce() -> R) -> Option<R> {
        let looking = self.0.get(cpu)?;
        looking.store(number, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let result = look();
        // What was done with the cache is done before.
        looking.store(0, Ordering::Release);
        Some(result)
    }

    /// Whether somebody may look at the cache of that number, which the caller has taken out of the table.
    pub(super) fn is_at(&self, number: u16) -> bool {
        fence(Ordering::SeqCst);
        self.0.iter().any(|looking| looking.load(Ordering::Acquire) == number)
    }
}
