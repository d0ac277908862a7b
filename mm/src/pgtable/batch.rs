// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping many pieces as one batch: where the tables of pages are there, they are written one behind the other, without a
//! walk for each piece, and one DSB and ISB at the end is for all.

use super::map::{Piece, check_piece};
use super::{Attributes, Descriptor, ENTRIES, MapError, PAGE_LEVEL, PageTable, Spot, TableSource, index};
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::arch::Arch;

/// Leaves that are being written, one behind the other, to tables of pages.
struct Filling {
    /// The address of the first in this table.
    at: VirtAddr,
    spot: Spot,
    /// The first entry in this table.
    start: usize,
}

impl<A: Arch> PageTable<A> {
    /// Maps frames one behind the other from `virt` on, which is known to be free, if that is entries of one table that is
    /// there. Tells whether it was.
    #[inline(always)]
    pub(crate) fn map_frames(&mut self, virt: VirtAddr, frames: &[Pfn], attributes: Attributes) -> bool {
        let (count, slot) = (frames.len(), index(virt, PAGE_LEVEL));
        if count.wrapping_sub(1) >= ENTRIES - slot {
            return false;
        }
        let Some(mut spot) = self.table_at::<PAGE_LEVEL>(virt) else { return false };
        debug_assert!(self.are_free(&spot, slot, count), "{virt:?} is mapped already");
        let like = Descriptor::leaf_of(self.regime, PAGE_LEVEL, PhysAddr::ZERO, attributes, false).as_raw();
        for (slot, frame) in (slot..).zip(frames) {
            self.store(spot.table, slot, Descriptor::from_raw(like | frame.addr().as_raw()));
        }
        self.count(&mut spot, count as isize);
        self.arch.publish_tables();
        true
    }

    /// Maps `pieces` one behind the other from `virt` on, as one batch: see [`map`](PageTable::map).
    ///
    /// # Errors
    ///
    /// See [`MapError`]. Nothing has changed then.
    pub fn map_pieces(
        &mut self,
        virt: VirtAddr,
        pieces: impl Iterator<Item = Piece> + Clone,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        let mut at = virt;
        for piece in pieces.clone() {
            self.check_range(at, piece.size)?;
            check_piece(at, piece)?;
            // Wraps behind the last page of all, and then only in front of nothing more.
            at = VirtAddr::new(at.as_raw().wrapping_add(piece.size));
        }
        let size = at.as_raw().wrapping_sub(virt.as_raw());
        if !self.has_free_pages(virt, size / PAGE_SIZE) {
            return self.map_checked(virt, pieces, attributes, source);
        }
        self.map_known(virt, size, pieces, attributes, source)
    }

    /// The same where nothing is mapped, for pieces that are made of whole pages within reach of descriptors, `size` bytes
    /// altogether, as the caller knows.
    ///
    /// # Errors
    ///
    /// As [`map_pieces`](Self::map_pieces).
    pub(crate) fn map_known(
        &mut self,
        virt: VirtAddr,
        size: u64,
        pieces: impl Iterator<Item = Piece> + Clone,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        if size == 0 || !self.has_tables(virt, size / PAGE_SIZE) {
            return self.map_checked(virt, pieces, attributes, source);
        }
        debug_assert!(self.has_free_pages(virt, size / PAGE_SIZE), "{virt:?} is mapped already");
        let spot = self.table_at::<PAGE_LEVEL>(virt).ok_or(MapError::NoTable)?;
        let start = index(virt, PAGE_LEVEL);
        let mut filling = Filling { at: virt, spot, start };
        let like = Descriptor::leaf_of(self.regime, PAGE_LEVEL, PhysAddr::ZERO, attributes, false).as_raw();
        // In registers, for pages one by one.
        let (mut table, mut slot) = (spot.table, start);
        pieces.for_each(|piece| {
            if piece.size == PAGE_SIZE && slot < ENTRIES {
                self.store(table, slot, Descriptor::from_raw(like | piece.phys.as_raw()));
                slot += 1;
            } else {
                (table, slot) = self.fill_more(&mut filling, slot, piece, like);
            }
        });
        self.end_table(&mut filling, slot);
        self.arch.publish_tables();
        Ok(())
    }

    /// Writes the leaves of a piece from `slot` on, where those before ended, in tables that are there; tells where it ends.
    #[inline(never)]
    fn fill_more(&mut self, filling: &mut Filling, mut slot: usize, mut piece: Piece, like: u64) -> (PhysAddr, usize) {
        while piece.size != 0 {
            if slot == ENTRIES {
                let Some(spot) = self.end_table(filling, slot) else { break };
                (filling.spot, filling.start, slot) = (spot, 0, 0);
            }
            let count = ((piece.size / PAGE_SIZE) as usize).min(ENTRIES - slot);
            let leaf = Descriptor::from_raw(like | piece.phys.as_raw());
            self.fill_with_groups(filling.spot.table, PAGE_LEVEL, slot, count, leaf);
            slot += count;
            let done = count as u64 * PAGE_SIZE;
            piece = Piece { phys: PhysAddr::new_saturating(piece.phys.as_raw() + done), size: piece.size - done };
        }
        (filling.spot.table, slot)
    }

    /// Counts what was written to a table before `slot`, and finds the one behind it.
    #[inline]
    fn end_table(&mut self, filling: &mut Filling, slot: usize) -> Option<Spot> {
        let written = slot - filling.start;
        self.count(&mut filling.spot, written as isize);
        filling.at = VirtAddr::new(filling.at.as_raw().wrapping_add(written as u64 * PAGE_SIZE));
        if slot == ENTRIES { self.table_at::<PAGE_LEVEL>(filling.at) } else { None }
    }

    /// Whether there are tables of pages for so many pages from `virt` on: then no piece needs a walk of its own.
    fn has_tables(&mut self, virt: VirtAddr, pages: u64) -> bool {
        self.each_table(virt, pages, |_, _, _, _| true)
    }

    /// Whether there are such tables, and nothing in their entries.
    fn has_free_pages(&mut self, virt: VirtAddr, pages: u64) -> bool {
        self.each_table(virt, pages, Self::are_free)
    }

    #[inline(always)]
    fn each_table(
        &mut self,
        virt: VirtAddr,
        mut pages: u64,
        is_fit: impl Fn(&Self, &Spot, usize, usize) -> bool,
    ) -> bool {
        let mut at = virt;
        while pages != 0 {
            let Some(spot) = self.table_at::<PAGE_LEVEL>(at) else { return false };
            let slot = index(at, PAGE_LEVEL);
            let count = pages.min((ENTRIES - slot) as u64);
            if !is_fit(self, &spot, slot, count as usize) {
                return false;
            }
            pages -= count;
            at = VirtAddr::new(at.as_raw().wrapping_add(count * PAGE_SIZE));
        }
        true
    }
}
