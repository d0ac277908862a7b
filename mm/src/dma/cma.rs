// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contiguous memory area: RAM for large buffers in one piece, lent to others while nobody needs one (Linux's CMA).
//!
//! ```text
//!   chunks of the area    typed so in the page allocator: movable blocks borrow there when all else is taken
//!   alloc                 first fit behind the last one; what was lent is moved away; what does not move is named
//!   free                  to the page allocator, which lends it again
//! ```
//!
//! *Lock:* one of [`Rank::DMA`] around the bitmap, not while anything is moved. *Invariant:* a bit is set for each page that
//! is out, or about to be.
#![forbid(unsafe_code)]

use super::table::Table;
use crate::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::page_alloc::{ContigError, ContigFault, ContigRange, Pages};
use crate::sync::{IrqSpinLock, Rank};

/// What the lock guards.
#[derive(Debug)]
struct State {
    /// A bit a page, set while it is out.
    map: Table<u64>,
    /// Where the next search begins.
    next: u64,
    used: u64,
    allocated: u64,
    /// Attempts that failed, and the last frame that was in the way.
    failed: u64,
    blocked_by: Option<Pfn>,
}

/// Figures of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CmaUsage {
    /// Where it is.
    pub range: PhysRange,
    /// Pages that are out.
    pub used_pages: u64,
    /// Allocations that succeeded, and that failed.
    pub allocated: u64,
    /// Those that failed.
    pub failed: u64,
    /// The last frame that was in the way of one.
    pub blocked_by: Option<Pfn>,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Cma<'p, 'a, A: Arch> {
    arch: &'a A,
    pages: &'p Pages<'a, A>,
    range: PhysRange,
    state: IrqSpinLock<State>,
}

impl<'p, 'a, A: Arch> Cma<'p, 'a, A> {
    /// An area of whole chunks of 4 MiB, at most 8 GiB, which from now on is lent to movable blocks only.
    ///
    /// # Errors
    ///
    /// [`ContigError`]: the frame that is in the way, or [`ContigFault::NoMemory`] for the bitmap.
    pub fn new(arch: &'a A, pages: &'p Pages<'a, A>, range: PhysRange) -> Result<Self, ContigError> {
        let no_memory = ContigError { fault: ContigFault::NoMemory, pfn: range.start().pfn() };
        let words = (range.size() / PAGE_SIZE).div_ceil(64);
        let order = Order::for_bytes(words * 8).filter(|order| *order <= Order::new(6).unwrap_or_default());
        let block = pages.alloc(Gfp::KERNEL, order.ok_or(no_memory)?).map_err(|_| no_memory)?;
        let mut map = Table::new();
        // It had none.
        let _ = map.move_to(arch, block);
        map.fill(0);
        if let Err(error) = pages.make_cma(range) {
            let freed = map.clear().map_or(Ok(()), |block| pages.free(block));
            debug_assert!(freed.is_ok(), "{freed:?}");
            return Err(error);
        }
        let state = State { map, next: 0, used: 0, allocated: 0, failed: 0, blocked_by: None };
        Ok(Self { arch, pages, range, state: IrqSpinLock::new(Rank::DMA, state) })
    }

    const fn nr_pages(&self) -> u64 {
        self.range.size() / PAGE_SIZE
    }

