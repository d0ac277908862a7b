// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of one's own: any frames, any number of them, beyond the largest block too.
//!
//! 1. the chunks around the range are *isolated*: nothing is handed out there, and what is freed stays
//! 2. frames of it that CPUs hoard go to their zone, and so join the isolation
//! 3. if there is a frame in use that no owner can move, it ends here, and nothing was moved
//! 4. chunk by chunk, what is in use is moved away ([`migrate`](super::migrate)) and the frames are taken
//! 5. the isolation ends, whether or not that succeeded
//!
//! A lock is held for a chunk at a time. An allocation or a free that was under way on another CPU when the isolation
//! began may still end in the range; it is met as a frame in use, and tried again.
#![forbid(unsafe_code)]

use core::fmt;

use super::hoard::{List, mobility};
use super::map::WORD_ORDER;
use super::marks::Marked;
use super::migrate::Moved;
use super::slow::nr_busy;
use super::watermark::Watermarks;
use super::zone_cell::ZoneCell;
use super::{BadFree, Fault, MAX_HOARD_ORDER, Pages};
use crate::addr::{Order, PAGE_SIZE, Pfn, PhysRange};
use crate::arch::Arch;
use crate::buddy::{Mobility, PageBlock, RangeError};
use crate::gfp::Gfp;
use crate::zone::Zone;

/// How often a frame is tried that does not move.
const MAX_TRIES: u32 = 8;

/// Frames that were handed out as a range, of any length, from any frame on.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "frames are lost unless they are freed"]
pub struct ContigRange {
    first: Pfn,
    pages: u64,
}

impl ContigRange {
    /// The first frame.
    #[must_use]
    pub const fn first(&self) -> Pfn {
        self.first
    }

    /// The number of frames.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// First frame and number, to be kept elsewhere.
    #[must_use]
    pub const fn into_raw(self) -> (Pfn, u64) {
        (self.first, self.pages)
    }

    /// The range that [`into_raw`](ContigRange::into_raw) was called on. What is none is refused when it is freed.
    pub const fn from_raw(first: Pfn, pages: u64) -> Self {
        Self { first, pages }
    }
}

/// Why a range cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContigFault {
    /// The frame is no RAM of the zone of the first one.
    Foreign,
    /// The frame is in a chunk that is isolated for somebody else.
    Isolated,
    /// The frame is in use, and nobody moves it.
    Busy,
    /// The frame was written to while it was free (`page_poison=1`), and is kept from use.
    Spoilt,
    /// There is no memory to move the frame to, or no zone has so much to spare.
    NoMemory,
    /// No range of that many frames would do. The frame was the last one in the way.
    NoRange,
}

/// A range that cannot be had. All of it is as it was, but for blocks that were moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContigError {
    /// What is wrong.
    pub fault: ContigFault,
    /// With which frame.
    pub pfn: Pfn,
}

impl fmt::Display for ContigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pfn = self.pfn;
        match self.fault {
            ContigFault::Foreign => write!(f, "frame {pfn:?} is no memory of one zone with the others"),
            ContigFault::Isolated => write!(f, "frame {pfn:?} is isolated for somebody else"),
            ContigFault::Busy => write!(f, "frame {pfn:?} is in use, and nobody moves it"),
            ContigFault::Spoilt => write!(f, "frame {pfn:?} was written to while it was free"),
            ContigFault::NoMemory => write!(f, "out of memory at frame {pfn:?}"),
            ContigFault::NoRange => write!(f, "no range is that long; frame {pfn:?} was the last in the way"),
        }
    }
}

impl core::error::Error for ContigError {}

/// Chunks that are isolated, until this is dropped.
struct Isolation<'p, 'a, A: Arch> {
    pages: &'p Pages<'a, A>,
    cell: &'p ZoneCell<'a>,
    /// What of it is isolated so far.
    range: PhysRange,
    mobility: Mobility,
}

impl<A: Arch> Drop for Isolation<'_, '_, A> {
    fn drop(&mut self) {
        for part in chunks_of(self.range) {
            self.cell.zone.lock(self.pages.arch).buddy_mut().unisolate(part, self.mobility);
        }
        self.pages.end_isolation();
    }
}

impl<'a, A: Arch> Pages<'a, A> {
    /// Takes the frames that `range` touches, of one zone. Movable blocks in it are moved away, with what is in them.
    /// May wait for their owners: never in interrupt context. O(frames). To be given back by
    /// [`free_contig_range`](Pages::free_contig_range).
    ///
    /// # Errors
    ///
    /// [`ContigError`], with the first frame that is in the way.
    pub fn alloc_contig_range(&self, gfp: Gfp, range: PhysRange) -> Result<ContigRange, ContigError> {
        let range = range.frames_touched();
        if self.fails_on_purpose(range.size() / PAGE_SIZE) {
            return Err(ContigError { fault: ContigFault::NoMemory, pfn: range.start().pfn() });
        }
        self.take_contig(gfp, range)
    }

