// SPDX-License-Identifier: MIT OR Apache-2.0
//! One chunk of 1024 frames: a head, labels, and sixteen words with a bit a frame.
//!
//! A word is a [row](super::row) of 64 frames, free ones set. It is *partial*, or *taken*, or *full*; each has one
//! *label* at most, by the largest free block that lies in it:
//!
//! ```text
//!   head          [ first frame | split | row | class ]
//!   labels        16 bits each, bit w for word w
//!                 [ order 0 | order 1 | order 2 | order 3 ] [ order 4 | order 5 |  full  |   -   ]
//!   words 0..16   64 frames each; 0 if taken, and 0 if full, so that blocks of order 6 and more need not touch them
//! ```
//!
//! The full words are a row too, of sixteen units: blocks of order 6 to 9 are its blocks of level 0 to 3. So
//! the smallest word that will do is the lowest label bit from an order on, and every operation is a few
//! shifts in one word of frames or in the row of full words, whatever the size of the block.
//!
//! A chunk that is free or taken as a whole is not *split*: then only the head has a meaning.

use super::index::{Class, Head};
use super::row;
use super::view::View;
use crate::addr::{MAX_ORDER, Pfn};

/// Words of a chunk: labels, the row before isolation, frames. Its head stands elsewhere.
pub(super) const CHUNK_WORDS: usize = FRAMES + FRAME_WORDS;
/// Where the labels stand.
pub(super) const LABELS: usize = 0;
/// Where the row stands that an isolated chunk came from.
const ASIDE: usize = 2;
/// Where the words of frames begin.
pub(super) const FRAMES: usize = 3;
/// Words with a bit a frame.
pub(super) const FRAME_WORDS: usize = 16;
/// The order of a full word.
pub(super) const WORD: u32 = 6;
/// Where the label `full` stands in its word.
pub(super) const FULL_SHIFT: u32 = 32;
pub(super) const ALL_FULL: u64 = 0xffff;
/// The same word in each of four labels.
pub(super) const EACH_LABEL: u64 = 0x0001_0001_0001_0001;

/// What freeing a block has come to.
pub(super) enum Put {
    /// It is part of a free block of this order now, or of one that is not larger than the largest of its word.
    Merged(u32),
    /// It would fill its word: nothing was changed.
    Fills,
    /// Part of it is free already.
    Occupied,
}

/// A chunk to work on.
pub(super) struct Chunk<'a> {
    pub(super) head: &'a mut u64,
    pub(super) words: &'a mut [u64; CHUNK_WORDS],
}

