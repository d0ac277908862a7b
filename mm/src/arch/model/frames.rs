// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of the model's memory, in garbage each time they are handed out.

extern crate std;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::{Model, frame_range};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use crate::pgtable::TableSource;
use core::sync::atomic::Ordering;

/// What a walker must never read: a descriptor that is valid at every level and leads to a frame that nobody has.
pub const GARBAGE: u64 = GARBAGE_FRAME | 3;
pub(super) const GARBAGE_FRAME: u64 = 0xdead_beef_d000;

/// Hands out a model's frames, and takes them back only if no CPU can reach them.
#[derive(Debug)]
pub struct Frames<'a> {
    model: &'a Model,
    free: Mutex<BTreeSet<u64>>,
    total: usize,
    /// Frames that may still be had before the source pretends to be empty.
    left: Mutex<u64>,
}

impl<'a> Frames<'a> {
    /// All frames of the model.
    #[must_use]
    pub fn new(model: &'a Model) -> Self {
        let free: BTreeSet<u64> = (0..model.memory.len() as u64).map(|n| model.base.as_raw() + n * PAGE_SIZE).collect();
        let total = free.len();
        let all =
            PhysRange::clipped(model.base.as_raw(), total as u64 * PAGE_SIZE, PhysAddr::new_saturating(u64::MAX)).0;
        model.release(all);
        Self { model, free: Mutex::new(free), total, left: Mutex::new(u64::MAX) }
    }

    /// After `frames` more the source is empty, until told otherwise.
    pub fn limit(&self, frames: u64) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = frames;
    }

    /// Frames that somebody has.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.total - self.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A frame for a table or a page.
    #[must_use]
    pub fn take(&self) -> Option<PhysAddr> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_sub(1)?;
        let frame = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_first()?;
        for index in 0..512 {
            self.model.word(frame + index * 8).store(GARBAGE, Ordering::Relaxed);
        }
        self.model.take(frame_range(frame));
        PhysAddr::new(frame)
    }

    /// Takes a frame back; the model reports who can still reach it.
    pub fn give(&self, frame: PhysAddr) {
        self.model.release(frame_range(frame.as_raw()));
        let new = self.free.lock().unwrap_or_else(PoisonError::into_inner).insert(frame.as_raw());
        assert!(new, "{frame:?} was given back twice");
    }
}

impl TableSource for &Frames<'_> {
    fn table(&mut self) -> Option<PhysAddr> {
        self.take()
    }

    fn give_back(&mut self, table: PhysAddr) {
        self.give(table);
    }
}
