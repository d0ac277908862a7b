// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bounce buffers: memory that every device reaches, made of slots that own whole cache lines (Linux's swiotlb).
//!
//! What a device does not reach, and what shares its first or last line with somebody else while the device writes to
//! it, is copied here and back. The area is one block of the page allocator, taken when it is first needed. A slot is 2
//! KiB: as much as a cache writes back at once on any CPU (CTR_EL0.CWG).
//!
//! *Complexity:* first fit, a step per 64 slots.
#![forbid(unsafe_code)]

use super::device::Device;
use super::table::Table;
use super::{DmaError, Mapper, Platform};
use crate::addr::{Order, PhysAddr};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::slab::PageSource;

/// Bytes of a slot.
pub const SLOT_BYTES: u64 = 2048;
const MAX_SLOTS: usize = (Order::MAX.bytes() / SLOT_BYTES) as usize;
const WORDS: usize = MAX_SLOTS / 64;

/// The first slot of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(u16);

impl Slot {
    pub(super) const fn new(number: u16) -> Self {
        Self(number)
    }

    pub(super) const fn as_u16(self) -> u16 {
        self.0
    }
}

/// What a slot is part of: where the memory is that it stands for, and how far back the run begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    start: PhysAddr,
    first: u16,
}

/// The area.
#[derive(Debug)]
pub(super) struct Bounce {
    start: PhysAddr,
    slots: u32,
    /// A bit a slot, set while it is free.
    map: [u64; WORDS],
    origins: Table<Origin>,
    /// Slots in use, and the most that ever were.
    pub(super) used: u32,
    pub(super) most: u32,
}

impl Bounce {
    pub(super) const fn new() -> Self {
        Self { start: PhysAddr::ZERO, slots: 0, map: [0; WORDS], origins: Table::new(), used: 0, most: 0 }
    }

    pub(super) const fn slots(&self) -> u32 {
        self.slots
    }

    /// Where a run begins.
    pub(super) fn phys(&self, slot: Slot) -> PhysAddr {
        self.start.checked_add(u64::from(slot.0) * SLOT_BYTES).unwrap_or(self.start)
    }

    /// What the byte at `phys` stands for, if it is in a slot that is in use: where it comes from, and the run's first slot.
    fn origin(&self, phys: PhysAddr) -> Option<(PhysAddr, Slot)> {
        let offset = phys.as_raw().checked_sub(self.start.as_raw())?;
        let slot = (offset / SLOT_BYTES) as usize;
        let is_used = slot < self.slots as usize && self.map.get(slot / 64)? >> (slot % 64) & 1 == 0;
        let origin = self.origins.items().get(slot).filter(|_| is_used)?;
        let start = origin.start.checked_add(offset - u64::from(origin.first) * SLOT_BYTES)?;
        Some((start, Slot(origin.first)))
    }

    fn is_free(&self, slot: usize) -> bool {
        self.map.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }

    /// Takes a run for `size` bytes of `start`.
    fn take(&mut self, start: PhysAddr, size: u64) -> Option<Slot> {
        let count = size.div_ceil(SLOT_BYTES) as usize;
        let (mut first, mut at) = (0, 0);
        while at - first < count {
            if at >= self.slots as usize {
                return None;
            }
            if at.is_multiple_of(64) && self.map.get(at / 64) == Some(&0) {
                at += 64;
                first = at;
                continue;
            }
            first = if self.is_free(at) { first } else { at + 1 };
            at += 1;
        }
        self.mark(first, count, false);
        let origin = Origin { start, first: first as u16 };
        self.origins.items_mut().iter_mut().skip(first).take(count).for_each(|slot| *slot = origin);
        self.used += count as u32;
        self.most = self.most.max(self.used);
        Some(Slot(first as u16))
    }

    fn put(&mut self, slot: Slot, size: u64) {
        let count = size.div_ceil(SLOT_BYTES) as usize;
        self.mark(slot.0 as usize, count, true);
        self.used -= count as u32;
    }

    fn mark(&mut self, first: usize, count: usize, free: bool) {
        for slot in first..first + count {
            if let Some(word) = self.map.get_mut(slot / 64) {
                let bit = 1 << (slot % 64);
                *word = if free { *word | bit } else { *word & !bit };
            }
        }
    }

