// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lanes: which parts of RAM a CPU takes from first, so that CPUs do not meet in the same cache lines.
//!
//! RAM is cut into *stripes* of 16 MiB, four chunks each, which are dealt out to the lanes in turn. A lane is a
//! preference and nothing else: who finds nothing in his takes from the others.
#![forbid(unsafe_code)]

use super::CHUNK_PAGES;

/// Most lanes.
pub(crate) const MAX_LANES: usize = 8;
/// log2 of the chunks of a stripe.
const STRIPE_CHUNKS: u32 = 2;

/// One of a number of lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lane {
    /// How many there are: a power of two, [`MAX_LANES`] at most.
    count: u8,
    index: u8,
}

impl Lane {
    /// The only one, to which everything belongs.
    pub(crate) const ONLY: Self = Self { count: 1, index: 0 };

    /// The lane of a CPU, if there are at most so many.
    pub(crate) fn of_cpu(cpu: usize, most: usize) -> Self {
        let count = 1 << most.clamp(1, MAX_LANES).ilog2();
        Self { count, index: (cpu % usize::from(count)) as u8 }
    }

    /// Whether there is no other.
    #[inline(always)]
    pub(crate) const fn is_only(self) -> bool {
        self.count == 1
    }

    /// Whether a stripe is of this lane.
    #[inline(always)]
    pub(crate) const fn has(self, stripe: u64) -> bool {
        stripe as u8 & (self.count - 1) == self.index
    }

    /// Its number.
    pub(crate) const fn index(self) -> usize {
        self.index as usize
    }

    /// How many there are.
    pub(crate) const fn count(self) -> usize {
        self.count as usize
    }

    /// Which of 64 chunks, the first of which has this number, are of the lane.
    pub(super) const fn chunks(self, first: u64) -> u64 {
        let stripe = (1 << (1 << STRIPE_CHUNKS)) - 1;
        let period = u64::MAX / ((1 << ((self.count as u32) << STRIPE_CHUNKS)) - 1);
        ((period * stripe) << ((self.index as u32) << STRIPE_CHUNKS)).rotate_right(first as u32 % 64)
    }
}

const _: () = assert!(CHUNK_PAGES << STRIPE_CHUNKS == 64 * 64, "a stripe is 64 words of 64 frames");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_are_dealt_out_in_turn() {
        for most in 1..20 {
            let count = Lane::of_cpu(0, most).count();
            assert!(count <= most && count * 2 > most.min(MAX_LANES) && count <= MAX_LANES);
            for cpu in 0..24 {
                let lane = Lane::of_cpu(cpu, most);
                assert_eq!((lane.count(), lane.index()), (count, cpu % count));
                for first in [0, 1, 7, 64, 255, 1 << 40] {
                    for at in 0..64 {
                        let is_mine = |number: u64| number as usize % count == lane.index();
                        assert_eq!(lane.chunks(first) >> at & 1 != 0, is_mine((first + at) / 4));
                    }
                }
            }
        }
        assert_eq!(Lane::ONLY.chunks(5), !0);
    }
}
