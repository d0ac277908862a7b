// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping: all that can fail first, then the writes.
//!
//! ```text
//!   plan      looks at every entry that will be written; counts the tables that are missing
//!   acquire   takes them, clears them, one DSB: walkers see them as clear; or gives all back
//!   commit    links and fills, then DSB ISHST; ISB
//! ```
//!
//! So an error leaves no trace, and needs no invalidate. A mapping that is one run of entries in one table that
//! exists, the common case, skips to the last step.
//!
//! A table that is there is used, even if a block would fit in its place: then the tree must be
//! [trimmed](PageTable::trim) first.

use super::chain::TableChain;
use super::{
    Attributes, CONTIGUOUS_GROUP, Descriptor, ENTRIES, HELD, MapError, PAGE_LEVEL, PageTable, Spot, TableSource,
};
use super::{index, level_size};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::{Arch, Dsb};

/// Physically contiguous memory to be mapped: its first address and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first address.
    pub phys: PhysAddr,
    /// Bytes.
    pub size: u64,
}

/// A run of entries of one table.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    spot: Spot,
    /// The level of the leaves; tables are missing between the spot and it, if it is lower.
    level: usize,
    count: usize,
}

impl Chunk {
    const fn size(&self) -> u64 {
        self.count as u64 * level_size(self.level)
    }
}

impl<A: Arch> PageTable<A> {
    /// Maps `size` bytes at `virt` to `phys`. Complexity: one step per descriptor written.
    ///
    /// When it returns, this CPU can use the mapping; another one can after its next context synchronization, or
    /// faults once (Arm ARM D8.2.6).
    ///
    /// # Errors
    ///
    /// See [`MapError`]. Nothing has changed then.
    #[inline(always)]
    pub fn map(
        &mut self,
        virt: VirtAddr,
        phys: PhysAddr,
        size: u64,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.map_either::<false>(virt, phys, size, attributes, source)
    }

    /// The same where nothing is mapped, as the caller knows: no entry has to be looked at.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    #[inline(always)]
    pub(crate) fn map_unused(
        &mut self,
        virt: VirtAddr,
        phys: PhysAddr,
        size: u64,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.map_either::<true>(virt, phys, size, attributes, source)
    }

    #[inline(always)]
    fn map_either<const UNUSED: bool>(
        &mut self,
        virt: VirtAddr,
        phys: PhysAddr,
        size: u64,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        let block = level_size(PAGE_LEVEL - 1);
        let done = if (virt.as_raw() | phys.as_raw() | size).is_multiple_of(block) {
            // There may be a table in the place of a block.
            self.map_run::<{ PAGE_LEVEL - 1 }, false>(virt, phys, size, attributes)
        } else {
            self.map_run::<PAGE_LEVEL, UNUSED>(virt, phys, size, attributes)
        };
        if done {
            return Ok(());
        }
        self.map_any(virt, Piece { phys, size }, attributes, source)
    }

    /// The common case: leaves of one table that is there, no larger ones in their stead, no error. Tells whether it
    /// was that.
    #[inline(always)]
    fn map_run<const LEVEL: usize, const UNUSED: bool>(
        &mut self,
        virt: VirtAddr,
        phys: PhysAddr,
        size: u64,
        attributes: Attributes,
    ) -> bool {
        let count = (size / level_size(LEVEL)) as usize;
        let slot = index(virt, LEVEL);
        let is_plain = (virt.as_raw() | phys.as_raw() | size).is_multiple_of(level_size(LEVEL))
            && count.wrapping_sub(1) < ENTRIES - slot
            // Well below what descriptors have bits for; the long way checks exactly.
            && phys.as_raw() >> 47 == 0
            && (count != ENTRIES || !phys.is_aligned(level_size(LEVEL - 1)));
        if !is_plain {
            return false;
        }
        let Some(mut spot) = self.table_at::<LEVEL>(virt) else { return false };
        if !UNUSED && !self.are_free(&spot, slot, count) {
            return false;
        }
        debug_assert!(self.are_free(&spot, slot, count), "{virt:?} is mapped already");
        self.write_leaves(&mut spot, virt, phys, count, attributes);
        self.arch.publish_tables();
        true
    }

    #[inline(always)]
    pub(super) fn are_free(&self, spot: &Spot, slot: usize, count: usize) -> bool {
        if count == 1 {
            return self.load(spot.table, slot).is_none();
        }
        spot.entries() == 0 || (slot..slot + count).all(|slot| self.load(spot.table, slot).is_none())
    }

    #[inline(never)]
    fn map_any(
        &mut self,
        virt: VirtAddr,
        piece: Piece,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.check_range(virt, piece.size)?;
        check_piece(virt, piece)?;
        if piece.size != 0 {
            let chunk = self.chunk(virt, piece)?;
            if chunk.spot.level != chunk.level || chunk.size() != piece.size {
                return self.map_checked(virt, core::iter::once(piece), attributes, source);
            }
            let mut spot = chunk.spot;
            self.write_leaves(&mut spot, virt, piece.phys, chunk.count, attributes);
            self.arch.publish_tables();
        }
        Ok(())
    }

