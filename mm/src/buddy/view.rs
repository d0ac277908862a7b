// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the labels and words of a chunk say; nothing is changed here.

use super::chunk::{ALL_FULL, CHUNK_WORDS, EACH_LABEL, FRAME_WORDS, FRAMES, FULL_SHIFT, LABELS, WORD};
use super::index::{Class, Head};
use super::row;
use crate::addr::{MAX_ORDER, NR_ORDERS};

/// A chunk to look at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) head: Head,
    pub(super) words: &'a [u64; CHUNK_WORDS],
}

impl View<'_> {
    #[inline(always)]
    pub(super) fn head(self) -> Head {
        self.head
    }

    #[inline(always)]
    pub(super) fn word(self, word: u32) -> u64 {
        self.words.get(FRAMES + word as usize % FRAME_WORDS).copied().unwrap_or_default()
    }

    /// The labels of orders 0 to 3, or from 4 on.
    #[inline(always)]
    pub(super) fn labels(self, order: u32) -> u64 {
        self.words.get(LABELS + (order as usize / 4) % 2).copied().unwrap_or_default()
    }

    /// The row of full words.
    #[inline(always)]
    pub(super) fn full(self) -> u64 {
        self.labels(WORD) >> FULL_SHIFT
    }

    #[inline(always)]
    pub(super) fn is_full(self, word: u32) -> bool {
        self.full() >> (word % 16) & 1 != 0
    }

    /// The row of partial words.
    pub(super) fn partial(self) -> u64 {
        let labels = self.labels(0);
        let labels = labels | labels >> 32 | self.labels(4);
        (labels | labels >> 16) & ALL_FULL
    }

    /// The largest free block of a partial word.
    #[inline(always)]
    pub(super) fn label_of(self, word: u32) -> u32 {
        let labels = self.labels(0) >> (word % 16) & EACH_LABEL;
        if labels != 0 {
            return labels.trailing_zeros() / 16;
        }
        4 + (self.labels(4) >> (word % 16) & EACH_LABEL).trailing_zeros() / 16
    }

    /// By the largest free block, which is smaller than the chunk.
    #[inline(always)]
    pub(super) fn class(self) -> Class {
        let (small, large) = (self.labels(0), self.labels(4));
        match ((large >> FULL_SHIFT).checked_ilog2(), large.checked_ilog2(), small.checked_ilog2()) {
            (Some(_), _, _) => Class::of(WORD + row::largest(large >> FULL_SHIFT)),
            (_, Some(bit), _) => Class::of(4 + bit / 16),
            (_, _, Some(bit)) => Class::of(bit / 16),
            _ => Class::NONE,
        }
    }

    /// The frames of word `word` that are free, as a row.
    pub(super) fn frames(self, word: u32) -> u64 {
        if self.is_full(word) { !0 } else { self.word(word) }
    }

    /// Whether any frame of the block is free.
    pub(super) fn any_free(self, offset: u32, order: u32) -> bool {
        if order < WORD {
            return self.frames(offset / 64) >> (offset % 64) & row::ones(order) != 0;
        }
        let words = row::ones(order - WORD) << (offset / 64);
        (self.full() | self.partial()) & words != 0
    }

    /// Frames that are free.
    pub(super) fn free_pages(self) -> u64 {
        if !self.head().is_split() {
            return if self.head().class() == Class::NONE { 0 } else { 1 << MAX_ORDER };
        }
        (0..FRAME_WORDS as u32).map(|word| u64::from(self.frames(word).count_ones())).sum()
    }

    /// Adds the free blocks to those of each order. O(words).
    pub(super) fn count_blocks(self, nr_free: &mut [u64; NR_ORDERS]) {
        let (in_words, of_words) = nr_free.split_at_mut(WORD as usize);
        for word in 0..FRAME_WORDS as u32 {
            row::count_blocks(self.word(word), in_words);
        }
        row::count_blocks(self.full(), of_words);
    }

    /// The order of the free block that begins at this frame, if one does.
    pub(super) fn free_order(self, offset: u32) -> Option<u32> {
        let head = self.head();
        if !head.is_split() {
            return (offset == 0 && head.class() == Class::WHOLE).then_some(MAX_ORDER as u32);
        }
        let (word, bit) = (offset / 64, offset % 64);
        let (row, unit, first) = if self.is_full(word) { (self.full(), word, WORD) } else { (self.word(word), bit, 0) };
        let begins = |level: &u32| row::blocks(row, *level) >> unit & 1 != 0;
        let level = (0..WORD).find(begins)?;
        (first == 0 || bit == 0).then_some(first + level)
    }

    /// Whether the labels say what the words say, and the class what the labels say.
    pub(super) fn is_consistent(self) -> bool {
        let agrees = |word: u32| {
            let label = |order: u32| self.labels(order) >> (order % 4 * 16 + word) & 1 != 0;
            let expected = match self.word(word) {
                0 if self.is_full(word) => Some(WORD),
                0 => None,
                row => Some(row::largest(row)).filter(|order| *order < WORD),
            };
            (0..8).all(|order| label(order) == (expected == Some(order)))
                && (self.word(word) == 0 || expected.is_some())
        };
        (0..FRAME_WORDS as u32).all(agrees) && self.full() != ALL_FULL && self.class() == self.head().class()
    }
}
