// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words that are marked, of all spans, one after the other.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::Acquire;

use super::{Place, SLOTS, Span, WordMap};
use crate::buddy::Lane;
use crate::page_alloc::marks::Marked;

const _: () = assert!(SLOTS == u32::BITS as usize);

impl WordMap<'_> {
    /// The first word of a lane that is marked, at `from` or behind, in these slots. Of the [only](Lane::ONLY) lane: of
    /// all of them. What changes meanwhile may or may not be seen. O(words / 4096).
    #[inline(always)]
    pub(in crate::page_alloc) fn next_marked(
        &self,
        kind: Marked,
        from: Place,
        lane: Lane,
        slots: u32,
    ) -> Option<Place> {
        // Most often there is another one in the same stripe.
        let span = self.span(from.slot());
        let stripe = from.stripe().wrapping_sub(Self::first_stripe(span)) as usize;
        if slots >> from.slot() & 1 != 0 && lane.has(from.stripe()) {
            let left = span.marks.stripe(kind, stripe) >> (from.number() % 64);
            if left != 0 {
                return Some(from.plus(left.trailing_zeros()));
            }
        }
        self.next_marked_behind(kind, from, lane, slots)
    }

    /// The same behind the stripe of `from`.
    #[inline(never)]
    fn next_marked_behind(&self, kind: Marked, from: Place, lane: Lane, slots: u32) -> Option<Place> {
        let mut slot = from.slot();
        let span = self.span(slot);
        let stripe = from.stripe().checked_sub(Self::first_stripe(span));
        let mut next = stripe.map_or(0, |stripe| stripe as usize + 1);
        if slots >> slot & 1 == 0 {
            next = span.marks.stripes();
        }
        loop {
            let span = self.span(slot);
            if let Some(place) = self.next_in_span(span, slot, kind, next, lane) {
                return Some(place);
            }
            let others = slots & u32::MAX.checked_shl(slot as u32 + 1).unwrap_or(0);
            (slot, next) = (others.trailing_zeros() as usize, 0);
            if slot >= self.used.load(Acquire) {
                return None;
            }
        }
    }

    /// The same in one span, from a stripe on.
    fn next_in_span(&self, span: &Span, slot: usize, kind: Marked, mut next: usize, lane: Lane) -> Option<Place> {
        let lanes = if lane.is_only() { 0..self.lanes } else { lane.index()..lane.index() + 1 };
        loop {
            let stripes = lanes.clone().filter_map(|lane| span.marks.next_stripe(kind, lane, next));
            let (stripe, left) = stripes.min_by_key(|(stripe, _)| *stripe)?;
            if left != 0 {
                let at = stripe * 64 + left.trailing_zeros() as usize;
                return Some(Place::new(Self::first_word(span) + at, slot));
            }
            next = stripe + 1;
        }
    }

    /// All words that are marked.
    pub(in crate::page_alloc) fn marked(&self, kind: Marked) -> impl Iterator<Item = Place> + '_ {
        let mut from = Some(Place::FIRST);
        core::iter::from_fn(move || {
            let place = self.next_marked(kind, from?, Lane::ONLY, u32::MAX);
            from = place.map(Place::behind);
            place
        })
    }

    /// The slots whose zones are wanted.
    pub(in crate::page_alloc) fn slots_of(&self, wants: impl Fn(usize) -> bool) -> u32 {
        let slots = (0..self.used.load(Acquire)).filter(|slot| wants(self.span(*slot).zone));
        slots.fold(0, |slots, slot| slots | 1 << slot)
    }
}
