// SPDX-License-Identifier: MIT OR Apache-2.0
//! `set_memory_ro` and its family, on whatever the kernel maps: the direct map, vmalloc, the image.
//!
//! The names and what they do are Linux's. Two things are stricter: nothing becomes writable and executable, and a
//! page that is not mapped is an error. Whole blocks, and memory mapped by pages, change in place; a block of the
//! direct map that must be split is split while the other CPUs are stopped.

use mm::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use mm::pgtable::{Change, MapError, TableSource};

use super::Memory;
use crate::cpu;

/// Frames of tables, from the page allocator.
#[derive(Debug)]
pub struct TableFrames<'a>(
    /// Where they come from.
    pub &'a Memory,
);

impl TableSource for TableFrames<'_> {
    fn table(&mut self) -> Option<PhysAddr> {
        self.0.take_frame(cpu::this().node())
    }

    fn give_back(&mut self, table: PhysAddr) {
        self.0.give_frame(table);
    }
}

impl Memory {
    /// # Errors
    ///
    /// [`MapError`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// Nobody writes these pages any more.
    pub unsafe fn set_memory_ro(&self, virt: VirtAddr, pages: u64) -> Result<(), MapError> {
        // SAFETY: the caller's promise.
        unsafe { self.change_memory(virt, pages, Change::ReadOnly) }
    }

    /// # Errors
    ///
    /// [`MapError`]; [`MapError::WritableAndExecutable`] for code. Nothing has changed then.
    pub fn set_memory_rw(&self, virt: VirtAddr, pages: u64) -> Result<(), MapError> {
        // SAFETY: nothing is lost.
        unsafe { self.change_memory(virt, pages, Change::ReadWrite) }
    }

    /// New code must be made visible first:
    /// [`CacheOp::SyncInstructions`](mm::arch::CacheOp::SyncInstructions).
    ///
    /// # Errors
    ///
    /// [`MapError`]; [`MapError::WritableAndExecutable`] for what is writable. Nothing has changed then.
    pub fn set_memory_x(&self, virt: VirtAddr, pages: u64) -> Result<(), MapError> {
        // SAFETY: nothing is lost.
        unsafe { self.change_memory(virt, pages, Change::Execute) }
    }

    /// # Errors
    ///
    /// [`MapError`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// Nobody runs code of these pages any more.
    pub unsafe fn set_memory_nx(&self, virt: VirtAddr, pages: u64) -> Result<(), MapError> {
        // SAFETY: the caller's promise.
        unsafe { self.change_memory(virt, pages, Change::NoExecute) }
    }

    /// Takes the pages out of use, or back in.
    ///
    /// # Errors
    ///
    /// [`MapError`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// Nobody touches these pages while they are not valid.
    pub unsafe fn set_memory_valid(&self, virt: VirtAddr, pages: u64, valid: bool) -> Result<(), MapError> {
        // SAFETY: the caller's promise.
        unsafe { self.change_memory(virt, pages, Change::Valid(valid)) }
    }

    /// # Safety
    ///
    /// Nobody needs of the pages what they lose.
    unsafe fn change_memory(&self, virt: VirtAddr, pages: u64, change: Change) -> Result<(), MapError> {
        let size = pages.checked_mul(PAGE_SIZE).ok_or(MapError::OutOfRange(virt))?;
        if self.vmalloc.contains(virt) {
            // SAFETY: the caller's promise.
            return unsafe { self.vmalloc.change(virt, size, change) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.map.lock().change(virt, size, change, &mut TableFrames(self)) }
    }
}
