// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is unmapped and waits until all TLBs have forgotten it.
//!
//! A queue in the order of unmapping, each area with the moment at which it was unmapped. A whole flush that began later,
//! whoever asked for it, makes everything in front of it quiescent; then it is given back, a bounded number of blocks with
//! each call.

use super::area::{Run, extent, extent_of};
use super::block::{self, Head, Page, State as BlockState, TagStore};
use super::space::Space;
use super::{Region, State, Vmalloc};
use crate::arch::Arch;
use crate::slab::PageSource;
use crate::tlb::Stamp;

/// Blocks that one call gives back at most.
pub(super) const MOST_BLOCKS: u32 = 64;
/// And so many more for the pages of the area that it frees.
const MOST_OWN: u64 = 1024;

/// See the head of this file. The links are in the tags.
#[derive(Debug)]
pub(super) struct Queue {
    /// First and last.
    ends: Option<(Page, Page)>,
    /// Frames of areas in the queue.
    pages: u64,
    /// Pages, frames and addresses, that came in since a flush was asked for.
    unflushed: u64,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self { ends: None, pages: 0, unflushed: 0 }
    }

    /// Frames that wait.
    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Puts an area, which is unmapped and whose tags begin with `head`, at the end; `frames` of what was mapped are its
    /// own.
    #[inline]
    pub(super) fn push<T: TagStore>(
        &mut self,
        space: &mut Space<T>,
        first: Page,
        head: Head,
        frames: u64,
        stamp: Stamp,
    ) {
        let waiting =
            Head { word: block::lazy(head.word, None), note: stamp.into_word(), extent: extent(0, frames), ..head };
        space.tags_mut().set_head(first, waiting);
        self.ends = match self.ends {
            Some((oldest, last)) => {
                space.set_next_lazy(last, Some(first));
                Some((oldest, first))
            }
            None => Some((first, first)),
        };
        self.pages += frames;
        // As Linux counts: with a guard page.
        self.unflushed += extent_of(head.extent).1 + 1;
    }

    /// The one that waits longest.
    fn first<T: TagStore>(&self, space: &Space<T>) -> Option<(Page, Stamp)> {
        let (head, _) = self.ends?;
        Some((head, space.stamp(head)))
    }

    /// The areas in it.
    pub(super) fn iter<T: TagStore>(&self, space: &Space<T>) -> impl Iterator<Item = Page> {
        core::iter::successors(self.ends.map(|(head, _)| head), |page| space.next_lazy(*page))
    }

    pub(super) fn validate<T: TagStore>(&self, space: &Space<T>) -> bool {
        let all_lazy = self.iter(space).all(|page| space.block_at(page).state == BlockState::Lazy);
        let pages: u64 = self.iter(space).map(|page| space.extent(page).1).sum();
        let ordered = self.iter(space).map(|page| space.stamp(page)).is_sorted();
        all_lazy && ordered && pages == self.pages && self.iter(space).last() == self.ends.map(|(_, last)| last)
    }
}

