// SPDX-License-Identifier: MIT OR Apache-2.0
//! Marks of words: for each [kind](Marked) a bitmap of the words of a span, and over it a summary, in which one bit says
//! whether any of 64 words is marked. The next marked word is found by a look at one bit for each GiB of RAM.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::hoard::MAX_HOARD_ORDER;
use crate::words;

/// What else there is to know of a hoarded word. Changed under the zone's lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Marked {
    /// It was hoarded while some of its frames were out, in blocks of whatever order.
    Adopted,
    /// It has blocks of this order, and waits for a CPU that needs some.
    Waiting(usize),
}

impl Marked {
    const KINDS: usize = 2 + MAX_HOARD_ORDER;

    const fn index(self) -> usize {
        match self {
            Self::Adopted => 0,
            Self::Waiting(order) => 1 + if order < MAX_HOARD_ORDER { order } else { MAX_HOARD_ORDER },
        }
    }
}

/// The marks of a number of words, in memory that is borrowed for as long as the map of words lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// For each kind the bitmap, its summary, and the number of marked words.
    bits: *mut AtomicU64,
    /// 64-bit words of a bitmap.
    blocks: u32,
    /// The same with what stands behind it.
    per_kind: u32,
}

impl Marks {
    pub(super) const NONE: Self = Self { bits: core::ptr::null_mut(), blocks: 0, per_kind: 0 };

    /// What `count` words need.
    pub(super) const fn metadata_words(count: usize) -> usize {
        Marked::KINDS * Self::per_kind(count)
    }

    const fn per_kind(count: usize) -> usize {
        let bits = count.div_ceil(64);
        bits + bits.div_ceil(64) + 1
    }

    /// Marks of `count` words, none of which is marked. `None` if there is too little metadata. It may hold anything.
    pub(super) fn new(metadata: &mut [u64], count: usize) -> Option<Self> {
        let metadata = metadata.get_mut(..Self::metadata_words(count))?;
        words::fill(metadata, 0);
        // An atomic has the layout of its integer, and any bits are a value of it.
        let (blocks, per_kind) = (count.div_ceil(64) as u32, Self::per_kind(count) as u32);
        Some(Self { bits: metadata.as_mut_ptr().cast(), blocks, per_kind })
    }

    /// How many words there may be: their number, rounded up to 64.
    #[inline(always)]
    pub(super) const fn room(&self) -> usize {
        self.blocks as usize * 64
    }

    /// The words of the bitmap of a kind, behind them those of the summary, and the number of marked words.
    #[inline(always)]
    fn bits(&self, kind: Marked) -> &[AtomicU64] {
        if self.bits.is_null() {
            return &[];
        }
        let per_kind = self.per_kind as usize;
        let bits = self.bits.wrapping_add(kind.index() * per_kind);
        // SAFETY: made by `new` from metadata that has so many for each kind, which is only ever seen as atomics, and
        // lives as long as the map of words that this is part of.
        unsafe { core::slice::from_raw_parts(bits, per_kind) }
    }

    /// Whether a word is marked.
    pub(super) fn is_marked(&self, at: usize, kind: Marked) -> bool {
        self.bits(kind).get(at / 64).is_some_and(|bits| bits.load(Relaxed) >> (at % 64) & 1 != 0)
    }

    /// How many words are marked.
    pub(super) fn nr_marked(&self, kind: Marked) -> u64 {
        self.bits(kind).last().map_or(0, |count| count.load(Relaxed))
    }