    /// Whether as many slots are in use as are counted.
    pub(super) fn validate(&self) -> bool {
        let free: u32 = self.map.iter().map(|word| word.count_ones()).sum();
        free + self.used == self.slots
    }
}

impl<A: Arch, S: PageSource, P: Platform> Mapper<'_, A, S, P> {
    /// A run of slots for `size` bytes of `start`, in the reach of `device`.
    #[cold]
    #[inline(never)]
    pub(super) fn bounce_slot(&self, device: &Device, start: PhysAddr, size: u64, gfp: Gfp) -> Result<Slot, DmaError> {
        self.start_bouncing(gfp)?;
        let mut bounce = self.bounce.lock(self.arch);
        if size > u64::from(bounce.slots) * SLOT_BYTES {
            return Err(DmaError::TooLarge(size));
        }
        let slot = bounce.take(start, size).ok_or(DmaError::NoMemory)?;
        if let Err(error) = device.bus_address(bounce.phys(slot), size) {
            bounce.put(slot, size);
            return Err(error);
        }
        Ok(slot)
    }

    pub(super) fn free_slot(&self, slot: Slot, size: u64) {
        self.bounce.lock(self.arch).put(slot, size);
    }

    /// Where a run of slots is.
    pub(super) fn slot_phys(&self, slot: Slot) -> PhysAddr {
        self.bounce.lock(self.arch).phys(slot)
    }

    /// What memory the byte at `phys` is or, in a bounce buffer, stands for; and that buffer's slot.
    pub(super) fn origin(&self, phys: PhysAddr) -> (PhysAddr, Option<Slot>) {
        match self.bounce.lock(self.arch).origin(phys) {
            Some((start, slot)) => (start, Some(slot)),
            None => (phys, None),
        }
    }

    /// Gives the area back, if nothing of it is in use.
    pub(super) fn shrink_bounce(&self) -> u64 {
        let mut bounce = self.bounce.lock(self.arch);
        if bounce.slots == 0 || bounce.used != 0 {
            return 0;
        }
        let order = Order::for_bytes(u64::from(bounce.slots) * SLOT_BYTES).unwrap_or_default();
        let (area, most) = (PageBlock::from_raw(bounce.start.pfn(), order), bounce.most);
        let table = bounce.origins.clear();
        *bounce = Bounce { most, ..Bounce::new() };
        drop(bounce);
        self.source.give(area);
        table.into_iter().for_each(|block| self.source.give(block));
        order.pages()
    }

    /// Takes the area, if that has not been done.
    fn start_bouncing(&self, gfp: Gfp) -> Result<(), DmaError> {
        if self.bounce.lock(self.arch).slots != 0 {
            return Ok(());
        }
        let gfp = gfp.union(self.reached_by_all()).union(Gfp::NOWARN).difference(Gfp::ZERO);
        let wanted = Order::for_bytes(self.config.bounce_bytes.max(SLOT_BYTES)).unwrap_or(Order::MAX);
        // The less there is, the fewer can be mapped at once.
        let mut sizes = Order::all().rev().filter(|order| *order <= wanted);
        let block = sizes.find_map(|order| self.source.take(order, gfp)).ok_or(DmaError::NoMemory)?;
        let (pfn, order) = block.into_raw();
        let slots = order.bytes() / SLOT_BYTES;
        let table = Order::for_bytes(slots * size_of::<Origin>() as u64).unwrap_or_default();
        let give_up = || self.source.give(PageBlock::from_raw(pfn, order));
        let Some(table) = self.source.take(table, gfp.difference(Gfp::DMA)) else {
            give_up();
            return Err(DmaError::NoMemory);
        };
        let mut bounce = self.bounce.lock(self.arch);
        if bounce.slots != 0 {
            // Somebody else was first.
            drop(bounce);
            self.source.give(table);
            give_up();
            return Ok(());
        }
        // It had none.
        let _ = bounce.origins.move_to(self.arch, table);
        bounce.origins.fill(Origin { start: PhysAddr::ZERO, first: 0 });
        bounce.start = pfn.addr();
        bounce.slots = slots as u32;
        bounce.mark(0, slots as usize, true);
        Ok(())
    }
}
