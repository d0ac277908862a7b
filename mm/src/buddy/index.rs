// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of chunks: one for each mobility and order of the largest free block.
//!
//! A set is a bitmap over chunks, with a word that says which words of it are not empty: its lowest member is
//! two bit scans away. In zones beyond 16 GiB a bit of this summary stands for a few words. Words of all sets
//! for the same chunks stand side by side, since chunks move between sets.
//!
//! ```text
//!   summary   [.1....1.]                                a bit a word, or a few
//!   bitmap    [........][..1..1..] .. [1.......] ..     a bit a chunk
//! ```
//!
//! Chunks that are free as a whole have no type: they are in a row of their own, for whoever needs one. A
//! reserved or isolated chunk keeps its type even then. Chunks without anything free are in no set.

use core::ops::Range;

use super::mobility::Mobility;
use crate::addr::{MAX_ORDER, NR_ORDERS, Order, Pfn};
use crate::words;

/// Sets of a type; those of classes 1 to 11 are in use.
const ROW: usize = 16;
/// Types and [`SHARED`], rounded up to a power of two.
pub(super) const ROWS: usize = 8;
/// Sets.
const SETS: usize = ROWS * ROW;
/// The row of chunks that are free as a whole and for everybody, behind those of the types.
pub(super) const SHARED: usize = Mobility::COUNT;
/// Bits of a summary that are followed to find a chunk of a kind.
const MOST_LOOKED_AT: usize = 4;
/// Where chunks of this row are filed while they are free as a whole.
#[inline(always)]
pub(super) const fn whole_row(row: usize) -> usize {
    if row < Mobility::ORDINARY { SHARED } else { row }
}

/// Classes of chunks that are split and have a free block.
const SPLIT: u32 = (1 << Class::WHOLE.0) - 2;

/// What of a chunk is free: the order of the largest free block plus 1, 0 if nothing is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Class(u8);

impl Class {
    pub(super) const NONE: Self = Self(0);
    /// Free as a whole.
    pub(super) const WHOLE: Self = Self::of(MAX_ORDER as u32);

    #[inline(always)]
    pub(super) const fn of(order: u32) -> Self {
        Self(order as u8 + 1)
    }

    pub(super) const fn as_usize(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn largest_order(self) -> Option<Order> {
        Order::new(self.as_usize().wrapping_sub(1))
    }
}

/// The head of a chunk: its first frame, row and class, and whether it is split, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head(pub(super) u64);

const CLASS_MASK: u64 = 0xf;
const ROW_SHIFT: u32 = 4;
/// Row and class together: the set.
const SET_MASK: u64 = SETS as u64 - 1;
/// Labels and frames have a meaning. If not, the chunk is free or taken as a whole.
const SPLIT_BIT: u64 = 1 << 7;
const PFN_SHIFT: u32 = 8;

impl Head {
    /// A chunk that is taken as a whole.
    pub(super) const fn taken(first_pfn: u64, row: usize) -> Self {
        Self(first_pfn << PFN_SHIFT | (row as u64) << ROW_SHIFT)
    }

    /// The same for the chunk behind it.
    #[inline(always)]
    pub(super) const fn next(self) -> Self {
        Self(self.0 + (1 << (PFN_SHIFT + MAX_ORDER as u32)))
    }

    /// The first frame, which itself may be no RAM.
    #[inline(always)]
    pub(super) const fn first_pfn(self) -> u64 {
        self.0 >> PFN_SHIFT
    }

    /// A frame of the chunk.
    #[inline(always)]
    pub(super) fn frame(self, offset: u32) -> Pfn {
        Pfn::new(self.first_pfn() + u64::from(offset)).unwrap_or_default()
    }

    #[inline(always)]
    pub(super) const fn class(self) -> Class {
        Class((self.0 & CLASS_MASK) as u8)
    }

    #[inline(always)]
    pub(super) const fn is_split(self) -> bool {
        self.0 & SPLIT_BIT != 0
    }

    /// Index into [`Mobility::ALL`], or [`SHARED`].
    #[inline(always)]
    pub(super) const fn row(self) -> usize {
        (self.0 & SET_MASK) as usize >> ROW_SHIFT
    }

    /// Where the chunk is filed. Of class 0: nowhere.
    #[inline(always)]
    const fn set(self) -> u32 {
        (self.0 & SET_MASK) as u32
    }

