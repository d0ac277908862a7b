// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many blocks of one order at once, for per-CPU lists and for whoever fills an array.

use super::{Buddy, Class, FreeError, Mobility, Put, ROWS, Refused, row};
use crate::addr::{Order, Pfn};

impl Buddy<'_> {
    /// Takes as many blocks of one order as `blocks` has room for, or as there are, and writes their
    /// first frames to it from the start. Returns their number. These are the blocks that
    /// [`alloc`](Buddy::alloc) gives one by one, but what is looked up for one of them serves all that lie in
    /// the same 64 frames: about ten instructions a frame.
    pub fn alloc_bulk(&mut self, order: Order, mobility: Mobility, blocks: &mut [Pfn]) -> usize {
        let row = self.row_of(mobility);
        match order.as_usize() {
            0 => self.take_many::<0>(row, blocks),
            1 => self.take_many::<1>(row, blocks),
            2 => self.take_many::<2>(row, blocks),
            3 => self.take_many::<3>(row, blocks),
            _ => {
                let block = || Pfn::new(self.take_raw(row, order.as_usize() as u32));
                let taken = blocks.iter_mut().zip(core::iter::from_fn(block));
                taken.map(|(slot, pfn)| *slot = pfn).count()
            }
        }
    }

    fn take_many<const ORDER: u32>(&mut self, row: usize, blocks: &mut [Pfn]) -> usize {
        let mut filled = 0;
        while let Some(room) = blocks.get_mut(filled..).filter(|room| !room.is_empty()) {
            let taken = match self.sets.best(row, ORDER) {
                Some((chunk, class)) => self.take_from_word::<ORDER>(chunk, class, row, room),
                None => match (Pfn::new(self.take_elsewhere(row, ORDER)), room) {
                    (Some(pfn), [next, ..]) => {
                        *next = pfn;
                        1
                    }
                    _ => 0,
                },
            };
            if taken == 0 {
                break;
            }
            filled += taken;
        }
        filled
    }

    /// Takes what one word of a chunk has, as far as there is room.
    #[inline(always)]
    fn take_from_word<const ORDER: u32>(&mut self, chunk: usize, class: Class, row: usize, room: &mut [Pfn]) -> usize {
        let Some(mut it) = self.chunks.get_mut(chunk) else { return 0 };
        let (taken, left) = it.take_many::<ORDER>(class, room);
        if let Some(pages) = self.free_pages.get_mut(row % ROWS) {
            *pages -= (taken as u64) << ORDER;
        }
        if left != class {
            self.refile(chunk, left, 0);
        }
        taken
    }

    /// Gives back blocks of one order, as by [`free`](Buddy::free) one by one. Blocks that lie side by side and
    /// follow each other in `blocks` cost a few instructions each.
    ///
    /// # Errors
    ///
    /// The index of the first block that is refused, and why. Those before it are free, those behind it
    /// are as they were.
    pub fn free_bulk(&mut self, order: Order, blocks: &[Pfn]) -> Result<(), (usize, FreeError)> {
        let at = order.as_usize() as u32;
        let mut done = 0;
        while let Some(left @ [first, ..]) = blocks.get(done..) {
            let together = if at < 6 { together(left, at) } else { 1 };
            if together > 1 && self.put_together(first.as_raw(), together << at, at) {
                done += together;
                continue;
            }
            Refused::decode(self.put_raw(first.as_raw(), at)).map_err(|why| (done, why.about(*first, order)))?;
            done += 1;
        }
        Ok(())
    }

    /// Frees frames side by side in one word. Returns whether it could be done.
    #[inline(never)]
    fn put_together(&mut self, pfn: u64, pages: usize, order: u32) -> bool {
        let Ok((chunk, offset)) = self.locate(pfn, order) else { return false };
        if self.spans.locate_recent(pfn, pages as u64).is_none() {
            return false;
        }
        let Some(mut it) = self.chunks.get_mut(chunk) else { return false };
        let head = it.head();
        if !head.is_split() {
            return false;
        }
        let frames = row::ones_up_to(pages as u32) << (offset % 64);
        let Put::Merged(merged) = it.put_frames(offset / 64, frames) else { return false };
        if let Some(count) = self.free_pages.get_mut(head.row()) {
            *count += pages as u64;
        }
        if Class::of(merged) > head.class() {
            self.raise(chunk, merged);
        }
        true
    }
}

/// How many of the first blocks lie side by side, in ascending order and in one word.
#[inline(always)]
fn together(blocks: &[Pfn], order: u32) -> usize {
    let [first, rest @ ..] = blocks else { return 0 };
    let fit = (64 - first.as_raw() as usize % 64) >> order;
    let (mut next, mut count) = (first.plus(1 << order), 1);
    for pfn in rest.iter().take(fit.saturating_sub(1)) {
        if *pfn != next {
            break;
        }
        next = next.plus(1 << order);
        count += 1;
    }
    count
}
