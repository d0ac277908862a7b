// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM that `mem=` held back, and that is added on request: mapped, and given to the page allocator.

use core::fmt;

use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::memblock::{Memblock, MemoryRegion};
use mm::page_alloc::AddError;
use mm::pgtable::{Attributes, MapError};
use mm::sync::Rank;

use super::{Memory, TableFrames, direct_map};
use crate::sync::Lock;
use crate::{pr_err, pr_info};

/// Ranges of each kind. What does not fit is never used.
const MOST: usize = 24;

/// Ranges with their nodes, lowest first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ranges {
    ranges: [Option<(PhysRange, u32)>; MOST],
}

impl Ranges {
    fn iter(&self) -> impl Iterator<Item = (PhysRange, u32)> {
        self.ranges.into_iter().flatten()
    }

    /// Neighbours on a node become one range. `false` if there is no room.
    pub(super) fn push(&mut self, mut range: PhysRange, node: u32) -> bool {
        if range.is_empty() {
            return true;
        }
        for slot in &mut self.ranges {
            if let Some((other, of)) = *slot
                && of == node
                && (other.end() == range.start() || range.end() == other.start())
            {
                let (start, end) = (other.start().min(range.start()), other.end().max(range.end()));
                range = PhysRange::new(start, end).unwrap_or(range);
                *slot = None;
            }
        }
        let free = self.ranges.iter_mut().find(|slot| slot.is_none());
        let is_kept = free.is_some();
        if let Some(slot) = free {
            *slot = Some((range, node));
        }
        // So few need no more than this.
        let (all, mut below) = (*self, None);
        for slot in &mut self.ranges {
            let left = all.iter().filter(|(range, _)| below.is_none_or(|below| range.start() > below));
            *slot = left.min_by_key(|(range, _)| range.start());
            below = slot.map(|(range, _)| range.start()).or(Some(PhysAddr::new_saturating(u64::MAX)));
        }
        is_kept
    }

    /// Takes the lowest part of the lowest range that touches `within`, of so many bytes at most.
    fn take(&mut self, within: PhysRange, bytes: u64) -> Option<(PhysRange, u32)> {
        let index = self.iter().position(|(range, _)| range.intersection(within).is_some())?;
        let (range, node) = self.ranges.get_mut(index)?.take()?;
        let part = range.intersection(within)?;
        let end = part.start().checked_add(bytes).map_or(part.end(), |end| end.min(part.end()));
        // There is one place free; with pieces on both sides and no other, the upper one goes with the part.
        let is_full = part.start() > range.start() && self.iter().count() + 1 >= MOST;
        let part = PhysRange::new(part.start(), if is_full { range.end() } else { end })?;
        range.around(part).for_each(|rest| {
            self.push(rest, node);
        });
        Some((part, node))
    }
}

/// What is held back, and what of it was added.
#[derive(Debug)]
pub(super) struct Late {
    held: Ranges,
    added: Ranges,
    /// Bytes of that which hold its own metadata.
    used: u64,
}

impl Late {
    /// Of what memblock was limited by, the whole frames that are nobody's, inside `reach`. Says so if some is outside.
    pub(super) fn new(memblock: &Memblock, dropped: &Ranges, reach: PhysRange) -> Lock<Self> {
        let mut held = Ranges::default();
        let out_of_reach: u64 = dropped.iter().flat_map(|(range, _)| range.around(reach)).map(PhysRange::size).sum();
        if out_of_reach > 0 {
            pr_info!("memory: {out_of_reach} bytes of it could not be added later either: mem= is too small for that");
        }
        for (range, node) in dropped.iter().filter_map(|(range, node)| Some((range.intersection(reach)?, node))) {
            let mut at = range.start();
            for reserved in memblock.reserved().iter().map(|entry| entry.range.frames_touched()) {
                if let Some(inside) = reserved.intersection(range) {
                    let below = PhysRange::new(at, inside.start()).unwrap_or_default();
                    held.push(below.frames_inside(), node);
                    at = at.max(inside.end());
                }
            }
            held.push(PhysRange::new(at, range.end()).unwrap_or_default().frames_inside(), node);
        }
        Lock::new(Rank::PER_CPU, Self { held, added: Ranges::default(), used: 0 })
    }
}

/// What `limit` of memblock drops.
pub(super) fn keep(dropped: &mut Ranges, region: MemoryRegion) {
    dropped.push(region.range, region.node);
}

/// From the first byte of what was dropped to the last; `None` if that is nothing.
pub(super) fn spanned(dropped: &Ranges) -> Option<PhysRange> {
    let first = dropped.iter().next()?.0.start();
    PhysRange::new(first, dropped.iter().last()?.0.end())
}

/// Why memory that is held back was not added.
#[derive(Debug)]
pub enum LateError {
    /// There is nothing held back, or nothing there.
    Nothing,
    /// It cannot be mapped.
    Map(MapError),
    /// The page allocator does not take it.
    Add(AddError),
}

impl fmt::Display for LateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing is held back there"),
            Self::Map(error) => error.fmt(f),
            Self::Add(error) => error.fmt(f),
        }
    }
}

impl Memory {
    /// Adds the lowest part of what is held back in `within`, of so many bytes at most, in one piece. Tells where it is and
    /// how many of its pages are free now.
    ///
    /// # Errors
    ///
    /// [`LateError`]. It is still held back then.
    pub fn add_late(&self, within: PhysRange, bytes: u64) -> Result<(PhysRange, u64), LateError> {
        let bytes = bytes - bytes % PAGE_SIZE;
        let taken = self.late.lock().held.take(within.frames_inside(), bytes).filter(|(range, _)| !range.is_empty());
        let (range, node) = taken.ok_or(LateError::Nothing)?;
        let added = self.add_range(range, node);
        let mut late = self.late.lock();
        let is_kept = match added {
            Ok(pages) => {
                late.used += range.size() - pages * PAGE_SIZE;
                late.added.push(range, node)
            }
            Err(_) => late.held.push(range, node),
        };
        drop(late);
        if !is_kept {
            pr_err!("memory: {range} is in no list any more");
        }
        added.map(|pages| (range, pages))
    }

    fn add_range(&self, range: PhysRange, node: u32) -> Result<u64, LateError> {
        let virt = direct_map(range.start());
        let mapped = self.map.lock().map(virt, range.start(), range.size(), Attributes::DATA, &mut TableFrames(self));
        mapped.map_err(LateError::Map)?;
        // SAFETY: RAM that the tree promised and nobody was given, since memblock was limited; mapped above, for good.
        let added = unsafe { self.pages.add_memory(range, node) };
        added.map_err(|error| {
            self.unmap_again(virt, range.size());
            LateError::Add(error)
        })
    }

    /// Undoes a mapping that came to nothing.
    fn unmap_again(&self, virt: VirtAddr, size: u64) {
        // SAFETY: nobody uses what was just mapped.
        if let Err(error) = unsafe { self.map.lock().unmap_blocks(virt, size, &mut TableFrames(self)) } {
            pr_err!("memory: {error}");
        }
    }

    /// Bytes that are held back and could be added.
    #[must_use]
    pub fn late_bytes(&self) -> u64 {
        let held = self.late.lock().held;
        held.iter().map(|(range, _)| range.size()).sum()
    }

    /// Bytes of what was added that hold its own metadata.
    pub(super) fn late_used_bytes(&self) -> u64 {
        self.late.lock().used
    }

    /// What was added, lowest first.
    pub fn added(&self) -> impl Iterator<Item = PhysRange> {
        let added = self.late.lock().added;
        (0..MOST).filter_map(move |index| Some(added.iter().nth(index)?.0))
    }
}
