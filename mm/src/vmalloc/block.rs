// SPDX-License-Identifier: MIT OR Apache-2.0
//! A block's first tag: what it says, and the words that say it; and where tags are kept.
#![forbid(unsafe_code)]

/// A page's number in a space.
pub(super) type Page = u32;

/// Longest space, in pages: 256 GiB.
pub(super) const MAX_PAGES: Page = 1 << 26;

/// The first words of an area's block, in one go.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// What the block is, and its length.
    pub(super) word: u64,
    /// Who asked for it; or when it was unmapped.
    pub(super) note: u64,
    /// How long it is.
    pub(super) extent: u64,
    /// The first of its runs.
    pub(super) run: u64,
}

/// Words beside the pages.
pub(super) trait TagStore {
    /// Provides for the word of `page`; it may hold anything then.
    ///
    /// # Errors
    ///
    /// [`NoTags`].
    fn provide(&mut self, page: Page) -> Result<(), NoTags>;

    /// The word of `page`, which has been provided.
    fn get(&self, page: Page) -> u64;

    /// Sets the word of `page`, which has been provided.
    fn set(&mut self, page: Page, word: u64);

    /// Provides for all of these pages.
    ///
    /// # Errors
    ///
    /// [`NoTags`].
    fn provide_all(&mut self, mut pages: core::ops::Range<Page>) -> Result<(), NoTags> {
        pages.try_for_each(|page| self.provide(page))
    }

    /// Some of the words from `page` on, at least one of `count`, all of which have been provided: as many as stand in a row.
    fn words(&self, page: Page, count: u32) -> &[u64];

    /// The words of `page` and the three behind it, which have been provided.
    #[inline]
    fn head(&self, page: Page) -> Head {
        let [word, note, extent, run] = [0, 1, 2, 3].map(|at| self.get(page + at));
        Head { word, note, extent, run }
    }

    /// Sets what [`head`](Self::head) tells.
    #[inline]
    fn set_head(&mut self, page: Page, head: Head) {
        self.set(page, head.word);
        self.set(page + 1, head.note);
        self.set(page + 2, head.extent);
        self.set(page + 3, head.run);
    }

    /// The next calls will mostly be for words from `page` on.
    fn focus(&mut self, _page: Page) {}

    /// Marks `page`, which has been provided, as the first of a block that is not free, or no longer.
    fn mark(&mut self, page: Page, is_first: bool);

    /// Whether `page` is marked.
    fn is_marked(&self, page: Page) -> bool;

    /// The marked page at or before `page`. Cost: a few words for each level of the store.
    fn marked_before(&self, page: Page) -> Option<Page>;

    /// The first marked page in `pages`. Cost: a few words for each part of the store that is there.
    fn marked_in(&self, pages: core::ops::Range<Page>) -> Option<Page>;
}

/// There is no memory for tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoTags;

/// What a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    /// In the list of its class.
    Free = 1,
    /// An area.
    Busy = 2,
    /// Neither: its owner keeps it in a list of its own, until a flush or for the next of that length.
    Lazy = 3,
}

const STATE: u64 = 3;
pub(super) const PREVIOUS_IS_FREE: u64 = 1 << 2;
pub(super) const LENGTH_SHIFT: u32 = 3;
pub(super) const LENGTH_MASK: u64 = 0x1fff_ffff << LENGTH_SHIFT;
pub(super) const LOW: u64 = 0xffff_ffff;

/// No page.
pub(super) const NONE: Page = Page::MAX;

/// A block as its first tag describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) first: Page,
    pub(super) pages: Page,
    pub(super) state: State,
}

impl Block {
    /// The page behind the last.
    pub(super) const fn end(self) -> Page {
        self.first + self.pages
    }
}

/// What a block is, by its first tag.
#[inline(always)]
pub(super) const fn state_of(word: u64) -> State {
    match word & STATE {
        1 => State::Free,
        2 => State::Busy,
        _ => State::Lazy,
    }
}

/// The pages of a block, by its first tag.
#[inline(always)]
pub(super) const fn pages_of(word: u64) -> Page {
    ((word & LENGTH_MASK) >> LENGTH_SHIFT) as Page
}

/// The upper half of a first tag: of a busy block what its owner keeps there.
#[inline(always)]
pub(super) const fn short_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The next of a lazy block, by its first tag.
#[inline(always)]
pub(super) const fn next_of(word: u64) -> Option<Page> {
    let next = short_of(word);
    if next == NONE { None } else { Some(next) }
}

/// A first tag of a block that becomes busy.
#[inline(always)]
pub(super) const fn busy(word: u64, short: u32) -> u64 {
    word & (LENGTH_MASK | PREVIOUS_IS_FREE) | State::Busy as u64 | (short as u64) << 32
}

/// A first tag of a block that becomes lazy, or has another `next`.
#[inline(always)]
pub(super) const fn lazy(word: u64, next: Option<Page>) -> u64 {
    let next = match next {
        Some(next) => next,
        None => NONE,
    };
    word & (LENGTH_MASK | PREVIOUS_IS_FREE) | State::Lazy as u64 | (next as u64) << 32
}

/// The first tag of a block, without links.
pub(super) const fn header(state: State, pages: Page) -> u64 {
    state as u64 | (pages as u64) << LENGTH_SHIFT
}
