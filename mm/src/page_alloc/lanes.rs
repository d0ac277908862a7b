// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lanes of the hoards: each CPU keeps to words of its own [lane](Lane) while there are some.
//!
//! What is kept of the 64 words of a stripe shares hardly a cache line with other lanes, and is decided about under the
//! lane's own lock. So CPUs that allocate and free meet only in the zone, for a new word, and where one frees what
//! another has allocated.
//!
//! The lock guards whether a word without blocks gets the first one, whether it waits, and, together with the zone's,
//! whether it is hoarded. The zone's is taken first.
#![forbid(unsafe_code)]

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use super::Pages;
use super::hoard::MAX_HOARD_ORDER;
use super::map::{Place, WordMap};
use super::marks::Marked;
use crate::arch::Arch;
use crate::buddy::{Lane, MAX_LANES};
use crate::sync::{IrqGuard, IrqSpinLock, Rank};

/// What CPUs share of a lane.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct LaneCell {
    lock: IrqSpinLock<()>,
    /// Words that wait, by order; changed under the lock.
    waiting: [AtomicU32; MAX_HOARD_ORDER + 1],
}

impl LaneCell {
    pub(super) const fn new() -> Self {
        Self { lock: IrqSpinLock::new(Rank::LANE, ()), waiting: [const { AtomicU32::new(0) }; MAX_HOARD_ORDER + 1] }
    }

    /// How many words wait, of those that have blocks of this order.
    pub(super) fn nr_waiting(&self, order: usize) -> u32 {
        self.waiting.get(order).map_or(0, |count| count.load(Relaxed))
    }
}

/// The lock of a lane, held.
pub(super) struct LaneGuard<'l, A: Arch> {
    cell: &'l LaneCell,
    map: &'l WordMap<'l>,
    _lock: IrqGuard<'l, (), A>,
}

impl<A: Arch> LaneGuard<'_, A> {
    /// Has a word of the lane wait with blocks of that order, or no longer. Whether it did.
    #[inline(always)]
    pub(super) fn set_waiting(&self, place: Place, order: usize, waits: bool) -> bool {
        let before = self.map.mark(place, Marked::Waiting(order), waits);
        if before != waits
            && let Some(count) = self.cell.waiting.get(order)
        {
            // Nobody else changes it meanwhile.
            let step = if waits { 1 } else { u32::MAX };
            count.store(count.load(Relaxed).wrapping_add(step), Relaxed);
        }
        before
    }

    /// Says of a word of the lane that is about to be hoarded whether frames of it are out.
    pub(super) fn set_adopted(&self, place: Place, is_adopted: bool) {
        self.map.mark(place, Marked::Adopted, is_adopted);
    }
}

impl<'a, A: Arch> Pages<'a, A> {
    /// The lane of a word.
    #[inline(always)]
    pub(super) fn lane_of(&self, place: Place) -> &'a LaneCell {
        #[expect(clippy::indexing_slicing, reason = "reduced to what there is")]
        self.lanes[place.stripe() as usize % MAX_LANES]
    }

    /// Locks the lane of a word.
    #[inline(always)]
    pub(super) fn lock_lane(&self, place: Place) -> LaneGuard<'_, A> {
        let cell = self.lane_of(place);
        LaneGuard { cell, map: &self.map, _lock: cell.lock.lock(self.arch) }
    }
}

/// The least RAM of a lane, in bytes: eight stripes. Below, CPUs share lanes.
const LEAST_RAM: u64 = 8 << 24;

/// How many lanes there are, for so many CPUs and bytes of RAM.
pub(super) fn count(nr_cpus: usize, ram: u64) -> usize {
    Lane::of_cpu(0, nr_cpus.min((ram / LEAST_RAM) as usize)).count()
}

/// The lanes of stripes 0 to 7, from where on it repeats. `None` if there is no lane.
pub(super) fn deal(cells: &[LaneCell]) -> Option<[&LaneCell; MAX_LANES]> {
    let first = cells.first()?;
    Some(core::array::from_fn(|stripe| cells.get(Lane::of_cpu(stripe, cells.len()).index()).unwrap_or(first)))
}
