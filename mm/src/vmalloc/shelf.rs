// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas that were freed whole, unmapped and with their frames, for the next of that length: most lengths are asked for
//! again soon, and then neither addresses nor frames have to be found.
//!
//! The same frames go to the same addresses by the same descriptors then, so that what TLBs may still hold is what the
//! tables say again, and no flush is needed for it. Areas to which that does not apply (of other attributes, changed,
//! moved, shrunk or grown) never come here.
//!
//! Lists by length, the last freed first. What is *young* was freed since the last flush that was asked for from here; by
//! a flush it becomes *old*, and is given back a little with each later call, unless it is asked for first. While anything
//! is old nothing else becomes so: one stamp tells for all of it whether TLBs have forgotten it.
//!
//! *Cost:* O(1), from bitmaps. *Invariants:* [`Shelf::validate`].
#![forbid(unsafe_code)]

use super::area::{EXTRA, extent_of};
use super::block::{self, Head, Page, State, TagStore};
use super::space::Space;
use crate::tlb::Stamp;

/// The longest block that has a list of its own.
const MOST: usize = 260;
/// Lists for longer ones, each for one length at a time.
const LONG: usize = 16;
const LISTS: usize = MOST + 1 + LONG;
/// No block.
const NONE: Page = Page::MAX;

/// Lists of one age.
#[derive(Debug)]
struct Lists {
    heads: [Page; LISTS],
    /// A bit for each that has something.
    present: [u64; LISTS.div_ceil(64)],
    areas: u64,
    /// Frames of all areas.
    pages: u64,
}

impl Lists {
    const EMPTY: Self = Self { heads: [NONE; LISTS], present: [0; LISTS.div_ceil(64)], areas: 0, pages: 0 };

    fn mark(&mut self, list: usize, is_present: bool) {
        if let Some(word) = self.present.get_mut(list / 64) {
            let bit = 1 << (list % 64);
            *word = if is_present { *word | bit } else { *word & !bit };
        }
    }

    #[inline(always)]
    fn push<T: TagStore>(&mut self, space: &mut Space<T>, list: usize, first: Page, head: Head) {
        let Some(slot) = self.heads.get_mut(list) else { return };
        let next = core::mem::replace(slot, first);
        let next = if next == NONE {
            self.mark(list, true);
            None
        } else {
            Some(next)
        };
        space.tags_mut().set_head(first, Head { word: block::lazy(head.word, next), ..head });
        self.areas += 1;
        self.pages += extent_of(head.extent).1;
    }

    /// The first of a list, out of it, and its tags.
    #[inline(always)]
    fn pop<T: TagStore>(&mut self, space: &mut Space<T>, list: usize) -> Option<(Page, Head)> {
        let slot = self.heads.get_mut(list)?;
        let first = *slot;
        if first == NONE {
            return None;
        }
        space.tags_mut().focus(first);
        let head = space.tags().head(first);
        self.areas -= 1;
        self.pages -= extent_of(head.extent).1;
        *slot = block::next_of(head.word).unwrap_or(NONE);
        if *slot == NONE {
            self.mark(list, false);
        }
        Some((first, head))
    }

    /// A list that has something.
    fn any(&self) -> Option<usize> {
        let (at, word) = self.present.iter().enumerate().find(|(_, word)| **word != 0)?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }

