// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain host: "physical memory" is an array of words, and there is no walker to be ordered against.
//!
//! Good for testing what tables say. What the barriers do is not tested here.

use core::cell::UnsafeCell;

use super::Arch;
use crate::addr::PhysAddr;

/// Physical memory from `base` upwards, in words that the caller provides.
#[derive(Debug)]
pub struct Host<'a> {
    base: PhysAddr,
    words: &'a [UnsafeCell<u64>],
}

impl<'a> Host<'a> {
    /// Physical memory that begins at `base`, a multiple of the page size.
    #[must_use]
    pub fn new(base: PhysAddr, words: &'a mut [u64]) -> Self {
        let words: *mut [u64] = words;
        // SAFETY: `UnsafeCell<u64>` has the layout of u64, and the exclusive borrow is given up to the result.
        let words = unsafe { &*(words as *const [UnsafeCell<u64>]) };
        Self { base, words }
    }

    fn word(&self, table: PhysAddr, index: usize) -> &UnsafeCell<u64> {
        let first = (table.as_raw() - self.base.as_raw()) as usize / 8;
        #[expect(clippy::indexing_slicing, reason = "a table outside the given memory is a bug of the test")]
        &self.words[first + (index & 511)]
    }
}

// SAFETY: (1), (2) every access goes through a bounds-checked cell of the right word; one thread only, as
// the cells make this type !Sync; (3) there is no other observer.
unsafe impl Arch for Host<'_> {
    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: no reference into a cell is ever kept.
        unsafe { *self.word(table, index).get() }
    }

    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: no reference into a cell is ever kept.
        unsafe { *self.word(table, index).get() = descriptor }
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        for index in 0..512 {
            // SAFETY: as above; the caller owns the frame.
            unsafe { self.store_descriptor(table, index, 0) }
        }
    }

    fn publish_tables(&self) {}
}
