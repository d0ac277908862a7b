// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boundaries where there are none: a block becomes a table of smaller leaves, a contiguous group loses its hint.
//!
//! Both change the size of a live translation, which no TLB may ever hold at both sizes. So the block is broken
//! first, for all CPUs, and made anew, unless the hardware has FEAT_BBM level 2. Whoever uses the block meanwhile
//! faults, and finds it whole when it takes the lock of the tree. Where nobody may fault (the direct map, which
//! the kernel itself runs on) the others are stopped, and the entries are reached by a page elsewhere.

use super::{Attributes, index, level_size};
use super::{CONTIGUOUS_GROUP, Descriptor, ENTRIES, MapError, PAGE_LEVEL, PageTable, TableSource, Transition};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::{Arch, Dsb};
use crate::tlb::{Span, Tlb};

/// How a live block is replaced.
pub(super) enum Manner {
    /// Not at all.
    Refuse,
    /// Break before make; its users fault meanwhile.
    Break,
    /// Break before make, while nobody runs; the entries are reached by this page.
    Stopped(VirtAddr),
}

/// Entries of one table that change together.
#[derive(Clone, Copy)]
struct Run {
    table: PhysAddr,
    level: usize,
    slot: usize,
    count: usize,
}

impl<A: Arch> PageTable<A> {
    /// Makes boundaries at `virt` and `virt + size`.
    pub(super) fn split_ends(
        &mut self,
        virt: VirtAddr,
        size: u64,
        manner: &Manner,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.split_at(virt, manner, tlb, source)?;
        match virt.checked_add(size) {
            Some(end) if self.contains(end) => self.split_at(end, manner, tlb, source),
            _ => Ok(()),
        }
    }

    /// Makes boundaries inside live blocks whose users must not fault: the kernel's own memory. On hardware
    /// without FEAT_BBM level 2 the other CPUs are stopped, and the table that changes is reached by the page
    /// `fixmap`, free before and after.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`], or what is wrong with `fixmap`. All translations are as before then.
    ///
    /// # Safety
    ///
    /// 1. Interrupts are masked, and nobody else changes the tree until this returns.
    /// 2. `fixmap` belongs to the caller, and neither it nor the code and the exception
    ///    vectors of the kernel are translated by the blocks around `virt` and `virt + size`.
    pub unsafe fn split_stopped(
        &mut self,
        virt: VirtAddr,
        size: u64,
        fixmap: VirtAddr,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.check_range(virt, size)?;
        // Proves that the page is free, and makes its tables if they are missing.
        self.map(fixmap, self.root, PAGE_SIZE, Attributes::RODATA, source)?;
        self.unmap(fixmap, PAGE_SIZE, tlb, source)?.flush(tlb).release();
        // Whoever is stopped may hold the allocator's lock: take first what may be needed.
        let mut stock = Stock::take(source);
        let mut result = Ok(());
        let arch: *const A = &raw const self.arch;
        // SAFETY: `arch` is a part of `self`, which outlives the call; nothing writes it.
        unsafe { &*arch }.with_others_stopped(&mut || {
            result = self.split_ends(virt, size, &Manner::Stopped(fixmap), tlb, &mut stock);
        });
        stock.give_back_all(source);
        result
    }

    fn split_at(
        &mut self,
        at: VirtAddr,
        manner: &Manner,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        loop {
            let (spot, entry) = self.locate(at, PAGE_LEVEL);
            let step = level_size(spot.level);
            let in_leaf = !at.is_aligned(step);
            let in_group = entry.is_contiguous() && !at.is_aligned(step * CONTIGUOUS_GROUP as u64);
            if entry.is_none() || !in_leaf && !in_group {
                return Ok(());
            }
            if matches!(manner, Manner::Refuse) {
                return Err(MapError::WouldSplit(at));
            }
            let slot = index(at, spot.level);
            if in_group {
                let slot = slot - slot % CONTIGUOUS_GROUP;
                let run = Run { table: spot.table, level: spot.level, slot, count: CONTIGUOUS_GROUP };
                let first = self.load(spot.table, slot).with_contiguous(false);
                self.replace(run, at, first, step, manner, tlb);
            } else {
                let table = source.table().ok_or(MapError::NoTable)?;
                self.fill_from_block(table, spot.level + 1, entry, at);
                let run = Run { table: spot.table, level: spot.level, slot, count: 1 };
                self.replace(run, at, Descriptor::table(table).with_entries(ENTRIES), 0, manner, tlb);
            }
        }
    }

