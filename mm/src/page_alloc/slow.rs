// SPDX-License-Identifier: MIT OR Apache-2.0
//! The long way: zones under their locks, watermarks, reclaim, and out of memory.
//!
//! 1. a word that waits, or a new one
//! 2. zones in the order of fallback, above their low watermarks
//! 3. background reclaim is woken, and the marks go down to what the request may use
//! 4. what is free but kept back is flushed, all hoards are emptied; for `ATOMIC` too, but not for who makes do with
//!    smaller blocks (`NORETRY`)
//! 5. who may wait reclaims, as long as that brings something
//! 6. and takes what was in reserve for those who may not (`reserve.rs`)
//! 7. out of memory is an error

use core::sync::atomic::Ordering::Relaxed;

use super::hoard::{List, MAX_HOARD_ORDER};
use super::map::{Place, Tag, WORD_ORDER};
use super::marks::Marked;
use super::refill::WORD;
use super::reserve::take_block;
use super::watermark::Watermarks;
use super::zone_cell::{ZoneCell, count};
use super::{BadFree, Fault, OutOfMemory, Pages, Shrinker, word};
use crate::addr::{MAX_ORDER, Order, PAGE_SIZE, Pfn};
use crate::arch::Arch;
use crate::buddy::{Mobility, PageBlock};
use crate::gfp::Gfp;
use crate::zone::{Zone, ZoneKind};

/// Most hooks of [`Pages::add_shrinker`].
pub(super) const MAX_SHRINKERS: usize = 4;
/// Rounds of reclaim for one request, as Linux's `MAX_RECLAIM_RETRIES`.
const MAX_RECLAIM_ROUNDS: u32 = 16;

/// Down to where a request may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Low,
    Min,
}

impl<'a, A: Arch> Pages<'a, A> {
    /// Registers what can give memory back. `false` if there are too many.
    pub fn add_shrinker(&self, shrinker: &'a dyn Shrinker) -> bool {
        self.shrinkers.iter().any(|slot| {
            let mut is_mine = false;
            slot.call_once(|| {
                is_mine = true;
                shrinker
            });
            is_mine
        })
    }