impl<A: Arch, S: PageSource> State<'_, A, S> {
    /// Pages, frames and addresses, that were unmapped since a flush was asked for.
    pub(super) const fn unflushed(&self) -> u64 {
        self.lazy.unflushed + self.shelf.unflushed()
    }

    /// Whether something is to be given back as soon as TLBs have forgotten it.
    pub(super) const fn has_due(&self) -> bool {
        self.lazy.ends.is_some() || self.shelf.has_old() || !self.dying.is_empty()
    }

    /// Everything that was freed so far is due, at a moment when it is unmapped.
    pub(super) fn make_due(&mut self, now: Stamp) {
        self.shelf.age(now);
        self.lazy.unflushed = 0;
    }

    /// Free pages of address space, those that are kept for the next of a length included.
    pub(super) const fn free_addresses(&self) -> u64 {
        self.space.free_pages() as u64 + self.pool.pages() as u64
    }
}

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Behind an area of so many pages that was freed: gives something back, and tells whether it is time for a flush, which
    /// the caller then does.
    #[inline(never)]
    pub(super) fn settle(&self, state: &mut State<'a, A, S>, pages: u64) -> bool {
        if !state.dying.is_empty() {
            self.unmap_more(state);
        }
        let areas = if state.shelf.pages() > state.quota { MOST_BLOCKS } else { 2 };
        // As many as begin to wait, if that is not too much: else frames would pile up where memory is in pieces.
        self.reap(state, areas, MOST_BLOCKS + pages.min(MOST_OWN) as u32);
        let waiting = state.unflushed().max(state.shelf.pages());
        if waiting <= state.quota {
            self.reduce_quota(state, waiting);
            return false;
        }
        if self.enlarge_quota(state, waiting) {
            return false;
        }
        let wants_flush = state.lazy.unflushed > state.quota || !state.shelf.has_old();
        if wants_flush {
            state.make_due(self.tlb.stamp(self.regime));
        }
        wants_flush
    }

    /// The flush that [`settle`](Self::settle) asked for in a region. It serves the others too, and some of what they have
    /// kept since the last one is given back: their CPUs may not come by for long.
    #[inline(never)]
    pub(super) fn flush_for_all(&self, region: &Region<'a, A, S>) {
        for other in self.beside(region) {
            self.peek(other, |state| {
                self.reap(state, MOST_BLOCKS, MOST_BLOCKS);
                state.make_due(self.tlb.stamp(self.regime));
                self.reduce_quota(state, state.shelf.pages());
            });
        }
        self.tlb.flush_everything(self.regime);
    }

    /// Gives back up to `areas` areas that wait no longer, and not many more than so many blocks. Returns how many
    /// frames.
    pub(super) fn reap(&self, state: &mut State<'a, A, S>, areas: u32, blocks: u32) -> u64 {
        let (mut areas, mut blocks, mut freed) = (areas, blocks, 0);
        while areas > 0
            && blocks > 0
            && let Some((first, last)) = state.lazy.ends
        {
            state.space.tags_mut().focus(first);
            let head = state.space.tags().head(first);
            if !self.tlb.is_past(Stamp::from_word(head.note)) {
                break;
            }
            let (_, left) = extent_of(head.extent);
            let rest = self.give_runs(state, first, head, &mut blocks);
            (freed, state.lazy.pages) = (freed + left - rest, state.lazy.pages - (left - rest));
            if rest != 0 {
                break;
            }
            state.lazy.ends = block::next_of(head.word).map(|next| (next, last));
            state.pool.put(&mut state.space, first, head.word);
            areas -= 1;
        }
        if state.shelf.old_since().is_none_or(|since| !self.tlb.is_past(since)) {
            return freed;
        }
        while areas > 0
            && blocks > 0
            && let Some((first, head)) = state.shelf.pop_old(&mut state.space)
        {
            let (_, left) = extent_of(head.extent);
            let rest = self.give_runs(state, first, head, &mut blocks);
            freed += left - rest;
            if rest != 0 {
                let head = state.space.tags().head(first);
                state.shelf.push_old(&mut state.space, first, head);
                break;
            }
            state.pool.put(&mut state.space, first, head.word);
            areas -= 1;
        }
        freed
    }

    /// Gives back the frames of an area that nobody can reach, as many as `blocks` allows; notes and returns how many are
    /// left.
    fn give_runs(&self, state: &mut State<'a, A, S>, first: Page, head: Head, blocks: &mut u32) -> u64 {
        let (mut done, mut left) = extent_of(head.extent);
        let mut run = Run::from_word(head.run);
        if u64::from(run.pages) == left && done == 0 {
            run.blocks().for_each(|block| self.source.give(block));
            *blocks -= 1;
            return 0;
        }
        while left > 0 && *blocks > 0 {
            run = state.space.run(first, done as u32);
            for block in run.blocks() {
                self.source.give(block);
                *blocks = blocks.saturating_sub(1);
            }
            (done, left) = (done + 1, left - u64::from(run.pages));
        }
        state.space.set_extent(first, done, left);
        left
    }

    /// Gives back what waits, after a flush if it must be; a bounded part of it. Returns how many pages, frames or at least
    /// addresses; 0 if nothing waits.
    pub fn flush_some(&self) -> u64 {
        let prepare = |state: &mut State<'a, A, S>| {
            let now = self.tlb.stamp(self.regime);
            state.shelf.age(now);
            let lazy = state.lazy.first(&state.space).map(|(_, stamp)| stamp);
            let [lazy, old] = [lazy, state.shelf.old_since()].map(|since| since.map(|since| self.tlb.is_past(since)));
            lazy.or(old)?;
            let is_past = lazy.unwrap_or(true) && old.unwrap_or(true);
            if !is_past {
                state.make_due(now);
            }
            Some(!is_past)
        };
        let reap = |state: &mut State<'a, A, S>| {
            let before = state.free_addresses();
            let freed = self.reap(state, MOST_BLOCKS, MOST_BLOCKS);
            freed.max(state.free_addresses() - before)
        };
        for region in self.regions() {
            // All of it, but others get the lock in between.
            while self.peek(region, |state| self.unmap_more(state)) == Some(true) {}
        }
        // One flush for all regions.
        let needs = self.regions().filter_map(|region| self.peek(region, prepare).flatten());
        match needs.reduce(|one, other| one | other) {
            None => return 0,
            Some(true) => self.tlb.flush_everything(self.regime),
            Some(false) => {}
        }
        self.regions().filter_map(|region| self.peek(region, reap)).sum()
    }

    /// Gives back everything that waits. Others may go on freeing, so there is an end to it.
    pub(super) fn give_back_all(&self) {
        const MOST_ROUNDS: usize = 1 << 16;
        let _ = (0..MOST_ROUNDS).find(|_| self.flush_some() == 0);
    }

    /// Flushes and gives back everything that waits now, as Linux's `vm_unmap_aliases` does and more.
    pub fn purge(&self) {
        self.flush_ram();
        self.give_back_all();
        for region in self.regions() {
            self.peek(region, |state| state.pool.drain(&mut state.space));
        }
    }
}
