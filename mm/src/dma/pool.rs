// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small blocks of coherent memory, all of one size: descriptors, command blocks (Linux's `dma_pool`).
//!
//! ```text
//!   page of coherent memory    [ segment        | segment        ]   at most 64 blocks each, none crosses a border
//!   list of segments           { where, free: a bit a block }        in ordinary memory, never moved
//! ```
//!
//! What is free stands outside of the blocks: a device that goes on writing to one that was given back breaks nothing.
//! Blocks are taken and given back by one atomic operation, without a lock, from anywhere; the lock is for new segments.
//! Pages stay with the pool until it ends.
//!
//! *Complexity:* O(1) for the segment that was used last, else O(segments).

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::coherent::CoherentMemory;
use super::device::{Device, DmaAddr};
use super::{DmaError, Mapper, Platform};
use crate::addr::{Order, PAGE_SIZE, PhysAddr};
use crate::arch::Arch;
use crate::buddy::PageBlock;
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
#[derive(Debug)]
struct Segment {
    /// A bit a block, set while it is free.
    free: AtomicU64,
    pointer: NonNull<u8>,
    addr: DmaAddr,
    /// Whether the page begins here.
    is_first: bool,
    /// The one that was there before.
    next: *const Segment,
}

/// What is there for new segments.
#[derive(Debug)]
struct Room {
    /// The frame that was taken last; its first word leads to the one before.
    frame: Option<PhysAddr>,
    /// How many segments are in it.
    used: usize,
}

