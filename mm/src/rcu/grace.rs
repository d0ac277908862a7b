// SPDX-License-Identifier: MIT OR Apache-2.0
//! Grace periods by number: each CPU notes the newest one that it has seen in a quiescent state.
//!
//! *Orderings.* A reader's accesses come before its CPU's next note (Release), which is read (Acquire) before the
//! period counts as over; so what is freed then is freed after them. And a CPU that notes a period's number has seen
//! it begin (Acquire), so whatever it reads later does not find what was taken out of reach before (Release).

use core::fmt;

use super::atomic::{AtomicU64, Ordering};

/// A CPU that does not take part.
const OFFLINE: u64 = u64::MAX;

/// Grace periods of up to `N` CPUs.
pub(super) struct Grace<const N: usize> {
    /// The period that runs, or ran last. 0: none has.
    current: AtomicU64,
    /// For each CPU the newest period that it has seen, plus one; 0 as long as it never took part.
    seen: [AtomicU64; N],
}

impl<const N: usize> Grace<N> {
    /// From atomics that are all 0.
    pub(super) const fn new(seen: [AtomicU64; N], current: AtomicU64) -> Self {
        Self { current, seen }
    }

    fn note(&self, cpu: usize, period: u64) {
        if let Some(seen) = self.seen.get(cpu) {
            seen.store(period, Ordering::Release);
        }
    }

    pub(super) fn online(&self, cpu: usize) {
        // It holds nothing yet, so the period that runs need not wait for it; what it reads later is newer.
        self.note(cpu, self.current.load(Ordering::Acquire) + 1);
    }

    pub(super) fn offline(&self, cpu: usize) {
        self.note(cpu, OFFLINE);
    }

    pub(super) fn quiescent(&self, cpu: usize) {
        self.note(cpu, self.current.load(Ordering::Acquire) + 1);
    }

    /// Whether every CPU that takes part has seen the current period. The caller holds the lock of the lists.
    pub(super) fn is_over(&self) -> bool {
        let current = self.current.load(Ordering::Relaxed);
        self.seen.iter().all(|seen| {
            let seen = seen.load(Ordering::Acquire);
            seen == 0 || seen > current
        })
    }

    /// Begins a period. The caller holds the lock of the lists, and the one before is over.
    pub(super) fn begin(&self) {
        self.current.fetch_add(1, Ordering::AcqRel);
    }
}

impl<const N: usize> fmt::Debug for Grace<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grace").field("current", &self.current).finish_non_exhaustive()
    }
}
