// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words that wait: they have blocks and are in no hoard. Whose word in use is empty takes one of them.
//!
//! A word waits from when a block of it comes back, if it had none and its CPU has another in use, until somebody makes
//! it his own or it is given up. That it waits is a mark in a bitmap for each order (`marks.rs`). It is set under the
//! lock of the word's lane (`lanes.rs`), and whoever wants the word takes it off without one (`claim.rs`). A CPU looks
//! for words in its own lane, and in all others when memory is short.
//!
//! A search costs about 40 instructions for each stripe and 30 for each word that it passes. It begins behind the word
//! that was found last: that one's neighbours have had the most time to fill up again.
#![forbid(unsafe_code)]

use super::hoard::{Hoard, List};
use super::lanes::LaneGuard;
use super::map::{Place, Stripe};
use super::marks::Marked;
use super::{BadFree, OutOfMemory, Pages, word};
use crate::addr::Order;
use crate::arch::Arch;
use crate::buddy::{Lane, PageBlock};
use crate::gfp::Gfp;

/// Blocks that make a word worth going on with.
const ENOUGH: u32 = 8;
/// Words of an order may wait, even if they are free as a whole, up to this part of what a CPU hoards.
const MANY: usize = 8;
/// Words that are tried of those which are found.
const MOST_TRIED: usize = 4;
/// Words that are looked at to find one for a list.
const PATIENCE: i32 = 16;
/// Frames that make a word worth the way that it costs to find it. With more, fewer calls come here; with less, fewer
/// words hold what is in use, and more large blocks stay whole. Blocks of order 9 left by the host's mixed benchmark of
/// 1 GiB, and its instructions: 234 for 59 with 16, 243 for 67 with 12, 243 for 69 with 10, 246 for 71 with 8.
pub(super) const WORTH: u32 = 12;
/// What a word with less than that costs of the patience, besides itself: four of them end the search.
const POOR: i32 = 3;

