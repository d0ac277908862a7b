// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping: entries are cleared, and one DSB later no walker finds them. What TLBs hold is left to the
//! [`Unmapped`] that comes out.

use super::chain::TableChain;
use super::split::Manner;
use super::{CONTIGUOUS_GROUP, Descriptor, ENTRIES, MapError, NO_GIB, PAGE_LEVEL, PageTable, Spot, TableSource};
use super::{index, level_size};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::{Arch, Dsb};
use crate::tlb::{Span, Tlb, Unmapped};

impl<A: Arch> PageTable<A> {
    /// Unmaps whatever is mapped in `size` bytes from `virt` on. Blocks and contiguous groups that are only
    /// partly inside are split: for the moment of the split, all of the block is invalid. Tables that become
    /// empty stay linked, see [`trim`](PageTable::trim). Complexity: one step per descriptor cleared, less for a
    /// whole table.
    ///
    /// # Errors
    ///
    /// [`MapError::Misaligned`], [`MapError::OutOfRange`]; [`MapError::NoTable`] if a block cannot be split. All
    /// translations are as before then.
    #[inline(always)]
    pub fn unmap(
        &mut self,
        virt: VirtAddr,
        size: u64,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<Unmapped, MapError> {
        match self.unmap_in_one::<false>(virt, size) {
            Some(cleared) => Ok(self.unmapped(virt, size, &cleared, tlb)),
            None => self.unmap_any::<false>(virt, size, tlb, source),
        }
    }

    /// The same for a range that is mapped throughout, by nothing that reaches beyond it. Complexity: less, since no entry has
    /// to be looked at.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    #[inline(always)]
    pub(crate) fn unmap_full(
        &mut self,
        virt: VirtAddr,
        size: u64,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<Unmapped, MapError> {
        self.unmap_for_now(virt, size, tlb, source)?;
        let span = Span { start: virt, size, level: PAGE_LEVEL as u8, tables: false };
        let pages = size / PAGE_SIZE;
        Ok(Unmapped { regime: self.regime, span, pages, stamp: tlb.stamp(self.regime), payload: () })
    }

    /// The same where what TLBs may still know of it is the caller's affair, who takes a [`Tlb::stamp`] or maps the same
    /// again.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    #[inline(always)]
    pub(crate) fn unmap_for_now(
        &mut self,
        virt: VirtAddr,
        size: u64,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        if self.unmap_in_one::<true>(virt, size).is_none() {
            return self.unmap_any::<true>(virt, size, tlb, source).map(|_| ());
        }
        self.arch.dsb(Dsb::InnerShareableStores);
        Ok(())
    }

    /// The common case at the level that fits: see [`unmap_run`](Self::unmap_run).
    #[inline(always)]
    fn unmap_in_one<const FULL: bool>(&mut self, virt: VirtAddr, size: u64) -> Option<Cleared> {
        if (virt.as_raw() | size).is_multiple_of(level_size(PAGE_LEVEL - 1)) {
            // There may be tables in the place of blocks.
            self.unmap_run::<{ PAGE_LEVEL - 1 }, false>(virt, size)
        } else {
            self.unmap_run::<PAGE_LEVEL, FULL>(virt, size)
        }
    }

    /// The common case: entries of one table, none of them a table, and no contiguous group cut. `None` if it is not
    /// that.
    #[inline(always)]
    fn unmap_run<const LEVEL: usize, const FULL: bool>(&mut self, virt: VirtAddr, size: u64) -> Option<Cleared> {
        let count = (size / level_size(LEVEL)) as usize;
        let slot = index(virt, LEVEL);
        let is_plain =
            (virt.as_raw() | size).is_multiple_of(level_size(LEVEL)) && count.wrapping_sub(1) < ENTRIES - slot;
        if !is_plain {
            return None;
        }
        let mut spot = self.table_at::<LEVEL>(virt)?;
        let pages = level_size(LEVEL) / PAGE_SIZE;
        if count == 1 {
            let entry = self.load(spot.table, slot);
            // One of a group is never all of it.
            if entry.is_table(LEVEL) || entry.is_contiguous() {
                return None;
            }
            if entry.is_none() {
                return Some(Cleared { pages: 0, level: LEVEL });
            }
            self.store(spot.table, slot, Descriptor::NONE);
            self.count(&mut spot, -1);
            return Some(Cleared { pages, level: LEVEL });
        }
        if !FULL && (self.cuts_group(&spot, slot) || self.cuts_group(&spot, slot + count)) {
            return None;
        }
        let mut present = if FULL { count } else { spot.entries() };
        if !FULL && present != 0 && (LEVEL != PAGE_LEVEL || count != ENTRIES) {
            present = 0;
            for slot in slot..slot + count {
                let entry = self.load(spot.table, slot);
                if entry.is_table(LEVEL) {
                    return None;
                }
                present += usize::from(!entry.is_none());
            }
        }
        if present != 0 {
            self.fill(spot.table, slot, count, Descriptor::NONE, 0);
            self.count(&mut spot, -(present as isize));
        }
        Some(Cleared { pages: present as u64 * pages, level: LEVEL })
    }

    /// Whether there is a contiguous group on both sides of entry `slot`.
    #[inline(always)]
    fn cuts_group(&self, spot: &Spot, slot: usize) -> bool {
        !slot.is_multiple_of(CONTIGUOUS_GROUP) && self.load(spot.table, slot).is_contiguous()
    }

    #[inline(never)]
    fn unmap_any<const FULL: bool>(
        &mut self,
        virt: VirtAddr,
        size: u64,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<Unmapped, MapError> {
        if let Some(cleared) = self.unmap_run::<PAGE_LEVEL, false>(virt, size) {
            // A whole table of pages.
            return Ok(self.unmapped(virt, size, &cleared, tlb));
        }
        self.check_range(virt, size)?;
        if !FULL {
            self.split_ends(virt, size, &Manner::Break, tlb, source)?;
        }
        let mut cleared = Cleared { pages: 0, level: 1 };
        self.clear_range::<FULL>(virt, size, &mut cleared);
        Ok(self.unmapped(virt, size, &cleared, tlb))
    }

    fn clear_range<const FULL: bool>(&mut self, virt: VirtAddr, size: u64, cleared: &mut Cleared) {
        let mut done = 0;
        while done < size {
            let at = VirtAddr::new(virt.as_raw() + done);
            let (mut spot, _) = self.locate(at, PAGE_LEVEL);
            let step = level_size(spot.level);
            let slot = index(at, spot.level);
            // Only a hole can begin before the range or end behind it: the ends were split.
            let before = at.as_raw() % step;
            let wanted = (before + (size - done)).div_ceil(step);
            let count = (wanted as usize).min(ENTRIES - slot);
            let count = self.clear::<FULL>(&mut spot, slot, count, cleared);
            done += count as u64 * step - before;
        }
    }

    /// Clears up to `count` entries that are no tables; tells how many there were before the first table.
    #[inline(always)]
    fn clear<const FULL: bool>(
        &mut self,
        spot: &mut Spot,
        slot: usize,
        mut count: usize,
        cleared: &mut Cleared,
    ) -> usize {
        let used = spot.entries();
        let mut present = 0;
        if spot.level == PAGE_LEVEL && (count == ENTRIES || used == 0) {
            present = used;
        } else if FULL && spot.level == PAGE_LEVEL {
            present = count;
        } else {
            for n in 0..count {
                let entry = self.load(spot.table, slot + n);
                if entry.is_table(spot.level) {
                    count = n;
                    break;
                }
                present += usize::from(!entry.is_none());
            }
        }
        if present != 0 {
            self.fill(spot.table, slot, count, Descriptor::NONE, 0);
            self.count(spot, -(present as isize));
            cleared.pages += present as u64 * (level_size(spot.level) / PAGE_SIZE);
            cleared.level = cleared.level.max(spot.level);
        }
        count
    }

    /// Gives tables without an entry in use back, wherever they translate some of `size` bytes from `virt` on;
    /// tells how many. The root stays.
    ///
    /// All CPUs have forgotten them when this returns, and not only for the tables' own sake: a table that was
    /// unlinked and another one in its place would be a change without a break, for addresses far beyond the range.
    ///
    /// # Errors
    ///
    /// [`MapError::Misaligned`], [`MapError::OutOfRange`].
    pub fn trim(
        &mut self,
        virt: VirtAddr,
        size: u64,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<u64, MapError> {
        self.check_range(virt, size)?;
        self.last.0 = NO_GIB;
        let mut tables = TableChain::EMPTY;
        let mut count = 0;
        // Lower levels first: they may be what the upper ones are still used for.
        for level in (1..=PAGE_LEVEL).rev() {
            let reach = level_size(level - 1);
            let mut done = 0;
            while done < size {
                let at = VirtAddr::new(virt.as_raw() + done);
                let (spot, _) = self.locate(at, level);
                if spot.level == level && spot.entries() == 0 {
                    let (parent, slot) = spot.parent;
                    let (mut above, _) = self.locate(at, level - 1);
                    self.store(parent, slot, Descriptor::NONE);
                    self.count(&mut above, -1);
                    // SAFETY: it was a table of this tree, and nothing leads there any more but what walkers hold.
                    unsafe { tables.push(&self.arch, spot.table) };
                    count += 1;
                }
                // To the next table of this level, or over the hole.
                let hole = if spot.level == level { reach } else { level_size(spot.level) };
                done += hole - at.as_raw() % hole;
            }
        }
        if count != 0 {
            self.arch.dsb(Dsb::InnerShareableStores);
            // One invalidate for each level 3 table: a walk-cache entry is used for all of its addresses.
            tlb.flush_span(self.regime, &Span { start: virt, size, level: PAGE_LEVEL as u8 - 1, tables: true });
        }
        tables.give_back(&self.arch, source);
        Ok(count)
    }

    /// What was cleared is out of the walkers' sight from here on, whoever flushes, and whenever.
    #[inline(always)]
    fn unmapped(&self, virt: VirtAddr, size: u64, cleared: &Cleared, tlb: &Tlb<A>) -> Unmapped {
        if cleared.pages != 0 {
            self.arch.dsb(Dsb::InnerShareableStores);
        }
        let span = Span { start: virt, size, level: cleared.level as u8, tables: false };
        Unmapped { regime: self.regime, span, pages: cleared.pages, stamp: tlb.stamp(self.regime), payload: () }
    }
}

/// What was cleared so far.
struct Cleared {
    pages: u64,
    /// The lowest level that had something.
    level: usize,
}
