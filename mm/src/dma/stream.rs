// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streaming mappings: ordinary memory that is lent to a device, and comes back.
//!
//! ```text
//!              for device              for CPU
//!   map   ---> clean lines             -                        the device's from here
//!   sync  ---> clean lines             invalidate lines         to and fro
//!   unmap ---> -                       invalidate lines         the CPU's again
//! ```
//!
//! *Cleaning* writes back what the CPU has written, so that the device reads it, and so that no line is written back later
//! over what the device writes. *Invalidating* comes after the device: a CPU may have filled lines from memory while it
//! wrote. Lines at the ends of a buffer may be somebody else's too; where a device writes, such a buffer is bounced. A
//! device that sees the caches needs none of this.

use core::panic::Location;
use core::ptr::NonNull;

use super::device::{Device, DmaAddr};
use super::record::{Kind, Place, Record};
use super::{Attrs, Direction, DmaError, Mapper, Platform};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::{Arch, CacheOp};
use crate::gfp::Gfp;
use crate::slab::PageSource;

/// A piece of memory to be mapped with others (Linux's `scatterlist`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it is.
    pub phys: PhysAddr,
    /// How long.
    pub size: u64,
    /// What the device calls it, once it is mapped.
    pub addr: DmaAddr,
}

impl Segment {
    /// A piece that is not mapped.
    #[must_use]
    pub const fn new(phys: PhysAddr, size: u64) -> Self {
        Self { phys, size, addr: DmaAddr::new(0) }
    }
}

/// A mapping, from the moment that it is found.
struct Found {
    phys: PhysAddr,
    record: Record,
}

