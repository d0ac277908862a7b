// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words that are marked, of all spans, one after the other.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::Acquire;

use super::{Place, SLOTS, WordMap};
use crate::page_alloc::marks::Marked;

/// Goes from one marked word to the next. What changes meanwhile may or may not be seen.
pub(in crate::page_alloc) struct MarkedWords<'m> {
    map: &'m WordMap<'m>,
    kind: Marked,
    /// A bit for each slot that is looked at.
    slots: u32,
    slot: usize,
    /// Which 64 words are looked at, and those that are left of them.
    block: usize,
    left: u64,
}

const _: () = assert!(SLOTS == u32::BITS as usize);

impl Iterator for MarkedWords<'_> {
    type Item = Place;

    #[inline(always)]
    fn next(&mut self) -> Option<Place> {
        if self.left == 0 {
            let (at, left) = Self::advance(self.map, self.kind, self.slots, self.slot, self.block);
            if left == 0 {
                return None;
            }
            (self.slot, self.block, self.left) = (at % SLOTS, at / SLOTS, left);
        }
        let at = self.block * 64 + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(Place::new(WordMap::first_word(self.map.span(self.slot)) + at, self.slot))
    }
}

impl MarkedWords<'_> {
    /// The next 64 words of which one is marked, behind these: their number times [`SLOTS`] plus the slot, and which of
    /// them; none, if there are no more. O(words / 4096).
    ///
    /// It is told and tells values, so that who goes on can have them all in registers.
    #[inline(never)]
    fn advance(map: &WordMap<'_>, kind: Marked, slots: u32, mut slot: usize, mut block: usize) -> (usize, u64) {
        loop {
            let left;
            if let Some(next) = map.span(slot).marks.next_block(kind, block + 1) {
                (block, left) = next;
            } else if slot + 1 >= map.used.load(Acquire) {
                return (0, 0);
            } else {
                slot += 1;
                let marks = &map.span(slot).marks;
                block = if slots >> slot & 1 != 0 { 0 } else { marks.room() };
                left = marks.block(kind, block);
            }
            if left != 0 {
                return (block * SLOTS + slot, left);
            }
        }
    }
}

impl WordMap<'_> {
    /// The words that are marked, from `from` on, in these slots.
    #[inline(always)]
    pub(in crate::page_alloc) fn marked_from(&self, kind: Marked, from: Place, slots: u32) -> MarkedWords<'_> {
        let slot = from.slot();
        let span = self.span(slot);
        let at = from.number().saturating_sub(Self::first_word(span));
        let is_wanted = slots >> slot & 1 != 0;
        let left = if is_wanted { span.marks.block(kind, at / 64) & u64::MAX << (at % 64) } else { 0 };
        let block = if is_wanted { at / 64 } else { span.marks.room() };
        MarkedWords { map: self, kind, slots, slot, block, left }
    }

    /// All words that are marked.
    pub(in crate::page_alloc) fn marked(&self, kind: Marked) -> MarkedWords<'_> {
        self.marked_from(kind, Place::FIRST, u32::MAX)
    }

    /// The slots whose zones are wanted.
    pub(in crate::page_alloc) fn slots_of(&self, wants: impl Fn(usize) -> bool) -> u32 {
        let slots = (0..self.used.load(Acquire)).filter(|slot| wants(self.span(*slot).zone));
        slots.fold(0, |slots, slot| slots | 1 << slot)
    }
}
