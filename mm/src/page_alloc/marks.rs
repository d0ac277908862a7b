// SPDX-License-Identifier: MIT OR Apache-2.0
//! Marks of words: for each [kind](Marked) a bitmap of the words of a span, and over it a summary for each lane, in which
//! one bit says whether any of the 64 words of a stripe is marked. The next marked word is found by a look at one bit for
//! each GiB of RAM.
//!
//! ```text
//!   stripes      [ kind 0 | kind 1 | .. ][ kind 0 | .. ]    a cache line each, so that lanes do not meet
//!   summaries    lane 0: [ kind 0 | kind 1 | .. ] lane 1: ..
//! ```

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::hoard::MAX_HOARD_ORDER;
use crate::words;

/// What else there is to know of a hoarded word. Changed under the lock of its lane.
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

/// The marks of a number of stripes, in memory that is borrowed for as long as the map of words lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// [`LINE`] for each stripe, and behind them as many for 64 stripes of each lane.
    bits: *mut AtomicU64,
    stripes: u32,
    /// Words of the summary of a lane for each kind.
    groups: u32,
    /// The lane of the first stripe.
    first_lane: u8,
    /// log2 of the lanes.
    lanes: u8,
}

/// 64-bit words of a cache line, of which each kind has one.
pub(super) const LINE: usize = 8;
const _: () = assert!(Marked::KINDS <= LINE);

impl Marks {
    pub(super) const NONE: Self = Self { bits: core::ptr::null_mut(), stripes: 0, groups: 0, first_lane: 0, lanes: 0 };

    /// What so many stripes need, that are dealt out to so many lanes.
    pub(super) const fn metadata_words(stripes: usize, lanes: usize) -> usize {
        LINE * stripes + lanes * LINE * Self::groups(stripes, lanes)
    }

    const fn groups(stripes: usize, lanes: usize) -> usize {
        // The first of a lane may be missing.
        (stripes.div_ceil(lanes) + 1).div_ceil(64)
    }

    /// Marks of so many stripes, the first of which has this number. No word is marked. `None` if there is too little
    /// metadata. It may hold anything; best at the start of a cache line.
    pub(super) fn new(metadata: &mut [u64], first: u64, stripes: usize, lanes: usize) -> Option<Self> {
        let metadata = metadata.get_mut(..Self::metadata_words(stripes, lanes))?;
        words::fill(metadata, 0);
        Some(Self {
            // An atomic has the layout of its integer, and any bits are a value of it.
            bits: metadata.as_mut_ptr().cast(),
            stripes: stripes as u32,
            groups: Self::groups(stripes, lanes) as u32,
            first_lane: (first % lanes as u64) as u8,
            lanes: lanes.ilog2() as u8,
        })
    }

    /// How many stripes there are.
    #[inline(always)]
    pub(super) const fn stripes(&self) -> usize {
        self.stripes as usize
    }

    /// The lane of a stripe.
    #[inline(always)]
    pub(super) const fn lane_of(&self, stripe: usize) -> usize {
        (stripe + self.first_lane as usize) & ((1 << self.lanes) - 1)
    }

    /// Whether a word is marked.
    pub(super) fn is_marked(&self, at: usize, kind: Marked) -> bool {
        self.stripe(kind, at / 64) >> (at % 64) & 1 != 0
    }

    /// Marks a word, or no longer. Whether it was marked.
    #[inline]
    pub(super) fn mark(&self, at: usize, kind: Marked, is_marked: bool) -> bool {
        let stripe = at / 64;
        if stripe >= self.stripes as usize {
            return false;
        }
        let bits = self.bits.wrapping_add(stripe * LINE + kind.index());
        // SAFETY: made by `new` from metadata that has a line for each stripe, which is only ever seen as atomics, and
        // lives as long as the map of words that this is part of.
        let bits = unsafe { &*bits };
        // Nobody else changes those of this lane meanwhile; who looks without the lock may miss a word.
        let before = bits.load(Relaxed);
        let after = if is_marked { before | 1 << (at % 64) } else { before & !(1 << (at % 64)) };
        if after == before {
            return is_marked;
        }
        bits.store(after, Relaxed);
        if before == 0 || after == 0 {
            let (lane, nth) = self.place(stripe);
            let summary = self.summary(kind, lane, nth / 64);
            // SAFETY: as above; the stripe is one of those that the summary is made for.
            let summary = unsafe { &*summary };
            let bit = 1 << (nth % 64);
            let all = summary.load(Relaxed);
            summary.store(if is_marked { all | bit } else { all & !bit }, Relaxed);
        }
        !is_marked
    }