impl<A: Arch> Pages<'_, A> {
    /// Takes a block when the word in use has none, for a request without special wishes: from a word that waits and has
    /// `frames` of them at least (up to 64), or one that is hoarded now, or else by the long way.
    #[inline(never)]
    pub(super) fn alloc_waiting(&self, gfp: Gfp, order: Order, frames: u32) -> Result<PageBlock, OutOfMemory> {
        let (list, hoard) = (List::of(gfp, order), self.hoard());
        if self.is_hoarding() && hoard.hoards(list) {
            let waiting = self.find_waiting(hoard, list, hoard.lane(), frames >> list.order());
            let block = match waiting {
                Some(place) => self.take_waiting(hoard, list, place),
                None => self.hoard_new(hoard, gfp, order, frames),
            };
            if let Some(block) = block {
                return Ok(block);
            }
        }
        self.alloc_slow(gfp, order)
    }

    /// Takes a block from a word of a lane that waits, however few it has, if there is one.
    #[inline(never)]
    pub(super) fn take_any_waiting(&self, hoard: &Hoard, list: List, lane: Lane) -> Option<PageBlock> {
        for _ in 0..MOST_TRIED {
            let place = self.find_waiting(hoard, list, lane, 1)?;
            let block = self.take_waiting(hoard, list, place);
            if block.is_some() {
                return block;
            }
        }
        None
    }

    /// A word of the list and lane that waits, of this CPU's node, with so many blocks at least; none, if [`PATIENCE`] ends
    /// before one is met. One that is free as a whole only if there is no other, for it may merge; if many wait, it goes
    /// back.
    #[inline(always)]
    fn find_waiting(&self, hoard: &Hoard, list: List, lane: Lane, worth: u32) -> Option<Place> {
        let (cursor, kind) = (hoard.cursor(list), Marked::Waiting(list.order()));
        let mut around = self.map.around(kind, cursor.load(), lane, || self.near());
        let (mut whole, mut patience, mut is_last, mut has_passed) = (None, PATIENCE, false, false);
        loop {
            while around.words != 0 {
                let place = around.first.plus(around.words.trailing_zeros());
                around.words &= around.words - 1;
                let word = self.map.word(place);
                patience -= 1;
                if word.tag().is_hoarded_for(list) {
                    let bits = word::bits(word.free);
                    if bits == list.blocks() {
                        if let Some(whole) = whole.replace(place) {
                            patience = 0;
                            // Where many wait, the first of two goes back.
                            if whole.stripe() == place.stripe()
                                && whole != place
                                && self.map.nr_marked_near(place, kind) as usize * MANY > hoard.limit()
                            {
                                self.release(whole);
                            }
                        }
                    } else if worth <= 1 || bits.count_ones() >= worth {
                        cursor.store(place);
                        return Some(place.with(list));
                    } else {
                        patience -= POOR;
                    }
                }
                if patience <= 0 {
                    cursor.store(place);
                    return Some(whole?.with(list));
                }
            }
            if is_last {
                break;
            }
            match around.step(kind, lane) {
                Some(Stripe::Last) => is_last = true,
                Some(Stripe::Other) => {}
                // One of them costs less than the lock.
                Some(Stripe::Empty) if !core::mem::replace(&mut has_passed, true) => {}
                Some(Stripe::Empty) => self.lock_lane(around.first).sum_up(around.first, list.order()),
                None => break,
            }
        }
        cursor.store(around.first);
        Some(whole?.with(list))
    }

    /// The slots of this CPU's node.
    #[inline(always)]
    fn near(&self) -> u32 {
        if self.zones.has_nodes() { self.near_of_many() } else { u32::MAX }
    }

    #[cold]
    #[inline(never)]
    fn near_of_many(&self) -> u32 {
        let node = self.zones.get(self.home()).map(|zone| zone.node);
        self.map.slots_of(|zone| self.zones.get(zone).map(|zone| zone.node) == node)
    }

    /// Takes from a word that waits, which becomes the current one; `None` if others were faster: some of them may have
    /// gone on taking from it while it waited.
    #[inline(always)]
    fn take_waiting(&self, hoard: &Hoard, list: List, place: Place) -> Option<PageBlock> {
        if !self.map.claim(place, Marked::Waiting(list.order())) {
            return None;
        }
        let word = self.map.word(place);
        if !word.tag().is_hoarded_for(list) {
            self.give_up(place, list.order());
            return None;
        }
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

    /// Has a word that was claimed wait again: it has become one of another list meanwhile.
    #[cold]
    #[inline(never)]
    fn give_up(&self, place: Place, order: usize) {
        let lane = self.lock_lane(place);
        if self.map.word(place).tag().order() == order {
            lane.set_waiting(place, order, true);
        }
    }

    /// Makes a word the current one of a list. The one before waits, if it has blocks: somebody else may have refilled
    /// in the meantime.
    #[inline(always)]
    pub(super) fn install(&self, hoard: &Hoard, list: List, place: Place) {
        let before = hoard.current(list).swap(place);
        let word = self.map.word(before);
        if before == place || !word::is_populated(word.free) {
            return;
        }
        let lane = self.lock_lane(before);
        if word.tag().is_hoarded_for(list) {
            lane.set_waiting(before, list.order(), true);
        }
    }

    /// Gives the first block back to a word that has none.
    #[inline(never)]
    pub(super) fn free_first(&self, block: PageBlock, place: Place) -> Result<(), BadFree> {
        if self.is_hoarding() {
            let word = self.map.word(place);
            let lane = self.lock_lane(place);
            let tag = word.tag();
            // Of a word that is not hoarded it is an order that no block has.
            if tag.order() == block.order_index() && word::put_first_locked(word.free, block.bit()) {
                let (place, current) = (place.with(tag.list()), self.hoard().current(tag.list()));
                let is_mine = current.load() == place;
                // It was in use until it had none. Now a better one may be found; where any will do, it stays.
                if is_mine && WORTH >> tag.order() == 0 {
                    return Ok(());
                }
                if is_mine {
                    current.replace(place, Place::NOWHERE);
                }
                lane.set_waiting(place, tag.order(), true);
                return Ok(());
            }
        }
        self.free_slow(block)
    }

    /// Keeps a word that has `count` blocks again, or has it wait. The lane is the word's.
    ///
    /// If it is only one, others are likely to follow soon, and who takes from it later takes more at once.
    pub(super) fn remember(&self, lane: &LaneGuard<'_, A>, list: List, place: Place, count: u32) {
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
        lane.set_waiting(place, list.order(), true);
    }
}