    /// Takes `pages` in a row, from a multiple of `align` on; zeroed with [`Gfp::ZERO`]. Moves what was lent: may wait,
    /// never in interrupt context. O(pages of the area), and what has to be moved.
    ///
    /// # Errors
    ///
    /// [`ContigError`] with the last frame that was in the way; [`ContigFault::NoRange`] if nothing is that long.
    pub fn alloc(&self, pages: u64, align: Order, gfp: Gfp) -> Result<PhysRange, ContigError> {
        let mut error = ContigError { fault: ContigFault::NoRange, pfn: self.range.start().pfn() };
        let start = self.state.lock(self.arch).next;
        // From there to the end, then from the beginning.
        for (mut at, end) in [(start, self.nr_pages()), (0, self.nr_pages().min(start + pages.saturating_sub(1)))] {
            while let Some(first) = self.claim(at, end, pages.max(1), align) {
                match self.pages.alloc_contig_range(gfp, self.part(first, pages.max(1))) {
                    Ok(range) => {
                        let (_, pages) = range.into_raw();
                        let mut state = self.state.lock(self.arch);
                        state.next = first + pages;
                        state.allocated += 1;
                        return Ok(self.part(first, pages));
                    }
                    Err(found) => {
                        self.mark(first, pages.max(1), false);
                        error = found;
                        if found.fault == ContigFault::NoMemory {
                            return Err(self.note(error));
                        }
                        // Behind what is in the way.
                        let behind = found.pfn.as_raw().saturating_sub(self.range.start().pfn().as_raw()) + 1;
                        at = behind.max(first + 1);
                    }
                }
            }
        }
        Err(self.note(error))
    }

    fn note(&self, error: ContigError) -> ContigError {
        let mut state = self.state.lock(self.arch);
        state.failed += 1;
        if error.fault != ContigFault::NoRange {
            state.blocked_by = Some(error.pfn);
        }
        error
    }

    /// Pages of the area by their numbers.
    fn part(&self, first: u64, pages: u64) -> PhysRange {
        let at = |page: u64| PhysAddr::new_saturating(self.range.start().as_raw() + page * PAGE_SIZE);
        PhysRange::new(at(first), at(first + pages)).unwrap_or_default()
    }

    /// Marks the first run that is free from `at` on, before `end`.
    fn claim(&self, at: u64, end: u64, pages: u64, align: Order) -> Option<u64> {
        let base = self.range.start().pfn().as_raw();
        let aligned = |page: u64| (base + page).next_multiple_of(align.pages()) - base;
        let mut state = self.state.lock(self.arch);
        let mut first = aligned(at);
        while first + pages <= end {
            match (first..first + pages).rev().find(|page| state.is_out(*page)) {
                Some(taken) => first = aligned(taken + 1),
                None => {
                    state.set(first, pages, true);
                    return Some(first);
                }
            }
        }
        None
    }

    fn mark(&self, first: u64, pages: u64, out: bool) {
        self.state.lock(self.arch).set(first, pages, out);
    }

    /// Gives back what [`alloc`](Self::alloc) gave, or a part of it.
    ///
    /// # Errors
    ///
    /// The range, if not all of it is out. Nothing has changed then.
    pub fn free(&self, range: PhysRange) -> Result<(), PhysRange> {
        let (start, pages) = (range.start().pfn().as_raw(), range.size() / PAGE_SIZE);
        let first = start.checked_sub(self.range.start().pfn().as_raw()).ok_or(range)?;
        let is_whole = range == self.part(first, pages) && pages > 0 && first + pages <= self.nr_pages();
        let state = self.state.lock(self.arch);
        let is_ours = is_whole && (first..first + pages).all(|page| state.is_out(page));
        drop(state);
        if !is_ours || self.pages.free_contig_range(ContigRange::from_raw(range.start().pfn(), pages)).is_err() {
            return Err(range);
        }
        self.mark(first, pages, false);
        Ok(())
    }

    /// Figures.
    #[must_use]
    pub fn usage(&self) -> CmaUsage {
        let state = self.state.lock(self.arch);
        let State { used, allocated, failed, blocked_by, .. } = *state;
        CmaUsage { range: self.range, used_pages: used, allocated, failed, blocked_by }
    }
}

impl State {
    fn is_out(&self, page: u64) -> bool {
        self.map.items().get(page as usize / 64).is_none_or(|word| word >> (page % 64) & 1 != 0)
    }

    fn set(&mut self, first: u64, pages: u64, out: bool) {
        for page in first..first + pages {
            if let Some(word) = self.map.items_mut().get_mut(page as usize / 64) {
                let bit = 1 << (page % 64);
                *word = if out { *word | bit } else { *word & !bit };
            }
        }
        self.used = if out { self.used + pages } else { self.used - pages };
    }
}