    fn take_contig(&self, gfp: Gfp, range: PhysRange) -> Result<ContigRange, ContigError> {
        let (first, pages) = (range.start().pfn(), range.size() / PAGE_SIZE);
        let foreign = ContigError { fault: ContigFault::Foreign, pfn: first };
        let place = self.map.find_frame(first).ok_or(foreign)?;
        let cell = self.zones.get(self.map.zone(place)).ok_or(foreign)?;
        let isolation = self.isolate(cell, range, mobility(gfp))?;
        self.look_for_unmovable(cell, range)?;
        let mut taken = 0;
        for part in chunks_of(range) {
            if let Err(error) = self.evacuate(cell, part, mobility(gfp)) {
                self.put_range(cell, first, taken);
                return Err(error);
            }
            taken += part.size() / PAGE_SIZE;
        }
        drop(isolation);
        self.fill_new(cell, gfp, first, pages)?;
        Ok(ContigRange { first, pages })
    }

    /// Takes `pages` frames in a row, where it is easiest: where all is free, or else from the lowest frame on where what
    /// is in the way can be moved. Leaves the reserves of the zone to those who may use them. O(frames of a zone).
    ///
    /// # Errors
    ///
    /// [`ContigError`]: [`NoMemory`](ContigFault::NoMemory) if no zone has so many frames to spare,
    /// [`NoRange`](ContigFault::NoRange) if they are nowhere in a row.
    pub fn alloc_contig_pages(&self, gfp: Gfp, pages: u64) -> Result<ContigRange, ContigError> {
        let pages = pages.max(1);
        let mut error = ContigError { fault: ContigFault::NoMemory, pfn: Pfn::default() };
        if self.fails_on_purpose(pages) {
            return Err(error);
        }
        self.drain();
        for cell in self.candidates(self.home(), gfp) {
            let reserve = if gfp.contains(Gfp::MEMALLOC) { 0 } else { cell.reserve(self.highest(gfp)) };
            let zone = cell.zone.lock(self.arch);
            let has_them = Watermarks::allow_pages(
                zone.buddy().usable_pages(gfp.may_use_reserve()),
                pages,
                cell.marks().min_for(gfp),
                reserve,
            );
            let whole = zone.buddy().whole_run(pages.div_ceil(Order::MAX.pages()));
            drop(zone);
            if !has_them {
                continue;
            }
            if let Some(range) = whole.and_then(|first| frames(first.as_raw(), pages))
                && let Ok(range) = self.take_contig(gfp, range)
            {
                return Ok(range);
            }
            match self.alloc_contig_in(cell, gfp, pages) {
                Ok(range) => return Ok(range),
                Err(found) => error = found,
            }
        }
        Err(error)
    }

    /// Tries the ranges of a zone from the lowest on, each behind what was in the way of the one before.
    fn alloc_contig_in(&self, cell: &ZoneCell<'a>, gfp: Gfp, pages: u64) -> Result<ContigRange, ContigError> {
        let mut error = ContigError { fault: ContigFault::NoRange, pfn: Pfn::default() };
        let mut at = 0;
        loop {
            // The next range of RAM that is long enough.
            let zone = cell.zone.lock(self.arch);
            let start = zone.buddy().ranges().find_map(|ram| {
                let (start, end) = (ram.start().pfn().as_raw().max(at), ram.end().pfn().as_raw());
                (start + pages <= end).then_some(start)
            });
            let Some(range) = start.and_then(|start| frames(start, pages)) else { return Err(error) };
            // A contiguous memory area is for its owner alone.
            let mut parts = chunks_of(range);
            if let Some(part) = parts.find(|part| zone.buddy().mobility_of(part.start().pfn()) == Some(Mobility::Cma)) {
                error.pfn = part.start().pfn();
                at = (part.start().pfn().as_raw() / Order::MAX.pages() + 1) * Order::MAX.pages();
                continue;
            }
            drop(zone);
            match self.take_contig(gfp, range) {
                Ok(range) => return Ok(range),
                Err(found) if found.fault == ContigFault::NoMemory => return Err(found),
                Err(found) => {
                    error.pfn = found.pfn;
                    at = ((found.pfn.as_raw() >> WORD_ORDER) + 1) << WORD_ORDER;
                }
            }
        }
    }