    /// Split, of this class below the whole.
    #[inline(always)]
    pub(super) const fn split(self, class: Class) -> Self {
        Self(self.0 & !CLASS_MASK | SPLIT_BIT | class.0 as u64)
    }

    /// Free as a whole: for everybody, if the type shares.
    #[inline(always)]
    pub(super) const fn whole(self) -> Self {
        Self(self.0 >> PFN_SHIFT << PFN_SHIFT | (whole_row(self.row()) << ROW_SHIFT) as u64 | Class::WHOLE.0 as u64)
    }

    #[inline(always)]
    pub(super) const fn with_row(self, row: usize) -> Self {
        Self(self.0 & !(SET_MASK & !CLASS_MASK) | (row << ROW_SHIFT) as u64)
    }
}

/// The sets of one allocator, kept in its metadata.
#[derive(Debug)]
pub(super) struct ChunkSets<'a> {
    summaries: &'a mut [u64; SETS],
    /// Bit `n` of word `s` of block `b`: chunk `64 * b + n` is in set `s`.
    bitmaps: &'a mut [[u64; SETS]],
    /// By row, bit `n`: the set of class `n` has a member.
    populated: [u32; ROWS],
    /// log2 of the words that a bit of a summary stands for.
    shift: u32,
}

impl<'a> ChunkSets<'a> {
    /// Words of metadata for `nr_chunks`.
    pub(super) const fn words(nr_chunks: usize) -> usize {
        (1 + nr_chunks.div_ceil(64)) * SETS
    }

    /// Empty sets; `None` if `words`, which may hold anything, is less than [`ChunkSets::words`].
    pub(super) fn new(nr_chunks: usize, words: &'a mut [u64]) -> Option<Self> {
        words::fill(words, 0);
        let (summaries, bitmaps) = words.as_chunks_mut().0.split_first_mut()?;
        let shift = bitmaps.len().div_ceil(64).next_power_of_two().ilog2();
        let sets = Self { summaries, bitmaps, populated: [0; ROWS], shift };
        (sets.bitmaps.len() >= nr_chunks.div_ceil(64)).then_some(sets)
    }

    /// The best split chunk of this row for a block of `order`: the lowest of the smallest class that has one,
    /// and its class.
    #[inline(always)]
    pub(super) fn best(&self, row: usize, order: u32) -> Option<(usize, Class)> {
        let classes = *self.populated.get(row % ROWS)? & SPLIT & !0 << (order + 1);
        if classes == 0 {
            return None;
        }
        let class = Class(classes.trailing_zeros() as u8);
        Some((self.first(row, class)?, class))
    }

    /// The lowest chunk of this row that is free as a whole.
    #[inline(always)]
    pub(super) fn whole(&self, row: usize) -> Option<usize> {
        self.first(row, Class::WHOLE)
    }

    /// The lowest chunk of this row and class.
    #[inline(always)]
    pub(super) fn first(&self, row: usize, class: Class) -> Option<usize> {
        let set = (row * ROW + class.as_usize()) % SETS;
        let summary = *self.summaries.get(set)?;
        let mut index = lowest_bit(summary) << self.shift;
        loop {
            let word = *self.bitmaps.get(index)?.get(set)?;
            if word != 0 {
                return Some(index * 64 + lowest_bit(word));
            }
            index += 1;
        }
    }

    /// The best chunk of this row for a block of `order` of those that are wanted: a split one, as [`best`](Self::best)
    /// finds it, or else one that is free as a whole. `wanted` tells of 64 chunks, from a number on, which those are.
    /// Of a class that has very many chunks not all are looked at.
    pub(super) fn best_of(&self, row: usize, order: u32, wanted: impl Fn(u64) -> u64) -> Option<usize> {
        let mut classes = *self.populated.get(row % ROWS)? & SPLIT & !0 << (order + 1);
        while classes != 0 {
            let class = Class(classes.trailing_zeros() as u8);
            if let Some(chunk) = self.first_of(row, class, &wanted) {
                return Some(chunk);
            }
            classes &= classes - 1;
        }
        self.first_of(whole_row(row), Class::WHOLE, &wanted)
    }