    pub(super) fn map_checked(
        &mut self,
        virt: VirtAddr,
        pieces: impl Iterator<Item = Piece> + Clone,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        let missing = self.plan(virt, pieces.clone())?;
        let mut tables = self.acquire(missing, source)?;
        let mut at = virt;
        for mut piece in pieces {
            while piece.size != 0 {
                let chunk = self.chunk(at, piece)?;
                let mut spot = self.link(&chunk, at, &mut tables)?;
                self.write_leaves(&mut spot, at, piece.phys, chunk.count, attributes);
                advance(&mut at, &mut piece, chunk.size());
            }
        }
        debug_assert!(tables.is_empty(), "planned for more tables than were needed");
        self.arch.publish_tables();
        Ok(())
    }

    /// The table of pages for `virt`, which from now on its holder writes to directly: entries of it are not counted, and it
    /// stays for good.
    ///
    /// # Errors
    ///
    /// [`MapError::AlreadyMapped`] if something is mapped there, [`MapError::NoTable`]. Nothing has changed then.
    pub(crate) fn hold_table(&mut self, virt: VirtAddr, source: &mut impl TableSource) -> Result<PhysAddr, MapError> {
        let (mut spot, entry) = self.locate(virt, PAGE_LEVEL);
        if spot.level == PAGE_LEVEL {
            if spot.entries() != 0 {
                return Err(MapError::AlreadyMapped(virt));
            }
        } else {
            if !entry.is_none() {
                return Err(MapError::AlreadyMapped(virt));
            }
            let mut tables = self.acquire(PAGE_LEVEL - spot.level, source)?;
            // Walkers see the link by the barrier behind the first leaf, at the latest.
            spot = self.link(&Chunk { spot, level: PAGE_LEVEL, count: 0 }, virt, &mut tables)?;
        }
        let (parent, slot) = spot.parent;
        self.store(parent, slot, spot.link.with_entries(HELD));
        Ok(spot.table)
    }

    /// How many tables are missing. Every entry that will be written is free.
    fn plan(&self, virt: VirtAddr, pieces: impl Iterator<Item = Piece>) -> Result<usize, MapError> {
        let mut missing = 0;
        // The table of each level that was counted last, by what it maps.
        let mut counted = [None; PAGE_LEVEL + 1];
        let mut at = virt;
        for mut piece in pieces {
            while piece.size != 0 {
                let chunk = self.chunk(at, piece)?;
                let levels = counted.iter_mut().enumerate().take(chunk.level + 1).skip(chunk.spot.level + 1);
                for (level, last) in levels {
                    let table = Some(at.as_raw() / level_size(level - 1));
                    missing += usize::from(*last != table);
                    *last = table;
                }
                advance(&mut at, &mut piece, chunk.size());
            }
        }
        Ok(missing)
    }

    /// `count` clear tables that every walker sees as clear; or none.
    fn acquire(&self, count: usize, source: &mut impl TableSource) -> Result<TableChain, MapError> {
        let mut tables = TableChain::EMPTY;
        for _ in 0..count {
            let Some(table) = source.table() else {
                tables.give_back(&self.arch, source);
                return Err(MapError::NoTable);
            };
            // SAFETY: the source gives frames that are ours alone and reachable.
            unsafe { self.arch.zero_table(table) };
            // SAFETY: as above. A walker takes the link for an invalid entry.
            unsafe { tables.push(&self.arch, table) };
        }
        if count != 0 {
            // Before any of them is linked: a walker must not find what was in the frame (Arm ARM D8.2.6).
            self.arch.dsb(Dsb::InnerShareableStores);
        }
        Ok(tables)
    }

    /// The next run of entries for `piece`: as many as fit in one table, all of them free.
    #[inline(always)]
    fn chunk(&self, virt: VirtAddr, piece: Piece) -> Result<Chunk, MapError> {
        let mut level = best_level(virt, piece.phys, piece.size);
        let (mut spot, mut entry) = self.locate(virt, level);
        if entry.is_table(spot.level) {
            // A table is in the place of the block.
            (spot, entry) = self.locate(virt, PAGE_LEVEL);
            level = spot.level;
        }
        if !entry.is_none() {
            return Err(MapError::AlreadyMapped(virt));
        }
        let step = level_size(level);
        let first = index(virt, level);
        let mut count = ((piece.size / step) as usize).min(ENTRIES - first);
        if spot.level == level && spot.entries() != 0 {
            for slot in first + 1..first + count {
                let entry = self.load(spot.table, slot);
                if entry.is_table(level) {
                    count = slot - first;
                    break;
                }
                if !entry.is_none() {
                    return Err(MapError::AlreadyMapped(VirtAddr::new(virt.as_raw() + (slot - first) as u64 * step)));
                }
            }
        }
        Ok(Chunk { spot, level, count })
    }

