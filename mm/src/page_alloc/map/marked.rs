// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words that are marked, of all spans, one after the other.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::Acquire;

use super::{Place, SLOTS, WordMap};
use crate::buddy::Lane;
use crate::page_alloc::marks::Marked;

/// Goes from one marked word to the next. What changes meanwhile may or may not be seen.
pub(in crate::page_alloc) struct MarkedWords<'m> {
    map: &'m WordMap<'m>,
    kind: Marked,
    /// The lanes that are looked through, and the one that is.
    lanes: (usize, usize),
    lane: usize,
    /// A bit for each slot that is looked at.
    slots: u32,
    slot: usize,
    /// Which stripe is looked at, and the words that are left of it.
    stripe: usize,
    left: u64,
}

const _: () = assert!(SLOTS == u32::BITS as usize);

impl Iterator for MarkedWords<'_> {
    type Item = Place;

    #[inline(always)]
    fn next(&mut self) -> Option<Place> {
        if self.left == 0 && !self.advance() {
            return None;
        }
        let at = self.stripe * 64 + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(Place::new(WordMap::first_word(self.map.span(self.slot)) + at, self.slot))
    }
}

impl MarkedWords<'_> {
    /// Goes on to the next stripe of which a word is marked; `false` if there are no more. O(words / 4096).
    #[inline(always)]
    fn advance(&mut self) -> bool {
        let mut next = self.stripe + 1;
        loop {
            let marks = &self.map.span(self.slot).marks;
            if let Some((stripe, left)) = marks.next_stripe(self.kind, self.lane, next) {
                if left != 0 {
                    (self.stripe, self.left) = (stripe, left);
                    return true;
                }
                next = stripe + 1;
                continue;
            }
            self.lane += 1;
            if self.lane >= self.lanes.1 {
                self.lane = self.lanes.0;
                let others = self.slots & u32::MAX.checked_shl(self.slot as u32 + 1).unwrap_or(0);
                self.slot = others.trailing_zeros() as usize;
                if self.slot >= self.map.used.load(Acquire) {
                    self.slot = SLOTS - 1;
                    return false;
                }
            }
            next = 0;
        }
    }
}

impl WordMap<'_> {
    /// The words of a lane that are marked, from `from` on, in these slots. Of the [only](Lane::ONLY) lane: those of all,
    /// one after the other.
    #[inline(always)]
    pub(in crate::page_alloc) fn marked_from(
        &self,
        kind: Marked,
        from: Place,
        lane: Lane,
        slots: u32,
    ) -> MarkedWords<'_> {
        let slot = from.slot();
        let span = self.span(slot);
        let lanes = if lane.is_only() { (0, self.lanes) } else { (lane.index(), lane.index() + 1) };
        let at = from.number().saturating_sub(Self::first_word(span));
        let stripe = at / 64;
        let is_wanted = slots >> slot & 1 != 0;
        let is_of_lane = lane.is_only() || span.marks.lane_of(stripe) == lane.index();
        let left = if is_wanted && is_of_lane { span.marks.stripe(kind, stripe) & u64::MAX << (at % 64) } else { 0 };
        let (stripe, first) = if is_wanted { (stripe, span.marks.lane_of(stripe)) } else { (span.marks.stripes(), 0) };
        let lane = if lane.is_only() { first } else { lane.index() };
        MarkedWords { map: self, kind, lanes, lane, slots, slot, stripe, left }
    }

    /// All words that are marked.
    pub(in crate::page_alloc) fn marked(&self, kind: Marked) -> MarkedWords<'_> {
        self.marked_from(kind, Place::FIRST, Lane::ONLY, u32::MAX)
    }

    /// The slots whose zones are wanted.
    pub(in crate::page_alloc) fn slots_of(&self, wants: impl Fn(usize) -> bool) -> u32 {
        let slots = (0..self.used.load(Acquire)).filter(|slot| wants(self.span(*slot).zone));
        slots.fold(0, |slots, slot| slots | 1 << slot)
    }
}