    /// The lowest chunk of a class of those that are wanted.
    fn first_of(&self, row: usize, class: Class, wanted: impl Fn(u64) -> u64) -> Option<usize> {
        let set = (row * ROW + class.as_usize()) % SETS;
        let mut summary = *self.summaries.get(set)?;
        for _ in 0..MOST_LOOKED_AT {
            if summary == 0 {
                return None;
            }
            let first = lowest_bit(summary) << self.shift;
            for index in first..first + (1 << self.shift) {
                let word = *self.bitmaps.get(index)?.get(set)? & wanted(index as u64 * 64);
                if word != 0 {
                    return Some(index * 64 + lowest_bit(word));
                }
            }
            summary &= summary - 1;
        }
        None
    }

    /// The largest class of this row that has a chunk.
    pub(super) fn largest(&self, row: usize) -> Class {
        let classes = self.populated.get(row).and_then(|classes| classes.checked_ilog2());
        Class(classes.unwrap_or(0) as u8)
    }

    /// Moves a chunk from the set of one head to that of another. Returns the frame at `offset` in it, so that
    /// who calls this last need not keep that.
    #[inline(always)]
    pub(super) fn refile(&mut self, chunk: usize, from: Head, to: Head, offset: u32) -> u64 {
        self.file(chunk, from.set(), to.set());
        to.first_pfn() + u64::from(offset)
    }

    #[inline(always)]
    fn file(&mut self, chunk: usize, from: u32, to: u32) {
        let Some(block) = self.bitmaps.get_mut(chunk / 64) else { return };
        let (bit, from, to) = (1 << (chunk % 64), from as usize % SETS, to as usize % SETS);
        if let Some(word) = block.get_mut(to)
            && to % ROW != 0
        {
            let before = *word;
            *word = before | bit;
            if before == 0 {
                let (summary, classes) = (self.summaries.get_mut(to), self.populated.get_mut(to / ROW));
                if let (Some(summary), Some(classes)) = (summary, classes) {
                    *summary |= 1 << ((chunk / 64) >> self.shift);
                    *classes |= 1 << (to % ROW);
                }
            }
        }
        if let Some(word) = block.get_mut(from)
            && from % ROW != 0
        {
            *word &= !bit;
            if *word == 0 {
                self.depopulate(from, chunk / 64);
            }
        }
    }

    /// A word of a set has no member any more.
    #[inline(always)]
    fn depopulate(&mut self, set: usize, index: usize) {
        if self.shift != 0 && self.is_used(set, index >> self.shift) {
            return;
        }
        let (summary, classes) = (self.summaries.get_mut(set), self.populated.get_mut(set / ROW));
        if let (Some(summary), Some(classes)) = (summary, classes) {
            *summary &= !(1 << (index >> self.shift));
            if *summary == 0 {
                *classes &= !(1 << (set % ROW));
            }
        }
    }

    /// Whether any of the words has a member that a bit of the summary stands for.
    #[inline(always)]
    fn is_used(&self, set: usize, bit: usize) -> bool {
        let blocks = self.bitmaps.get(bit << self.shift..).unwrap_or_default();
        blocks.iter().take(1 << self.shift).any(|block| block.get(set).is_some_and(|word| *word != 0))
    }

    /// Puts a run of chunks, which is not empty, in the set of those that are free as a whole. O(chunks / 64).
    pub(super) fn insert_whole(&mut self, chunks: Range<usize>) {
        let set = SHARED * ROW + Class::WHOLE.as_usize();
        let (summary, classes) = (self.summaries.get_mut(set), self.populated.get_mut(SHARED));
        let (Some(summary), Some(classes)) = (summary, classes) else { return };
        *classes |= 1 << Class::WHOLE.0;
        for (index, mask) in words_of(chunks) {
            if let Some(word) = self.bitmaps.get_mut(index).and_then(|block| block.get_mut(set)) {
                *word |= mask;
                *summary |= 1 << (index >> self.shift);
            }
        }
    }

    /// Whether a chunk is where its head says, and nowhere else.
    pub(super) fn is_filed(&self, head: Head, chunk: usize) -> bool {
        let as_expected = |(set, word): (usize, &u64)| {
            let expected = set == head.set() as usize && head.class() != Class::NONE;
            (word >> (chunk % 64) & 1 != 0) == expected
        };
        self.bitmaps.get(chunk / 64).is_some_and(|block| block.iter().enumerate().all(as_expected))
    }

