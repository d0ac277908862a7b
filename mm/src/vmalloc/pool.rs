// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses that are quiescent, kept for the next area of that length: most are asked for again soon, and then neither
//! joining nor searching nor splitting is needed.
//!
//! Blocks of each length up to [`MOST`] pages have a list, linked by their tags. When addresses run short, or on a purge,
//! all go back to the space. As Linux's size-segregated pools of vmap nodes (6.9).
#![forbid(unsafe_code)]

use super::block::{self, Page, TagStore};
use super::space::Space;

/// The longest block that is kept.
const MOST: usize = 260;
/// No block.
const NONE: Page = Page::MAX;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Pool {
    heads: [Page; MOST + 1],
    pages: Page,
}

impl Pool {
    pub(super) const fn new() -> Self {
        Self { heads: [NONE; MOST + 1], pages: 0 }
    }

    /// Pages that are kept.
    pub(super) const fn pages(&self) -> Page {
        self.pages
    }

    /// Takes a lazy block, which is in nobody's list, and whose first tag is `word`.
    #[inline]
    pub(super) fn put<T: TagStore>(&mut self, space: &mut Space<T>, first: Page, word: u64) {
        let pages = block::pages_of(word);
        match self.heads.get_mut(pages as usize) {
            Some(head) => {
                let next = core::mem::replace(head, first);
                space.tags_mut().set(first, block::lazy(word, (next != NONE).then_some(next)));
                self.pages += pages;
            }
            None => space.free(first),
        }
    }

    /// A block of exactly `pages` whose first is a multiple of `align`, and its first tag. It stays lazy.
    #[inline]
    pub(super) fn take<T: TagStore>(&mut self, space: &mut Space<T>, pages: Page, align: Page) -> Option<(Page, u64)> {
        let head = self.heads.get_mut(pages as usize)?;
        let first = *head;
        if first == NONE || first & (align - 1) != 0 {
            return None;
        }
        space.tags_mut().focus(first);
        let word = space.tags().get(first);
        *head = block::next_of(word).unwrap_or(NONE);
        self.pages -= pages;
        Some((first, word))
    }

    /// Gives all to the space.
    pub(super) fn drain<T: TagStore>(&mut self, space: &mut Space<T>) {
        for head in &mut self.heads {
            while *head != NONE {
                let first = *head;
                *head = space.next_lazy(first).unwrap_or(NONE);
                space.free(first);
            }
        }
        self.pages = 0;
    }
}