    /// Links tables from `tables` until there is one of the chunk's level.
    fn link(&mut self, chunk: &Chunk, virt: VirtAddr, tables: &mut TableChain) -> Result<Spot, MapError> {
        let mut spot = chunk.spot;
        while spot.level < chunk.level {
            let next = tables.pop(&self.arch).ok_or(MapError::NoTable)?;
            // What `pop` leaves in the first entry is not valid; now it is free.
            self.store(next, 0, Descriptor::NONE);
            let slot = index(virt, spot.level);
            self.count(&mut spot, 1);
            let link = Descriptor::table(next);
            self.store(spot.table, slot, link);
            spot = Spot { table: next, level: spot.level + 1, parent: (spot.table, slot), link };
        }
        Ok(spot)
    }

    /// Writes `count` leaves into free entries, contiguous groups where they are whole.
    #[inline(always)]
    fn write_leaves(&mut self, spot: &mut Spot, virt: VirtAddr, phys: PhysAddr, count: usize, attributes: Attributes) {
        let leaf = Descriptor::leaf_of(self.regime, spot.level, phys, attributes, false);
        self.count(spot, count as isize);
        self.fill_with_groups(spot.table, spot.level, index(virt, spot.level), count, leaf);
    }

    /// Writes `count` leaves from `first` on, which is not hinted; groups that are whole get the hint.
    #[inline(always)]
    pub(super) fn fill_with_groups(
        &mut self,
        table: PhysAddr,
        level: usize,
        slot: usize,
        count: usize,
        first: Descriptor,
    ) {
        let step = level_size(level);
        if count < CONTIGUOUS_GROUP {
            self.fill(table, slot, count, first, step);
            return;
        }
        let at = |n: usize| Descriptor::from_raw(first.as_raw() + n as u64 * step);
        let head = slot.next_multiple_of(CONTIGUOUS_GROUP) - slot;
        // Virtual and physical groups must both be aligned; then they stay in step through the table.
        let in_step = (first.address().as_raw() / step) as usize % CONTIGUOUS_GROUP == slot % CONTIGUOUS_GROUP;
        if level < 2 || !in_step || head + CONTIGUOUS_GROUP > count {
            self.fill(table, slot, count, first, step);
            return;
        }
        let middle = (count - head) & !(CONTIGUOUS_GROUP - 1);
        let tail = count - head - middle;
        self.fill(table, slot, head, first, step);
        self.fill(table, slot + head, middle, at(head).with_contiguous(true), step);
        self.fill(table, slot + head + middle, tail, at(head + middle), step);
    }
}

#[inline(always)]
pub(super) fn check_piece(virt: VirtAddr, piece: Piece) -> Result<(), MapError> {
    if !(piece.phys.as_raw() | piece.size).is_multiple_of(PAGE_SIZE) {
        return Err(MapError::Misaligned(virt));
    }
    // Descriptors have 48 bits of address.
    if piece.phys.as_raw().saturating_add(piece.size) > 1 << 48 {
        return Err(MapError::OutOfRange(virt));
    }
    Ok(())
}

/// Goes on behind `size` bytes. Both ends were checked; only behind the last page of all can `at` wrap.
const fn advance(at: &mut VirtAddr, piece: &mut Piece, size: u64) {
    *at = VirtAddr::new(at.as_raw().wrapping_add(size));
    piece.phys = PhysAddr::new_saturating(piece.phys.as_raw() + size);
    piece.size -= size;
}

/// The most tables that mapping `size` bytes at `virt` to `phys` can need, the root not counted.
#[must_use]
pub fn max_tables(virt: VirtAddr, phys: PhysAddr, size: u64) -> u64 {
    if size == 0 {
        return 0;
    }
    let first = virt.as_raw();
    let last = first.saturating_add(size - 1);
    let touched = |level: usize| last / level_size(level) - first / level_size(level) + 1;
    // Where both sides are congruent, only the slots at the two ends cannot be blocks.
    let congruent = |level: usize| (first ^ phys.as_raw()).is_multiple_of(level_size(level));
    let level2 = if congruent(1) { touched(1).min(2) } else { touched(1) };
    let level3 = if congruent(2) { touched(2).min(2) } else { touched(2) };
    touched(0) + level2 + level3
}

/// The level whose entries are the largest that fit here.
#[inline(always)]
fn best_level(virt: VirtAddr, phys: PhysAddr, left: u64) -> usize {
    let aligned = virt.as_raw() | phys.as_raw();
    let fits = |level: usize| aligned.is_multiple_of(level_size(level)) && left >= level_size(level);
    if !fits(2) {
        PAGE_LEVEL
    } else if fits(1) {
        1
    } else {
        2
    }
}
