// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hoards: filling them from the zones, giving words back, emptying them.
//!
//! A word is hoarded from when [`Pages::refill`] takes it from the buddy allocator, whole, until somebody *releases*
//! it: its free frames go to the buddy allocator then, and those that are out follow one by one. Both happen under
//! the zone's lock.
#![forbid(unsafe_code)]

use super::hoard::{Hoard, List, MAX_HOARD_ORDER};
use super::map::{Place, Tag, WORD_ORDER};
use super::slow::Mark;
use super::zone_cell::count;
use super::{Pages, word};
use crate::addr::Order;
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::zone::Zone;

/// A word, as a block.
const WORD: Order = match Order::new(WORD_ORDER) {
    Some(order) => order,
    None => Order::ZERO,
};

/// What a word has for a list.
enum Taken {
    Block(PageBlock),
    Nothing,
    /// A block that may be another list's.
    Stale(u32),
}

impl<A: Arch> Pages<'_, A> {
    /// The hoard of the CPU that runs this, or ran it a moment ago.
    pub(super) fn hoard(&self) -> &Hoard {
        #[expect(clippy::indexing_slicing, reason = "there is a hoard for each number that a CPU may have")]
        self.hoards[self.arch.cpu()]
    }

    /// Takes a block by way of the hoard: from a word of its pool, or from a new one.
    pub(super) fn refill(&self, gfp: Gfp, order: Order) -> Option<PageBlock> {
        if order.as_usize() > MAX_HOARD_ORDER || gfp.contains(Gfp::THISNODE) || !self.is_hoarding() {
            return None;
        }
        let list = List::of(gfp, order);
        let hoard = self.hoard();
        if let Some(block) = self.take_from_pool(hoard, list)? {
            return Some(block);
        }
        // Without a whole word the request goes to the zone and takes the smallest block that will do.
        let pfn = self.take_from_zones(self.home(), gfp, WORD, Mark::Low, |pfn| {
            if let Some(place) = self.map.find_frame(pfn) {
                let word = self.map.word(place);
                word.set_tag(Tag::hoarded(list));
                word::fill(word.free, list.blocks() & !1);
            }
        })?;
        let place = self.map.find_frame(pfn)?.with(list);
        count(&self.zones.get(self.map.zone(place))?.events.hoarded);
        self.install(hoard, list, place);
        Some(place.block(0))
    }

    /// `None` if the list is not hoarded; `Some(None)` if the hoard has nothing.
    fn take_from_pool(&self, hoard: &Hoard, list: List) -> Option<Option<PageBlock>> {
        let current = hoard.current(list);
        loop {
            let mut pool = hoard.pool.lock(self.arch);
            // Small machines hoard small blocks only: each list has a word in hand.
            if pool.limit() < 4 * (list.order() + 1) {
                return None;
            }
            let (place, bit) = loop {
                let place = current.load();
                match self.take_from(list, place) {
                    Taken::Block(block) => return Some(Some(block)),
                    Taken::Stale(bit) => {
                        current.store(Place::NOWHERE);
                        break (place, bit);
                    }
                    Taken::Nothing => match pool.pop(list) {
                        Some(next) => current.store(next),
                        None => return Some(None),
                    },
                }
            };
            drop(pool);
            if let Some(block) = self.settle(list, place, bit) {
                return Some(Some(block));
            }
        }
    }

    fn take_from(&self, list: List, place: Place) -> Taken {
        let word = self.map.word(place);
        let before = self.arch.take_lowest(word.free);
        if before == 0 {
            return Taken::Nothing;
        }
        let bit = before.trailing_zeros();
        if word.tag().is_hoarded_for(list) { Taken::Block(place.block(bit)) } else { Taken::Stale(bit) }
    }

    /// Makes a word the current one of a list.
    fn install(&self, hoard: &Hoard, list: List, place: Place) {
        let current = hoard.current(list);
        let mut pool = hoard.pool.lock(self.arch);
        let before = current.load();
        current.store(place);
        // Somebody else may have refilled it in the meantime.
        let full = word::is_populated(self.map.word(before).free) && !pool.push(list, before);
        drop(pool);
        if full {
            self.release(before);
        }
    }

    /// Remembers a word that has a block again. The zone's lock is held.
    pub(super) fn remember(&self, zone: &mut Zone<'_>, list: List, place: Place) {
        let hoard = self.hoard();
        let current = hoard.current(list);
        let mut pool = hoard.pool.lock(self.arch);
        let kept = if current.load() == place {
            true
        } else if pool.limit() > 0 && !word::is_populated(self.map.word(current.load()).free) {
            current.store(place);
            true
        } else {
            pool.push(list, place)
        };
        drop(pool);
        if !kept {
            self.release_locked(zone, place);
        }
    }

    /// Gives the free frames of a word back to the buddy allocator.
    pub(super) fn release(&self, place: Place) {
        if let Some(cell) = self.zones.get(self.map.zone(place)) {
            self.release_locked(&mut cell.zone.lock(self.arch), place);
        }
    }

    fn release_locked(&self, zone: &mut Zone<'_>, place: Place) {
        let word = self.map.word(place);
        let tag = word.tag();
        if tag.is_plain() || tag.order() > MAX_HOARD_ORDER {
            return;
        }
        word.set_tag(tag.plain());
        let blocks = word::empty(word.free);
        for (bit, order) in runs(blocks, tag.order()) {
            // They were taken from there and are nobody else's: it cannot be refused.
            let _ = zone.put(place.pfn(bit), order);
        }
        if let Some(cell) = self.zones.get(self.map.zone(place)) {
            count(&cell.events.released);
        }
    }

    /// Releases everything that any CPU hoards, a word at a time, so that the frames can merge. What is hoarded
    /// meanwhile stays. O(hoarded words).
    pub fn drain(&self) {
        for hoard in self.hoards {
            for list in List::all() {
                while let Some(place) = self.forget(hoard, list) {
                    self.release(place);
                }
            }
            for list in List::all_large() {
                self.release_kept(hoard, list);
            }
        }
    }

    /// Takes a word out of a hoard.
    fn forget(&self, hoard: &Hoard, list: List) -> Option<Place> {
        let current = hoard.current(list);
        let mut pool = hoard.pool.lock(self.arch);
        let place = current.load();
        current.store(Place::NOWHERE);
        if place == Place::NOWHERE { pool.pop(list) } else { Some(place) }
    }

    /// Frames in the words that CPUs hoard: free, and not in the buddy allocator. What CPUs do meanwhile may or may
    /// not be in it. O(CPUs).
    #[must_use]
    pub fn hoarded_pages(&self) -> u64 {
        // CPUs without a hoard share an empty one.
        self.hoards.iter().map(|hoard| self.hoarded_by(hoard)).sum()
    }

    pub(super) fn hoarded_by(&self, hoard: &Hoard) -> u64 {
        let mut pages = 0;
        let pool = hoard.pool.lock(self.arch);
        for list in List::all() {
            let places = core::iter::once(hoard.current(list).load()).chain(pool.places(list));
            let blocks = places.map(|place| u64::from(word::count(self.map.word(place).free)));
            pages += blocks.sum::<u64>() << list.order();
        }
        for list in List::all_large() {
            let nr_kept = hoard.kept(list).iter().filter(|slot| word::is_populated(slot)).count();
            pages += (nr_kept as u64) << list.order();
        }
        pages
    }
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
