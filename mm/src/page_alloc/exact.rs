// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks that are no power of two, and blocks taken apart.
//!
//! Frames that are handed out here are *plain*: no word is hoarded over them, and each can be freed on its own.
#![forbid(unsafe_code)]

use super::map::{Tag, WORD_ORDER};
use super::{BadFree, OutOfMemory, Pages};
use crate::addr::{Order, PAGE_SIZE, Pfn};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;

impl<A: Arch> Pages<'_, A> {
    /// Takes `bytes`, rounded up to pages, in one piece: the smallest block that holds them, without what is too much.
    /// Returns the first frame. To be given back by [`free_exact`](Pages::free_exact).
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; so it is for more than the largest block.
    pub fn alloc_exact(&self, gfp: Gfp, bytes: u64) -> Result<Pfn, OutOfMemory> {
        let Some(order) = Order::for_bytes(bytes) else {
            return Err(self.too_large(gfp));
        };
        let block = self.alloc(gfp, order)?;
        let first = block.pfn();
        self.split(block);
        let wanted = bytes.div_ceil(PAGE_SIZE).max(1);
        // What it just took apart is its own: it cannot be refused.
        let _ = self.free_frames(first.as_raw() + wanted, order.pages() - wanted);
        Ok(first)
    }

    /// Gives back what [`alloc_exact`](Pages::alloc_exact) handed out for so many bytes.
    ///
    /// # Errors
    ///
    /// [`BadFree`] at the first block that is refused; those before it are free.
    pub fn free_exact(&self, first: Pfn, bytes: u64) -> Result<(), BadFree> {
        self.free_frames(first.as_raw(), bytes.div_ceil(PAGE_SIZE).max(1))
    }

    /// Takes a block apart (Linux's `split_page`): from now on each frame is freed on its own, or in smaller blocks up
    /// to order 5. Returns the first frame.
    pub fn split(&self, block: PageBlock) -> Pfn {
        let first = block.pfn();
        let Some(place) = self.map.find(&block) else { return first };
        let words = block.order().pages() >> WORD_ORDER;
        if words > 0 {
            // All of them are out, so they are this call's alone.
            for word in 0..words as u32 {
                self.map.word(place.plus(word)).set_tag(Tag::FRESH);
            }
        } else if let Some(cell) = self.zones.get(self.map.zone(place)) {
            let mut zone = cell.zone.lock(self.arch);
            // The blocks beside it become plain too: they are freed by the long way.
            self.release_locked(&mut zone, place);
            self.lock_lane(place).set_mixed(place, true);
        }
        first
    }

    /// Frees frames that are plain, in the largest blocks that they make up to order 5.
    fn free_frames(&self, mut first: u64, mut pages: u64) -> Result<(), BadFree> {
        while pages > 0 {
            let fits = first.trailing_zeros().min(pages.ilog2()).min(super::MAX_HOARD_ORDER as u32);
            let order = Order::new(fits as usize).unwrap_or_default();
            self.free(PageBlock::from_raw(Pfn::known(first), order))?;
            first += order.pages();
            pages -= order.pages();
        }
        Ok(())
    }
}
