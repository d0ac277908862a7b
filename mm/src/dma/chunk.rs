// SPDX-License-Identifier: MIT OR Apache-2.0
//! A piece of RAM that is mapped uncached: which pages of it are out, and whose they are.
//!
//! ```text
//!   map    a bit a page, set while it is free
//!   tags   what begins at a page: its length, its device, and who asked
//! ```
//!
//! A run of pages is aligned to its length, rounded up to a power of two, as Linux promises. *Complexity:* a few steps per
//! 64 pages.

use core::panic::Location;

use super::table::Table;
use crate::addr::{Order, PAGE_SIZE, PhysAddr};
use crate::buddy::PageBlock;

/// Most pages of a chunk: the largest block of the page allocator.
pub(super) const MAX_PAGES: u32 = Order::MAX.pages() as u32;
const WORDS: usize = MAX_PAGES as usize / 64;

/// Bits at multiples of 1, 2, 4 .. 64.
const ALIGNED: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// What begins at a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    /// Who asked; `None` if nothing begins here.
    pub(super) caller: Option<&'static Location<'static>>,
    pub(super) pages: u32,
    pub(super) device: u16,
}

impl Tag {
    const NONE: Self = Self { caller: None, pages: 0, device: 0 };
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Chunk {
    start: PhysAddr,
    pages: u32,
    free: u32,
    /// Whether it came from the page allocator, and can go back.
    is_grown: bool,
    map: [u64; WORDS],
    tags: Table<Tag>,
}

impl Chunk {
    /// Bytes that the tags of `pages` pages take.
    pub(super) const fn tag_bytes(pages: u32) -> u64 {
        pages as u64 * size_of::<Tag>() as u64
    }

    /// All of it free. `tags` has room for as many tags as there are pages.
    pub(super) fn new(start: PhysAddr, pages: u32, is_grown: bool, mut tags: Table<Tag>) -> Self {
        tags.fill(Tag::NONE);
        let mut map = [0; WORDS];
        let mut left = pages;
        for word in &mut map {
            *word = ones(left.min(64));
            left = left.saturating_sub(64);
        }
        Self { start, pages, free: pages, is_grown, map, tags }
    }

    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    pub(super) const fn free_pages(&self) -> u32 {
        self.free
    }

    pub(super) const fn is_grown(&self) -> bool {
        self.is_grown
    }

    const fn bytes(&self) -> u64 {
        self.pages as u64 * PAGE_SIZE
    }

    /// The page that holds `phys`, if it is one of these.
    #[inline]
    pub(super) const fn page_of(&self, phys: PhysAddr) -> Option<u32> {
        let offset = phys.as_raw().wrapping_sub(self.start.as_raw());
        if offset < self.bytes() { Some((offset / PAGE_SIZE) as u32) } else { None }
    }

    /// Takes a run of `pages`, of which there is at least one, for `device`.
    #[inline]
    pub(super) fn take(&mut self, pages: u32, device: u16, caller: &'static Location<'static>) -> Option<PhysAddr> {
        if pages > self.free {
            return None;
        }
        let page = if pages <= 64 { self.take_in_word(pages)? } else { self.take_words(pages)? };
        self.free -= pages;
        if let Some(tag) = self.tags.items_mut().get_mut(page as usize) {
            *tag = Tag { caller: Some(caller), pages, device };
        }
        self.start.checked_add(u64::from(page) * PAGE_SIZE)
    }

    #[inline]
    fn take_in_word(&mut self, pages: u32) -> Option<u32> {
        let aligned = ALIGNED.get(pages.next_power_of_two().trailing_zeros() as usize)?;
        for (index, word) in self.map.iter_mut().enumerate() {
            // Bits where a run begins: each step doubles the length that is known to be free.
            let (mut begins, mut length) = (*word, 1);
            while length < pages && begins != 0 {
                let more = length.min(pages - length);
                begins &= begins >> more;
                length += more;
            }
            begins &= aligned;
            if begins != 0 {
                let bit = begins.trailing_zeros();
                *word &= !(ones(pages) << bit);
                return Some(index as u32 * 64 + bit);
            }
        }
        None
    }

    #[cold]
    fn take_words(&mut self, pages: u32) -> Option<u32> {
        let words = pages.div_ceil(64) as usize;
        for index in (0..WORDS).step_by(words.next_power_of_two()) {
            let run = self.map.get(index..index + words)?;
            if (0u32..).zip(run).all(|(at, word)| word & ones(pages - at * 64) == ones(pages - at * 64)) {
                self.set(index as u32 * 64, pages, false);
                return Some(index as u32 * 64);
            }
        }
        None
    }

    /// What begins at `page`.
    #[inline]
    pub(super) fn tag(&self, page: u32) -> Option<Tag> {
        self.tags.items().get(page as usize).copied().filter(|tag| tag.caller.is_some())
    }

    /// What begins somewhere: the address and its tag.
    pub(super) fn tags(&self) -> impl Iterator<Item = (PhysAddr, Tag)> {
        let at = |page: usize| self.start.checked_add(page as u64 * PAGE_SIZE);
        let tags = self.tags.items().iter().enumerate().filter(|(_, tag)| tag.caller.is_some());
        tags.filter_map(move |(page, tag)| Some((at(page)?, *tag)))
    }

    /// Gives back what begins at `page`.
    #[inline]
    pub(super) fn put(&mut self, page: u32) {
        let Some(tag) = self.tags.items_mut().get_mut(page as usize) else { return };
        let pages = core::mem::replace(tag, Tag::NONE).pages;
        self.free += pages;
        match self.map.get_mut(page as usize / 64) {
            // Runs of up to 64 pages are aligned, so that they lie in one word.
            Some(word) if pages <= 64 => *word |= ones(pages) << (page % 64),
            _ => self.set(page, pages, true),
        }
    }

    /// Marks whole words, and what is left of the last, as free or not.
    #[cold]
    fn set(&mut self, page: u32, pages: u32, free: bool) {
        let words = self.map.iter_mut().skip(page as usize / 64);
        for (word, at) in words.zip((0..pages).step_by(64)) {
            let bits = ones(pages - at);
            *word = if free { *word | bits } else { *word & !bits };
        }
    }

    /// Takes the chunk apart: its pages, and the block that the tags were in.
    pub(super) fn into_parts(mut self) -> (PhysAddr, u32, Option<PageBlock>) {
        (self.start, self.pages, self.tags.clear())
    }

    /// Frames of its tags.
    pub(super) fn tag_pages(&self) -> u64 {
        self.tags.pages()
    }

    /// Whether map and tags say the same. O(pages).
    pub(super) fn validate(&self) -> bool {
        let mut map = [0u64; WORDS];
        let mut free = self.pages;
        let bit = |page: u32| (page as usize / 64, 1u64 << (page % 64));
        for page in 0..self.pages {
            let (word, bit) = bit(page);
            map.get_mut(word).into_iter().for_each(|word| *word |= bit);
        }
        let mut page = 0;
        while page < self.pages {
            let length = self.tag(page).map_or(0, |tag| tag.pages);
            for taken in page..page + length {
                let (word, bit) = bit(taken);
                map.get_mut(word).into_iter().for_each(|word| *word &= !bit);
            }
            free = free.wrapping_sub(length);
            page += length.max(1);
        }
        map == self.map && free == self.free
    }
}

/// The lowest `count` bits; all for 64 and more.
#[inline(always)]
const fn ones(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