    /// Takes a block near a node, whatever CPU this is. A node without memory counts as the first.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn alloc_on(&self, node: u32, gfp: Gfp, order: Order) -> Result<PageBlock, OutOfMemory> {
        if self.fails_on_purpose(order.pages()) {
            return Err(self.out_of_memory(self.home_of(node), gfp, order));
        }
        let block = self.alloc_from_zones(self.home_of(node), gfp, order)?;
        if gfp.contains(Gfp::ZERO) || self.watch.fill.on_alloc {
            self.fill(&block, 0);
        }
        Ok(block)
    }

    /// For more than the largest block.
    pub(super) fn too_large(&self, gfp: Gfp) -> OutOfMemory {
        self.out_of_memory(self.home(), gfp, Order::MAX)
    }

    /// The first zone of this CPU's node.
    pub(super) fn home(&self) -> usize {
        if self.zones.has_nodes() { self.home_among_many() } else { 0 }
    }

    #[cold]
    #[inline(never)]
    fn home_among_many(&self) -> usize {
        self.home_of(self.nodes.get(self.arch.cpu()).map_or(0, |node| node.load(Relaxed)))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn alloc_slow(&self, gfp: Gfp, order: Order) -> Result<PageBlock, OutOfMemory> {
        if self.fails_on_purpose(order.pages()) {
            return Err(self.out_of_memory(self.home(), gfp, order));
        }
        let block = match self.refill(gfp, order) {
            Some(block) => block,
            None => self.alloc_from_zones(self.home(), gfp, order)?,
        };
        if gfp.contains(Gfp::ZERO) || self.watch.fill.on_alloc {
            self.fill(&block, 0);
        }
        Ok(block)
    }

    /// Takes a block from the zones, however hard the request may try.
    fn alloc_from_zones(&self, home: usize, gfp: Gfp, order: Order) -> Result<PageBlock, OutOfMemory> {
        let take = |mark| {
            let take = |cell: &ZoneCell<'_>, zone: &mut Zone<'_>| {
                let pfn = take_block(cell, zone, gfp, order, mark)?;
                self.note_order(zone, pfn, List::of(gfp, order));
                Some(pfn)
            };
            let mut block = PageBlock::from_raw(self.take_from_zones(home, gfp, order, mark, take)?, order);
            // What was written to while it was free is left alone from now on.
            while self.watch.fill.poison && !self.is_unspoilt(&block) {
                block = PageBlock::from_raw(self.take_from_zones(home, gfp, order, mark, take)?, order);
            }
            if order.as_usize() > MAX_HOARD_ORDER {
                self.mark_out(block.pfn(), List::of(gfp, order));
            }
            Some(block)
        };
        if let Some(block) = take(Mark::Low) {
            return Ok(block);
        }
        if gfp.contains(Gfp::KSWAPD_RECLAIM) {
            self.shrinkers().for_each(|shrinker| shrinker.wake());
        }
        if let Some(block) = take(Mark::Min) {
            return Ok(block);
        }
        if gfp.contains(Gfp::NORETRY) && order > Order::ZERO {
            return Err(self.out_of_memory(home, gfp, order));
        }
        loop {
            let asks = !gfp.contains(Gfp::NOFLUSH);
            let flushed: u64 = self.shrinkers().filter(|_| asks).map(|shrinker| shrinker.flush()).sum();
            if flushed > 0
                && let Some(block) = take(Mark::Min)
            {
                return Ok(block);
            }
            self.drain();
            if let Some(block) = take(Mark::Min) {
                return Ok(block);
            }
            if flushed == 0 {
                break;
            }
        }
        if gfp.may_wait() && !gfp.contains(Gfp::NORETRY) {
            if let Some(cell) = self.candidates(home, gfp).next() {
                count(&cell.events.alloc_stall);
            }
            for _ in 0..MAX_RECLAIM_ROUNDS {
                if self.shrinkers().map(|shrinker| shrinker.reclaim(gfp, order)).sum::<u64>() == 0 {
                    break;
                }
                self.drain();
                if let Some(block) = take(Mark::Min) {
                    return Ok(block);
                }
            }
            while self.open_reserve(home, gfp) {
                if let Some(block) = take(Mark::Min) {
                    return Ok(block);
                }
            }
        }
        Err(self.out_of_memory(home, gfp, order))
    }

    pub(super) fn shrinkers(&self) -> impl Iterator<Item = &'a dyn Shrinker> {
        self.shrinkers.iter().filter_map(|slot| slot.get().copied())
    }

    /// The zones that a request may use, in the order in which they are tried.
    pub(super) fn candidates(&self, home: usize, gfp: Gfp) -> impl Iterator<Item = &'a ZoneCell<'a>> {
        let node = if gfp.contains(Gfp::THISNODE) { self.zones.get(home).map(|zone| zone.node) } else { None };
        let highest = self.highest(gfp);
        self.zones.from(home).filter(move |zone| zone.kind <= highest && node.is_none_or(|node| zone.node == node))
    }

    /// The largest order that a zone has a block of, of those that a request may use; what is hoarded is left out. O(zones).
    pub fn largest_free(&self, gfp: Gfp) -> Order {
        let zones = self.candidates(self.home(), gfp);
        let largest = zones.filter_map(|cell| cell.zone.lock(self.arch).buddy().largest_free_order()).max();
        largest.unwrap_or_default()
    }

    /// Takes a block from the first zone that has so much to spare and gives one.
    pub(super) fn take_from_zones(
        &self,
        home: usize,
        gfp: Gfp,
        order: Order,
        mark: Mark,
        take: impl Fn(&ZoneCell<'_>, &mut Zone<'_>) -> Option<Pfn>,
    ) -> Option<Pfn> {
        for cell in self.candidates(home, gfp) {
            let mut zone = cell.zone.lock(self.arch);
            let reserve = if gfp.contains(Gfp::MEMALLOC) { 0 } else { cell.reserve(self.highest(gfp)) };
            let mark_pages = if mark == Mark::Low { cell.low() } else { cell.marks().min_for(gfp) };
            let borrowed = if gfp.contains(Gfp::MOVABLE) { zone.buddy().free_pages_of(Mobility::Cma) } else { 0 };
            let usable = zone.buddy().usable_pages(gfp.may_use_reserve()) + borrowed;
            if Watermarks::allow(usable, order, mark_pages, reserve)
                && let Some(pfn) = take(cell, &mut zone)
            {
                return Some(pfn);
            }
        }
        None
    }

    /// The highest zone that a request may use: without a limit every device reaches all.
    pub(super) const fn highest(&self, gfp: Gfp) -> ZoneKind {
        if gfp.contains(Gfp::DMA) && self.dma_limit.is_some() { ZoneKind::Dma } else { ZoneKind::Normal }
    }

    #[cold]
    fn out_of_memory(&self, home: usize, gfp: Gfp, order: Order) -> OutOfMemory {
        let (mut free_pages, mut largest) = (0u64, None);
        for cell in self.candidates(home, gfp) {
            let zone = cell.zone.lock(self.arch);
            free_pages += zone.buddy().free_pages();
            largest = largest.max(zone.buddy().largest_free_order());
        }
        let first = self.candidates(home, gfp).next();
        if let Some(cell) = first {
            count(&cell.events.alloc_failed);
        }
        let (kind, node) = first.map_or((self.highest(gfp), 0), |cell| (cell.kind, cell.node));
        OutOfMemory::new(order, kind, node).with_free(free_pages, largest)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn free_slow(&self, block: PageBlock) -> Result<(), BadFree> {
        let (pfn, order) = (block.pfn(), block.order());
        let refuse = |fault| Err(BadFree::new(fault, &block));
        let Some(place) = self.map.find(&block) else { return refuse(Fault::Foreign) };
        if !block.is_aligned() {
            return refuse(Fault::Misaligned);
        }
        let Some(cell) = self.zones.get(self.map.zone(place)) else { return refuse(Fault::Foreign) };
        if !self.is_hoarding() && self.large_around(pfn).is_none() {
            self.fill_before_free(&block);
        }
        let word = self.map.word(place);
        let mut zone = cell.zone.lock(self.arch);
        let tag = word.tag();
        if tag.is_plain() {
            match self.large_around(pfn) {
                Some(tag) if tag.is_plain() => return refuse(Fault::AlreadyFree),
                Some(_) => return refuse(Fault::WrongOrder),
                None => {}
            }
            if tag.last_list().order() != order.as_usize() && self.is_uniform(place) {
                return refuse(if is_out(&zone, pfn) { Fault::WrongOrder } else { Fault::AlreadyFree });
            }
            return Ok(zone.put(pfn, order)?);
        }
        if tag.order() != order.as_usize() {
            if self.is_uniform(place) {
                return refuse(Fault::WrongOrder);
            }
            // It was out when the word was hoarded. The word is given up for it, whose frames it may overlap.
            self.release_locked(&mut zone, place);
            return Ok(zone.put(pfn, order)?);
        }
        let lane = self.lock_lane(place);
        let before = word::put_locked(word.free, block.bit());
        if before & block.bit() != 0 {
            return refuse(Fault::AlreadyFree);
        }
        if before == 0 {
            let list = tag.last_list();
            self.remember(&lane, list, place.with(list), 1);
        }
        Ok(())
    }

    /// Whether all blocks of a word that are out are of its tag's order.
    pub(super) fn is_uniform(&self, place: Place) -> bool {
        !self.map.word(place).tag().is_fresh() && !self.map.is_marked(place, Marked::Mixed)
    }

    /// Notes that a block which was just taken from the zone is out, so that it can be freed only as one of its order: as
    /// long as no block of another order is out in its word.
    fn note_order(&self, zone: &Zone<'_>, pfn: Pfn, list: List) {
        // With poison the words say which frames are poisoned, and have no tag.
        if list.order() >= WORD_ORDER || self.watch.fill.poison {
            return;
        }
        let Some(place) = self.map.find_frame(pfn) else { return };
        let (word, around) = (self.map.word(place), PageBlock::from_raw(place.pfn(0), WORD));
        if nr_busy(zone, &around) == 1 << list.order() {
            self.lock_lane(place).set_mixed(place, false);
            word::fill(word.free, 0);
            word.set_tag(Tag::hoarded(list).plain());
        } else if word.tag().last_list().order() != list.order() {
            self.lock_lane(place).set_mixed(place, true);
        }
    }

    /// The tag of the block of a word or more, out or kept, that a frame is part of.
    pub(super) fn large_around(&self, pfn: Pfn) -> Option<Tag> {
        (WORD_ORDER..=MAX_ORDER).find_map(|order| {
            let head = self.map.find_frame(Pfn::known(pfn.as_raw() >> order << order))?;
            let tag = self.map.word(head).tag();
            (tag.last_list().order() == order && tag != Tag::FRESH).then_some(tag)
        })
    }

    /// Fills a block with copies of a byte.
    pub(super) fn fill(&self, block: &PageBlock, byte: u8) {
        // SAFETY: the frames are RAM of a zone, so the direct map has them, and the block is ours alone.
        unsafe { self.arch.fill(block.pfn().addr(), block.order().bytes(), byte) };
    }
}

/// Frames of a block that are not free, RAM or not.
pub(super) fn nr_busy(zone: &Zone<'_>, block: &PageBlock) -> u64 {
    zone.buddy().busy(block.range()).map(|run| run.size() / PAGE_SIZE).sum()
}

/// Whether a frame is not free.
pub(super) fn is_out(zone: &Zone<'_>, pfn: Pfn) -> bool {
    nr_busy(zone, &PageBlock::from_raw(pfn, Order::ZERO)) != 0
}
