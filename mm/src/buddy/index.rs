// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of chunks, one for each class: by the order of the largest free block in them.
//!
//! A set is a bitmap over chunks with two levels of summary above it, so that the lowest member is
//! three bit scans away, for up to 2^18 chunks (1 TiB) and one more word to look at for each TiB
//! beyond. Words of all sets for the same chunks stand side by side, since chunks move between sets.
//!
//! ```text
//!   level 2   [1.......]                                a bit a word of level 1
//!   level 1   [.1....1.][........] ..                   a bit a word of level 0
//!   level 0   [........][..1..1..] .. [1.......] ..     a bit a chunk
//! ```

use core::ops::Range;

use super::leaf::Class;
use crate::addr::{NR_ORDERS, Order};

const LEVELS: usize = 3;
/// Sets, of which one for each class above none is in use; a power of two.
const SETS: usize = 16;

/// The chunk that an allocation takes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Best {
    pub(super) class: Class,
    pub(super) chunk: usize,
    pub(super) first_pfn: u64,
}

/// The sets of one allocator, kept in its metadata.
#[derive(Debug)]
pub(super) struct ChunkSets<'a> {
    words: &'a mut [u64],
    /// The best chunk for a single frame, for as long as no chunk changes its set.
    pub(super) for_page: Option<Best>,
    /// Where each level begins.
    levels: [usize; LEVELS],
    /// Bit `n`: the set of class `n` has a member.
    populated: u32,
}

/// Words of each level over `nr_chunks`, for one set.
const fn level_words(nr_chunks: usize) -> [usize; LEVELS] {
    let bottom = nr_chunks.div_ceil(64);
    let middle = bottom.div_ceil(64);
    [bottom, middle, middle.div_ceil(64)]
}

impl<'a> ChunkSets<'a> {
    /// Words of metadata for `nr_chunks`.
    pub(super) const fn words(nr_chunks: usize) -> usize {
        let [bottom, middle, top] = level_words(nr_chunks);
        SETS * (bottom + middle + top)
    }

    /// Empty sets. `words` has [`ChunkSets::words`] and may hold anything.
    pub(super) fn new(nr_chunks: usize, words: &'a mut [u64]) -> Self {
        words.fill(0);
        let [bottom, middle, _] = level_words(nr_chunks);
        Self { words, for_page: None, levels: [0, SETS * bottom, SETS * (bottom + middle)], populated: 0 }
    }

    /// The smallest class that has a block of `order`, and its lowest chunk.
    #[inline(always)]
    pub(super) fn best(&self, order: u32) -> Option<(Class, usize)> {
        let class = self.populated >> order >> 1;
        if class == 0 {
            return None;
        }
        let class = Class::of(order + class.trailing_zeros());
        Some((class, self.first(class)?))
    }

    /// The largest class that has a chunk.
    pub(super) fn largest(&self) -> Class {
        self.populated.checked_ilog2().and_then(|class| class.checked_sub(1)).map_or(Class::NONE, Class::of)
    }

    #[inline(always)]
    fn first(&self, class: Class) -> Option<usize> {
        let [bottom, middle, top] = self.levels.map(|level| level + class.as_usize());
        let mut index = 0;
        let word = loop {
            let word = *self.words.get(top + index * SETS)?;
            if word != 0 {
                break word;
            }
            index += 1;
        };
        let index = index * 64 + lowest_bit(word);
        let index = index * 64 + lowest_bit(*self.words.get(middle + index * SETS)?);
        Some(index * 64 + lowest_bit(*self.words.get(bottom + index * SETS)?))
    }

    /// Whether a chunk is in a set.
    pub(super) fn contains(&self, class: Class, chunk: usize) -> bool {
        let word = self.words.get(chunk / 64 * SETS + class.as_usize());
        word.is_some_and(|word| word >> (chunk % 64) & 1 != 0)
    }

    /// Whether any of these chunks is in a set. O(chunks / 64).
    pub(super) fn any(&self, class: Class, chunks: Range<usize>) -> bool {
        words_of(chunks).any(|(index, mask)| {
            let word = self.words.get(index * SETS + class.as_usize());
            word.is_some_and(|word| word & mask != 0)
        })
    }

    /// Moves a chunk from one set to another.
    #[inline(never)]
    pub(super) fn change(&mut self, chunk: usize, from: Class, to: Class) {
        self.for_page = None;
        if from != Class::NONE {
            self.remove(from, chunk);
        }
        if to != Class::NONE {
            self.insert(to, chunk);
        }
    }

    /// Puts a run of chunks, which is not empty, in a set. O(chunks / 64).
    pub(super) fn insert_run(&mut self, class: Class, chunks: Range<usize>) {
        self.for_page = None;
        let Range { mut start, mut end } = chunks;
        for level in self.levels {
            for (index, mask) in words_of(start..end) {
                if let Some(word) = self.words.get_mut(level + index * SETS + class.as_usize()) {
                    *word |= mask;
                }
            }
            (start, end) = (start / 64, end.div_ceil(64));
        }
        self.populated |= 1 << class.as_usize();
    }

