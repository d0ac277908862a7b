// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping what was freed, no more than a bounded part of it at a time.
//!
//! An area of usual size is unmapped by the call that frees it, and then is put on the [`Shelf`](super::shelf::Shelf) or waits
//! in the [`Queue`](super::lazy::Queue). Of a longer one this and each later call unmap a
//! part: a handler that frees a gigabyte, and interrupts that are masked meanwhile, take no longer than for 32 MiB.

use super::area::{EXTRA, UNLIKE, extent, extent_of};
use super::block::{self, Head, Page, State as BlockState, TagStore};
use super::space::Space;
use super::{State, Vmalloc};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::Arch;
use crate::pgtable::{CONTIGUOUS_GROUP, ENTRIES, PAGE_LEVEL};
use crate::slab::PageSource;

/// Descriptors that one call clears at most.
const MOST: u64 = 8192;
/// The largest group of descriptors that may not be cut, in bytes: contiguous blocks.
const GROUP: u64 = (CONTIGUOUS_GROUP * ENTRIES) as u64 * PAGE_SIZE;
const _: () = assert!(GROUP == MOST * PAGE_SIZE);

/// Areas of which a part is still mapped. Their tags say how many pages are not.
#[derive(Debug)]
pub(super) struct Dying {
    /// The last one that came; the next is in its tags.
    first: Option<Page>,
    /// Frames of all of them.
    pages: u64,
}

impl Dying {
    pub(super) const fn new() -> Self {
        Self { first: None, pages: 0 }
    }

    #[inline(always)]
    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Frames of the areas in it.
    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    /// The areas in it.
    pub(super) fn iter<T: TagStore>(&self, space: &Space<T>) -> impl Iterator<Item = Page> {
        core::iter::successors(self.first, |page| space.next_lazy(*page))
    }

    pub(super) fn validate<T: TagStore>(&self, space: &Space<T>) -> bool {
        let is_partly_done = |page| {
            let (done, pages) = space.extent(page);
            space.block_at(page).state == BlockState::Lazy && done < pages
        };
        self.iter(space).all(is_partly_done)
            && self.pages == self.iter(space).map(|page| space.extent(page).1).sum::<u64>()
    }
}

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Unmaps an area, whose tags begin with `head`, or leaves that to [`unmap_more`](Self::unmap_more).
    #[inline(always)]
    pub(super) fn retire(&self, state: &mut State<'a, A, S>, first: Page, head: Head) {
        let (_, pages) = extent_of(head.extent);
        if pages > MOST {
            return self.retire_by_parts(state, first, head);
        }
        let size = pages * PAGE_SIZE;
        let unmapped = state.tree.unmap_for_now(state.virt_of(first), size, self.tlb, &mut state.tables);
        debug_assert!(unmapped.is_ok(), "a whole area needs no table to be unmapped: {unmapped:?}");
        self.put_away(state, first, head);
    }

    /// Puts an area that is unmapped where the next of that length finds it; or lets it wait.
    #[inline(always)]
    fn put_away(&self, state: &mut State<'a, A, S>, first: Page, head: Head) {
        let (_, pages) = extent_of(head.extent);
        let is_plain = block::short_of(head.word) & UNLIKE == 0
            && pages + u64::from(EXTRA) == u64::from(block::pages_of(head.word));
        let is_put = is_plain && state.shelf.put(&mut state.space, first, Head { extent: extent(0, pages), ..head });
        if !is_put {
            state.lazy.push(&mut state.space, first, head, pages, self.tlb.stamp(self.regime));
        }
    }

    #[cold]
    #[inline(never)]
    fn retire_by_parts(&self, state: &mut State<'a, A, S>, first: Page, head: Head) {
        let (_, pages) = extent_of(head.extent);
        let word = block::lazy(head.word, state.dying.first);
        state.space.tags_mut().set_head(first, Head { word, extent: extent(0, pages), ..head });
        state.dying.first = Some(first);
        state.dying.pages += pages;
    }

    /// Goes on with what is partly unmapped. Whether there is more.
    #[inline(never)]
    pub(super) fn unmap_more(&self, state: &mut State<'a, A, S>) -> bool {
        let mut work = 0;
        while work < MOST
            && let Some(first) = state.dying.first
        {
            state.space.tags_mut().focus(first);
            let head = state.space.tags().head(first);
            let ((done, pages), virt) = (extent_of(head.extent), state.virt_of(first).as_raw());
            let (start, end) = (virt + done * PAGE_SIZE, virt + pages * PAGE_SIZE);
            // To where no group is cut.
            let stop = ((start / GROUP + 1) * GROUP).min(end);
            let unmapped = state.tree.unmap(VirtAddr::new(start), stop - start, self.tlb, &mut state.tables);
            debug_assert!(unmapped.is_ok(), "whole groups need no table to be unmapped");
            let Ok(unmapped) = unmapped else { return false };
            let is_by_blocks = usize::from(unmapped.span.level) < PAGE_LEVEL;
            work += if is_by_blocks { unmapped.pages / ENTRIES as u64 } else { MOST };
            if stop < end {
                state.space.set_extent(first, done + (stop - start) / PAGE_SIZE, pages);
            } else {
                state.dying.first = block::next_of(head.word);
                state.dying.pages -= pages;
                self.put_away(state, first, Head { extent: extent(0, pages), ..head });
            }
        }
        !state.dying.is_empty()
    }
}
