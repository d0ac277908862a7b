// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was flushed, for `vmstat`.
//!
//! The names are Linux's where it has them. Nothing is ever *received* here: broadcast invalidates reach the
//! other CPUs without their software, so there is no `nr_tlb_remote_flush_received`.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Broadcast flushes: each ends in one `DSB ISH`.
    RemoteFlush,
    /// Broadcast flushes of everything.
    RemoteFlushAll,
    /// Broadcast invalidates by page or range.
    RemoteFlushOne,
    /// Flushes of everything on one CPU.
    LocalFlushAll,
}

const EVENTS: [(Event, &str); 4] = [
    (Event::RemoteFlush, "nr_tlb_remote_flush"),
    (Event::RemoteFlushAll, "nr_tlb_remote_flush_all"),
    (Event::RemoteFlushOne, "nr_tlb_remote_flush_one"),
    (Event::LocalFlushAll, "nr_tlb_local_flush_all"),
];

/// One count for each [`Event`].
#[derive(Debug)]
pub struct Counters([AtomicU64; EVENTS.len()]);

impl Counters {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; EVENTS.len()])
    }

    pub(super) fn add(&self, event: Event, count: u64) {
        if let Some(counter) = self.0.get(event as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How often it happened.
    #[must_use]
    pub fn get(&self, event: Event) -> u64 {
        self.0.get(event as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Each count with its name, as in `/proc/vmstat`.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        EVENTS.iter().map(|&(event, name)| (name, self.get(event)))
    }

    /// The lines of `/proc/vmstat`.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        self.iter().try_for_each(|(name, count)| writeln!(out, "{name} {count}"))
    }
}
