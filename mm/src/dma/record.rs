// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is with a device at the moment: Linux's dma-debug, always on.
//!
//! Mappings are kept in the order of their memory, so that two that overlap are neighbours. A mapping is refused if it
//! overlaps another and a device writes to one of them; one that is undone must be there, of that device, as long, and
//! for that direction. *Complexity:* O(log n) to find one, O(n) moves of 24 bytes to add or remove one, n being the
//! mappings at the moment.
#![forbid(unsafe_code)]

use core::panic::Location;

use super::bounce::Slot;
use super::device::{Device, DmaAddr};
use super::table::Table;
use super::{Direction, DmaError, Mapper, Platform};
use crate::addr::PhysAddr;
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::slab::PageSource;

/// What kind of mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Memory that is the device's until it is unmapped.
    Streaming = 0,
    /// Memory that both use, for a device that sees the caches.
    Coherent = 1,
}

/// No slot.
const NO_SLOT: u16 = (1 << SLOT_BITS) - 1;
const SLOT_BITS: u32 = 12;

/// A mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    start: u64,
    caller: &'static Location<'static>,
    size: u32,
    device: u16,
    /// Direction in bits 15:14, kind in bit 13, bounce slot in bits 11:0.
    how: u16,
}

const _: () = assert!(size_of::<Record>() == 24);

impl Record {
    pub(super) fn new(
        phys: PhysAddr,
        size: u64,
        device: u16,
        direction: Direction,
        kind: Kind,
        caller: &'static Location<'static>,
    ) -> Result<Self, DmaError> {
        let size = u32::try_from(size).map_err(|_| DmaError::TooLarge(size))?;
        let how = (direction as u16) << 14 | (kind as u16) << 13 | NO_SLOT;
        Ok(Self { start: phys.as_raw(), caller, size, device, how })
    }

    /// The same by way of a bounce slot.
    pub(super) const fn through(self, slot: Slot) -> Self {
        Self { how: self.how & !NO_SLOT | slot.as_u16(), ..self }
    }

    pub(super) const fn slot(&self) -> Option<Slot> {
        let slot = self.how & NO_SLOT;
        if slot == NO_SLOT { None } else { Some(Slot::new(slot)) }
    }

    pub(super) const fn start(&self) -> PhysAddr {
        PhysAddr::new_saturating(self.start)
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.size as u64
    }

    pub(super) const fn device(&self) -> u16 {
        self.device
    }

    pub(super) const fn caller(&self) -> &'static Location<'static> {
        self.caller
    }

    pub(super) const fn direction(&self) -> Direction {
        Direction::of(self.how >> 14)
    }

    pub(super) const fn kind(&self) -> Kind {
        if self.how >> 13 & 1 != 0 { Kind::Coherent } else { Kind::Streaming }
    }

    const fn end(&self) -> u64 {
        self.start + self.size as u64
    }

    /// Whether a device writes there.
    const fn is_written(&self) -> bool {
        self.direction().writes() || matches!(self.kind(), Kind::Coherent)
    }
}

/// What a device's address leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The memory that it is or stands for.
    pub(super) start: PhysAddr,
    /// The bounce buffer that it is in.
    pub(super) slot: Option<Slot>,
    /// The address.
    pub(super) addr: DmaAddr,
}

/// All mappings of this moment, by address.
#[derive(Debug)]
pub(super) struct Records {
    table: Table<Record>,
    /// No mapping is longer.
    longest: u64,
}

impl Records {
    pub(super) const fn new() -> Self {
        Self { table: Table::new(), longest: 0 }
    }

    pub(super) fn all(&self) -> &[Record] {
        self.table.items()
    }

    pub(super) fn pages(&self) -> u64 {
        self.table.pages()
    }

    /// Those that may cover something from `start` to `end`, and where the first of them is.
    fn near(&self, start: u64, end: u64) -> (usize, &[Record]) {
        let all = self.table.items();
        let first = all.partition_point(|record| record.start < start.saturating_sub(self.longest));
        let behind = all.partition_point(|record| record.start < end);
        (first, all.get(first..behind).unwrap_or_default())
    }