    /// Marks a word, or no longer. Whether it was marked.
    #[inline]
    pub(super) fn mark(&self, at: usize, kind: Marked, is_marked: bool) -> bool {
        let block = at / 64;
        if block >= self.blocks as usize {
            return false;
        }
        let first = self.bits.wrapping_add(kind.index() * self.per_kind as usize);
        let bits = first.wrapping_add(block);
        let summary = first.wrapping_add(self.blocks as usize + block / 64);
        let count = first.wrapping_add(self.per_kind as usize - 1);
        // SAFETY: as in `bits`: a word of the bitmap.
        let bits = unsafe { &*bits };
        // SAFETY: as in `bits`: the word above it in the summary.
        let summary = unsafe { &*summary };
        // SAFETY: as in `bits`: the last word.
        let count = unsafe { &*count };
        // Nobody else changes them meanwhile; who looks without the lock may miss a word.
        let before = bits.load(Relaxed);
        let after = if is_marked { before | 1 << (at % 64) } else { before & !(1 << (at % 64)) };
        if after == before {
            return is_marked;
        }
        bits.store(after, Relaxed);
        let step = if is_marked { 1 } else { u64::MAX };
        count.store(count.load(Relaxed).wrapping_add(step), Relaxed);
        if before == 0 {
            summary.store(summary.load(Relaxed) | 1 << (block % 64), Relaxed);
        } else if after == 0 {
            summary.store(summary.load(Relaxed) & !(1 << (block % 64)), Relaxed);
        }
        !is_marked
    }

    /// Which of 64 words are marked.
    #[inline(always)]
    pub(super) fn block(&self, kind: Marked, block: usize) -> u64 {
        if block >= self.blocks as usize {
            return 0;
        }
        let bits = self.bits.wrapping_add(kind.index() * self.per_kind as usize + block);
        // SAFETY: as in `bits`, whose first words these are.
        unsafe { &*bits }.load(Relaxed)
    }

    /// The next 64 words of which one is marked, from number `block` of them on, and which. O(words / 4096).
    #[inline(always)]
    pub(super) fn next_block(&self, kind: Marked, block: usize) -> Option<(usize, u64)> {
        let (bits, summary) = self.bits(kind).split_at_checked(self.blocks as usize)?;
        let (mut group, mut mask) = (block / 64, u64::MAX << (block % 64));
        // Behind the summary stands the number of marked words.
        while group + 1 < summary.len() {
            let blocks = summary.get(group)?.load(Relaxed) & mask;
            if blocks != 0 {
                let block = group * 64 + blocks.trailing_zeros() as usize;
                return Some((block, bits.get(block)?.load(Relaxed)));
            }
            (group, mask) = (group + 1, u64::MAX);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The next marked word from `at` on.
    fn next(marks: &Marks, at: usize, kind: Marked) -> Option<usize> {
        let here = marks.block(kind, at / 64) & u64::MAX << (at % 64);
        let (block, bits) = match here {
            0 => marks.next_block(kind, at / 64 + 1)?,
            _ => (at / 64, here),
        };
        Some(block * 64 + bits.trailing_zeros() as usize)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 200 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_next_one_is_what_a_set_says(
            count in 1..20_000usize,
            steps in proptest::collection::vec((any::<usize>(), any::<bool>(), any::<usize>()), 0..60),
        ) {
            let mut metadata = vec![!0; Marks::metadata_words(count)];
            let marks = Marks::new(&mut metadata, count).unwrap();
            let kinds = [Marked::Waiting(0), Marked::Waiting(MAX_HOARD_ORDER)];
            let mut model = BTreeSet::new();
            for (at, is_marked, from) in steps {
                let (at, from) = (at % count, from % (count + 1));
                marks.mark(at, kinds[0], is_marked);
                if is_marked { model.insert(at) } else { model.remove(&at) };
                prop_assert_eq!(marks.is_marked(at, kinds[0]), is_marked);
                prop_assert_eq!(next(&marks, from, kinds[0]), model.range(from..).next().copied());
                prop_assert_eq!(next(&marks, 0, kinds[1]), None);
                prop_assert_eq!(marks.nr_marked(kinds[0]), model.len() as u64);
            }
            for at in model {
                marks.mark(at, kinds[0], false);
            }
            prop_assert_eq!(next(&marks, 0, kinds[0]), None);
        }
    }

    #[test]
    fn too_little_metadata_is_refused() {
        let mut metadata = vec![0; Marks::metadata_words(65) - 1];
        assert!(Marks::new(&mut metadata, 65).is_none());
        assert_eq!(next(&Marks::NONE, 0, Marked::Adopted), None);
    }
}
