// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small blocks of coherent memory, all of one size: descriptors, command blocks (Linux's `dma_pool`).
//!
//! ```text
//!   page of coherent memory    [ segment        | segment        ]   at most 64 blocks each, none crosses a border
//!   segments, by address       { where, free: a bit a block }        in ordinary memory
//! ```
//!
//! What is free stands outside of the blocks: a device that goes on writing to one that was given back breaks nothing.
//! Pages stay with the pool until it ends.
//!
//! *Complexity:* O(1) to take a block while the segment at hand has one; to give one back, O(log segments).

use core::ptr::NonNull;

use super::coherent::CoherentMemory;
use super::device::{Device, DmaAddr};
use super::table::Table;
use super::{DmaError, Mapper, Platform};
use crate::addr::{Order, PAGE_SIZE};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::slab::PageSource;
use crate::sync::{IrqSpinLock, Rank};

/// What a pool's blocks are like.
#[derive(Clone, Copy, Debug)]
pub struct PoolSpec {
    /// Bytes of a block.
    pub size: u64,
    /// They begin at multiples of this power of two.
    pub align: u64,
    /// They do not cross multiples of this power of two; 0 for no such border.
    pub boundary: u64,
}

/// A part of a page with at most 64 blocks.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// A bit a block, set while it is free.
    free: u64,
    pointer: NonNull<u8>,
    addr: DmaAddr,
    /// Whether the page begins here.
    is_first: bool,
}

// SAFETY: the memory belongs to the pool, wherever that goes.
unsafe impl Send for Segment {}

#[derive(Debug)]
struct State {
    segments: Table<Segment>,
    /// Where a block was taken or given back last.
    last: usize,
    in_use: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub struct DmaPool<'m, 'a, A: Arch, S: PageSource, P: Platform> {
    mapper: &'m Mapper<'a, A, S, P>,
    device: &'m Device,
    /// From one block to the next.
    step: u64,
    /// Bytes of a segment: no block crosses a multiple.
    segment: u64,
    /// Bytes that are allocated at once.
    page: u64,
    /// All blocks of a segment.
    full: u64,
    state: IrqSpinLock<State>,
}

impl<'m, 'a, A: Arch, S: PageSource, P: Platform> DmaPool<'m, 'a, A, S, P> {
    /// A pool without memory yet.
    ///
    /// # Errors
    ///
    /// [`DmaError::Zero`]; [`DmaError::Layout`] if alignment or boundary is no power of two, or a block does not fit.
    pub fn new(mapper: &'m Mapper<'a, A, S, P>, device: &'m Device, spec: &PoolSpec) -> Result<Self, DmaError> {
        const LEAST: u64 = 8;
        if spec.size == 0 {
            return Err(DmaError::Zero);
        }
        let align = spec.align.max(LEAST);
        if !align.is_power_of_two() || spec.boundary != 0 && !spec.boundary.is_power_of_two() || align > PAGE_SIZE {
            return Err(DmaError::Layout);
        }
        if spec.size > Order::MAX.bytes() {
            return Err(DmaError::TooLarge(spec.size));
        }
        let step = spec.size.next_multiple_of(align);
        let page = step.next_power_of_two().max(PAGE_SIZE);
        let mut segment = if spec.boundary == 0 { page } else { page.min(spec.boundary) };
        if step > segment {
            return Err(DmaError::Layout);
        }
        while segment / step > 64 {
            segment /= 2;
        }
        let blocks = segment / step;
        let full = if blocks == 64 { u64::MAX } else { (1 << blocks) - 1 };
        let state = IrqSpinLock::new(Rank::DMA_POOL, State { segments: Table::new(), last: 0, in_use: 0 });
        Ok(Self { mapper, device, step, segment, page, full, state })
    }

    /// Takes a block; what is in it is not known. Works in interrupt handlers with a `gfp` that does not wait.
    ///
    /// # Errors
    ///
    /// [`DmaError`], as [`Mapper::alloc_coherent`].
    #[inline]
    pub fn alloc(&self, gfp: Gfp) -> Result<CoherentMemory, DmaError> {
        let mut state = self.state.lock(self.mapper.arch);
        let last = state.last;
        if let Some(segment) = state.segments.items_mut().get_mut(last)
            && segment.free != 0
        {
            let block = segment.take(self.step);
            state.in_use += 1;
            return Ok(block);
        }
        drop(state);
        self.alloc_elsewhere(gfp)
    }

    /// The same, zeroed.
    ///
    /// # Errors
    ///
    /// [`DmaError`], as [`Mapper::alloc_coherent`].
    pub fn zalloc(&self, gfp: Gfp) -> Result<CoherentMemory, DmaError> {
        let block = self.alloc(gfp)?;
        // SAFETY: the block is ours, so long, and nobody has heard of it.
        unsafe { block.pointer.write_bytes(0, self.step as usize) };
        Ok(block)
    }

