// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address space by the page: which runs of pages are free, found by size and by neighbour in constant time.
//!
//! A *block* is a run of at least two pages. All that is to be known of one stands in its *tags*, a word a page
//! beside the pages ([`TagStore`]), so nothing is allocated in order to allocate, and no tree is searched:
//!
//! ```text
//!   first page    state, length; next in its list (free, lazy) or info (busy)
//!   second page   previous in its list (free) or info (busy)
//!   last page     length (free): the way from the block behind to the first page
//! ```
//!
//! Free blocks are in lists by *class*: each length of its own up to 63 pages, then 32 classes for each power of
//! two. Two levels of bitmaps say which lists hold something. An allocation takes from the first list whose
//! every block is long enough, so one step finds a block; the rest of it goes back. A freed block joins the
//! free blocks on either side. The part of the space that was never used is one long block at the end, taken
//! only when nothing else fits: low addresses stay in use, and few tags and translation tables are ever needed.
//!
//! A block that is unmapped but may still be in a TLB is *lazy*: joined to nothing, until its owner, who may link such
//! blocks, frees it or uses it again.
//!
//! *Cost:* O(1) for everything but walks and a search by an address inside a block. *Lock:* the owner's.
//! *Invariants* ([`Space::validate`]): blocks cover the space without gap or overlap, no two free ones are
//! neighbours, and each is in the list of its class.
//!
//! After the two-level segregated fit of Masmano et al., "TLSF: a new dynamic memory allocator for real-time
//! systems" (ECRTS 2004), with its headers moved out of the memory.
#![forbid(unsafe_code)]

use core::fmt;

use super::block::{
    Block, Head, LENGTH_MASK, LENGTH_SHIFT, LOW, MAX_PAGES, NONE, NoTags, PREVIOUS_IS_FREE, Page, State, TagStore,
    header, lazy, next_of, pages_of, state_of,
};
use crate::tlb::Stamp;

/// Why there is no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SpaceError {
    /// No free block is long enough.
    NoSpace,
    /// No memory for tags.
    NoTags,
}

impl From<NoTags> for SpaceError {
    fn from(NoTags: NoTags) -> Self {
        Self::NoTags
    }
}

/// Lists of a power of two.
const SPLIT: usize = 32;
const SPLIT_SHIFT: u32 = SPLIT.trailing_zeros();
/// Powers of two, the first of which stands for all lengths below [`SPLIT`].
const POWERS: usize = (MAX_PAGES.ilog2() - SPLIT_SHIFT + 2) as usize;

/// A list of free blocks: lengths of one class.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Class {
    power: usize,
    part: usize,
}

impl Class {
    /// The class of blocks of this length.
    const fn of(pages: Page) -> Self {
        if pages < SPLIT as Page {
            return Self { power: 0, part: pages as usize };
        }
        let log = pages.ilog2();
        let part = (pages >> (log - SPLIT_SHIFT)) as usize % SPLIT;
        Self { power: (log - SPLIT_SHIFT + 1) as usize, part }
    }

    /// The first class all of whose blocks have at least this length.
    const fn at_least(pages: Page) -> Self {
        if pages < 2 * SPLIT as Page {
            return Self::of(pages);
        }
        Self::of(pages + (1 << (pages.ilog2() - SPLIT_SHIFT)) - 1)
    }
}

/// Free and busy blocks of a run of address space.
pub(super) struct Space<T> {
    tags: T,
    /// Pages of the space.
    pages: Page,
    free_pages: Page,
    /// A bit for each power of two that has a list with something in it.
    powers: u32,
    /// A bit for each such list.
    parts: [u32; POWERS],
    heads: [[Page; SPLIT]; POWERS],
}

impl<T> fmt::Debug for Space<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("pages", &self.pages)
            .field("free_pages", &self.free_pages)
            .finish_non_exhaustive()
    }
}

impl<T: TagStore> Space<T> {
    /// A space of `pages`, from 2 to [`MAX_PAGES`], all free.
    ///
    /// # Errors
    ///
    /// [`NoTags`] if there is none for the first two pages.
    pub(super) fn new(mut tags: T, pages: Page) -> Result<Self, NoTags> {
        tags.provide(0)?;
        tags.provide(1)?;
        let pages = pages.min(MAX_PAGES);
        let mut space =
            Self { tags, pages, free_pages: pages, powers: 0, parts: [0; POWERS], heads: [[NONE; SPLIT]; POWERS] };
        space.make_free(0, pages, 0);
        Ok(space)
    }

