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
    count: usize,
}

impl Marks {
    pub(super) const NONE: Self = Self { bits: core::ptr::null_mut(), count: 0 };

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
        Some(Self { bits: metadata.as_mut_ptr().cast(), count })
    }

    /// The words of the bitmap of a kind, behind them those of the summary, and the number of marked words.
    fn bits(&self, kind: Marked) -> &[AtomicU64] {
        if self.bits.is_null() {
            return &[];
        }
        let per_kind = Self::per_kind(self.count);
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
        let summary = self.count.div_ceil(64) + block / 64;
        let [bits @ .., count] = self.bits(kind) else { return false };
        let (Some(bits), Some(summary)) = (bits.get(block), bits.get(summary)) else { return false };
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

    /// Calls `visit` with the marked words from `at` on, until it says that it has seen enough; where that was.
    /// O(words / 4096), and what is visited.
    #[inline(always)]
    pub(super) fn visit(&self, at: usize, kind: Marked, mut visit: impl FnMut(usize) -> bool) -> Option<usize> {
        let (bits, summary) = self.bits(kind).split_last()?.1.split_at_checked(self.count.div_ceil(64))?;
        let (mut block, mut mask) = (at / 64, u64::MAX << (at % 64));
        loop {
            let mut left = bits.get(block)?.load(Relaxed) & mask;
            while left != 0 {
                let at = block * 64 + left.trailing_zeros() as usize;
                if visit(at) {
                    return Some(at);
                }
                left &= left - 1;
            }
            block = Self::next_block(summary, block + 1)?;
            mask = u64::MAX;
        }
    }

    /// The next 64 words of which one is marked.
    fn next_block(summary: &[AtomicU64], block: usize) -> Option<usize> {
        let mut mask = u64::MAX << (block % 64);
        for (group, blocks) in summary.iter().enumerate().skip(block / 64) {
            let blocks = blocks.load(Relaxed) & mask;
            if blocks != 0 {
                return Some(group * 64 + blocks.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

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
                prop_assert_eq!(marks.visit(from, kinds[0], |_| true), model.range(from..).next().copied());
                prop_assert_eq!(marks.visit(0, kinds[1], |_| true), None);
                prop_assert_eq!(marks.nr_marked(kinds[0]), model.len() as u64);
            }
            for at in model {
                marks.mark(at, kinds[0], false);
            }
            prop_assert_eq!(marks.visit(0, kinds[0], |_| true), None);
        }
    }

    #[test]
    fn too_little_metadata_is_refused() {
        let mut metadata = vec![0; Marks::metadata_words(65) - 1];
        assert!(Marks::new(&mut metadata, 65).is_none());
        assert_eq!(Marks::NONE.visit(0, Marked::Adopted, |_| true), None);
    }
}
