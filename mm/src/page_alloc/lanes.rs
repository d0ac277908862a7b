// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lanes of the hoards: each CPU keeps to words of its own [lane](Lane) while there are some.
//!
//! What is kept of the 64 words of a stripe shares hardly a cache line with other lanes, and is decided about under the
//! lane's own lock. So CPUs that allocate and free meet only in the zone, for a new word, and where one frees what
//! another has allocated.
//!
//! The lock guards whether a word without blocks gets the first one, whether it begins to wait, and, together with the
//! zone's, whether it is hoarded. The zone's is taken first.
#![forbid(unsafe_code)]

use super::Pages;
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
}

impl LaneCell {
    pub(super) const fn new() -> Self {
        Self { lock: IrqSpinLock::new(Rank::LANE, ()) }
    }
}

/// The lock of a lane, held.
pub(super) struct LaneGuard<'l, A: Arch> {
    map: &'l WordMap<'l>,
    _lock: IrqGuard<'l, (), A>,
}

impl<A: Arch> LaneGuard<'_, A> {
    /// Has a word of the lane wait with blocks of that order, or no longer.
    #[inline(always)]
    pub(super) fn set_waiting(&self, place: Place, order: usize, waits: bool) {
        self.map.mark(place, Marked::Waiting(order), waits);
    }

    /// Sees to it that no search comes to the stripe of a word if none of those that wait is there.
    pub(super) fn sum_up(&self, place: Place, order: usize) {
        self.map.sum_up(place, Marked::Waiting(order));
    }

    /// Says of a word of the lane, whose zone is locked too, whether blocks of another order than its tag's may be out.
    pub(super) fn set_mixed(&self, place: Place, is_mixed: bool) {
        self.map.mark(place, Marked::Mixed, is_mixed);
    }
}

impl<'a, A: Arch> Pages<'a, A> {
    /// The lane of a word.
    #[inline(always)]
    fn lane_of(&self, place: Place) -> &'a LaneCell {
        #[expect(clippy::indexing_slicing, reason = "reduced to what there is")]
        self.lanes[place.stripe() as usize % MAX_LANES]
    }

    /// Locks the lane of a word.
    #[inline(always)]
    pub(super) fn lock_lane(&self, place: Place) -> LaneGuard<'_, A> {
        LaneGuard { map: &self.map, _lock: self.lane_of(place).lock.lock(self.arch) }
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