    /// The lane of a stripe, and which of the lane's it is.
    #[inline(always)]
    const fn place(&self, stripe: usize) -> (usize, usize) {
        (self.lane_of(stripe), (stripe + self.first_lane as usize) >> self.lanes)
    }

    /// 64 stripes of a lane.
    #[inline(always)]
    const fn summary(&self, kind: Marked, lane: usize, group: usize) -> *mut AtomicU64 {
        let groups = self.groups as usize;
        self.bits.wrapping_add(LINE * (self.stripes as usize + lane * groups) + kind.index() * groups + group)
    }

    /// Which words of a stripe are marked.
    #[inline(always)]
    pub(super) fn stripe(&self, kind: Marked, stripe: usize) -> u64 {
        if stripe >= self.stripes as usize {
            return 0;
        }
        let bits = self.bits.wrapping_add(stripe * LINE + kind.index());
        // SAFETY: as in `mark`.
        unsafe { &*bits }.load(Relaxed)
    }

    /// The next stripe of a lane of which a word is marked, from number `from` on, and which words. O(words / 4096).
    #[inline(always)]
    pub(super) fn next_stripe(&self, kind: Marked, lane: usize, from: usize) -> Option<(usize, u64)> {
        // How many of the lane come before: the first stripe of all may be of another one.
        let nth = (from + self.first_lane as usize + (1 << self.lanes) - 1).wrapping_sub(lane) >> self.lanes;
        let (mut group, mut mask) = (nth / 64, u64::MAX << (nth % 64));
        while group < self.groups as usize {
            let summary = self.summary(kind, lane, group);
            // SAFETY: as in `mark`; the group is one of the lane's.
            let stripes = unsafe { &*summary }.load(Relaxed) & mask;
            if stripes != 0 {
                let nth = group * 64 + stripes.trailing_zeros() as usize;
                let stripe = ((nth << self.lanes) + lane).wrapping_sub(self.first_lane as usize);
                return Some((stripe, self.stripe(kind, stripe)));
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

    /// The next marked word of a lane from `at` on.
    fn next(marks: &Marks, at: usize, kind: Marked, lane: usize) -> Option<usize> {
        let here = if marks.lane_of(at / 64) == lane { marks.stripe(kind, at / 64) & u64::MAX << (at % 64) } else { 0 };
        let (stripe, bits) = match here {
            0 => marks.next_stripe(kind, lane, at / 64 + 1)?,
            _ => (at / 64, here),
        };
        Some(stripe * 64 + bits.trailing_zeros() as usize)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 200 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_next_one_is_what_a_set_says(
            stripes in 1..600usize,
            first in 0..20u64,
            lanes in 0..4u32,
            steps in proptest::collection::vec((any::<usize>(), any::<bool>(), any::<usize>()), 0..60),
        ) {
            let (count, lanes) = (stripes * 64, 1 << lanes);
            let mut metadata = vec![!0; Marks::metadata_words(stripes, lanes)];
            let marks = Marks::new(&mut metadata, first, stripes, lanes).unwrap();
            let kinds = [Marked::Waiting(0), Marked::Waiting(MAX_HOARD_ORDER)];
            let lane_of = |at: usize| (first as usize + at / 64) % lanes;
            let mut model = BTreeSet::new();
            for (at, is_marked, from) in steps {
                let (at, from) = (at % count, from % (count + 1));
                marks.mark(at, kinds[0], is_marked);
                if is_marked { model.insert(at) } else { model.remove(&at) };
                prop_assert_eq!(marks.is_marked(at, kinds[0]), is_marked);
                for lane in 0..lanes {
                    let expected = model.range(from..).copied().find(|at| lane_of(*at) == lane);
                    prop_assert_eq!(next(&marks, from, kinds[0], lane), expected);
                    prop_assert_eq!(next(&marks, 0, kinds[1], lane), None);
                }
            }
            for at in model {
                marks.mark(at, kinds[0], false);
            }
            prop_assert!((0..lanes).all(|lane| next(&marks, 0, kinds[0], lane).is_none()));
        }
    }

    #[test]
    fn too_little_metadata_is_refused() {
        let mut metadata = vec![0; Marks::metadata_words(2, 1) - 1];
        assert!(Marks::new(&mut metadata, 0, 2, 1).is_none());
        assert_eq!(next(&Marks::NONE, 0, Marked::Adopted, 0), None);
    }
}