    #[inline]
    fn insert(&mut self, class: Class, chunk: usize) {
        let mut index = chunk;
        for level in self.levels {
            let word = self.words.get_mut(level + index / 64 * SETS + class.as_usize());
            let Some(word) = word else { return };
            let before = *word;
            *word = before | 1 << (index % 64);
            if before != 0 {
                return;
            }
            index /= 64;
        }
        self.populated |= 1 << class.as_usize();
    }

    #[inline]
    fn remove(&mut self, class: Class, chunk: usize) {
        let mut index = chunk;
        for level in self.levels {
            let word = self.words.get_mut(level + index / 64 * SETS + class.as_usize());
            let Some(word) = word else { return };
            *word &= !(1 << (index % 64));
            if *word != 0 {
                return;
            }
            index /= 64;
        }
        let [.., top] = self.levels;
        let tops = self.words.get(top..).unwrap_or_default();
        if tops.iter().skip(class.as_usize()).step_by(SETS).all(|word| *word == 0) {
            self.populated &= !(1 << class.as_usize());
        }
    }

    /// Whether the summaries say what the bitmaps say.
    pub(super) fn is_consistent(&self) -> bool {
        let [bottom, middle, top] = self.levels.map(|level| level / SETS);
        let end = self.words.len() / SETS;
        (0..SETS).all(|class| {
            let word = |index: usize| self.words.get(index * SETS + class).copied().unwrap_or(0);
            let bit = |level: usize, index: usize| word(level + index / 64) >> (index % 64) & 1 != 0;
            let sums_up = |from: usize, to: usize, end: usize| {
                (0..to - from).all(|index| bit(to, index) == (word(from + index) != 0))
                    && (to - from..(end - to) * 64).all(|index| !bit(to, index))
            };
            let is_populated = (top..end).any(|index| word(index) != 0);
            sums_up(bottom, middle, top)
                && sums_up(middle, top, end)
                && is_populated == (self.populated >> class & 1 != 0)
                && (!is_populated || (1..=NR_ORDERS).contains(&class))
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

const _: () = assert!(Class::WHOLE.as_usize() < SETS && Order::MAX.as_usize() + 1 == NR_ORDERS);

#[cfg(test)]
mod tests {
    use super::*;

    /// Two words in the top level.
    const NR_CHUNKS: usize = 300_000;

    #[test]
    #[cfg_attr(miri, ignore = "many chunks")]
    fn the_lowest_chunk_of_the_smallest_class_is_found() {
        let mut words = vec![0x5a5a; ChunkSets::words(NR_CHUNKS)];
        let mut sets = ChunkSets::new(NR_CHUNKS, &mut words);
        assert_eq!(sets.best(0), None);
        assert_eq!(sets.largest(), Class::NONE);
        let members = [(3, 299_999), (3, 262_144), (3, 5000), (3, 64), (7, 0), (7, 63)];
        for (order, chunk) in members {
            sets.change(chunk, Class::NONE, Class::of(order));
            assert!(sets.is_consistent());
            assert_eq!(
                sets.best(order),
                Some((Class::of(order), chunk)).filter(|_| chunk != 63).or(Some((Class::of(7), 0)))
            );
        }
        assert_eq!(sets.best(0), Some((Class::of(3), 64)));
        assert_eq!(sets.best(4), Some((Class::of(7), 0)));
        assert_eq!(sets.best(8), None);
        assert_eq!(sets.largest(), Class::of(7));
        sets.change(0, Class::of(7), Class::of(1));
        assert_eq!(sets.best(0), Some((Class::of(1), 0)));
        for chunk in [64, 5000, 262_144] {
            assert_eq!(sets.best(2), Some((Class::of(3), chunk)));
            sets.change(chunk, Class::of(3), Class::NONE);
            assert!(sets.is_consistent());
        }
        assert_eq!(sets.best(2), Some((Class::of(3), 299_999)));
        sets.change(299_999, Class::of(3), Class::NONE);
        assert_eq!(sets.best(2), Some((Class::of(7), 63)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many chunks")]
    fn runs_are_set_in_all_levels() {
        for run in [0..1, 0..64, 1..63, 63..65, 100..10_000, 0..NR_CHUNKS] {
            let mut words = vec![0x5a5a; ChunkSets::words(NR_CHUNKS)];
            let mut sets = ChunkSets::new(NR_CHUNKS, &mut words);
            sets.insert_run(Class::WHOLE, run.clone());
            assert!(sets.is_consistent());
            assert_eq!(sets.best(0), Some((Class::WHOLE, run.start)));
            assert!(sets.any(Class::WHOLE, run.end - 1..NR_CHUNKS));
            assert!(!sets.any(Class::WHOLE, run.end..NR_CHUNKS));
            assert!(!sets.any(Class::WHOLE, 0..run.start));
            assert!(sets.contains(Class::WHOLE, run.end - 1));
            assert!(!sets.contains(Class::WHOLE, run.end));
        }
    }
}
