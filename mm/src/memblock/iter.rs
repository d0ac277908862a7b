// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks over both lists at once: each is linear in their lengths.

use super::{Memblock, MemoryRegion, Region as _, Reservation, ReserveFlags};
use crate::addr::PhysRange;

impl Memblock {
    /// Free memory: memory without reservations, in whole frames, rounded inwards. Lowest first.
    pub fn free_ranges(&self) -> impl Iterator<Item = MemoryRegion> + Clone + '_ {
        self.free_bytes().filter_map(|region| {
            let frames = region.range.frames_inside();
            (!frames.is_empty()).then_some(region.with_range(frames))
        })
    }

    /// What the direct map covers: memory without [`ReserveFlags::NOMAP`], in whole frames, rounded
    /// inwards, so that no page shows a byte that must not be mapped. Lowest first.
    pub fn mapped_ranges(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        Uncovered { holes: ReserveFlags::NOMAP, join_nodes: true, ..self.uncovered() }
            .map(|region| region.range.frames_inside())
            .filter(|frames| !frames.is_empty())
    }

    /// The parts of reservations that lie in memory, lowest first.
    pub fn reserved_memory(&self) -> impl Iterator<Item = Reservation> + Clone + '_ {
        Common { memory: self.memory(), reserved: self.reserved() }
    }

    /// Memory without reservations, to the byte.
    pub(super) fn free_bytes(&self) -> impl Iterator<Item = MemoryRegion> + Clone + '_ {
        self.uncovered()
    }

    fn uncovered(&self) -> Uncovered<'_> {
        Uncovered {
            memory: self.memory(),
            reserved: self.reserved(),
            rest: None,
            holes: ReserveFlags::empty(),
            join_nodes: false,
        }
    }
}

/// Memory minus those reservations that have all flags of `holes`.
#[derive(Clone)]
struct Uncovered<'a> {
    memory: &'a [MemoryRegion],
    reserved: &'a [Reservation],
    /// What is left of the memory region at hand.
    rest: Option<MemoryRegion>,
    holes: ReserveFlags,
    /// Whether touching regions of different nodes count as one.
    join_nodes: bool,
}

impl Uncovered<'_> {
    fn next_run(&mut self) -> Option<MemoryRegion> {
        let mut run = *self.memory.split_off_first()?;
        while self.join_nodes
            && let Some(next) = self.memory.first()
            && next.range.start() == run.range.end()
        {
            run.range = PhysRange::new(run.range.start(), next.range.end())?;
            self.memory.split_off_first();
        }
        Some(run)
    }
}

impl Iterator for Uncovered<'_> {
    type Item = MemoryRegion;

    fn next(&mut self) -> Option<MemoryRegion> {
        loop {
            let run = match self.rest.take() {
                Some(rest) => rest,
                None => self.next_run()?,
            };
            while let Some(first) = self.reserved.first()
                && (first.range.end() <= run.range.start() || !first.flags.contains(self.holes))
            {
                self.reserved.split_off_first();
            }
            let hole = self.reserved.first().and_then(|hole| hole.range.intersection(run.range));
            let Some(hole) = hole else { return Some(run) };
            self.rest = PhysRange::non_empty(hole.end(), run.range.end()).map(|rest| run.with_range(rest));
            if let Some(piece) = PhysRange::non_empty(run.range.start(), hole.start()) {
                return Some(run.with_range(piece));
            }
        }
    }
}

/// Reservations cut to memory.
#[derive(Clone)]
struct Common<'a> {
    memory: &'a [MemoryRegion],
    reserved: &'a [Reservation],
}

impl Iterator for Common<'_> {
    type Item = Reservation;

    fn next(&mut self) -> Option<Reservation> {
        loop {
            let (memory, reserved) = (self.memory.first()?, self.reserved.first()?);
            // Whichever ends first has no more in common with the other list.
            if memory.range.end() <= reserved.range.end() {
                self.memory.split_off_first();
            } else {
                self.reserved.split_off_first();
            }
            if let Some(common) = memory.range.intersection(reserved.range) {
                return Some(reserved.with_range(common));
            }
        }
    }
}
