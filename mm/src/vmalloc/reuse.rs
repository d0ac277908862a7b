// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas from the [`Shelf`](super::shelf::Shelf): mapped again as they were.

use super::area::{EXTRA, Kind, Run, extent};
use super::block::{self, Head, Page, TagStore};
use super::pieces::Pieces;
use super::{Region, State, Vmalloc};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::pgtable::{Attributes, MapError};
use crate::slab::PageSource;

/// What frames that are at hand may not be right for.
const FRESH: Gfp = Gfp::DMA.union(Gfp::THISNODE).union(Gfp::MOVABLE).union(Gfp::RECLAIMABLE);

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// An area for such a request that is at hand. All of a length begin at a multiple of what they have to, if that is not
    /// more than their length asks for. Complexity: O(1), and O(pieces) to map it.
    #[inline(always)]
    pub(super) fn reuse(&self, bytes: u64, gfp: Gfp, kind: Kind, caller: u64) -> Option<VirtAddr> {
        if gfp.intersects(FRESH) || !self.source.recycles() {
            return None;
        }
        let pages = bytes.div_ceil(PAGE_SIZE);
        let region = self.home();
        let found = self.peek_here(region, |state| {
            let (first, head) = self.take_from_shelf(state, pages)?;
            let word = block::busy(head.word, kind as u32);
            let head = Head { word, note: caller, extent: extent(bytes, pages), ..head };
            state.space.tags_mut().set_head(first, head);
            state.nr_areas += 1;
            state.nr_pages += pages;
            Some((first, state.virt_of(first)))
        });
        let (first, virt) = found.flatten()?;
        if gfp.contains(Gfp::ZERO) {
            self.zero(region, first, pages);
        }
        Some(virt)
    }

    /// An area of so many pages from the shelf, mapped.
    #[inline(always)]
    fn take_from_shelf(&self, state: &mut State<'a, A, S>, pages: u64) -> Option<(Page, Head)> {
        let (first, head) = state.shelf.take(&mut state.space, pages + u64::from(EXTRA))?;
        let (virt, run) = (state.virt_of(first), Run::from_word(head.run));
        let mapped = if u64::from(run.pages) == pages && self.config.huge {
            state.tree.map_unused(virt, run.first.addr(), pages * PAGE_SIZE, Attributes::DATA, &mut state.tables)
        } else {
            self.map_runs(state, first, pages * PAGE_SIZE)
        };
        if mapped.is_err() {
            // A table is missing that was trimmed: the long way gives more back first.
            state.lazy.push(&mut state.space, first, head, pages, self.tlb.stamp(self.regime));
            return None;
        }
        Some((first, head))
    }

    /// Maps the runs of an area that has more than one, or each by pages.
    #[inline(never)]
    fn map_runs(&self, state: &mut State<'a, A, S>, first: Page, size: u64) -> Result<(), MapError> {
        let pieces = Pieces::of_area(&state.space, first, self.config.huge);
        state.tree.map_known(state.virt_of(first), size, pieces, Attributes::DATA, &mut state.tables)
    }

    /// Fills an area, which is ours, with zeros. Not under the lock: that takes long.
    #[inline(never)]
    fn zero(&self, region: &Region<'a, A, S>, first: Page, pages: u64) {
        let (mut index, mut done) = (0, 0);
        while done < pages
            && let Some(run) = self.peek(region, |state| state.space.run(first, index))
        {
            // SAFETY: the frames are RAM of this arch, by the source's promise, and the new area's, whose owner does not
            // know of it yet.
            unsafe { self.arch.fill(run.first.addr(), u64::from(run.pages) * PAGE_SIZE, 0) };
            (index, done) = (index + 1, done + u64::from(run.pages.max(1)));
        }
    }
}
