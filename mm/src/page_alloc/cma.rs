// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chunks of a contiguous memory area: who takes from them, and how many of their frames are free.
//!
//! Frames of such chunks go to movable blocks that find nothing else ([`Mobility::Cma`]), so that whoever owns the area
//! can have them back at any time: by [`alloc_contig_range`](Pages::alloc_contig_range), which moves what is in the way.
#![forbid(unsafe_code)]

use super::{ContigError, ContigFault, Pages};
use crate::addr::{Order, PhysRange};
use crate::arch::Arch;
use crate::buddy::Mobility;
use crate::gfp::Gfp;

impl<A: Arch> Pages<'_, A> {
    /// Makes whole chunks a contiguous memory area, for good. They must be free, but for what can be moved. O(frames).
    ///
    /// # Errors
    ///
    /// [`ContigError`] with the frame that is in the way; nothing has changed then. [`ContigFault::Foreign`] also if the
    /// zone is too small for chunks of different types.
    pub fn make_cma(&self, range: PhysRange) -> Result<(), ContigError> {
        let foreign = ContigError { fault: ContigFault::Foreign, pfn: range.start().pfn() };
        let place = self.map.find_frame(range.start().pfn()).ok_or(foreign)?;
        let cell = self.zones.get(self.map.zone(place)).ok_or(foreign)?;
        let is_whole = (range.start().as_raw() | range.end().as_raw()).is_multiple_of(Order::MAX.bytes());
        if !is_whole || !cell.zone.lock(self.arch).buddy().is_grouping() {
            return Err(foreign);
        }
        let taken = self.alloc_contig_range(Gfp::KERNEL, range)?;
        for chunk in super::contig::chunks_of(range) {
            cell.zone.lock(self.arch).buddy_mut().set_mobility(chunk.start().pfn(), Mobility::Cma);
        }
        // It was just taken.
        let freed = self.free_contig_range(taken);
        debug_assert!(freed.is_ok(), "{freed:?}");
        Ok(())
    }

    /// Frames of contiguous memory areas that are neither taken nor lent (Linux's `CmaFree`). O(zones).
    #[must_use]
    pub fn cma_free_pages(&self) -> u64 {
        self.zones.iter().map(|cell| cell.zone.lock(self.arch).buddy().free_pages_of(Mobility::Cma)).sum()
    }
}