    fn iter<T: TagStore>(&self, space: &Space<T>) -> impl Iterator<Item = Page> {
        let present = |page: Page| (page != NONE).then_some(page);
        self.heads
            .iter()
            .flat_map(move |head| core::iter::successors(present(*head), move |page| space.next_lazy(*page)))
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shelf {
    young: Lists,
    old: Lists,
    /// When the old ones became old.
    since: Stamp,
    /// What the lists of longer ones are for.
    lengths: [Page; LONG],
}

impl Shelf {
    pub(super) const fn new() -> Self {
        Self { young: Lists::EMPTY, old: Lists::EMPTY, since: Stamp::from_word(0), lengths: [0; LONG] }
    }

    /// Frames of areas that are here.
    pub(super) const fn pages(&self) -> u64 {
        self.young.pages + self.old.pages
    }

    /// Whether something has to be given back.
    #[inline(always)]
    pub(super) const fn has_old(&self) -> bool {
        self.old.areas != 0
    }

    /// Pages of address space, guards counted as Linux does, for which no flush was asked from here.
    pub(super) const fn unflushed(&self) -> u64 {
        self.young.pages + self.young.areas
    }

    /// When what has to be given back began to wait for a flush.
    pub(super) fn old_since(&self) -> Option<Stamp> {
        self.has_old().then_some(self.since)
    }

    /// Makes everything old, at a moment when all of it is unmapped, if nothing is old yet.
    pub(super) fn age(&mut self, now: Stamp) {
        if !self.has_old() {
            core::mem::swap(&mut self.young, &mut self.old);
            self.since = now;
        }
    }

    /// The list for blocks of so many pages.
    #[inline(always)]
    fn list(&self, pages: Page) -> Option<usize> {
        if pages as usize <= MOST { Some(pages as usize) } else { self.long_list(pages) }
    }

    #[inline(never)]
    fn long_list(&self, pages: Page) -> Option<usize> {
        self.lengths.iter().position(|length| *length == pages).map(|at| MOST + 1 + at)
    }

    /// Takes an area, which is unmapped, and whose tags begin with `head`. `false` if there is no list for it.
    #[inline(always)]
    pub(super) fn put<T: TagStore>(&mut self, space: &mut Space<T>, first: Page, head: Head) -> bool {
        let pages = block::pages_of(head.word);
        let list = match self.list(pages) {
            Some(list) => list,
            None => match self.new_list(pages) {
                Some(list) => list,
                None => return false,
            },
        };
        self.young.push(space, list, first, head);
        true
    }

    #[cold]
    fn new_list(&mut self, pages: Page) -> Option<usize> {
        let is_empty = |at: usize| {
            let of = |lists: &Lists| lists.heads.get(MOST + 1 + at).is_some_and(|head| *head == NONE);
            of(&self.young) && of(&self.old)
        };
        let at = (0..LONG).find(|at| is_empty(*at))?;
        *self.lengths.get_mut(at)? = pages;
        Some(MOST + 1 + at)
    }

    /// An area whose block has exactly so many pages, and its tags. It stays lazy.
    #[inline(always)]
    pub(super) fn take<T: TagStore>(&mut self, space: &mut Space<T>, pages: u64) -> Option<(Page, Head)> {
        let list = if pages <= MOST as u64 { pages as usize } else { self.long_list(Page::try_from(pages).ok()?)? };
        if self.has_old() {
            self.make_young(space, list);
        }
        self.young.pop(space, list)
    }

    /// Sees to it that a list has something young, if it has anything.
    #[inline(never)]
    fn make_young<T: TagStore>(&mut self, space: &mut Space<T>, list: usize) {
        if self.young.heads.get(list) != Some(&NONE) {
            return;
        }
        if let Some((first, head)) = self.old.pop(space, list) {
            // Of one that is being given back some frames are gone.
            let is_whole = extent_of(head.extent).0 == 0;
            let lists = if is_whole { &mut self.young } else { &mut self.old };
            lists.push(space, list, first, head);
        }
    }

    /// Some area that has to be given back, and its tags.
    pub(super) fn pop_old<T: TagStore>(&mut self, space: &mut Space<T>) -> Option<(Page, Head)> {
        let list = self.old.any()?;
        self.old.pop(space, list)
    }

    /// Puts what [`pop_old`](Self::pop_old) gave back, of which something is left.
    pub(super) fn push_old<T: TagStore>(&mut self, space: &mut Space<T>, first: Page, head: Head) {
        if let Some(list) = self.list(block::pages_of(head.word)) {
            self.old.push(space, list, first, head);
        }
    }

    /// All areas that are here.
    pub(super) fn iter<T: TagStore>(&self, space: &Space<T>) -> impl Iterator<Item = Page> {
        self.young.iter(space).chain(self.old.iter(space))
    }

    pub(super) fn validate<T: TagStore>(&self, space: &Space<T>) -> bool {
        let is_sound = |lists: &Lists| {
            let pages: u64 = lists.iter(space).map(|page| space.extent(page).1).sum();
            let marked = |list: usize| lists.present.get(list / 64).is_some_and(|word| word >> (list % 64) & 1 == 1);
            let all_marked = lists.heads.iter().enumerate().all(|(list, head)| marked(list) == (*head != NONE));
            pages == lists.pages && lists.iter(space).count() as u64 == lists.areas && all_marked
        };
        let is_lazy = |page: Page| {
            let block = space.block_at(page);
            let (done, pages) = space.extent(page);
            block.state == State::Lazy && (done != 0 || pages + u64::from(EXTRA) == u64::from(block.pages))
        };
        is_sound(&self.young) && is_sound(&self.old) && self.iter(space).all(is_lazy)
    }
}
