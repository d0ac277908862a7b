// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hoards: filling them from the zones, giving words back, emptying them.
//!
//! A word is hoarded from when [`Pages::refill`] takes from the buddy allocator what that has of it, until somebody
//! *releases* it: its free frames go to the buddy allocator then, and those that are out follow one by one. In between
//! it may be some CPU's, or wait, or be empty. It begins and ends under the locks of the zone and the lane.
#![forbid(unsafe_code)]

use super::hoard::{Hoard, List, MAX_HOARD_ORDER, mobility};
use super::map::{Place, Tag, WORD_ORDER};
use super::marks::Marked;
use super::slow::Mark;
use super::waiting::WORTH;
use super::zone_cell::count;
use super::{Pages, word};
use crate::addr::{Order, Pfn};
use crate::arch::Arch;
use crate::buddy::{Lane, Mobility, PageBlock};
use crate::gfp::Gfp;
use crate::zone::Zone;

/// A word, as a block.
pub(super) const WORD: Order = match Order::new(WORD_ORDER) {
    Some(order) => order,
    None => Order::ZERO,
};
/// The smallest free block that a word is hoarded for: what the long way costs is shared by so many frames at least.
const LEAST: usize = 3;

impl<A: Arch> Pages<'_, A> {
    /// The hoard of the CPU that runs this, or ran it a moment ago.
    pub(super) fn hoard(&self) -> &Hoard {
        #[expect(clippy::indexing_slicing, reason = "there is a hoard for each number that a CPU may have")]
        self.hoards[self.arch.cpu()]
    }

    /// Takes a block by way of the hoard: from a word that waits, or from a new one.
    pub(super) fn refill(&self, gfp: Gfp, order: Order) -> Option<PageBlock> {
        if order.as_usize() > MAX_HOARD_ORDER || gfp.contains(Gfp::THISNODE) || !self.is_hoarding() {
            return None;
        }
        let (list, hoard) = (List::of(gfp, order), self.hoard());
        if !hoard.hoards(list) {
            return None;
        }
        let near =
            self.take_any_waiting(hoard, list, hoard.lane()).or_else(|| self.hoard_new(hoard, gfp, order, WORTH));
        if near.is_some() || hoard.lane().is_only() {
            return near;
        }
        self.take_any_waiting(hoard, list, Lane::ONLY)
    }

    /// Hoards a word with half of so many free frames (64 at most) in one piece, [`LEAST`] at least, and takes a block of it.
    #[inline(never)]
    pub(super) fn hoard_new(&self, hoard: &Hoard, gfp: Gfp, order: Order, frames: u32) -> Option<PageBlock> {
        let list = List::of(gfp, order);
        let half = (frames | 1).ilog2().saturating_sub(1) as usize;
        let least = Order::new(half.max(LEAST))?.max(order);
        let pfn = self.take_from_zones(self.home(), gfp, WORD, Mark::Low, |_, zone| {
            self.hoard_from(zone, list, mobility(gfp), hoard.lane(), least)
        })?;
        let place = self.map.find_frame(pfn)?.with(list);
        count(&self.zones.get(self.map.zone(place))?.events.hoarded);
        self.install(hoard, list, place);
        Some(PageBlock::from_raw(pfn, order))
    }

    /// Hoards the word around the block that fits best of order `least`, or else another one as a whole. Where memory is in pieces, any block of the list's order will do. Returns the first block of the list
    /// there, which is for the caller.
    ///
    /// A word may be hoarded while some of its frames are out: if the rest are blocks of the list without a remainder,
    /// and if it was for blocks of that order before. For a CPU may just have taken one by a stale hint, and has the
    /// tag tell it of which order.
    fn hoard_from(&self, zone: &mut Zone<'_>, list: List, mobility: Mobility, lane: Lane, least: Order) -> Option<Pfn> {
        let order = Order::new(list.order())?;
        let (pfn, taken) = match zone.take_near(least, mobility, lane) {
            Some(pfn) => (pfn, least),
            None if order < least => (zone.take(order, mobility)?, order),
            None => return None,
        };
        let place = self.map.find_frame(pfn)?;
        let tag = self.map.word(place).tag();
        let may_adopt = tag.is_fresh() || tag.last_list().order() == list.order();
        if may_adopt && let Some(rest) = zone.buddy_mut().take_rest(pfn, order) {
            let first = pfn.as_raw() % (1 << WORD_ORDER);
            self.hoard_word(place, list, frames_of(first, taken) | rest, first);
            return Some(pfn);
        }
        let whole = zone.take_near(WORD, mobility, lane);
        // It was just taken.
        let _ = zone.put(pfn, taken);
        let whole = whole?;
        self.hoard_word(self.map.find_frame(whole)?, list, u64::MAX, 0);
        Some(whole)
    }

    /// Hoards these frames of a word, but the block at `first`. The lock of its zone is held.
    fn hoard_word(&self, place: Place, list: List, frames: u64, first: u64) {
        let is_mixed = frames != u64::MAX && !self.is_uniform(place);
        let (word, lane) = (self.map.word(place), self.lock_lane(place));
        lane.set_mixed(place, is_mixed);
        word.set_tag(Tag::hoarded(list));
        word::fill(word.free, frames & list.blocks() & !(1 << first));
    }

    /// Gives the free frames of a word back to the buddy allocator.
    pub(super) fn release(&self, place: Place) {
        if let Some(cell) = self.zones.get(self.map.zone(place)) {
            self.release_locked(&mut cell.zone.lock(self.arch), place);
        }
    }

    pub(super) fn release_locked(&self, zone: &mut Zone<'_>, place: Place) {
        let word = self.map.word(place);
        let tag = word.tag();
        if tag.is_plain() || tag.order() > MAX_HOARD_ORDER {
            return;
        }
        let lane = self.lock_lane(place);
        word.set_tag(tag.plain());
        lane.set_waiting(place, tag.order(), false);
        let blocks = word::empty(word.free);
        drop(lane);
        for (bit, order) in runs(blocks, tag.order()) {
            // They were taken from there and are nobody else's: it cannot be refused.
            let _ = zone.put(place.pfn(bit), order);
        }
        if let Some(cell) = self.zones.get(self.map.zone(place)) {
            count(&cell.events.released);
        }
    }

    /// Releases everything that is hoarded, a word at a time, so that the frames can merge. What is hoarded meanwhile
    /// stays. O(hoarded words), and a look at 6 bits for each GiB of RAM.
    pub fn drain(&self) {
        for hoard in self.hoards {
            for list in List::all() {
                let place = hoard.current(list).swap(Place::NOWHERE);
                if place != Place::NOWHERE {
                    self.release(place);
                }
            }
            for list in List::all_large() {
                self.release_kept(hoard, list);
            }
        }
        for kind in (0..=MAX_HOARD_ORDER).map(Marked::Waiting) {
            self.map.marked(kind).for_each(|place| self.release(place));
        }
    }

    /// Frames in hoarded words: free, and not in the buddy allocator. What CPUs do meanwhile may or may not be in it.
    /// O(CPUs + waiting words).
    #[must_use]
    pub fn hoarded_pages(&self) -> u64 {
        let waiting = (0..=MAX_HOARD_ORDER).map(|order| {
            let words = self.map.marked(Marked::Waiting(order));
            words.map(|place| u64::from(word::count(self.map.word(place).free))).sum::<u64>() << order
        });
        // CPUs without a hoard share an empty one.
        self.hoards.iter().map(|hoard| self.hoarded_by(hoard)).chain(waiting).sum()
    }

    pub(super) fn hoarded_by(&self, hoard: &Hoard) -> u64 {
        let mut pages = 0;
        for list in List::all() {
            let word = self.map.word(hoard.current(list).load());
            if word.tag().is_hoarded_for(list) {
                pages += u64::from(word::count(word.free)) << list.order();
            }
        }
        for list in List::all_large() {
            let nr_kept = hoard.kept(list).into_iter().flatten().filter(|slot| word::is_populated(slot)).count();
            pages += (nr_kept as u64) << list.order();
        }
        pages
    }
}

