// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many pages at once: a word at a time instead of a page at a time.
#![forbid(unsafe_code)]

use super::hoard::List;
use super::{BadFree, Pages, SLOW, word};
use crate::addr::{Order, Pfn};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;

impl<A: Arch> Pages<'_, A> {
    /// Takes single pages until `pages` is full or memory is short; writes them from the start and returns their
    /// number. A few instructions a page.
    pub fn alloc_bulk(&self, gfp: Gfp, pages: &mut [Pfn]) -> usize {
        let list = List::of(gfp, Order::ZERO);
        let mut done = 0;
        while let Some(rest) = pages.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let taken = if gfp.intersects(SLOW) { 0 } else { self.take_many(list, rest) };
            done += taken;
            if taken == 0 {
                // One by the long way, which also brings a new word.
                let (Ok(block), Some(first)) = (self.alloc(gfp, Order::ZERO), rest.first_mut()) else { break };
                *first = block.pfn();
                done += 1;
            }
        }
        done
    }

    /// Takes what the current word has.
    #[inline]
    fn take_many(&self, list: List, pages: &mut [Pfn]) -> usize {
        let place = self.hoard().current(list).load();
        let word = self.map.word(place);
        let mut bits = word::take_many(word.free, pages.len());
        if bits == 0 || !word.tag().is_hoarded_for(list) {
            return self.settle_many(list, place, bits, pages);
        }
        let mut slots = pages.iter_mut();
        while bits != 0 {
            // Run by run, so that a page costs a few instructions.
            let first = bits.trailing_zeros();
            let length = (bits >> first).trailing_ones();
            let pfn = place.pfn(first).as_raw();
            for (slot, pfn) in slots.by_ref().take(length as usize).zip(pfn..) {
                *slot = Pfn::known(pfn);
            }
            bits &= !run(first, length);
        }
        let left = slots.len();
        pages.len() - left
    }

    #[cold]
    fn settle_many(&self, list: List, place: super::Place, bits: u64, pages: &mut [Pfn]) -> usize {
        let bits = (0..64).filter(|bit| bits >> bit & 1 != 0);
        let kept = bits.filter_map(|bit| self.settle(list, place, bit));
        kept.zip(pages).map(|(block, slot)| *slot = block.pfn()).count()
    }

    /// Gives single pages back.
    ///
    /// # Errors
    ///
    /// The index of the first page that is refused, and why. Those before it are free, those behind it are as they
    /// were.
    pub fn free_bulk(&self, pages: &[Pfn]) -> Result<(), (usize, BadFree)> {
        let mut done = 0;
        while let Some(rest) = pages.get(done..).filter(|rest| !rest.is_empty()) {
            let put = self.put_many(rest);
            done += put;
            if put == 0
                && let Some(first) = rest.first()
            {
                self.free(PageBlock::from_raw(*first, Order::ZERO)).map_err(|error| (done, error))?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Puts neighbours in the same word back in one step; 0 if that needs the long way.
    #[inline]
    fn put_many(&self, pages: &[Pfn]) -> usize {
        let Some(first) = pages.first() else { return 0 };
        let Some(place) = self.map.find_frame(*first) else { return 0 };
        let word = self.map.word(place);
        if word.tag().order() != 0 {
            return 0;
        }
        let at = (first.as_raw() % 64) as u32;
        // Neighbours in a row, as they were taken.
        let most = pages.len().min(64 - at as usize);
        let row = pages.iter().take(most).zip(first.as_raw()..).take_while(|(pfn, next)| pfn.as_raw() == *next);
        let length = row.count();
        if self.arch.put_beside(word.free, run(at, length as u32)) { length } else { 0 }
    }
}

/// `length` bits from `first` on; both together are at most 64, and there is one.
const fn run(first: u32, length: u32) -> u64 {
    u64::MAX >> (64 - length) << first
}