    /// Gives a range back.
    ///
    /// # Errors
    ///
    /// [`BadFree`] with the first block that cannot have been allocated so; nothing has changed then.
    pub fn free_contig_range(&self, range: ContigRange) -> Result<(), BadFree> {
        let (first, pages) = range.into_raw();
        let foreign = BadFree::new(Fault::Foreign, &PageBlock::from_raw(first, Order::ZERO));
        let all = frames(first.as_raw(), pages).ok_or(foreign)?;
        let place = self.map.find_frame(first).ok_or(foreign)?;
        let cell = self.zones.get(self.map.zone(place)).ok_or(foreign)?;
        for part in chunks_of(all) {
            let mut zone = cell.zone.lock(self.arch);
            self.give_up_borders(&mut zone, part);
            let mut blocks = blocks_of(part.start().pfn().as_raw(), part.size() / PAGE_SIZE);
            let refused = blocks.find_map(|block| {
                let tag =
                    self.map.find(&block).filter(|_| zone.buddy().owns(block.pfn())).map(|at| self.map.word(at).tag());
                let fault = match tag {
                    None => Fault::Foreign,
                    Some(tag) if !tag.is_plain() || self.large_around(block.pfn()).is_some() => Fault::WrongOrder,
                    Some(_) if nr_busy(&zone, &block) == block.order().pages() => return None,
                    Some(_) => Fault::AlreadyFree,
                };
                Some(BadFree::new(fault, &block))
            });
            refused.map_or(Ok(()), Err)?;
        }
        if !self.is_hoarding() {
            blocks_of(first.as_raw(), pages).for_each(|block| self.fill_before_free(&block));
        }
        self.put_range(cell, first, pages);
        Ok(())
    }

    /// Gives frames that are ours to their zone.
    fn put_range(&self, cell: &ZoneCell<'a>, first: Pfn, pages: u64) {
        for part in frames(first.as_raw(), pages).into_iter().flat_map(chunks_of) {
            let mut zone = cell.zone.lock(self.arch);
            self.give_up_borders(&mut zone, part);
            // It cannot be refused.
            let _ = zone.buddy_mut().free_range(part);
        }
    }

    /// Releases the words at both ends of a range that is out, if the rest of them was hoarded meanwhile.
    fn give_up_borders(&self, zone: &mut Zone<'_>, range: PhysRange) {
        let last = Pfn::known(range.end().pfn().as_raw().saturating_sub(1));
        for place in [range.start().pfn(), last].into_iter().filter_map(|pfn| self.map.find_frame(pfn)) {
            if self.map.is_marked(place, Marked::Mixed) {
                self.release_locked(zone, place);
            }
        }
    }