impl<A: Arch, S: PageSource, P: Platform> Mapper<'_, A, S, P> {
    /// Lends `size` bytes of the direct map to `device` (Linux's `dma_map_single`). Works in interrupt handlers.
    /// O(lines), plus what it takes to remember (`record.rs`).
    ///
    /// # Errors
    ///
    /// [`DmaError`]; the memory stays the caller's.
    ///
    /// # Safety
    ///
    /// Nobody touches the memory until it is unmapped, but by what [`sync_for_cpu`](Self::sync_for_cpu) allows. For a
    /// device that only reads, others may read.
    #[track_caller]
    pub unsafe fn map_single(
        &self,
        device: &Device,
        pointer: NonNull<u8>,
        size: u64,
        direction: Direction,
        attrs: Attrs,
    ) -> Result<DmaAddr, DmaError> {
        let phys = self.phys_of(pointer)?;
        // SAFETY: the caller's promise.
        unsafe { self.map_page(device, phys, size, direction, attrs) }
    }

    /// The same by physical address (Linux's `dma_map_page`).
    ///
    /// # Errors
    ///
    /// [`DmaError`]; the memory stays the caller's.
    ///
    /// # Safety
    ///
    /// As for [`map_single`](Self::map_single).
    #[track_caller]
    pub unsafe fn map_page(
        &self,
        device: &Device,
        phys: PhysAddr,
        size: u64,
        direction: Direction,
        attrs: Attrs,
    ) -> Result<DmaAddr, DmaError> {
        if size == 0 {
            return Err(DmaError::Zero);
        }
        if !self.is_ram(phys, size) {
            return Err(DmaError::NotRam(phys));
        }
        let record = Record::new(phys, size, device.number, direction, Kind::Streaming, Location::caller())?;
        match device.bus_address(phys, size) {
            Ok(addr) if device.is_coherent() || !direction.writes() || self.owns_lines(phys, size) => {
                self.remember(record, Gfp::ATOMIC)?;
                if !device.is_coherent() && !attrs.contains(Attrs::SKIP_CPU_SYNC) {
                    self.maintain(CacheOp::Clean, phys, size);
                }
                Ok(addr)
            }
            _ => self.map_bounced(device, record, attrs),
        }
    }

    /// By way of a bounce buffer.
    #[cold]
    #[inline(never)]
    fn map_bounced(&self, device: &Device, record: Record, attrs: Attrs) -> Result<DmaAddr, DmaError> {
        let size = record.bytes();
        let slot = self.bounce_slot(device, record.start(), size, Gfp::ATOMIC)?;
        if let Err(error) = self.remember(record.through(slot), Gfp::ATOMIC) {
            self.free_slot(slot, size);
            return Err(error);
        }
        let phys = self.slot_phys(slot);
        if !attrs.contains(Attrs::SKIP_CPU_SYNC) {
            // For a device that only writes, too: it may write less, and what it leaves is copied back.
            self.copy(record.start(), phys, size);
        }
        if !device.is_coherent() {
            self.maintain(CacheOp::Clean, phys, size);
        }
        device.bus_address(phys, size)
    }

    /// Takes back what was lent: by [`map_single`](Self::map_single) or [`map_page`](Self::map_page), with the same size
    /// and direction. Works in interrupt handlers.
    ///
    /// # Errors
    ///
    /// [`DmaError`]: it was not. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// The device is done with the memory.
    pub unsafe fn unmap(
        &self,
        device: &Device,
        addr: DmaAddr,
        size: u64,
        direction: Direction,
        attrs: Attrs,
    ) -> Result<(), DmaError> {
        let (phys, place) = self.place(device, addr)?;
        let record = self.forget(device, &place, size, direction, Kind::Streaming)?;
        let found = Found { phys, record };
        if direction.writes() && !attrs.contains(Attrs::SKIP_CPU_SYNC) {
            self.show_to_cpu(device, &found, place.start, size);
        }
        if let Some(slot) = record.slot() {
            self.free_slot(slot, size);
        }
        Ok(())
    }

    /// Lends pieces of memory, all or none (Linux's `dma_map_sg`).
    ///
    /// # Errors
    ///
    /// [`DmaError`] of the first piece that could not be mapped; none is then.
    ///
    /// # Safety
    ///
    /// As for [`map_single`](Self::map_single), for each.
    #[track_caller]
    pub unsafe fn map_sg(
        &self,
        device: &Device,
        segments: &mut [Segment],
        direction: Direction,
        attrs: Attrs,
    ) -> Result<(), DmaError> {
        for at in 0..segments.len() {
            let Some(segment) = segments.get_mut(at) else { break };
            // SAFETY: the caller's promise.
            match unsafe { self.map_page(device, segment.phys, segment.size, direction, attrs) } {
                Ok(addr) => segment.addr = addr,
                Err(error) => {
                    let mapped = segments.get(..at).unwrap_or_default();
                    // SAFETY: no device has heard of these.
                    unsafe { self.unmap_sg(device, mapped, direction, attrs | Attrs::SKIP_CPU_SYNC)? };
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes back what [`map_sg`](Self::map_sg) lent.
    ///
    /// # Errors
    ///
    /// [`DmaError`] of the first piece that was not; the others are taken back.
    ///
    /// # Safety
    ///
    /// The device is done with them.
    pub unsafe fn unmap_sg(
        &self,
        device: &Device,
        segments: &[Segment],
        direction: Direction,
        attrs: Attrs,
    ) -> Result<(), DmaError> {
        let mut result = Ok(());
        for segment in segments {
            // SAFETY: the caller's promise.
            let unmapped = unsafe { self.unmap(device, segment.addr, segment.size, direction, attrs) };
            result = result.and(unmapped);
        }
        result
    }

    /// The CPU may read `size` bytes of a mapping, or of a part of it, as the device has left them; it may write them if
    /// [`sync_for_device`](Self::sync_for_device) follows.
    ///
    /// # Errors
    ///
    /// [`DmaError`]: there is no such mapping.
    ///
    /// # Safety
    ///
    /// The device does not touch these bytes until they are its own again.
    pub unsafe fn sync_for_cpu(
        &self,
        device: &Device,
        addr: DmaAddr,
        size: u64,
        direction: Direction,
    ) -> Result<(), DmaError> {
        let (found, start) = self.find_part(device, addr, size, direction)?;
        if direction.writes() {
            self.show_to_cpu(device, &found, start, size);
        }
        Ok(())
    }

    /// These bytes are the device's again, as the CPU has left them.
    ///
    /// # Errors
    ///
    /// [`DmaError`]: there is no such mapping.
    pub fn sync_for_device(
        &self,
        device: &Device,
        addr: DmaAddr,
        size: u64,
        direction: Direction,
    ) -> Result<(), DmaError> {
        let (found, start) = self.find_part(device, addr, size, direction)?;
        if found.record.slot().is_some() {
            self.copy(start, found.phys, size);
        }
        if !device.is_coherent() {
            self.maintain(CacheOp::Clean, found.phys, size);
        }
        Ok(())
    }

    /// The mapping that has these bytes, and what memory they are.
    fn find_part(
        &self,
        device: &Device,
        addr: DmaAddr,
        size: u64,
        direction: Direction,
    ) -> Result<(Found, PhysAddr), DmaError> {
        let (phys, place) = self.place(device, addr)?;
        let record = match self.recall_around(device, &place, size, direction) {
            Some(record) => record,
            // Says what is wrong with it.
            None => self.recall(device, &place, size, direction)?,
        };
        Ok((Found { phys, record }, place.start))
    }

    /// Where a device's address leads in RAM, and what memory that is or stands for.
    fn place(&self, device: &Device, addr: DmaAddr) -> Result<(PhysAddr, Place), DmaError> {
        let phys = device.phys_address(addr).ok_or(DmaError::NotMapped(addr))?;
        let (start, slot) = self.origin(phys);
        Ok((phys, Place { start, slot, addr }))
    }

    /// Makes the CPU see what the device has written.
    fn show_to_cpu(&self, device: &Device, found: &Found, start: PhysAddr, size: u64) {
        if !device.is_coherent() {
            self.maintain(CacheOp::Invalidate, found.phys, size);
        }
        if found.record.slot().is_some() {
            self.copy(found.phys, start, size);
        }
    }

    /// Copies between memory and its bounce buffer.
    fn copy(&self, from: PhysAddr, to: PhysAddr, size: u64) {
        let (from, to) = (self.arch.direct_map(from), self.arch.direct_map(to));
        // SAFETY: both are RAM; one is lent to us by whoever mapped it, the other is ours, in use for this mapping.
        unsafe { to.copy_from_nonoverlapping(from, size as usize) };
    }

    fn maintain(&self, op: CacheOp, phys: PhysAddr, size: u64) {
        let virt = VirtAddr::new(self.arch.direct_map(phys).addr() as u64);
        // SAFETY: the bytes are RAM of the direct map, lent for this. What is invalidated owns its lines, or is whole slots
        // of the bounce buffer, and was cleaned before the device had it.
        unsafe { self.arch.maintain_cache(op, virt, size) };
    }

    /// Whether no line of the memory has bytes of somebody else.
    fn owns_lines(&self, phys: PhysAddr, size: u64) -> bool {
        (phys.as_raw() | size).is_multiple_of(self.granule)
    }

    /// What memory a pointer into the direct map is to.
    fn phys_of(&self, pointer: NonNull<u8>) -> Result<PhysAddr, DmaError> {
        let offset = pointer.addr().get().wrapping_sub(self.arch.direct_map(PhysAddr::ZERO).addr());
        PhysAddr::new(offset as u64).ok_or(DmaError::NotRam(PhysAddr::ZERO))
    }
}