    /// Fills a new table of `level` with what `block` maps, published. The group around `at` has no hint.
    fn fill_from_block(&mut self, table: PhysAddr, level: usize, block: Descriptor, at: VirtAddr) {
        let first = block.at_level(level).with_contiguous(false);
        let step = level_size(level);
        let slot = index(at, level);
        let group = slot - slot % CONTIGUOUS_GROUP;
        let leaf = |slot: usize| Descriptor::from_raw(first.as_raw() + slot as u64 * step);
        if at.is_aligned(step * CONTIGUOUS_GROUP as u64) {
            self.fill_with_groups(table, level, 0, ENTRIES, first);
        } else {
            let behind = group + CONTIGUOUS_GROUP;
            self.fill_with_groups(table, level, 0, group, first);
            self.fill(table, group, CONTIGUOUS_GROUP, leaf(group), step);
            if behind < ENTRIES {
                self.fill_with_groups(table, level, behind, ENTRIES - behind, leaf(behind));
            }
        }
        // Before it is linked (Arm ARM D8.2.6).
        self.arch.dsb(Dsb::InnerShareableStores);
    }

    /// Writes `first` and its successors over live entries that mean the same, as [`Transition`] demands.
    fn replace(&mut self, run: Run, at: VirtAddr, first: Descriptor, step: u64, manner: &Manner, tlb: &Tlb<A>) {
        let Run { table, level, slot, count } = run;
        let reach = level_size(level) * count as u64;
        let start = VirtAddr::new(at.as_raw() & !(reach - 1));
        let span = Span { start, size: reach, level: level as u8, tables: false };
        let old = self.load(table, slot);
        match Transition::between(old, first, level, tlb.features()) {
            Transition::Write => {
                self.fill(table, slot, count, first, step);
                self.arch.publish_tables();
            }
            Transition::WriteThenFlush => {
                self.fill(table, slot, count, first, step);
                self.arch.dsb(Dsb::InnerShareableStores);
                tlb.flush_span(self.regime, &span);
            }
            Transition::BreakBeforeMake => {
                if let Manner::Stopped(fixmap) = *manner {
                    self.replace_stopped(run, first, step, fixmap, tlb);
                } else {
                    self.fill(table, slot, count, Descriptor::NONE, 0);
                    self.arch.dsb(Dsb::InnerShareableStores);
                    tlb.flush_span(self.regime, &span);
                    self.fill(table, slot, count, first, step);
                    self.arch.publish_tables();
                }
            }
        }
    }

    /// Break before make of entries that may translate this stack, or the direct map of their own table.
    fn replace_stopped(&mut self, run: Run, first: Descriptor, step: u64, fixmap: VirtAddr, tlb: &Tlb<A>) {
        let (spot, _) = self.locate(fixmap, PAGE_LEVEL);
        let slot = index(fixmap, PAGE_LEVEL);
        let window = Descriptor::leaf_of(self.regime, PAGE_LEVEL, run.table, Attributes::DATA, false);
        self.store(spot.table, slot, window);
        self.arch.publish_tables();
        let entries = VirtAddr::new(fixmap.as_raw() + run.slot as u64 * 8);
        // SAFETY: (1) just mapped, by a table that the caller of `split_stopped` keeps out of the blocks; (2) the
        // others are stopped and interrupts are masked; (3) `replace` is given what means the same.
        unsafe { self.arch.replace_live(entries, run.count, first.as_raw(), step) };
        self.store(spot.table, slot, Descriptor::NONE);
        self.arch.dsb(Dsb::InnerShareableStores);
        tlb.flush_span(self.regime, &Span { start: fixmap, size: PAGE_SIZE, level: PAGE_LEVEL as u8, tables: false });
    }
}

/// The most tables that two boundaries need: a 1 GiB block becomes 2 MiB blocks, one of those pages; twice.
const STOCK: usize = 4;

/// Tables taken beforehand.
struct Stock([Option<PhysAddr>; STOCK]);

impl Stock {
    fn take(source: &mut impl TableSource) -> Self {
        Self(core::array::from_fn(|_| source.table()))
    }

    fn give_back_all(self, source: &mut impl TableSource) {
        self.0.into_iter().flatten().for_each(|table| source.give_back(table));
    }
}

impl TableSource for Stock {
    fn table(&mut self) -> Option<PhysAddr> {
        self.0.iter_mut().find_map(Option::take)
    }

    fn give_back(&mut self, table: PhysAddr) {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(table);
        }
    }
}