    /// Steps 1 and 2.
    fn isolate<'p>(
        &'p self,
        cell: &'p ZoneCell<'a>,
        range: PhysRange,
        mobility: Mobility,
    ) -> Result<Isolation<'p, 'a, A>, ContigError> {
        self.begin_isolation();
        let nothing = PhysRange::new(range.start(), range.start()).unwrap_or_default();
        let mut isolation = Isolation { pages: self, cell, range: nothing, mobility };
        for part in chunks_of(range) {
            let isolated = cell.zone.lock(self.arch).buddy_mut().isolate(part);
            isolated.map_err(|error| match error {
                RangeError::Foreign(pfn) => ContigError { fault: ContigFault::Foreign, pfn },
                RangeError::Isolated(pfn) => ContigError { fault: ContigFault::Isolated, pfn },
                RangeError::Busy(pfn) => ContigError { fault: ContigFault::Busy, pfn },
            })?;
            isolation.range = PhysRange::new(range.start(), part.end()).unwrap_or_default();
        }
        let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        for word in start >> WORD_ORDER..end.div_ceil(1 << WORD_ORDER) {
            if let Some(place) = self.map.find_frame(Pfn::known((word << WORD_ORDER).max(start))) {
                self.release(place);
            }
        }
        self.release_all_kept();
        Ok(isolation)
    }

    fn release_all_kept(&self) {
        for hoard in self.hoards {
            List::all_large().for_each(|list| self.release_kept(hoard, list));
        }
    }

    /// The first frame of a range that is in use, with the zone's lock held for a chunk.
    fn first_busy(&self, cell: &ZoneCell<'a>, range: PhysRange) -> Option<(Pfn, bool)> {
        chunks_of(range).find_map(|part| {
            let zone = cell.zone.lock(self.arch);
            let pfn = zone.buddy().busy(part).next()?.start().pfn();
            Some((pfn, zone.buddy().owns(pfn)))
        })
    }

    /// Step 3.
    fn look_for_unmovable(&self, cell: &ZoneCell<'a>, range: PhysRange) -> Result<(), ContigError> {
        let (mut left, mut tries) = (range, 0);
        while let Some((pfn, is_ram)) = self.first_busy(cell, left) {
            if !is_ram {
                return Err(ContigError { fault: ContigFault::Foreign, pfn });
            }
            if let Some((_, block)) = self.owner_of(pfn) {
                let next = Pfn::known(block.first.as_raw() + block.order.pages()).addr().min(range.end());
                left = PhysRange::new(next, range.end()).unwrap_or_default();
                tries = 0;
            } else if tries == MAX_TRIES {
                return Err(ContigError { fault: ContigFault::Busy, pfn });
            } else {
                self.flush_kept();
                tries += 1;
            }
        }
        Ok(())
    }

    /// What is free but was kept back goes to the zones.
    fn flush_kept(&self) {
        self.shrinkers().for_each(|shrinker| {
            shrinker.flush();
        });
        self.release_all_kept();
    }

    /// Step 4 for the part of a range that lies in one chunk.
    fn evacuate(&self, cell: &ZoneCell<'a>, part: PhysRange, mobility: Mobility) -> Result<(), ContigError> {
        let (mut stuck, mut tries) = (None, 0);
        loop {
            let mut zone = cell.zone.lock(self.arch);
            let taken = zone.buddy_mut().take_range(part, mobility);
            if taken.is_ok() {
                self.mix(part);
            }
            drop(zone);
            let pfn = match taken {
                Ok(()) => return Ok(()),
                Err(RangeError::Busy(pfn) | RangeError::Isolated(pfn) | RangeError::Foreign(pfn)) => pfn,
            };
            tries = if stuck == Some(pfn) { tries + 1 } else { 0 };
            stuck = Some(pfn);
            match self.move_away(pfn) {
                Moved::Away => {}
                Moved::NoMemory => return Err(ContigError { fault: ContigFault::NoMemory, pfn }),
                Moved::Refused | Moved::NoOwner if tries == MAX_TRIES => {
                    return Err(ContigError { fault: ContigFault::Busy, pfn });
                }
                Moved::Refused | Moved::NoOwner => self.flush_kept(),
            }
        }
    }

    /// Notes that frames of these words, whose zone is locked, are out as no blocks of any order.
    fn mix(&self, range: PhysRange) {
        let (first, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        for word in first >> WORD_ORDER..end.div_ceil(1 << WORD_ORDER) {
            if let Some(place) = self.map.find_frame(Pfn::known((word << WORD_ORDER).max(first))) {
                self.lock_lane(place).set_mixed(place, true);
            }
        }
    }

    /// Checks and fills frames that were just taken. Gives them back if one was written to while it was free.
    fn fill_new(&self, cell: &ZoneCell<'a>, gfp: Gfp, first: Pfn, pages: u64) -> Result<(), ContigError> {
        if self.watch.fill.poison {
            let mut spoilt = None;
            for block in blocks_of(first.as_raw(), pages).filter(|block| !self.is_unspoilt(block)) {
                spoilt = spoilt.or(Some(block.pfn()));
            }
            if let Some(pfn) = spoilt {
                for block in blocks_of(first.as_raw(), pages).filter(|block| block.pfn() != pfn) {
                    self.fill_before_free(&block);
                    self.put_range(cell, block.pfn(), block.order().pages());
                }
                return Err(ContigError { fault: ContigFault::Spoilt, pfn });
            }
        }
        if gfp.contains(Gfp::ZERO) || self.watch.fill.on_alloc {
            blocks_of(first.as_raw(), pages).for_each(|block| self.fill(&block, 0));
        }
        Ok(())
    }
}

/// Frames as a range of addresses.
fn frames(first: u64, pages: u64) -> Option<PhysRange> {
    PhysRange::new(Pfn::new(first)?.addr(), Pfn::new(first.checked_add(pages)?)?.addr())
}

/// A range, cut at the borders of chunks.
pub(super) fn chunks_of(range: PhysRange) -> impl Iterator<Item = PhysRange> {
    let (mut at, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
    core::iter::from_fn(move || {
        let next = ((at / Order::MAX.pages() + 1) * Order::MAX.pages()).min(end);
        let part = frames(at, next.checked_sub(at).filter(|pages| *pages > 0)?)?;
        at = next;
        Some(part)
    })
}

/// Frames as the largest blocks that they make, of up to a word.
fn blocks_of(first: u64, pages: u64) -> impl Iterator<Item = PageBlock> {
    let (mut at, end) = (first, first + pages);
    core::iter::from_fn(move || {
        let fits = at.trailing_zeros().min((end - at).checked_ilog2()?).min(WORD_ORDER as u32);
        let block = PageBlock::from_raw(Pfn::new(at)?, Order::new(fits as usize)?);
        at += 1 << fits;
        Some(block)
    })
}

const _: () = assert!(MAX_HOARD_ORDER < WORD_ORDER);
