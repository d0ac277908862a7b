// SPDX-License-Identifier: MIT OR Apache-2.0
//! Coherent memory: what the CPU writes the device reads, and the other way about, with no call in between.
//!
//! For a device that sees the caches that is any memory. For others it comes from *chunks* of RAM that the CPU has mapped
//! uncached (`chunk.rs`): one that was set aside at boot, and more that are taken from the page allocator
//! when a caller that may wait finds no room. A chunk is never also mapped cacheable: its own place in the direct map
//! changes type, before first use, by break-before-make; then whatever the caches still have of it is thrown out.
#![forbid(unsafe_code)]

use core::panic::Location;
use core::ptr::NonNull;

use super::chunk::{Chunk, MAX_PAGES};
use super::device::{Device, DmaAddr};
use super::record::{Kind, Place, Record};
use super::table::Table;
use super::{Direction, DmaError, Mapper, Platform};
use crate::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::slab::PageSource;

/// Most chunks.
const MAX_CHUNKS: usize = 16;
/// A chunk that is taken later has at least so many pages; and as many as there are, so that few are needed.
const LEAST_PAGES: u64 = 16;

/// All chunks, behind one lock.
#[derive(Debug)]
pub(super) struct Chunks {
    list: [Option<Chunk>; MAX_CHUNKS],
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { list: [const { None }; MAX_CHUNKS] }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.list.iter().flatten()
    }

    /// The chunk that holds `phys`, and the page.
    #[inline]
    fn find(&mut self, phys: PhysAddr) -> Option<(&mut Chunk, u32)> {
        self.list.iter_mut().flatten().find_map(|chunk| chunk.page_of(phys).map(|page| (chunk, page)))
    }
}

/// Memory that the CPU and a device share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoherentMemory {
    /// Where the CPU has it.
    pub pointer: NonNull<u8>,
    /// What the device calls it.
    pub addr: DmaAddr,
}