    #[cold]
    #[inline(never)]
    fn alloc_elsewhere(&self, gfp: Gfp) -> Result<CoherentMemory, DmaError> {
        loop {
            let mut state = self.state.lock(self.mapper.arch);
            let place = state.segments.items().iter().position(|segment| segment.free != 0);
            if let Some(place) = place
                && let Some(segment) = state.segments.items_mut().get_mut(place)
            {
                let block = segment.take(self.step);
                state.last = place;
                state.in_use += 1;
                return Ok(block);
            }
            drop(state);
            self.grow(gfp)?;
        }
    }

    /// One more page. Room for all its segments comes first, so that nothing has to be undone.
    fn grow(&self, gfp: Gfp) -> Result<(), DmaError> {
        let page = self.mapper.alloc_coherent(self.device, self.page, gfp)?;
        for offset in (0..self.page).step_by(self.segment as usize) {
            // SAFETY: inside the page.
            let pointer = unsafe { page.pointer.add(offset as usize) };
            let addr = DmaAddr::new(page.addr.as_raw() + offset);
            let segment = Segment { free: self.full, pointer, addr, is_first: offset == 0 };
            if !self.add(segment, gfp) {
                // The first ones can be used; without any, the page goes back.
                if offset == 0 {
                    self.mapper.free_coherent(self.device, self.page, page)?;
                    return Err(DmaError::NoRecord);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    fn add(&self, segment: Segment, gfp: Gfp) -> bool {
        loop {
            let mut state = self.state.lock(self.mapper.arch);
            let Some(order) = state.segments.wanted() else {
                let at = state.segments.items().partition_point(|other| other.addr < segment.addr);
                state.last = at;
                return state.segments.insert(at, segment);
            };
            drop(state);
            let Some(block) = self.mapper.source.take(order, gfp.difference(Gfp::DMA | Gfp::ZERO)) else {
                return false;
            };
            let old = self.state.lock(self.mapper.arch).segments.move_to(self.mapper.arch, block);
            old.into_iter().for_each(|block| self.mapper.source.give(block));
        }
    }

    /// Gives a block back. Works in interrupt handlers.
    ///
    /// # Errors
    ///
    /// [`DmaError::NotMapped`], [`DmaError::WrongPointer`]: it is no block of this pool that is in use.
    #[inline]
    pub fn free(&self, block: CoherentMemory) -> Result<(), DmaError> {
        let mut state = self.state.lock(self.mapper.arch);
        let last = state.last;
        let is_in = |segment: &Segment| block.addr.as_raw().wrapping_sub(segment.addr.as_raw()) < self.segment;
        let at = if state.segments.items().get(last).is_some_and(is_in) {
            last
        } else {
            state.segments.items().partition_point(|segment| segment.addr <= block.addr).wrapping_sub(1)
        };
        let Some(segment) = state.segments.items_mut().get_mut(at).filter(|segment| is_in(segment)) else {
            return Err(DmaError::NotMapped(block.addr));
        };
        let offset = block.addr.as_raw() - segment.addr.as_raw();
        let index = offset / self.step;
        let bit = 1u64.checked_shl(index as u32).unwrap_or(0) & self.full;
        if index * self.step != offset || segment.free & bit != 0 || bit == 0 {
            return Err(DmaError::NotMapped(block.addr));
        }
        if block.pointer.addr().get() != segment.pointer.addr().get() + offset as usize {
            return Err(DmaError::WrongPointer(block.addr));
        }
        segment.free |= bit;
        state.last = at;
        state.in_use -= 1;
        Ok(())
    }

    /// Blocks that are out, and all there are.
    #[must_use]
    pub fn blocks(&self) -> (u64, u64) {
        let state = self.state.lock(self.mapper.arch);
        (state.in_use, state.segments.items().len() as u64 * u64::from(self.full.count_ones()))
    }

    /// Ends the pool; all its memory goes back.
    ///
    /// # Errors
    ///
    /// The pool, if blocks of it are out.
    #[expect(clippy::result_large_err, reason = "a pool that cannot end goes on")]
    pub fn destroy(self) -> Result<(), (Self, DmaError)> {
        let in_use = self.blocks().0;
        if in_use != 0 { Err((self, DmaError::InUse(in_use as usize))) } else { Ok(()) }
    }
}

impl<A: Arch, S: PageSource, P: Platform> Drop for DmaPool<'_, '_, A, S, P> {
    /// With blocks out, its memory stays with the device, whose release names it.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.in_use == 0 {
            let size = self.page;
            for segment in state.segments.items().iter().filter(|segment| segment.is_first) {
                let page = CoherentMemory { pointer: segment.pointer, addr: segment.addr };
                let freed = self.mapper.free_coherent(self.device, size, page);
                debug_assert!(freed.is_ok(), "{freed:?}");
            }
        }
        state.segments.clear().into_iter().for_each(|block| self.mapper.source.give(block));
    }
}

impl Segment {
    /// Takes a block, of which there is at least one.
    #[inline]
    fn take(&mut self, step: u64) -> CoherentMemory {
        let offset = u64::from(self.free.trailing_zeros()) * step;
        self.free &= self.free - 1;
        // SAFETY: the block is inside the segment's memory.
        let pointer = unsafe { self.pointer.add(offset as usize) };
        CoherentMemory { pointer, addr: DmaAddr::new(self.addr.as_raw() + offset) }
    }
}
