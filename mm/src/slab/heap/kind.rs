// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kinds of frames: how one says what is in use and what is free.

use super::super::frame::{FIRST, GRANULES, LEAST, Marks, ROOM};
use super::super::register::{FIRST_LARGE, LEAST_LARGE, Register};
use super::{GRANULE, Wrong};
use crate::addr::PAGE_SIZE;

/// What a frame begins with. Granules are counted from the frame's beginning; a block is given by its first granule and the
/// one behind its last.
pub(super) trait Kind: Default {
    /// The first granule that a block can begin at.
    const FIRST: usize;
    /// Granules of the least object.
    const LEAST_OBJECT: usize;

    /// Makes all of a new frame a free block.
    fn empty(&self);

    /// Where the free block ends that begins at `start`.
    fn free_end(&self, start: usize) -> usize;

    /// The same for the block that begins at `stop`, if it is a free one: else `stop`, which may be the frame's end.
    fn free_behind(&self, stop: usize) -> usize;

    /// Makes a free block an object from `start` to `stop` and what is left before and behind that free blocks.
    fn take(&self, block: (usize, usize), start: usize, stop: usize);

    /// The object in use that begins at just `object`.
    fn used(&self, object: *mut u8) -> Result<(usize, usize), Wrong>;

    /// Makes an object free. Returns the free block that it is part of now.
    fn give(&self, start: usize, stop: usize) -> (usize, usize);

    /// Makes an object that ended at `old` end at `stop`. Behind it, there is a free block up to `limit` if that is another
    /// granule; a free block behind `old` is in it.
    fn resize(&self, start: usize, old: usize, stop: usize, limit: usize);
}

/// The granule of an address; one that is misaligned becomes a large number.
#[inline(always)]
fn exact_granule(object: *mut u8) -> usize {
    ((object.addr() & (PAGE_SIZE as usize - 1)) as u32).rotate_right(GRANULE.ilog2()) as usize
}

impl Kind for Marks {
    const FIRST: usize = FIRST;
    const LEAST_OBJECT: usize = LEAST;

    #[inline(always)]
    fn empty(&self) {
        self.set_start(FIRST);
        self.set_free(FIRST);
    }

    #[inline(always)]
    fn free_end(&self, start: usize) -> usize {
        self.end(start)
    }

    #[inline(always)]
    fn free_behind(&self, stop: usize) -> usize {
        if stop < GRANULES && self.is_free(stop) { self.end(stop) } else { stop }
    }

    #[inline(always)]
    fn take(&self, (from, to): (usize, usize), start: usize, stop: usize) {
        if start == from {
            self.set_used(start);
        } else {
            self.set_start(start);
        }
        if stop < to {
            self.set_start(stop);
            self.set_free(stop);
        }
    }

    #[inline(always)]
    fn used(&self, object: *mut u8) -> Result<(usize, usize), Wrong> {
        let granule = exact_granule(object);
        if granule.wrapping_sub(FIRST) >= ROOM {
            return Err(Wrong::NoObject);
        }
        if !self.is_start(granule) {
            return Err(missed(self, granule));
        }
        if self.is_free(granule) { Err(Wrong::Free) } else { Ok((granule, self.end(granule))) }
    }

    #[inline(always)]
    fn give(&self, start: usize, stop: usize) -> (usize, usize) {
        let (mut from, to) = (start, self.free_behind(stop));
        if to > stop {
            self.clear_start(stop);
            self.set_used(stop);
        }
        if start > FIRST {
            let before = self.before(start);
            if self.is_free(before) {
                self.clear_start(start);
                from = before;
            }
        }
        self.set_free(from);
        (from, to)
    }

    #[inline(always)]
    fn resize(&self, _: usize, old: usize, stop: usize, limit: usize) {
        if limit > old {
            self.clear_start(old);
            self.set_used(old);
        }
        if stop < limit {
            self.set_start(stop);
            self.set_free(stop);
        }
    }
}

/// What a pointer hit that is the beginning of no block: a free one is told from one in use.
#[cold]
fn missed(marks: &Marks, granule: usize) -> Wrong {
    if granule > FIRST && marks.is_free(marks.before(granule)) { Wrong::Free } else { Wrong::NoObject }
}

impl Kind for Register {
    const FIRST: usize = FIRST_LARGE;
    const LEAST_OBJECT: usize = LEAST_LARGE;

    #[inline(always)]
    fn empty(&self) {}

    #[inline(always)]
    fn free_end(&self, start: usize) -> usize {
        self.start_from(start)
    }

    #[inline(always)]
    fn free_behind(&self, stop: usize) -> usize {
        self.start_from(stop)
    }

    #[inline(always)]
    fn take(&self, _: (usize, usize), start: usize, stop: usize) {
        self.set(start, stop - start);
    }

    #[inline(always)]
    fn used(&self, object: *mut u8) -> Result<(usize, usize), Wrong> {
        let nr = self.get(object.addr());
        if nr == 0 {
            return Err(unregistered(self, object));
        }
        let start = (object.addr() & (PAGE_SIZE as usize - 1)) / GRANULE;
        Ok((start, start + nr))
    }

    #[inline(always)]
    fn give(&self, start: usize, stop: usize) -> (usize, usize) {
        self.clear(start);
        (self.end_before(start), self.start_from(stop))
    }

    #[inline(always)]
    fn resize(&self, start: usize, _: usize, stop: usize, _: usize) {
        self.set(start, stop - start);
    }
}

/// What a pointer hit at which no object begins.
#[cold]
fn unregistered(register: &Register, object: *mut u8) -> Wrong {
    let granule = exact_granule(object);
    if granule < GRANULES && register.is_free(granule) { Wrong::Free } else { Wrong::NoObject }
}
