// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of a word or more. Each CPU keeps a few of each kind that it freed, so that blocks that come and go are
//! not merged and split each time.
//!
//! The tag of the first word says whether the block is out. Changing it is the one step that decides who frees. A block
//! that is kept is neither out nor in the buddy allocator: its tag is plain, with its list.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::hoard::{Hoard, List, mobility};
use super::map::{Place, Tag};
use super::slow::{Mark, is_out};
use super::zone_cell::ZoneCell;
use super::{BadFree, Fault, OutOfMemory, Pages, word};
use crate::addr::{Order, Pfn};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::zone::Zone;

impl<A: Arch> Pages<'_, A> {
    /// Takes a block of a word or more, for a request without special wishes.
    #[inline(never)]
    pub(super) fn alloc_large(&self, gfp: Gfp, order: Order) -> Result<PageBlock, OutOfMemory> {
        let list = List::of(gfp, order);
        // What is isolated may have been kept a moment too late.
        if self.is_keeping()
            && let Some(slots) = self.hoard().kept(list)
        {
            for slot in slots {
                if slot.load(Relaxed) == 0 {
                    continue;
                }
                let bits = slot.swap(0, Acquire);
                if bits == 0 {
                    continue;
                }
                let block = PageBlock::known(bits);
                match self.map.find_first(&block) {
                    Some(place) => self.map.word(place).set_tag(Tag::head(list)),
                    None => self.mark_out_elsewhere(block.pfn(), list),
                }
                return Ok(block);
            }
            return self.alloc_large_new(gfp, order);
        }
        self.alloc_slow(gfp, order)
    }

    /// Takes a block from a zone: the short way, as long as memory is not short.
    #[inline(never)]
    fn alloc_large_new(&self, gfp: Gfp, order: Order) -> Result<PageBlock, OutOfMemory> {
        let mobility = mobility(gfp);
        let lane = self.hoard().lane();
        let take = |_: &ZoneCell<'_>, zone: &mut Zone<'_>| zone.take_near(order, mobility, lane);
        match self.take_from_zones(self.home(), gfp, order, Mark::Low, take) {
            Some(pfn) => {
                self.mark_out(pfn, List::of(gfp, order));
                Ok(PageBlock::from_raw(pfn, order))
            }
            None => self.alloc_slow(gfp, order),
        }
    }

    /// Frees a block of a word or more.
    #[inline(never)]
    pub(super) fn free_large(&self, block: PageBlock) -> Result<(), BadFree> {
        match self.map.find_first(&block) {
            Some(place) => self.free_large_at(block, place),
            None => self.free_large_elsewhere(block),
        }
    }

    #[cold]
    #[inline(never)]
    fn free_large_elsewhere(&self, block: PageBlock) -> Result<(), BadFree> {
        match self.map.find(&block) {
            Some(place) => self.free_large_at(block, place),
            None => Err(BadFree::new(Fault::Foreign, &block)),
        }
    }

    #[inline(always)]
    fn free_large_at(&self, block: PageBlock, place: Place) -> Result<(), BadFree> {
        let word = self.map.word(place);
        let tag = word.tag();
        if tag.order() != block.order_index() || !word.replace_tag(tag, tag.plain()) {
            return self.complain(block, place);
        }
        // An order that fits is that of a block that was out.
        let (list, hoard) = (tag.list(), self.hoard());
        if self.is_keeping()
            && let Some(slots) = hoard.kept(list)
        {
            for slot in slots.iter().take(hoard.may_keep(list)) {
                if slot.load(Relaxed) == 0 && slot.compare_exchange(0, block.bits(), Release, Relaxed).is_ok() {
                    return Ok(());
                }
            }
        }
        self.put(block, place)
    }

    #[cold]
    #[inline(never)]
    fn complain(&self, block: PageBlock, place: Place) -> Result<(), BadFree> {
        let tag = self.map.word(place).tag();
        let is_out = || {
            let cell = self.zones.get(self.map.zone(place));
            cell.is_some_and(|cell| is_out(&cell.zone.lock(self.arch), block.pfn()))
        };
        let fault = if !block.is_aligned() {
            Fault::Misaligned
        } else if tag.is_plain() && (tag.last_list().order() == block.order_index() || !is_out()) {
            Fault::AlreadyFree
        } else {
            Fault::WrongOrder
        };
        Err(BadFree::new(fault, &block))
    }

    /// Notes a block's kind, so that it can be freed only as what it is, and once.
    #[inline(always)]
    pub(super) fn mark_out(&self, pfn: Pfn, list: List) {
        match self.map.find_first(&PageBlock::from_raw(pfn, Order::ZERO)) {
            Some(place) => self.mark_out_at(place, list),
            None => self.mark_out_elsewhere(pfn, list),
        }
    }

    #[cold]
    #[inline(never)]
    fn mark_out_elsewhere(&self, pfn: Pfn, list: List) {
        if let Some(place) = self.map.find_frame(pfn) {
            self.mark_out_at(place, list);
        }
    }

    #[inline(always)]
    fn mark_out_at(&self, place: Place, list: List) {
        let word = self.map.word(place);
        word::fill(word.free, 0);
        word.set_tag(Tag::head(list));
    }

    /// Gives the kept blocks of a list to their zones.
    pub(super) fn release_kept(&self, hoard: &Hoard, list: List) {
        for slot in hoard.kept(list).into_iter().flatten() {
            let bits = slot.swap(0, Acquire);
            if bits != 0
                && let block = PageBlock::known(bits)
                && let Some(place) = self.map.find(&block)
            {
                // It cannot be refused.
                let _ = self.put(block, place);
            }
        }
    }

    /// Gives a block that is ours alone, by its tag, to its zone.
    #[inline(never)]
    fn put(&self, block: PageBlock, place: Place) -> Result<(), BadFree> {
        if !self.is_hoarding() {
            self.fill_before_free(&block);
        }
        let Some(cell) = self.zones.get(self.map.zone(place)) else {
            return Err(BadFree::new(Fault::Foreign, &block));
        };
        let mut zone = cell.zone.lock(self.arch);
        self.map.word(place).set_tag(Tag::FRESH);
        Ok(zone.put(block.pfn(), block.order())?)
    }
}
