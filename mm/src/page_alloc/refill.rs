// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hoards: filling them from the zones, giving words back, emptying them.
//!
//! A word is hoarded from when [`Pages::refill`] takes from the buddy allocator what that has of it, until somebody
//! *releases* it: its free frames go to the buddy allocator then, and those that are out follow one by one. In between
//! it may be some CPU's, or wait, or be empty. All of this changes under the zone's lock.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::Relaxed;

use super::hoard::{Hoard, List, MAX_HOARD_ORDER, mobility};
use super::map::{Place, Tag, WORD_ORDER};
use super::marks::Marked;
use super::slow::Mark;
use super::zone_cell::count;
use super::{Pages, word};
use crate::addr::{Order, Pfn};
use crate::arch::Arch;
use crate::buddy::{Mobility, PageBlock};
use crate::gfp::Gfp;
use crate::zone::Zone;

/// A word, as a block.
const WORD: Order = match Order::new(WORD_ORDER) {
    Some(order) => order,
    None => Order::ZERO,
};
/// The smallest free block that a word is hoarded for: what the long way costs is shared by so many frames at least.
const LEAST: Order = match Order::new(3) {
    Some(order) => order,
    None => Order::ZERO,
};
/// Blocks that make a word worth going on with.
const ENOUGH: u32 = 8;
/// Words of an order may wait, even if they are free as a whole, up to this part of what a CPU hoards.
const MANY: u64 = 8;
/// Words that are tried of those which are found.
const MOST_TRIED: usize = 4;
/// Words that are looked at to find one for a list.
const MOST_MET: usize = 16;

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
        for _ in 0..MOST_TRIED {
            let Some(place) = self.find_waiting(hoard, list) else { break };
            if let Some(block) = self.take_waiting(hoard, list, place) {
                return Some(block);
            }
        }
        let pfn = self
            .take_from_zones(self.home(), gfp, WORD, Mark::Low, |_, zone| self.hoard_from(zone, list, mobility(gfp)))?;
        let place = self.map.find_frame(pfn)?.with(list);
        count(&self.zones.get(self.map.zone(place))?.events.hoarded);
        self.install(hoard, list, place);
        Some(PageBlock::from_raw(pfn, order))
    }

    /// Hoards the word around the block that fits best of [`LEAST`] or of the list's order, or else another one as a
    /// whole. Where memory is in pieces, any block of the list's order will do. Returns the first block of the list
    /// there, which is for the caller.
    ///
    /// A word may be hoarded while some of its frames are out: if the rest are blocks of the list without a remainder,
    /// and if it was for blocks of that order before. For a CPU may just have taken one by a stale hint, and has the
    /// tag tell it of which order.
    fn hoard_from(&self, zone: &mut Zone<'_>, list: List, mobility: Mobility) -> Option<Pfn> {
        let order = Order::new(list.order())?;
        let least = order.max(LEAST);
        let (pfn, taken) = match zone.take(least, mobility) {
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
        let whole = zone.take(WORD, mobility);
        // It was just taken.
        let _ = zone.put(pfn, taken);
        let whole = whole?;
        self.hoard_word(self.map.find_frame(whole)?, list, u64::MAX, 0);
        Some(whole)
    }

    /// Hoards these frames of a word, but the block at `first`.
    fn hoard_word(&self, place: Place, list: List, frames: u64, first: u64) {
        let word = self.map.word(place);
        self.map.mark(place, Marked::Adopted, frames != u64::MAX);
        word.set_tag(Tag::hoarded(list));
        word::fill(word.free, frames & list.blocks() & !(1 << first));
    }

    /// A word of the list that waits, of this CPU's node: one that is free as a whole only if there is no other, for it
    /// may merge. If many wait, it goes back.
    #[inline(always)]
    fn find_waiting(&self, hoard: &Hoard, list: List) -> Option<Place> {
        let (cursor, kind) = (hoard.cursor(list), Marked::Waiting(list.order()));
        let (mut met, mut whole, mut found) = (0, None, None);
        let node = self.zones.node_of(|| self.home());
        let is_near = |zone| node.is_none_or(|node| self.zones.get(zone).is_some_and(|zone| zone.node == node));
        let from = self.map.visit_marked(kind, cursor.load(Relaxed) as usize, is_near, |place| {
            met += 1;
            let word = self.map.word(place);
            if word.tag().is_hoarded_for(list) {
                if word::bits(word.free) != list.blocks() {
                    found = Some(place);
                    return true;
                }
                if whole.is_some() {
                    return true;
                }
                whole = Some(place);
            }
            met == MOST_MET
        });
        cursor.store(from as u32, Relaxed);
        if let (Some(_), Some(place)) = (found, whole)
            && self.map.nr_marked(place, kind) * MANY > hoard.limit() as u64
        {
            self.release(place);
            whole = None;
        }
        Some(found.or(whole)?.with(list))
    }

    /// Takes from a word that waits, which becomes the current one; `None` if others were faster: some of them may have
    /// gone on taking from it while it waited.
    #[inline(always)]
    fn take_waiting(&self, hoard: &Hoard, list: List, place: Place) -> Option<PageBlock> {
        let cell = self.zones.get(self.map.zone(place))?;
        let zone = cell.zone.lock(self.arch);
        let is_mine = self.map.word(place).tag().is_hoarded_for(list)
            && self.map.mark(place, Marked::Waiting(list.order()), false);
        drop(zone);
        if !is_mine {
            return None;
        }
        let word = self.map.word(place);
        let before = self.arch.take_lowest(word.free);
        if before == 0 {
            return None;
        }
        let bit = before.trailing_zeros();
        if !word.tag().is_hoarded_for(list) {
            return self.settle(list, place, bit);
        }
        self.install(hoard, list, place);
        Some(place.block(bit))
    }

    /// Makes a word the current one of a list. The one before waits, if it has blocks: somebody else may have refilled
    /// in the meantime.
    #[inline(always)]
    fn install(&self, hoard: &Hoard, list: List, place: Place) {
        let before = hoard.current(list).swap(place);
        let word = self.map.word(before);
        if before == place || !word::is_populated(word.free) {
            return;
        }
        let Some(cell) = self.zones.get(self.map.zone(before)) else { return };
        let _zone = cell.zone.lock(self.arch);
        if word.tag().is_hoarded_for(list) {
            self.map.mark(before, Marked::Waiting(list.order()), true);
        }
    }

    /// Keeps a word that has `count` blocks again, or has it wait. The lock of its zone is held.
    ///
    /// If it is only one, others are likely to follow soon, and who takes from it later takes more at once.
    pub(super) fn remember(&self, list: List, place: Place, count: u32) {
        let hoard = self.hoard();
        let current = hoard.current(list);
        let before = current.load();
        if count >= ENOUGH
            && hoard.hoards(list)
            && (before == place || !word::is_populated(self.map.word(before).free) && current.replace(before, place))
        {
            return;
        }
        if before == place {
            current.replace(place, Place::NOWHERE);
        }
        self.map.mark(place, Marked::Waiting(list.order()), true);
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
        word.set_tag(tag.plain());
        self.map.mark(place, Marked::Waiting(tag.order()), false);
        let blocks = word::empty(word.free);
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
            self.map.each_marked(kind, |place| self.release(place));
        }
    }

    /// Frames in hoarded words: free, and not in the buddy allocator. What CPUs do meanwhile may or may not be in it.
    /// O(CPUs + waiting words).
    #[must_use]
    pub fn hoarded_pages(&self) -> u64 {
        let waiting = (0..=MAX_HOARD_ORDER).map(|order| {
            let mut blocks = 0;
            self.map.each_marked(Marked::Waiting(order), |place| {
                blocks += u64::from(word::count(self.map.word(place).free));
            });
            blocks << order
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
            let nr_kept = hoard.kept(list).iter().filter(|slot| word::is_populated(slot)).count();
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