impl Chunk<'_> {
    #[inline(always)]
    pub(super) const fn view(&self) -> View<'_> {
        View { head: Head(*self.head), words: self.words }
    }

    #[inline(always)]
    pub(super) fn head(&self) -> Head {
        self.view().head()
    }

    #[inline(always)]
    pub(super) fn set_head(&mut self, head: Head) {
        *self.head = head.0;
    }

    /// Keeps the row that the chunk is in, which is about to be isolated.
    pub(super) fn set_aside(&mut self) {
        let row = self.head().row() as u64;
        if let Some(slot) = self.words.get_mut(ASIDE) {
            *slot = row;
        }
    }

    /// The row that an isolated chunk came from.
    pub(super) fn row_aside(&self) -> usize {
        self.words.get(ASIDE).map_or(0, |row| *row as usize)
    }

    /// Nothing is free.
    #[inline(always)]
    fn clear(&mut self) {
        let [small, large, _, frames @ ..] = self.words;
        (*small, *large) = (0, 0);
        frames.fill(0);
    }

    /// Splits a chunk that is taken as a whole.
    pub(super) fn split_taken(&mut self) {
        let head = self.head().split(Class::NONE);
        self.clear();
        self.set_head(head);
    }

    /// Splits a chunk that is free as a whole, for this row: of all free words, some of which are to be taken now.
    pub(super) fn split_free(&mut self, row: usize) {
        let head = self.head().with_row(row).split(Class::NONE);
        self.clear();
        self.set_head(head);
        self.set_full(ALL_FULL);
    }

    /// Takes free frames, not all of the chunk, whatever blocks they are in. Sets the class that is left.
    pub(super) fn take_frames(&mut self, offset: u32, length: u32) {
        let (start, end) = (offset, offset + length);
        for word in start / 64..end.div_ceil(64) {
            let first = start.saturating_sub(word * 64);
            let count = (end - word * 64).min(64) - first;
            let left = self.view().frames(word) & !(row::ones_up_to(count) << first);
            if self.view().is_full(word) {
                self.set_full(self.view().full() & !(1 << word));
            } else {
                let label = self.view().label_of(word);
                self.unlabel(word, label);
            }
            self.set_word(word, left);
            if left != 0 {
                self.label(word, row::largest(left));
            }
        }
        self.set_head(self.head().split(self.view().class()));
    }

    /// Takes every free frame of a word that is not full, if they are blocks of an order without a remainder. Returns
    /// them, and the class that is left. The chunk is split.
    pub(super) fn take_word(&mut self, word: u32, order: u32) -> Option<(u64, Class)> {
        let (frames, class) = (self.view().word(word), self.head().class());
        if frames == 0 {
            return Some((0, class));
        }
        if row::runs(frames, order) * row::ones(order) != frames {
            return None;
        }
        let label = self.view().label_of(word);
        self.unlabel(word, label);
        self.set_word(word, 0);
        Some((frames, if Class::of(label) < class { class } else { self.view().class() }))
    }

    /// Splits a chunk that is free as a whole, for this row, and takes its first block, below the top order.
    pub(super) fn split_whole(&mut self, row: usize, order: u32) {
        let head = self.head().with_row(row).split(Class::of(MAX_ORDER as u32 - 1));
        self.clear();
        self.set_head(head);
        if order < WORD {
            self.set_full(ALL_FULL & !1);
            self.set_word(0, !row::ones(order));
            self.label(0, WORD - 1);
        } else {
            self.set_full(ALL_FULL & !row::ones(order - WORD));
        }
    }

    #[inline(always)]
    fn set_word(&mut self, word: u32, frames: u64) {
        if let Some(slot) = self.words.get_mut(FRAMES + word as usize % FRAME_WORDS) {
            *slot = frames;
        }
    }

    #[inline(always)]
    fn labels_mut(&mut self, order: u32) -> Option<&mut u64> {
        self.words.get_mut(LABELS + (order as usize / 4) % 2)
    }

    #[inline(always)]
    fn set_full(&mut self, full: u64) {
        if let Some(labels) = self.labels_mut(WORD) {
            *labels = *labels & !(ALL_FULL << FULL_SHIFT) | full << FULL_SHIFT;
        }
    }

    #[inline(always)]
    fn label(&mut self, word: u32, order: u32) {
        if let Some(labels) = self.labels_mut(order) {
            *labels |= 1 << (order % 4 * 16 + word);
        }
    }

    #[inline(always)]
    fn unlabel(&mut self, word: u32, order: u32) {
        if let Some(labels) = self.labels_mut(order) {
            *labels &= !(1 << (order % 4 * 16 + word));
        }
    }

    /// The lowest of the partial words whose largest block is the smallest that will do, and that.
    #[inline(always)]
    fn best_word(&self, order: u32) -> Option<(u32, u32)> {
        if order < 4 {
            let labels = self.view().labels(0) >> (order * 16);
            if labels != 0 {
                let bit = row::lowest(labels);
                return Some((bit % 16, order + bit / 16));
            }
        }
        let first = if order < 4 { 4 } else { order };
        let labels = (self.view().labels(4) & !(ALL_FULL << FULL_SHIFT)) >> (first % 4 * 16);
        if labels == 0 {
            return None;
        }
        let bit = row::lowest(labels);
        Some((bit % 16, first + bit / 16))
    }

    /// Takes a block below the order of the chunk: from the word whose largest block is the smallest that will
    /// do, the lowest of those. The chunk is of this class. Returns the first frame, and the class that is left;
    /// for small blocks `None` if there is nothing but full words.
    #[inline(always)]
    pub(super) fn take<const ORDER: u32>(&mut self, class: Class) -> Option<(u32, Class)> {
        if ORDER >= WORD {
            let (word, at) = self.take_words(ORDER - WORD)?;
            let left = if Class::of(at) < class { class } else { self.view().class() };
            return Some((word * 64, left));
        }
        let (word, label) = self.best_word(ORDER)?;
        let frames = self.view().word(word);
        let starts = row::runs(frames, ORDER);
        let bit = row::lowest(starts);
        let left = if ORDER == 0 { frames & frames.wrapping_sub(1) } else { frames & !(row::ones(ORDER) << bit) };
        self.set_word(word, left);
        let offset = word * 64 + bit;
        // The block that this was taken from begins here, too. Was it the only one of the largest?
        if label == ORDER {
            let others = if ORDER == 0 { left } else { starts & starts.wrapping_sub(1) };
            if others != 0 {
                return Some((offset, class));
            }
            self.unlabel(word, ORDER);
        } else {
            if !bit.is_multiple_of(1 << label) || row::runs(left, label) != 0 {
                return Some((offset, class));
            }
            self.unlabel(word, label);
        }
        if left != 0 {
            self.label(word, row::largest(left));
        }
        let left = if Class::of(label) < class { class } else { self.view().class() };
        Some((offset, left))
    }

    /// Takes the blocks of an order that one word has, as far as there is room, as [`take`](Chunk::take) does one
    /// by one. Returns their number, and the class that is left.
    #[inline(always)]
    pub(super) fn take_many<const ORDER: u32>(&mut self, class: Class, room: &mut [Pfn]) -> (usize, Class) {
        let (word, label, frames) = match self.best_word(ORDER) {
            Some((word, label)) => (word, label, self.view().word(word)),
            None => match self.take_words(0) {
                Some((word, at)) => (word, at, !0),
                None => return (0, class),
            },
        };
        let first = self.head().frame(word * 64);
        let all = row::runs(frames, ORDER);
        let mut starts = all;
        let mut taken = 0;
        while starts != 0
            && let Some(room) = room.get_mut(taken..)
        {
            // As many side by side as there are.
            let bit = row::lowest(starts);
            let together = if ORDER == 0 { (!(starts >> bit)).trailing_zeros() } else { 1 };
            let (mut pfn, mut count) = (first.plus(bit), 0);
            for slot in room.iter_mut().take(together as usize) {
                *slot = pfn;
                pfn = pfn.plus(1);
                count += 1;
            }
            if count == 0 {
                break;
            }
            starts &= !(row::ones_up_to(count) << bit);
            taken += count as usize;
        }
        let left = frames & !((all ^ starts) * row::ones(ORDER));
        self.set_word(word, left);
        if label < WORD {
            self.unlabel(word, label);
        }
        if left != 0 {
            self.label(word, row::largest(left));
        }
        (taken, if Class::of(label) < class { class } else { self.view().class() })
    }

    /// Takes the first frames of a full word.
    pub(super) fn take_from_full(&mut self, order: u32) -> Option<(u32, Class)> {
        let class = self.head().class();
        let (word, at) = self.take_words(0)?;
        self.set_word(word, !row::ones(order));
        self.label(word, WORD - 1);
        let left = if Class::of(at) < class { class } else { self.view().class() };
        Some((word * 64, left))
    }

    /// Takes `2^level` full words: from the smallest block of them that will do, the lowest of those. Returns the
    /// first, and the order of that block.
    #[inline(always)]
    fn take_words(&mut self, level: u32) -> Option<(u32, u32)> {
        let full = self.view().full();
        let mut runs = row::runs(full, level);
        let mut at = level;
        loop {
            let larger = row::next_runs(runs, at);
            let starts = runs & !(larger | larger << (1 << at));
            if starts != 0 {
                let word = row::lowest(starts);
                self.set_full(full & !(row::ones(level) << word));
                return Some((word, WORD + at));
            }
            at += 1;
            if at >= MAX_ORDER as u32 - WORD {
                return None;
            }
            runs = larger;
        }
    }

    /// Frees a block below the order of the chunk.
    #[inline(always)]
    pub(super) fn put<const ORDER: u32>(&mut self, offset: u32) -> Put {
        let (word, bit) = (offset / 64, offset % 64);
        if ORDER >= WORD {
            let block = row::ones(ORDER - WORD) << word;
            if (self.view().full() | self.view().partial()) & block != 0 {
                return Put::Occupied;
            }
            return Put::Merged(self.put_words(word, ORDER - WORD));
        }
        let block = row::ones(ORDER) << bit;
        let before = self.view().word(word);
        if before & block != 0 {
            return Put::Occupied;
        }
        if before == 0 {
            if self.view().is_full(word) {
                return Put::Occupied;
            }
            self.set_word(word, block);
            self.label(word, ORDER);
            return Put::Merged(ORDER);
        }
        let frames = before | block;
        if frames == !0 {
            return Put::Fills;
        }
        self.set_word(word, frames);
        if ORDER == 0 && frames >> (bit ^ 1) & 1 == 0 {
            // A single frame, and others are free in this word.
            return Put::Merged(0);
        }
        let label = self.view().label_of(word);
        let order = row::block_around(frames, bit, ORDER, WORD);
        if order > label {
            self.unlabel(word, label);
            self.label(word, order);
        }
        Put::Merged(order)
    }

    /// Frees some frames of one word. Returns the order of the largest block of the word.
    pub(super) fn put_frames(&mut self, word: u32, block: u64) -> Put {
        let before = self.view().frames(word);
        if before & block != 0 {
            return Put::Occupied;
        }
        if before != 0 {
            let label = self.view().label_of(word);
            self.unlabel(word, label);
        }
        let frames = before | block;
        if frames == !0 {
            self.set_word(word, 0);
            return Put::Merged(self.put_words(word, 0));
        }
        self.set_word(word, frames);
        let label = row::largest(frames);
        self.label(word, label);
        Put::Merged(label)
    }

    /// Frees the last frames of a word. Returns the order of the block that they are part of now.
    pub(super) fn fill(&mut self, offset: u32) -> u32 {
        let word = offset / 64;
        let label = self.view().label_of(word);
        self.unlabel(word, label);
        self.set_word(word, 0);
        self.put_words(word, 0)
    }

    /// Makes words full. They are taken. Returns the order of the block that they are part of now.
    #[inline(always)]
    fn put_words(&mut self, word: u32, level: u32) -> u32 {
        let full = self.view().full() | row::ones(level) << word;
        self.set_full(full);
        WORD + row::block_around(full, word, level, MAX_ORDER as u32 - WORD)
    }
}