    /// Puts `new` among them. There is room.
    fn add(&mut self, new: Record) -> Result<(), DmaError> {
        let (_, near) = self.near(new.start, new.end());
        let collides =
            |old: &&Record| old.start < new.end() && new.start < old.end() && (old.is_written() || new.is_written());
        if let Some(old) = near.iter().find(collides) {
            return Err(DmaError::Overlap(old.start()));
        }
        let at = self.table.items().partition_point(|record| record.start < new.start);
        self.longest = self.longest.max(new.bytes());
        if self.table.insert(at, new) { Ok(()) } else { Err(DmaError::NoRecord) }
    }

    /// The mapping that begins at `start` and is what the caller says.
    fn find(
        &self,
        device: &Device,
        at: &Place,
        size: u64,
        direction: Direction,
        kind: Kind,
    ) -> Result<usize, DmaError> {
        let Place { start, slot, addr } = *at;
        let all = self.table.items();
        let first = all.partition_point(|record| record.start < start.as_raw());
        let mut found = Err(DmaError::NotMapped(addr));
        // Several may read the same memory: the first that is right in all, or what is wrong with the best.
        let mut best = 0;
        for (at, record) in all.iter().enumerate().skip(first).take_while(|(_, record)| record.start == start.as_raw())
        {
            let wrong = if record.kind() != kind || record.slot() != slot {
                (1, DmaError::NotMapped(addr))
            } else if record.device != device.number {
                (2, DmaError::WrongDevice(addr))
            } else if record.bytes() != size {
                (3, DmaError::WrongSize { mapped: record.bytes(), given: size })
            } else if record.direction() != direction {
                (4, DmaError::WrongDirection(addr))
            } else {
                return Ok(at);
            };
            if wrong.0 > best {
                best = wrong.0;
                found = Err(wrong.1);
            }
        }
        found
    }

    /// The mapping of `device` that has all of `size` bytes from a place on.
    fn around(&self, device: &Device, place: &Place, size: u64, direction: Direction) -> Option<Record> {
        let start = place.start.as_raw();
        let end = start.checked_add(size)?;
        let (_, near) = self.near(start, end);
        let covers = |record: &&Record| {
            record.device == device.number
                && record.kind() == Kind::Streaming
                && record.slot() == place.slot
                && record.direction() == direction
                && record.start <= start
                && end <= record.end()
        };
        near.iter().find(covers).copied()
    }
}

impl<A: Arch, S: PageSource, P: Platform> Mapper<'_, A, S, P> {
    /// Adds a mapping.
    pub(super) fn remember(&self, record: Record, gfp: Gfp) -> Result<(), DmaError> {
        loop {
            let mut records = self.records.lock(self.arch);
            let Some(order) = records.table.wanted() else { return records.add(record) };
            drop(records);
            // From anywhere, since streaming mappings are made in interrupt handlers too.
            let gfp = gfp.difference(Gfp::DMA.union(Gfp::ZERO)).union(Gfp::NOWARN);
            let block = self.source.take(order, gfp).ok_or(DmaError::NoRecord)?;
            let old = self.records.lock(self.arch).table.move_to(self.arch, block);
            old.into_iter().for_each(|block: PageBlock| self.source.give(block));
        }
    }

    /// Gives the room for mappings back, if there are none.
    pub(super) fn shrink_records(&self) -> u64 {
        let mut records = self.records.lock(self.arch);
        let block = if records.all().is_empty() { records.table.clear() } else { None };
        drop(records);
        block.map_or(0, |block| {
            let pages = block.order().pages();
            self.source.give(block);
            pages
        })
    }

    /// Takes the mapping out that is what the caller says.
    pub(super) fn forget(
        &self,
        device: &Device,
        place: &Place,
        size: u64,
        direction: Direction,
        kind: Kind,
    ) -> Result<Record, DmaError> {
        let mut records = self.records.lock(self.arch);
        let at = records.find(device, place, size, direction, kind)?;
        records.table.remove(at).ok_or(DmaError::NotMapped(place.addr))
    }

    /// The mapping that is what the caller says.
    pub(super) fn recall(
        &self,
        device: &Device,
        place: &Place,
        size: u64,
        direction: Direction,
    ) -> Result<Record, DmaError> {
        let records = self.records.lock(self.arch);
        let at = records.find(device, place, size, direction, Kind::Streaming)?;
        records.all().get(at).copied().ok_or(DmaError::NotMapped(place.addr))
    }

    /// The mapping that a part of one belongs to.
    pub(super) fn recall_around(
        &self,
        device: &Device,
        place: &Place,
        size: u64,
        direction: Direction,
    ) -> Option<Record> {
        self.records.lock(self.arch).around(device, place, size, direction)
    }
}
