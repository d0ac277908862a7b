// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many pages at once: a word at a time instead of a page at a time.
#![forbid(unsafe_code)]

use super::hoard::List;
use super::waiting::WORTH;
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
        // As many as all, though some are taken already: whoever takes many does so again.
        let frames = WORTH.max(pages.len().min(64) as u32);
        let mut done = 0;
        while let Some(rest) = pages.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let is_plain = !gfp.intersects(SLOW);
            let taken = if is_plain { self.take_many(list, rest) } else { 0 };
            done += taken;
            if taken == 0 {
                // One by the long way, which also brings a word that has as many as that.
                let block =
                    if is_plain { self.alloc_waiting(gfp, Order::ZERO, frames) } else { self.alloc(gfp, Order::ZERO) };
                let (Ok(block), Some(first)) = (block, rest.first_mut()) else { break };
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
        let mut taken = 0;
        while bits != 0 {
            // Row by row, so that a page costs a few instructions.
            let first = bits.trailing_zeros();
            let length = (bits >> first).trailing_ones();
            let row = pages.get_mut(taken..taken + length as usize).unwrap_or_default();
            fill_row(row, place.pfn(first));
            bits &= !run(first, length);
            taken += length as usize;
        }
        taken
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
        let Some(place) = self.map.find_first(&PageBlock::from_raw(*first, Order::ZERO)) else { return 0 };
        let word = self.map.word(place);
        if word.tag().order() != 0 {
            return 0;
        }
        let at = (first.as_raw() % 64) as u32;
        let most = pages.len().min(64 - at as usize);
        let length = row_length(pages.get(..most).unwrap_or_default());
        let row = run(at, length as u32);
        if self.arch.put_beside(word.free, row) || self.put_row(place, row) { length } else { 0 }
    }

    /// Puts neighbours into their word, which may be empty, under its lane's lock. `false` if that cannot be.
    #[inline(never)]
    fn put_row(&self, place: super::Place, row: u64) -> bool {
        let word = self.map.word(place);
        let lane = self.lock_lane(place);
        let tag = word.tag();
        if tag.order() != 0 {
            return false;
        }
        match word::put_many_locked(word.free, row) {
            Some(0) => self.remember(&lane, tag.last_list(), place.with(tag.last_list()), row.count_ones()),
            Some(_) => {}
            None => return false,
        }
        true
    }
}

/// `length` bits from `first` on; both together are at most 64, and there is one.
const fn run(first: u32, length: u32) -> u64 {
    u64::MAX >> (64 - length) << first
}

/// Writes neighbours, from `first` on.
fn fill_row(row: &mut [Pfn], first: Pfn) {
    let mut next = first.as_raw();
    let (eights, rest) = row.as_chunks_mut::<8>();
    for eight in eights {
        *eight = core::array::from_fn(|at| Pfn::known(next + at as u64));
        next += 8;
    }
    for (slot, next) in rest.iter_mut().zip(next..) {
        *slot = Pfn::known(next);
    }
}

/// How many of the pages from the first on are neighbours in a row.
fn row_length(pages: &[Pfn]) -> usize {
    let Some(first) = pages.first().map(|first| first.as_raw()) else { return 0 };
    let (eights, _) = pages.as_chunks::<8>();
    let is_row = |(eight, next): &(&[Pfn; 8], u64)| {
        let differ = |differ: u64, (pfn, at): (&Pfn, u64)| differ | (pfn.as_raw() ^ (next + at));
        eight.iter().zip(0..).fold(0, differ) == 0
    };
    let whole = eights.iter().zip((first..).step_by(8)).take_while(is_row).count() * 8;
    let rest = pages.get(whole..).unwrap_or_default().iter().zip(first + whole as u64..);
    whole + rest.take_while(|(pfn, next)| pfn.as_raw() == *next).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_and_found() {
        for length in [1, 7, 8, 9, 63, 64] {
            let mut pages = [Pfn::default(); 64];
            fill_row(&mut pages[..length], Pfn::known(100));
            assert!(pages[..length].iter().zip(100..).all(|(pfn, next)| pfn.as_raw() == next));
            assert_eq!(row_length(&pages), length);
            assert_eq!(row_length(&pages[..length]), length);
        }
        assert_eq!((run(0, 64), run(63, 1), run(3, 2)), (!0, 1 << 63, 0b11000));
    }
}
