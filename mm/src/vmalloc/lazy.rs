// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is unmapped and waits until all TLBs have forgotten it.
//!
//! A queue in the order of unmapping, each area with the moment at which it was unmapped. A whole flush that began later,
//! whoever asked for it, makes everything in front of it quiescent; then it is given back, a bounded number of blocks with
//! each call.

use super::area::{Run, extent, extent_of};
use super::block::{self, Head, Page, State as BlockState, TagStore};
use super::space::Space;
use super::{State, Vmalloc};
use crate::arch::Arch;
use crate::slab::PageSource;
use crate::tlb::Stamp;

/// Blocks that one call gives back at most.
pub(super) const MOST_BLOCKS: u32 = 64;

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
        let [word, _, mapped, run] = head;
        space.tags_mut().set_head(first, [block::lazy(word, None), stamp.into_word(), extent(0, frames), run]);
        self.ends = match self.ends {
            Some((oldest, last)) => {
                space.set_next_lazy(last, Some(first));
                Some((oldest, first))
            }
            None => Some((first, first)),
        };
        self.pages += frames;
        // As Linux counts: with a guard page.
        self.unflushed += extent_of(mapped).1 + 1;
    }

    /// Whether it is time for a flush, which the caller then does.
    pub(super) const fn wants_flush(&mut self, limit: u64) -> bool {
        let wants = self.unflushed > limit;
        if wants {
            self.unflushed = 0;
        }
        wants
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

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Gives back up to `areas` areas that wait no longer, and no more than so many blocks. Returns how many
    /// frames.
    pub(super) fn reap(&self, state: &mut State<'a, A, S>, areas: u32, blocks: u32) -> u64 {
        let (mut areas, mut blocks, mut freed) = (areas, blocks, 0);
        while areas > 0
            && blocks > 0
            && let Some((first, last)) = state.lazy.ends
        {
            state.space.tags_mut().focus(first);
            let [word, stamp, extent, run] = state.space.tags().head(first);
            if !self.tlb.is_past(Stamp::from_word(stamp)) {
                break;
            }
            let (done, left) = extent_of(extent);
            if left > 0 {
                let run = Run::from_word(run);
                if u64::from(run.pages) == left && done == 0 {
                    run.blocks().for_each(|block| self.source.give(block));
                    (blocks, freed) = (blocks - 1, freed + left);
                    state.lazy.pages -= left;
                } else if !self.reap_runs(state, first, &mut blocks, &mut freed) {
                    break;
                }
            }
            state.lazy.ends = block::next_of(word).map(|next| (next, last));
            state.pool.put(&mut state.space, first, word);
            areas -= 1;
        }
        freed
    }

    /// Gives back the runs of an area, as many as `blocks` allows; tells whether that was all.
    #[inline(never)]
    fn reap_runs(&self, state: &mut State<'a, A, S>, first: Page, blocks: &mut u32, freed: &mut u64) -> bool {
        let (mut done, mut left) = state.space.extent(first);
        while left > 0 && *blocks > 0 {
            let run = state.space.run(first, done as u32);
            for block in run.blocks() {
                self.source.give(block);
                *blocks = blocks.saturating_sub(1);
            }
            let pages = u64::from(run.pages);
            (done, left) = (done + 1, left - pages);
            *freed += pages;
            state.lazy.pages -= pages;
        }
        state.space.set_extent(first, done, left);
        left == 0
    }

    /// Gives back what waits, after a flush if it must be; a bounded part of it. Returns how many pages, frames or at least
    /// addresses; 0 if nothing waits.
    pub fn flush_some(&self) -> u64 {
        let flush = self.peek(|state| {
            let (_, stamp) = state.lazy.first(&state.space)?;
            let flush = !self.tlb.is_past(stamp);
            if flush {
                state.lazy.unflushed = 0;
            }
            Some(flush)
        });
        match flush.flatten() {
            None => return 0,
            Some(true) => self.tlb.flush_everything(self.regime),
            Some(false) => {}
        }
        self.peek(|state| {
            let before = state.space.free_pages() + state.pool.pages();
            let freed = self.reap(state, MOST_BLOCKS, MOST_BLOCKS);
            freed.max(u64::from(state.space.free_pages() + state.pool.pages() - before))
        })
        .unwrap_or(0)
    }

    /// Gives back everything that waits. Others may go on freeing, so there is an end to it.
    pub(super) fn give_back_all(&self) {
        const MOST_ROUNDS: usize = 1 << 16;
        let _ = (0..MOST_ROUNDS).find(|_| self.flush_some() == 0);
    }

    /// Flushes and gives back everything that waits now, as Linux's `vm_unmap_aliases` does and more.
    pub fn purge(&self) {
        self.give_back_all();
        self.peek(|state| state.pool.drain(&mut state.space));
    }
}
