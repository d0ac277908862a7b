// SPDX-License-Identifier: MIT OR Apache-2.0
//! Marks of words: for each [kind](Marked) a bitmap of the words of a span, and over it a summary for each lane, in which
//! one bit says whether any of the 64 words of a stripe is marked. The next marked word is found by a look at one bit for
//! each GiB of RAM. A summary may say too much, for marks are taken off without a lock, and never too little.
//!
//! ```text
//!   stripes      [ kind 0 | kind 1 | .. ][ kind 0 | .. ]    a cache line each, so that lanes do not meet
//!   summaries    lane 0: [ kind 0 | kind 1 | .. ] lane 1: ..    one for every 64 stripes of the lane
//! ```

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::claim;
use super::hoard::MAX_HOARD_ORDER;
use crate::words;

/// What else there is to know of a word. Words are marked under the lock of their lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Marked {
    /// Blocks of another order than its tag's may be out. So it is with every word that is fresh, whatever this says.
    Mixed,
    /// It has blocks of this order, and waits for a CPU that needs some.
    Waiting(usize),
}

impl Marked {
    /// Inside of a [`LINE`] for whatever order.
    #[inline(always)]
    const fn index(self) -> usize {
        match self {
            Self::Mixed => LINE - 1,
            Self::Waiting(order) => order % LINE,
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
const _: () = assert!(MAX_HOARD_ORDER < LINE - 1);

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
        let Some(words) = self.words(kind, at / 64) else { return false };
        let bit = 1 << (at % 64);
        let before = claim::mark(words, bit, is_marked);
        if is_marked && before == 0 || !is_marked && before == bit {
            self.sum_up(at, kind);
        }
        before & bit != 0
    }

    /// Takes the mark off a word, without the lock. Whether it had one. The summary may say too much now.
    #[inline(always)]
    pub(super) fn claim(&self, at: usize, kind: Marked) -> bool {
        let bit = 1 << (at % 64);
        self.words(kind, at / 64).is_some_and(|words| claim::claim(words, bit))
    }

    /// Has the summary say what is marked in the stripe of a word. Under the lane's lock.
    pub(super) fn sum_up(&self, at: usize, kind: Marked) {
        let stripe = at / 64;
        let Some(words) = self.words(kind, stripe) else { return };
        let (lane, nth) = (self.lane_of(stripe), self.nth(stripe));
        let summary = self.summary(kind, lane, nth as usize / 64);
        // SAFETY: as in `words`; the stripe is one of those that the summary is made for.
        let summary = unsafe { &*summary };
        let (bit, all) = (1 << (nth % 64), summary.load(Relaxed));
        // Nobody else marks a word of the lane or sums up meanwhile.
        let is_any = words.load(Relaxed) != 0;
        summary.store(if is_any { all | bit } else { all & !bit }, Relaxed);
    }

    /// The words of a stripe that are marked.
    #[inline(always)]
    fn words(&self, kind: Marked, stripe: usize) -> Option<&AtomicU64> {
        let words = self.bits.wrapping_add(stripe * LINE + kind.index());
        // SAFETY: made by `new` from metadata that has a line for each stripe, which is only ever seen as atomics, and
        // lives as long as the map of words that this is part of.
        (stripe < self.stripes as usize).then(|| unsafe { &*words })
    }

    /// 64 stripes of a lane.
    #[inline(always)]
    const fn summary(&self, kind: Marked, lane: usize, group: usize) -> *mut AtomicU64 {
        self.bits.wrapping_add(LINE * (self.stripes as usize + lane * self.groups as usize + group) + kind.index())
    }

    /// Which words of a stripe are marked.
    #[inline(always)]
    pub(super) fn stripe(&self, kind: Marked, stripe: usize) -> u64 {
        self.words(kind, stripe).map_or(0, |words| words.load(Relaxed))
    }

    /// The next stripe of a lane with a word that is marked, from number `at` on: the stripe's first word, and which of them
    /// are marked and not before `at`. If those are none, [`Self::sum_up`] is due. O(words / 4096).
    pub(super) fn next(&self, kind: Marked, lane: usize, at: usize) -> Option<(usize, u64)> {
        if let Some(words) = self.rest(kind, lane, at) {
            return Some((at / 64 * 64, words));
        }
        let nth = self.nr_before(lane, at / 64 + 1);
        let (mut group, mut mask) = (nth / 64, u64::MAX << (nth % 64));
        while group < self.groups as usize {
            let stripes = self.stripes(kind, lane, group) & mask;
            if stripes != 0 {
                return Some(self.whole(kind, lane, group * 64 + stripes.trailing_zeros() as usize));
            }
            (group, mask) = (group + 1, u64::MAX);
        }
        None
    }

    /// Whether each lane has a single group of stripes, so that [`Self::next_near`] finds all.
    pub(super) const fn is_one_group(&self) -> bool {
        self.groups == 1
    }

    /// Which of its lane's stripes a stripe is.
    #[inline(always)]
    pub(super) const fn nth(&self, stripe: usize) -> u32 {
        ((stripe + self.first_lane as usize) >> self.lanes) as u32
    }

    /// The next of the first 64 stripes of a lane with a word that is marked, behind the `nth`, or else the first: which one
    /// that is, its first word, and which are marked. If those are none, [`Self::sum_up`] is due. O(1).
    #[inline(always)]
    pub(super) fn next_near(&self, kind: Marked, lane: usize, nth: u32) -> Option<(u32, usize, u64)> {
        let stripes = self.stripes(kind, lane, 0);
        let behind = stripes & (u64::MAX - 1) << (nth % 64);
        let stripes = if behind == 0 { stripes } else { behind };
        if stripes == 0 {
            return None;
        }
        let nth = stripes.trailing_zeros();
        let (at, words) = self.whole(kind, lane, nth as usize);
        Some((nth, at, words))
    }

    /// Which words are marked in the stripe of a word and not before it, if that is of the lane.
    #[inline(always)]
    fn rest(&self, kind: Marked, lane: usize, at: usize) -> Option<u64> {
        let words = if self.lane_of(at / 64) == lane { self.stripe(kind, at / 64) & u64::MAX << (at % 64) } else { 0 };
        if words == 0 { None } else { Some(words) }
    }

    /// The first word of a stripe of the lane, and which of them are marked.
    #[inline(always)]
    fn whole(&self, kind: Marked, lane: usize, nth: usize) -> (usize, u64) {
        let stripe = ((nth << self.lanes) + lane).wrapping_sub(self.first_lane as usize);
        (stripe * 64, self.stripe(kind, stripe))
    }

    /// How many stripes of a lane come before a stripe.
    #[inline(always)]
    const fn nr_before(&self, lane: usize, stripe: usize) -> usize {
        // The first stripe of all may be of another lane.
        (stripe + self.first_lane as usize + (1 << self.lanes) - 1).wrapping_sub(lane) >> self.lanes
    }

    /// Of which stripes in a group of the lane's a word is marked.
    #[inline(always)]
    fn stripes(&self, kind: Marked, lane: usize, group: usize) -> u64 {
        if group >= self.groups as usize {
            return 0;
        }
        let summary = self.summary(kind, lane, group);
        // SAFETY: as in `words`; the group is one of the lane's.
        unsafe { &*summary }.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The word that a search comes to first; stripes with none are summed up on the way.
    fn first(marks: &Marks, kind: Marked, mut next: impl FnMut() -> Option<(usize, u64)>) -> Option<usize> {
        loop {
            match next()? {
                (at, 0) => marks.sum_up(at, kind),
                (at, words) => return Some(at + words.trailing_zeros() as usize),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 200 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_next_one_is_what_a_set_says(
            stripes in 1..600usize,
            first_stripe in 0..20u64,
            lanes in 0..4u32,
            steps in proptest::collection::vec((any::<usize>(), 0..3u32, any::<usize>()), 0..60),
        ) {
            let (count, lanes) = (stripes * 64, 1 << lanes);
            let mut metadata = vec![!0; Marks::metadata_words(stripes, lanes)];
            let marks = Marks::new(&mut metadata, first_stripe, stripes, lanes).unwrap();
            let [kind, other] = [Marked::Waiting(0), Marked::Waiting(MAX_HOARD_ORDER)];
            let lane_of = |at: usize| (first_stripe as usize + at / 64) % lanes;
            let mut model = BTreeSet::new();
            for (at, step, from) in steps {
                // Few words, so that some are met again.
                let (at, from) = (at % 40 * 41 % count, from % (count + 1));
                let was_marked = match step {
                    0 => marks.mark(at, kind, false),
                    1 => marks.claim(at, kind),
                    _ => marks.mark(at, kind, true),
                };
                prop_assert_eq!(was_marked, model.contains(&at));
                if step == 2 { model.insert(at) } else { model.remove(&at) };
                prop_assert_eq!(marks.is_marked(at, kind), step == 2);
                for lane in 0..lanes {
                    let expected = model.range(from..).copied().find(|at| lane_of(*at) == lane);
                    let behind = model.range((from / 64 + 1) * 64..).copied().find(|at| lane_of(*at) == lane);
                    let around = behind.or_else(|| model.iter().copied().find(|at| lane_of(*at) == lane));
                    if marks.is_one_group() && lane_of(from) == lane && from < count {
                        let next = || marks.next_near(kind, lane, marks.nth(from / 64)).map(|(_, at, words)| (at, words));
                        prop_assert_eq!(first(&marks, kind, next), around);
                    }
                    prop_assert_eq!(first(&marks, kind, || marks.next(kind, lane, from)), expected);
                    prop_assert_eq!(marks.next(other, lane, 0), None);
                }
            }
            for at in model {
                marks.mark(at, kind, false);
            }
            prop_assert!((0..lanes).all(|lane| first(&marks, kind, || marks.next(kind, lane, 0)).is_none()));
        }
    }

    #[test]
    fn too_little_metadata_is_refused() {
        let mut metadata = vec![0; Marks::metadata_words(2, 1) - 1];
        assert!(Marks::new(&mut metadata, 0, 2, 1).is_none());
        assert_eq!(Marks::NONE.next(Marked::Mixed, 0, 0), None);
    }
}