/// Segments of a frame, behind the word that leads to the next.
const PER_FRAME: usize = (PAGE_SIZE as usize - size_of::<Segment>()) / size_of::<Segment>();

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
    /// Where a block was taken or given back last.
    last: AtomicPtr<Segment>,
    /// The latest segment.
    segments: AtomicPtr<Segment>,
    room: IrqSpinLock<Room>,
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
        let (last, segments) = (AtomicPtr::new(ptr::null_mut()), AtomicPtr::new(ptr::null_mut()));
        let room = IrqSpinLock::new(Rank::DMA_POOL, Room { frame: None, used: 0 });
        Ok(Self { mapper, device, step, segment, page, full, last, segments, room })
    }

    /// Takes a block; what is in it is not known. Works in interrupt handlers with a `gfp` that does not wait.
    ///
    /// # Errors
    ///
    /// [`DmaError`], as [`Mapper::alloc_coherent`].
    #[inline]
    pub fn alloc(&self, gfp: Gfp) -> Result<CoherentMemory, DmaError> {
        // SAFETY: a segment of ours, which stays where it is for as long as the pool lives.
        if let Some(segment) = unsafe { self.last.load(Ordering::Acquire).as_ref() } {
            let free = self.mapper.arch.take_lowest(&segment.free);
            if free != 0 {
                return Ok(segment.block(free.trailing_zeros(), self.step));
            }
        }
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
            for segment in self.segments() {
                let free = self.mapper.arch.take_lowest(&segment.free);
                if free != 0 {
                    self.used_last(segment);
                    return Ok(segment.block(free.trailing_zeros(), self.step));
                }
            }
            self.grow(gfp)?;
        }
    }

    /// All segments, the latest first.
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        // SAFETY: segments of ours, which stay where they are for as long as the pool lives.
        let first = unsafe { self.segments.load(Ordering::Acquire).as_ref() };
        // SAFETY: as above; a segment in the list is whole.
        core::iter::successors(first, |segment| unsafe { segment.next.as_ref() })
    }

    fn used_last(&self, segment: &Segment) {
        self.last.store(ptr::from_ref(segment).cast_mut(), Ordering::Release);
    }

    /// One more page.
    fn grow(&self, gfp: Gfp) -> Result<(), DmaError> {
        let page = self.mapper.alloc_coherent(self.device, self.page, gfp)?;
        for offset in (0..self.page).step_by(self.segment as usize) {
            if !self.add(page, offset, gfp) {
                if offset == 0 {
                    self.mapper.free_coherent(self.device, self.page, page)?;
                    return Err(DmaError::NoRecord);
                }
                // The first ones can be used.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Puts a segment of `page` into the list; `false` if there is no room to remember it.
    fn add(&self, page: CoherentMemory, offset: u64, gfp: Gfp) -> bool {
        loop {
            let mut room = self.room.lock(self.mapper.arch);
            if let Some(frame) = room.frame.filter(|_| room.used < PER_FRAME) {
                room.used += 1;
                let place = self.mapper.arch.direct_map(frame).cast::<Segment>().wrapping_add(room.used);
                let segment = Segment {
                    free: AtomicU64::new(self.full),
                    // Inside the page, which is not the first.
                    pointer: NonNull::new(page.pointer.as_ptr().wrapping_add(offset as usize)).unwrap_or(page.pointer),
                    addr: DmaAddr::new(page.addr.as_raw() + offset),
                    is_first: offset == 0,
                    next: self.segments.load(Ordering::Relaxed),
                };
                // SAFETY: a place in a frame of ours, aligned as a frame is, that nobody knows of yet.
                unsafe { place.write(segment) };
                self.segments.store(place, Ordering::Release);
                return true;
            }
            drop(room);
            let Some(block) = self.mapper.source.take(Order::ZERO, gfp.difference(Gfp::DMA | Gfp::ZERO)) else {
                return false;
            };
            let mut room = self.room.lock(self.mapper.arch);
            let frame = block.pfn().addr();
            let before = room.frame.map_or(u64::MAX, PhysAddr::as_raw);
            // SAFETY: the first word of a frame that is ours.
            unsafe { self.mapper.arch.direct_map(frame).cast::<u64>().write(before) };
            *room = Room { frame: Some(frame), used: 0 };
        }
    }

    /// Gives a block back. Works in interrupt handlers.
    ///
    /// # Errors
    ///
    /// [`DmaError::NotMapped`], [`DmaError::WrongPointer`]: it is no block of this pool that is in use.
    #[inline]
    pub fn free(&self, block: CoherentMemory) -> Result<(), DmaError> {
        // SAFETY: a segment of ours, which stays where it is for as long as the pool lives.
        match unsafe { self.last.load(Ordering::Acquire).as_ref() } {
            Some(segment) if self.offset(segment, block) < self.segment => self.put(segment, block),
            _ => self.free_elsewhere(block),
        }
    }

    #[inline(always)]
    const fn offset(&self, segment: &Segment, block: CoherentMemory) -> u64 {
        block.addr.as_raw().wrapping_sub(segment.addr.as_raw())
    }

    #[cold]
    #[inline(never)]
    fn free_elsewhere(&self, block: CoherentMemory) -> Result<(), DmaError> {
        let segment = self.segments().find(|segment| self.offset(segment, block) < self.segment);
        let segment = segment.ok_or(DmaError::NotMapped(block.addr))?;
        self.put(segment, block)?;
        self.used_last(segment);
        Ok(())
    }

    #[inline(always)]
    fn put(&self, segment: &Segment, block: CoherentMemory) -> Result<(), DmaError> {
        let offset = self.offset(segment, block);
        let index = offset / self.step;
        // There are at most 64.
        let bit = 1u64.wrapping_shl(index as u32);
        if index * self.step != offset || self.full & bit == 0 {
            return Err(DmaError::NotMapped(block.addr));
        }
        if block.pointer.addr().get() != segment.pointer.addr().get() + offset as usize {
            return Err(DmaError::WrongPointer(block.addr));
        }
        match segment.free.fetch_or(bit, Ordering::Release) & bit {
            0 => Ok(()),
            _ => Err(DmaError::NotMapped(block.addr)),
        }
    }

    /// Blocks that are out, and all there are. O(segments).
    #[must_use]
    pub fn blocks(&self) -> (u64, u64) {
        let all = u64::from(self.full.count_ones());
        self.segments().fold((0, 0), |(out, sum), segment| {
            (out + all - u64::from(segment.free.load(Ordering::Relaxed).count_ones()), sum + all)
        })
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
        if self.blocks().0 == 0 {
            for segment in self.segments().filter(|segment| segment.is_first) {
                let page = CoherentMemory { pointer: segment.pointer, addr: segment.addr };
                let freed = self.mapper.free_coherent(self.device, self.page, page);
                debug_assert!(freed.is_ok(), "{freed:?}");
            }
        }
        let mut next = self.room.get_mut().frame;
        while let Some(frame) = next {
            // SAFETY: the first word of a frame that is ours, which `add` wrote.
            let before = unsafe { self.mapper.arch.direct_map(frame).cast::<u64>().read() };
            self.mapper.source.give(PageBlock::from_raw(frame.pfn(), Order::ZERO));
            next = PhysAddr::new(before);
        }
    }
}

// SAFETY: the segments are the pool's, wherever it goes.
unsafe impl<A: Arch, S: PageSource + Sync, P: Platform> Send for DmaPool<'_, '_, A, S, P> {}
// SAFETY: what of a segment changes is atomic.
unsafe impl<A: Arch, S: PageSource + Sync, P: Platform> Sync for DmaPool<'_, '_, A, S, P> {}

impl Segment {
    /// The block of this number.
    #[inline(always)]
    fn block(&self, index: u32, step: u64) -> CoherentMemory {
        let offset = u64::from(index) * step;
        // SAFETY: the block is inside the segment's memory.
        let pointer = unsafe { self.pointer.add(offset as usize) };
        CoherentMemory { pointer, addr: DmaAddr::new(self.addr.as_raw() + offset) }
    }
}