    /// Takes `pages`, at least 2, whose first is a multiple of `align`, a power of two, counted from a page
    /// that lies `skew` before the space.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    pub(super) fn alloc(&mut self, pages: Page, align: Page, skew: Page) -> Result<Page, SpaceError> {
        let pages = pages.max(2);
        // What is cut off in front is a block too, so it may take one more step.
        let slack = if align > 1 { align.saturating_mul(2) - 1 } else { 0 };
        let wanted = pages.checked_add(slack).ok_or(SpaceError::NoSpace)?;
        let found = self.find(wanted, pages, align, skew).ok_or(SpaceError::NoSpace)?;
        let first = aligned(found.first, align, skew);
        let end = first + pages;
        // All words that will ever be written for this block, before anything is.
        self.provide_around(first)?;
        self.provide_around(end)?;
        let rest = found.end() - end;
        self.unlink(found);
        let previous_is_free = if first > found.first {
            let flags = self.tags.get(found.first) & PREVIOUS_IS_FREE;
            self.make_free(found.first, first - found.first, flags);
            PREVIOUS_IS_FREE
        } else {
            self.tags.get(found.first) & PREVIOUS_IS_FREE
        };
        let pages = if rest >= 2 {
            self.make_free(end, rest, 0);
            pages
        } else {
            self.set_previous_is_free(found.end(), false);
            pages + rest
        };
        self.tags.set(first, header(State::Busy, pages) | previous_is_free);
        self.tags.set(first + 1, 0);
        self.tags.mark(first, true);
        self.free_pages -= pages;
        Ok(first)
    }

    /// Provides for the words on both sides of a border between blocks.
    fn provide_around(&mut self, border: Page) -> Result<(), NoTags> {
        self.tags.provide(border.saturating_sub(1))?;
        self.tags.provide((border + 1).min(self.pages - 1))
    }

    /// A free block that holds `pages` with this alignment, which any block of `wanted` pages does.
    fn find(&self, wanted: Page, pages: Page, align: Page, skew: Page) -> Option<Block> {
        let Class { power, part } =
            if wanted <= MAX_PAGES { Class::at_least(wanted) } else { Class { power: POWERS, part: 0 } };
        let here = self.parts.get(power).copied().unwrap_or(0) & (u32::MAX << part);
        let head = if here != 0 {
            self.head(power, here)
        } else {
            let above = u32::MAX.checked_shl(power as u32 + 1).unwrap_or(0) & self.powers;
            if above == 0 { NONE } else { self.head_of_power(above.trailing_zeros() as usize) }
        };
        if head != NONE {
            return Some(self.block_at(head));
        }
        self.find_exactly(pages, align, skew)
    }

    fn head_of_power(&self, power: usize) -> Page {
        self.head(power, self.parts.get(power).copied().unwrap_or(0))
    }

    /// The head of the first list of these.
    fn head(&self, power: usize, parts: u32) -> Page {
        let list = parts.trailing_zeros() as usize;
        self.heads.get(power).and_then(|lists| lists.get(list)).copied().unwrap_or(NONE)
    }

    /// The last resort: some blocks of each class that may hold one long enough. Bounded, and only ever needed
    /// when the space is all but full.
    #[cold]
    fn find_exactly(&self, pages: Page, align: Page, skew: Page) -> Option<Block> {
        const TRIES: usize = 64;
        let fits =
            |block: &Block| aligned(block.first, align, skew).checked_add(pages).is_some_and(|end| end <= block.end());
        let lowest = Class::of(pages.min(MAX_PAGES));
        let classes = (lowest.power..POWERS).flat_map(|power| (0..SPLIT).map(move |part| Class { power, part }));
        classes
            .filter(|class| class.power > lowest.power || class.part >= lowest.part)
            .flat_map(|class| self.list(class))
            .take(TRIES)
            .find(fits)
    }

    fn list(&self, class: Class) -> impl Iterator<Item = Block> + '_ {
        let head = self.head(class.power, 1 << class.part);
        let present = |page: Page| (page != NONE).then(|| self.block_at(page));
        core::iter::successors(present(head), move |block| present((self.tags.get(block.first) >> 32) as Page))
    }

    /// Gives a busy or lazy block back, and joins it with its free neighbours.
    pub(super) fn free(&mut self, first: Page) {
        let mut block = self.block_at(first);
        let mut flags = self.tags.get(first) & PREVIOUS_IS_FREE;
        self.free_pages += block.pages;
        self.tags.mark(first, false);
        if let Some(next) = self.block_from(block.end()).filter(|next| next.state == State::Free) {
            self.unlink(next);
            block.pages += next.pages;
        }
        if flags != 0 {
            let pages = (self.tags.get(first - 1) & LOW) as Page;
            let previous = self.block_at(first - pages);
            self.unlink(previous);
            flags = self.tags.get(previous.first) & PREVIOUS_IS_FREE;
            block = Block { first: previous.first, pages: previous.pages + block.pages, ..block };
        }
        self.make_free(block.first, block.pages, flags);
    }

    /// Makes a busy block longer by what is free behind it.
    ///
    /// # Errors
    ///
    /// [`SpaceError::NoSpace`] if that is not enough; [`SpaceError::NoTags`].
    pub(super) fn extend(&mut self, first: Page, pages: Page) -> Result<(), SpaceError> {
        let block = self.block_at(first);
        if pages <= block.pages {
            return Ok(());
        }
        let free = self.block_from(block.end()).filter(|next| next.state == State::Free).ok_or(SpaceError::NoSpace)?;
        let end = first.checked_add(pages).filter(|end| *end <= free.end()).ok_or(SpaceError::NoSpace)?;
        let rest = free.end() - end;
        self.provide_around(end)?;
        self.unlink(free);
        let end = if rest >= 2 {
            self.make_free(end, rest, 0);
            end
        } else {
            self.set_previous_is_free(free.end(), false);
            free.end()
        };
        self.free_pages -= end - block.end();
        let word = self.tags.get(first) & !LENGTH_MASK;
        self.tags.set(first, word | u64::from(end - first) << LENGTH_SHIFT);
        Ok(())
    }

    /// Sets the `next` of a lazy block, which is the owner's, to chain such blocks. A busy one becomes lazy.
    #[inline]
    pub(super) fn set_next_lazy(&mut self, first: Page, next: Option<Page>) {
        let word = self.tags.get(first);
        self.tags.set(first, lazy(word, next));
    }

    /// The `next` of a lazy block.
    pub(super) fn next_lazy(&self, first: Page) -> Option<Page> {
        next_of(self.tags.get(first))
    }

    /// What the owner of a busy block keeps with it: 32 bits and 64 bits.
    #[inline]
    pub(super) fn info(&self, first: Page) -> (u32, u64) {
        ((self.tags.get(first) >> 32) as u32, self.tags.get(first + 1))
    }

    /// Sets what [`info`](Self::info) tells.
    #[inline]
    pub(super) fn set_info(&mut self, first: Page, short: u32, long: u64) {
        let word = self.tags.get(first) & LOW;
        self.tags.set(first, word | u64::from(short) << 32);
        self.tags.set(first + 1, long);
    }

    /// The words beside the pages.
    pub(super) const fn tags(&self) -> &T {
        &self.tags
    }

    /// The words beside the pages, those to be written that belong to no block but a busy one of the caller's.
    pub(super) const fn tags_mut(&mut self) -> &mut T {
        &mut self.tags
    }

    /// When a lazy block was unmapped.
    pub(super) fn stamp(&self, first: Page) -> Stamp {
        Stamp::from_word(self.tags.get(first + 1))
    }

    /// The tags of the busy block that begins at `first`; `None` if none does.
    #[inline(always)]
    pub(super) fn area_at(&mut self, first: Page) -> Option<Head> {
        self.tags.focus(first);
        if !self.tags.is_marked(first) {
            return None;
        }
        let head = self.tags.head(first);
        if state_of(head.word) == State::Busy { Some(head) } else { None }
    }

    /// The first busy block that begins at `page` or behind it.
    pub(super) fn area_from(&self, page: Page) -> Option<Block> {
        let mut from = page;
        loop {
            let block = self.block_at(self.tags.marked_in(from..self.pages)?);
            if block.state == State::Busy {
                return Some(block);
            }
            from = block.end();
        }
    }

    /// The busy block that `page` is in.
    pub(super) fn area_around(&self, page: Page) -> Option<Block> {
        let first = self.tags.marked_before(page)?;
        Some(self.block_at(first)).filter(|block| page < block.end() && block.state == State::Busy)
    }

    /// Pages that are in no block but free ones.
    pub(super) const fn free_pages(&self) -> Page {
        self.free_pages
    }

    /// The block that begins at `first`, which one does.
    #[inline]
    pub(super) fn block_at(&self, first: Page) -> Block {
        let word = self.tags.get(first);
        Block { first, pages: pages_of(word), state: state_of(word) }
    }

    /// All blocks, by address.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        core::iter::successors(self.block_from(0), |block| self.block_from(block.end()))
    }

    /// Whether all invariants hold. O(blocks).
    pub(super) fn validate(&self) -> bool {
        let (mut end, mut free, mut listed, mut previous) = (0, 0, 0, State::Busy);
        for block in self.blocks() {
            let told = self.tags.get(block.first) & PREVIOUS_IS_FREE != 0;
            let is_free = block.state == State::Free;
            let sound = block.first == end
                && block.pages >= 2
                && told == (previous == State::Free)
                && !(told && is_free)
                && (block.state == State::Free) != self.tags.is_marked(block.first);
            let footed =
                !is_free || block.end() == self.pages || self.tags.get(block.end() - 1) & LOW == u64::from(block.pages);
            let in_list = !is_free || self.list(Class::of(block.pages)).any(|other| other == block);
            if !(sound && footed && in_list) {
                return false;
            }
            free += if is_free { block.pages } else { 0 };
            listed += usize::from(is_free);
            (end, previous) = (block.end(), block.state);
        }
        let all = (0..POWERS).flat_map(|power| (0..SPLIT).map(move |part| Class { power, part }));
        let in_lists: usize = all.clone().map(|class| self.list(class).count()).sum();
        let mapped = all.clone().all(|class| {
            let bit = self.parts.get(class.power).is_some_and(|parts| parts >> class.part & 1 == 1);
            bit == (self.head(class.power, 1 << class.part) != NONE)
        });
        let summed = (0..POWERS)
            .all(|power| (self.powers >> power & 1 == 1) == self.parts.get(power).is_some_and(|parts| *parts != 0));
        end == self.pages && free == self.free_pages && listed == in_lists && mapped && summed
    }

    /// The block that begins at `first`, unless that is the end of the space.
    fn block_from(&self, first: Page) -> Option<Block> {
        (first < self.pages).then(|| self.block_at(first))
    }

    /// Writes the tags of a free block, tells the block behind, and puts it into its list.
    fn make_free(&mut self, first: Page, pages: Page, flags: u64) {
        let end = first + pages;
        let Class { power, part } = Class::of(pages);
        let Some(head) = self.heads.get_mut(power).and_then(|lists| lists.get_mut(part)) else { return };
        let next = core::mem::replace(head, first);
        if let Some(parts) = self.parts.get_mut(power) {
            *parts |= 1 << part;
        }
        self.powers |= 1 << power;
        self.tags.set(first, header(State::Free, pages) | flags | u64::from(next) << 32);
        self.tags.set(first + 1, u64::from(NONE) << 32);
        if next != NONE {
            self.set_previous(next, first);
        }
        if end < self.pages {
            // The last page may be the second, which holds the link to the previous block above.
            let word = self.tags.get(end - 1);
            self.tags.set(end - 1, word & !LOW | u64::from(pages));
            self.set_previous_is_free(end, true);
        }
    }

    /// Takes a free block out of its list.
    fn unlink(&mut self, block: Block) {
        let next = (self.tags.get(block.first) >> 32) as Page;
        let previous = (self.tags.get(block.first + 1) >> 32) as Page;
        if next != NONE {
            self.set_previous(next, previous);
        }
        if previous != NONE {
            let word = self.tags.get(previous);
            self.tags.set(previous, word & LOW | u64::from(next) << 32);
            return;
        }
        let Class { power, part } = Class::of(block.pages);
        if let Some(head) = self.heads.get_mut(power).and_then(|lists| lists.get_mut(part)) {
            *head = next;
        }
        if next == NONE
            && let Some(parts) = self.parts.get_mut(power)
        {
            *parts &= !(1 << part);
            if *parts == 0 {
                self.powers &= !(1 << power);
            }
        }
    }

    fn set_previous(&mut self, block: Page, previous: Page) {
        let word = self.tags.get(block + 1);
        self.tags.set(block + 1, word & LOW | u64::from(previous) << 32);
    }

    /// Tells the block at `first`, if one begins there, about the one in front of it.
    fn set_previous_is_free(&mut self, first: Page, is_free: bool) {
        if first < self.pages {
            let word = self.tags.get(first) & !PREVIOUS_IS_FREE;
            self.tags.set(first, if is_free { word | PREVIOUS_IS_FREE } else { word });
        }
    }
}

/// The first page from `first` on that is a multiple of `align`, counted from `skew` pages before the space, and
/// leaves nothing in front, or a block.
const fn aligned(first: Page, align: Page, skew: Page) -> Page {
    let place = (first + skew).next_multiple_of(align) - skew;
    if place - first == 1 { place + align } else { place }
}

#[cfg(test)]
mod tests;