impl<A: Arch, S: PageSource, P: Platform> Mapper<'_, A, S, P> {
    /// Memory that the CPU and `device` share without further calls: at least `size` bytes, whole pages, aligned to the
    /// size rounded up to a power of two, all zeros (Linux's `dma_alloc_coherent`; with write-combining it is the same
    /// memory, as on arm64 there). What the device is told of it by a register must come after a barrier, as any
    /// register write that starts a device. O(chunks), a step per 64 of their pages, and the zeroing.
    ///
    /// Works in interrupt handlers with a `gfp` that does not wait; then the chunks do not grow.
    ///
    /// # Errors
    ///
    /// [`DmaError`]: [`Zero`](DmaError::Zero), [`TooLarge`](DmaError::TooLarge), [`NoMemory`](DmaError::NoMemory),
    /// [`Unreachable`](DmaError::Unreachable).
    #[inline]
    #[track_caller]
    pub fn alloc_coherent(&self, device: &Device, size: u64, gfp: Gfp) -> Result<CoherentMemory, DmaError> {
        let pages = size.div_ceil(PAGE_SIZE);
        if pages.wrapping_sub(1) >= u64::from(MAX_PAGES) {
            return Err(if size == 0 { DmaError::Zero } else { DmaError::TooLarge(size) });
        }
        let caller = Location::caller();
        if device.is_coherent() {
            return self.alloc_cached(device, pages, gfp, caller);
        }
        let (phys, addr) = match self.take(device, pages as u32, caller) {
            Some(found) => found,
            None => self.grow_and_take(device, pages as u32, gfp, caller)?,
        };
        self.zero(phys, pages);
        Ok(CoherentMemory { pointer: self.pointer(phys)?, addr })
    }

    /// Takes pages from the first chunk that has them in the device's reach.
    #[inline]
    fn take(&self, device: &Device, pages: u32, caller: &'static Location<'static>) -> Option<(PhysAddr, DmaAddr)> {
        let mut chunks = self.chunks.lock(self.arch);
        chunks.list.iter_mut().flatten().find_map(|chunk| {
            let phys = chunk.take(pages, device.number, caller)?;
            let addr = device.bus_address(phys, u64::from(pages) * PAGE_SIZE);
            if addr.is_err() {
                chunk.page_of(phys).into_iter().for_each(|page| chunk.put(page));
            }
            Some((phys, addr.ok()?))
        })
    }

    /// No chunk has them: another one, if the caller may wait for it.
    #[cold]
    #[inline(never)]
    fn grow_and_take(
        &self,
        device: &Device,
        pages: u32,
        gfp: Gfp,
        caller: &'static Location<'static>,
    ) -> Result<(PhysAddr, DmaAddr), DmaError> {
        if !gfp.may_wait() {
            return Err(DmaError::NoMemory);
        }
        // Between growing and taking, others may take it all.
        for _ in 0..3 {
            self.grow(device, pages, gfp)?;
            if let Some(found) = self.take(device, pages, caller) {
                return Ok(found);
            }
        }
        Err(DmaError::NoMemory)
    }

    /// One more chunk, with room for `pages`.
    fn grow(&self, device: &Device, pages: u32, gfp: Gfp) -> Result<(), DmaError> {
        let least = Order::for_bytes(u64::from(pages) * PAGE_SIZE).ok_or(DmaError::NoMemory)?;
        let all: u64 = self.chunks.lock(self.arch).iter().map(|chunk| u64::from(chunk.pages())).sum();
        let wanted = Order::for_bytes(u64::from(pages).max(LEAST_PAGES).max(all) * PAGE_SIZE).unwrap_or(Order::MAX);
        let block = self
            .reachable_block(device, wanted, gfp.union(Gfp::NOWARN).union(Gfp::NORETRY))
            .or_else(|_| self.reachable_block(device, least, gfp))?;
        let (pfn, order) = block.into_raw();
        let give_up = |error| {
            self.source.give(PageBlock::from_raw(pfn, order));
            Err(error)
        };
        let start = pfn.addr();
        let Some(range) = start.checked_add(order.bytes()).and_then(|end| PhysRange::new(start, end)) else {
            return give_up(DmaError::NoMemory);
        };
        if !self.platform.set_cached(range, false) {
            return give_up(DmaError::Attributes(start));
        }
        if let Err(error) = self.add_chunk(range, true) {
            // What is cached again holds nothing of ours.
            return if self.platform.set_cached(range, true) { give_up(error) } else { Err(error) };
        }
        Ok(())
    }

    /// A block that the device reaches: from anywhere if that does, else from zone DMA.
    fn reachable_block(&self, device: &Device, order: Order, gfp: Gfp) -> Result<PageBlock, DmaError> {
        let gfp = gfp.difference(Gfp::ZERO);
        let mut found = DmaError::NoMemory;
        let below = gfp | self.reached_by_all();
        for gfp in [gfp, below] {
            if gfp == below || self.reaches_all(device) {
                let Some(block) = self.source.take(order, gfp) else { continue };
                match device.bus_address(block.pfn().addr(), order.bytes()) {
                    Ok(_) => return Ok(block),
                    Err(error) => found = error,
                }
                self.source.give(block);
            }
        }
        Err(found)
    }

    /// Adds a chunk of RAM that is mapped uncached already, and throws out what the caches have of it.
    pub(super) fn add_chunk(&self, range: PhysRange, is_grown: bool) -> Result<(), DmaError> {
        let pages = (range.size() / PAGE_SIZE).min(u64::from(MAX_PAGES)) as u32;
        let mut tags = Table::new();
        let order = Order::for_bytes(Chunk::tag_bytes(pages)).ok_or(DmaError::NoMemory)?;
        let block = self.source.take(order, Gfp::KERNEL).ok_or(DmaError::NoMemory)?;
        // It had none.
        let _ = tags.move_to(self.arch, block);
        self.discard(range);
        let chunk = Chunk::new(range.start(), pages, is_grown, tags);
        let mut chunks = self.chunks.lock(self.arch);
        let Some(slot) = chunks.list.iter_mut().find(|slot| slot.is_none()) else {
            drop(chunks);
            let (_, _, block) = chunk.into_parts();
            block.into_iter().for_each(|block| self.source.give(block));
            return Err(DmaError::NoMemory);
        };
        *slot = Some(chunk);
        Ok(())
    }

    /// Gives back what was taken and is not in use: chunks that are free as a whole, the bounce area, the room for records.
    /// What was set aside at boot stays. Never in interrupt context. Tells the pages.
    pub fn shrink(&self) -> u64 {
        let mut given = self.shrink_records() + self.shrink_bounce();
        loop {
            let mut chunks = self.chunks.lock(self.arch);
            let is_idle = |chunk: &Chunk| chunk.is_grown() && chunk.free_pages() == chunk.pages();
            let slot = chunks.list.iter_mut().find(|slot| slot.as_ref().is_some_and(is_idle));
            let Some(chunk) = slot.and_then(Option::take) else { return given };
            drop(chunks);
            let (start, pages, tags) = chunk.into_parts();
            tags.into_iter().for_each(|block| self.source.give(block));
            let order = Order::for_bytes(u64::from(pages) * PAGE_SIZE).unwrap_or_default();
            let range = start.checked_add(order.bytes()).and_then(|end| PhysRange::new(start, end));
            // If it cannot be cached again it stays out of use: that cannot be, since nothing has to be split.
            if range.is_some_and(|range| self.platform.set_cached(range, true)) {
                self.source.give(PageBlock::from_raw(start.pfn(), order));
                given += u64::from(pages);
            }
        }
    }

    /// For devices that see the caches: ordinary memory.
    #[inline(never)]
    fn alloc_cached(
        &self,
        device: &Device,
        pages: u64,
        gfp: Gfp,
        caller: &'static Location<'static>,
    ) -> Result<CoherentMemory, DmaError> {
        let order = Order::for_bytes(pages * PAGE_SIZE).ok_or(DmaError::TooLarge(pages * PAGE_SIZE))?;
        let block = self.reachable_block(device, order, gfp)?;
        let phys = block.pfn().addr();
        let size = pages * PAGE_SIZE;
        let record = Record::new(phys, size, device.number, Direction::Both, Kind::Coherent, caller);
        let made = record.and_then(|record| {
            let memory = CoherentMemory { pointer: self.pointer(phys)?, addr: device.bus_address(phys, size)? };
            self.remember(record, gfp).map(|()| memory)
        });
        match made {
            Ok(memory) => {
                self.zero(phys, order.pages());
                Ok(memory)
            }
            Err(error) => {
                self.source.give(block);
                Err(error)
            }
        }
    }

    /// Gives back what [`alloc_coherent`](Self::alloc_coherent) gave for `size` bytes. Works in interrupt handlers.
    ///
    /// # Errors
    ///
    /// [`DmaError`]: it is not that. Nothing has changed then.
    #[inline]
    pub fn free_coherent(&self, device: &Device, size: u64, memory: CoherentMemory) -> Result<(), DmaError> {
        let addr = memory.addr;
        let phys = device.phys_address(addr).ok_or(DmaError::NotMapped(addr))?;
        if self.pointer(phys)? != memory.pointer {
            return Err(DmaError::WrongPointer(addr));
        }
        let pages = size.div_ceil(PAGE_SIZE);
        let mut chunks = self.chunks.lock(self.arch);
        let Some((chunk, page)) = chunks.find(phys) else {
            drop(chunks);
            return self.free_cached(device, pages, phys, addr);
        };
        match chunk.tag(page) {
            Some(tag) if tag.device == device.number && u64::from(tag.pages) == pages && phys.is_aligned(PAGE_SIZE) => {
                chunk.put(page);
                Ok(())
            }
            None => Err(DmaError::NotMapped(addr)),
            Some(tag) if tag.device != device.number => Err(DmaError::WrongDevice(addr)),
            Some(_) if !phys.is_aligned(PAGE_SIZE) => Err(DmaError::NotMapped(addr)),
            Some(tag) => Err(DmaError::WrongSize { mapped: u64::from(tag.pages) * PAGE_SIZE, given: size }),
        }
    }

    #[inline(never)]
    fn free_cached(&self, device: &Device, pages: u64, phys: PhysAddr, addr: DmaAddr) -> Result<(), DmaError> {
        let size = pages * PAGE_SIZE;
        let place = Place { start: phys, slot: None, addr };
        let record = self.forget(device, &place, size, Direction::Both, Kind::Coherent)?;
        let order = Order::for_bytes(record.bytes()).unwrap_or_default();
        self.source.give(PageBlock::from_raw(phys.pfn(), order));
        Ok(())
    }
}
