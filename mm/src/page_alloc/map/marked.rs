// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words that are marked, of all spans, one after the other.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{Acquire, Relaxed};

use super::{Place, SLOTS, Span, WordMap};
use crate::buddy::Lane;
use crate::page_alloc::marks::Marked;

const _: () = assert!(SLOTS == u32::BITS as usize);

/// A way around the marked words of a lane, a stripe at a time. See [`WordMap::around`].
pub(in crate::page_alloc) struct Around<'m> {
    map: &'m WordMap<'m>,
    span: &'m Span,
    /// The first word of the stripe.
    pub(in crate::page_alloc) first: Place,
    /// Which of its words are to be looked at.
    pub(in crate::page_alloc) words: u64,
    /// Which of its lane's stripes it is.
    nth: u32,
    /// Where it began, and which words of that stripe come at the end.
    begin: Place,
    before: u64,
    slots: u32,
    /// Whether the lane has few stripes, all of them in the same span.
    is_near: bool,
}

/// What [`Around::step`] comes to.
pub(in crate::page_alloc) enum Stripe {
    Other,
    /// Where it began: there are no more.
    Last,
    /// One without a marked word: [`WordMap::sum_up`] is due.
    Empty,
}

impl Around<'_> {
    /// Goes to the next stripe, if there is one.
    #[inline(always)]
    pub(in crate::page_alloc) fn step(&mut self, kind: Marked, lane: Lane) -> Option<Stripe> {
        if self.is_near {
            let (nth, at, words) = self.span.marks.next_near(kind, lane.index(), self.nth)?;
            let first = Place::new(WordMap::first_word(self.span) + at, self.first.slot());
            (self.nth, self.first, self.words) = (nth, first, words);
        } else {
            (self.first, self.words) = self.map.next_far(kind, self.first, lane, self.slots)?;
        }
        Some(if self.first == self.begin {
            self.words &= self.before;
            Stripe::Last
        } else if self.words == 0 {
            Stripe::Empty
        } else {
            Stripe::Other
        })
    }
}

impl WordMap<'_> {
    /// The next stripe of a lane, in these slots, with a word that is marked at `from` or behind: its first word, and which
    /// of them are marked and not before `from`; if those are none, [`Self::sum_up`] is due. Of the [only](Lane::ONLY)
    /// lane: of all of them. What changes meanwhile may or may not be seen. O(words / 4096).
    #[inline(never)]
    fn next(&self, kind: Marked, from: Place, lane: Lane, slots: u32) -> Option<(Place, u64)> {
        let (mut slot, mut next) = (from.slot(), Self::offset(self.span(from.slot()), from));
        let lanes = if lane.is_only() { 0..self.lanes } else { lane.index()..lane.index() + 1 };
        while slot < self.used.load(Acquire) {
            let span = self.span(slot);
            if slots >> slot & 1 != 0
                && let stripes = lanes.clone().filter_map(|lane| span.marks.next(kind, lane, next))
                && let Some((at, words)) = stripes.min_by_key(|(at, _)| *at)
            {
                return Some((Place::new(Self::first_word(span) + at, slot), words));
            }
            (slot, next) = (slot + 1, 0);
        }
        None
    }

    /// Goes around the marked words of a lane in the slots that `slots` tells: those behind `start`, then all others.
    #[inline(always)]
    pub(in crate::page_alloc) fn around(
        &self,
        kind: Marked,
        start: Place,
        lane: Lane,
        slots: impl FnOnce() -> u32,
    ) -> Around<'_> {
        let span = self.span(start.slot());
        let at = Self::offset(span, start);
        // Then there is one slot.
        let is_near = self.is_near.load(Relaxed) && lane.count() == self.lanes;
        let slots = if is_near { u32::MAX } else { slots() };
        let is_wanted = is_near || slots >> start.slot() & 1 != 0 && lane.has(start.stripe());
        let words = if is_wanted { span.marks.stripe(kind, at / 64) } else { 0 };
        let first = Place::new(Self::first_word(span) + at / 64 * 64, start.slot());
        Around {
            map: self,
            span,
            first,
            words: words & (u64::MAX - 1) << (at % 64),
            nth: span.marks.nth(at / 64),
            begin: first,
            before: !((u64::MAX - 1) << (at % 64)),
            slots,
            is_near,
        }
    }

    /// The next stripe behind the one that begins with `first`, or if there is none the first of all.
    #[inline(never)]
    fn next_far(&self, kind: Marked, first: Place, lane: Lane, slots: u32) -> Option<(Place, u64)> {
        self.next(kind, first.plus(64), lane, slots).or_else(|| self.next(kind, Place::FIRST, lane, slots))
    }

    /// Which of the words of a span it is, from the start of the first stripe on; 0 if it comes before.
    #[inline(always)]
    pub(super) const fn offset(span: &Span, place: Place) -> usize {
        place.number().saturating_sub(Self::first_word(span))
    }

    /// Takes the mark off a word without a lock. Whether it had one.
    #[inline(always)]
    pub(in crate::page_alloc) fn claim(&self, place: Place, kind: Marked) -> bool {
        let span = self.span(place.slot());
        span.marks.claim(Self::offset(span, place), kind)
    }

    /// Has searches come to the stripe of a word only if a word of it is marked. Under its lane's lock.
    pub(in crate::page_alloc) fn sum_up(&self, place: Place, kind: Marked) {
        let span = self.span(place.slot());
        span.marks.sum_up(Self::offset(span, place), kind);
    }

    /// How many words are marked in the stripe of a word.
    pub(in crate::page_alloc) fn nr_marked_near(&self, place: Place, kind: Marked) -> u32 {
        let span = self.span(place.slot());
        span.marks.stripe(kind, Self::offset(span, place) / 64).count_ones()
    }

    /// All words that are marked.
    pub(in crate::page_alloc) fn marked(&self, kind: Marked) -> impl Iterator<Item = Place> + '_ {
        let (mut first, mut words, mut from) = (Place::FIRST, 0, Place::FIRST);
        core::iter::from_fn(move || {
            while words == 0 {
                (first, words) = self.next(kind, from, Lane::ONLY, u32::MAX)?;
                from = first.plus(64);
            }
            let place = first.plus(words.trailing_zeros());
            words &= words - 1;
            Some(place)
        })
    }

    /// The slots whose zones are wanted.
    pub(in crate::page_alloc) fn slots_of(&self, wants: impl Fn(usize) -> bool) -> u32 {
        let slots = (0..self.used.load(Acquire)).filter(|slot| wants(self.span(*slot).zone));
        slots.fold(0, |slots, slot| slots | 1 << slot)
    }
}