    /// Whether the summaries say what the bitmaps say.
    pub(super) fn is_consistent(&self) -> bool {
        self.summaries.iter().enumerate().all(|(set, summary)| {
            let (row, class) = (set / ROW, set % ROW);
            let classes = self.populated.get(row).copied().unwrap_or(0);
            let in_use = (1..=NR_ORDERS).contains(&class) && (row < SHARED || class == NR_ORDERS);
            (0..64).all(|bit| (summary >> bit & 1 != 0) == self.is_used(set, bit))
                && (classes >> class & 1 != 0) == (*summary != 0)
                && (*summary == 0 || in_use)
        })
    }
}

const fn lowest_bit(word: u64) -> usize {
    word.trailing_zeros() as usize
}

/// The words that hold the bits of a range, each with a mask of those bits.
fn words_of(bits: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let words = bits.start / 64..bits.end.div_ceil(64);
    words.map(move |index| {
        let (first, end) = (index * 64, index * 64 + 64);
        let below = bits.start.saturating_sub(first);
        let above = end.saturating_sub(bits.end);
        (index, !0 << below & !0 >> above)
    })
}

const _: () = assert!(Class::WHOLE.as_usize() < ROW && SHARED < ROWS && Order::MAX.as_usize() + 1 == NR_ORDERS);

#[cfg(test)]
mod tests {
    use super::*;

    /// Several words to a bit of the summary.
    const NR_CHUNKS: usize = 300_000;

    fn filed(row: usize, class: Class) -> Head {
        if class == Class::WHOLE { Head::taken(0, row).whole() } else { Head::taken(0, row).split(class) }
    }

    #[test]
    #[cfg_attr(miri, ignore = "many chunks")]
    fn the_lowest_chunk_of_the_smallest_class_is_found() {
        let mut words = vec![0x5a5a; ChunkSets::words(NR_CHUNKS)];
        let mut sets = ChunkSets::new(NR_CHUNKS, &mut words).unwrap();
        let (none, of) = (filed(1, Class::NONE), |order| filed(1, Class::of(order)));
        assert_eq!(sets.best(1, 0), None);
        assert_eq!(sets.largest(1), Class::NONE);
        for (order, chunk) in [(3, 299_999), (3, 262_144), (3, 5000), (3, 64), (7, 63), (7, 0)] {
            sets.refile(chunk, none, of(order), 0);
            assert!(sets.is_consistent());
            assert_eq!(sets.best(1, order), Some((chunk, Class::of(order))));
        }
        assert_eq!(sets.best(1, 0), Some((64, Class::of(3))));
        assert_eq!(sets.best(1, 4), Some((0, Class::of(7))));
        assert_eq!(sets.best(1, 8), None);
        assert_eq!(sets.best(2, 0), None);
        assert_eq!(sets.largest(1), Class::of(7));
        sets.refile(0, of(7), of(1), 0);
        assert_eq!(sets.best(1, 0), Some((0, Class::of(1))));
        for chunk in [64, 5000, 262_144] {
            assert_eq!(sets.best(1, 2), Some((chunk, Class::of(3))));
            sets.refile(chunk, of(3), none, 0);
            assert!(sets.is_consistent());
        }
        assert_eq!(sets.best(1, 2), Some((299_999, Class::of(3))));
        sets.refile(299_999, of(3), of(5), 0);
        assert!(sets.is_consistent());
        assert_eq!(sets.best(1, 2), Some((299_999, Class::of(5))));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many chunks")]
    fn runs_of_whole_chunks_are_for_everybody() {
        for run in [0..1, 0..64, 1..63, 63..65, 100..10_000, 0..NR_CHUNKS] {
            let mut words = vec![0x5a5a; ChunkSets::words(NR_CHUNKS)];
            let mut sets = ChunkSets::new(NR_CHUNKS, &mut words).unwrap();
            sets.insert_whole(run.clone());
            assert!(sets.is_consistent());
            assert_eq!(sets.whole(SHARED), Some(run.start));
            let whole = filed(0, Class::WHOLE);
            assert!(sets.is_filed(whole, run.end - 1));
            assert!(run.end == NR_CHUNKS || !sets.is_filed(whole, run.end));
            sets.refile(run.start, whole, filed(0, Class::NONE), 0);
            assert!(sets.is_consistent());
            assert_eq!(sets.whole(SHARED), Some(run.start + 1).filter(|chunk| *chunk < run.end));
        }
    }
}