/// The frames of a block in its word.
const fn frames_of(first: u64, order: Order) -> u64 {
    u64::MAX >> (64 - order.pages()) << first
}

/// Free blocks of a word, given by their first frames, as the largest blocks that they make.
fn runs(blocks: u64, order: usize) -> impl Iterator<Item = (u32, Order)> {
    let mut frames = (0..order).fold(blocks, |frames, order| frames | frames << (1u32 << order));
    core::iter::from_fn(move || {
        let bit = frames.trailing_zeros();
        let length = (frames.checked_shr(bit)?).trailing_ones();
        let fits = length.checked_ilog2()?.min(bit.trailing_zeros());
        frames &= !(u64::MAX >> (64 - (1u32 << fits)) << bit);
        Some((bit, Order::new(fits as usize)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_largest_aligned_blocks() {
        let order = |order| Order::new(order).unwrap();
        assert_eq!(runs(!0, 0).collect::<Vec<_>>(), [(0, order(6))]);
        assert_eq!(
            runs(0b1011_1110, 0).map(|run| (run.0, run.1.as_usize())).collect::<Vec<_>>(),
            [(1, 0), (2, 1), (4, 1), (7, 0)]
        );
        assert_eq!(runs(1 << 32 | 1, 5).collect::<Vec<_>>(), [(0, order(6))]);
        assert_eq!(runs(1 << 32, 5).collect::<Vec<_>>(), [(32, order(5))]);
        assert_eq!(runs(1 << 63 | 1, 0).collect::<Vec<_>>(), [(0, order(0)), (63, order(0))]);
        assert_eq!(runs(0, 3).count(), 0);
    }
}
