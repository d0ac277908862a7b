// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping: entries are cleared, and one DSB later no walker finds them. What TLBs hold is left to the
//! [`Unmapped`] that comes out.

use super::chain::TableChain;
use super::split::Manner;
use super::{CONTIGUOUS_GROUP, Descriptor, ENTRIES, MapError, PAGE_LEVEL, PageTable, Spot, TableSource};
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
    #[inline]
    pub fn unmap(
        &mut self,
        virt: VirtAddr,
        size: u64,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<Unmapped, MapError> {
        self.check_range(virt, size)?;
        let mut cleared = Cleared { pages: 0, level: 1 };
        let (spot, entry) = self.locate(virt, PAGE_LEVEL);
        let count = size / PAGE_SIZE;
        let slot = index(virt, PAGE_LEVEL);
        if spot.level == PAGE_LEVEL && count != 0 && slot as u64 + count <= ENTRIES as u64 {
            // Pages of one table, the common case: at most a contiguous group can stand in the way.
            let end = slot + count as usize;
            let cuts_head = !slot.is_multiple_of(CONTIGUOUS_GROUP) && entry.is_contiguous();
            if cuts_head || !end.is_multiple_of(CONTIGUOUS_GROUP) && self.load(spot.table, end - 1).is_contiguous() {
                self.split_ends(virt, size, &Manner::Break, tlb, source)?;
            }
            self.clear(&spot, slot, count as usize, &mut cleared);
        } else {
            self.split_ends(virt, size, &Manner::Break, tlb, source)?;
            self.clear_range(virt, size, &mut cleared);
        }
        if cleared.pages != 0 {
            // From here on no walker can fetch them again, whoever flushes, and whenever.
            self.arch.dsb(Dsb::InnerShareableStores);
        }
        let span = Span { start: virt, size, level: cleared.level, tables: false };
        Ok(self.unmapped(span, cleared.pages, tlb))
    }

    fn clear_range(&mut self, virt: VirtAddr, size: u64, cleared: &mut Cleared) {
        let mut done = 0;
        while done < size {
            let at = VirtAddr::new(virt.as_raw() + done);
            let (spot, _) = self.locate(at, PAGE_LEVEL);
            let step = level_size(spot.level);
            let slot = index(at, spot.level);
            // Only a hole can begin before the range or end behind it: the ends were split.
            let before = at.as_raw() % step;
            let wanted = (before + (size - done)).div_ceil(step);
            let count = (wanted as usize).min(ENTRIES - slot);
            let count = self.clear(&spot, slot, count, cleared);
            done += count as u64 * step - before;
        }
    }

    /// Clears up to `count` entries that are no tables; tells how many there were before the first table.
    #[inline(always)]
    fn clear(&mut self, spot: &Spot, slot: usize, mut count: usize, cleared: &mut Cleared) -> usize {
        let used = self.entries_in(spot);
        let mut present = 0;
        if spot.level == PAGE_LEVEL && (count == ENTRIES || used == 0) {
            present = used;
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
        let mut tables = TableChain::EMPTY;
        let mut count = 0;
        // Lower levels first: they may be what the upper ones are still used for.
        for level in (1..=PAGE_LEVEL).rev() {
            let reach = level_size(level - 1);
            let mut done = 0;
            while done < size {
                let at = VirtAddr::new(virt.as_raw() + done);
                let (spot, _) = self.locate(at, level);
                if spot.level == level && self.entries_in(&spot) == 0 {
                    let (parent, slot) = spot.parent;
                    let (above, _) = self.locate(at, level - 1);
                    self.store(parent, slot, Descriptor::NONE);
                    self.count(&above, -1);
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
            tlb.flush_span(self.regime, &Span { start: virt, size, level: PAGE_LEVEL - 1, tables: true });
        }
        tables.give_back(&self.arch, source);
        Ok(count)
    }

    #[inline(always)]
    fn unmapped(&self, span: Span, pages: u64, tlb: &Tlb<A>) -> Unmapped {
        Unmapped { regime: self.regime, span, pages, stamp: tlb.stamp(), payload: () }
    }
}

/// What was cleared so far.
struct Cleared {
    pages: u64,
    /// The lowest level that had something.
    level: usize,
}
