// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose a frame is: two bytes for each frame of RAM, from the first to the last.
//!
//! One is a *tag*: the number of a cache, or one of the constants below. The other is free for whoever has the frame: those
//! that are [cut evenly](super::even) keep there which of their objects are free. All tags come first, then all of the other
//! bytes. A pointer's frame is its distance from the first one in the direct map, so a lookup is a subtraction, a shift, a
//! comparison and a load.

use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use super::front::RawTable;
use crate::addr::{NR_ORDERS, PAGE_SHIFT, PAGE_SIZE, PhysRange};

/// What the table says of a frame, in a byte.
pub(super) type Tag = u16;

/// Not the slab's. (Lower tags are never used: their tops would lie where the sizes of a CPU's block are.)
pub(super) const NONE: Tag = 128;
/// A frame of the packed heap, group 0. The other groups follow.
pub(super) const HEAP: Tag = NONE + 1;
/// The first frame of a block that is one object: this and its order. The other frames have no tag.
pub(super) const LARGE: Tag = HEAP + super::heap::NR_GROUPS as Tag;
/// The first frame of one whose number of frames is no power of two.
pub(super) const ODD: Tag = LARGE + NR_ORDERS as Tag;
/// A further frame of that.
pub(super) const TAIL: Tag = ODD + 1;
/// The first [quick size](super::quick): arrays of a CPU have such tags, but frames only those of the
/// [even](super::even) ones.
pub(super) const FIRST_QUICK: Tag = TAIL + 1;
/// The array for objects of one page, whose frames are tagged [`LARGE`].
pub(super) const PAGE: Tag = FIRST_QUICK + super::quick::NR_QUICK as Tag;
/// The same for two pages.
pub(super) const PAIR: Tag = PAGE + 1;
/// The first cache.
pub(super) const FIRST_CACHE: Tag = PAIR + 1;

/// Caches that a slab can have.
pub(super) const NR_CACHES: usize = 62;
/// The first tag that has no array in a CPU's block: those of caches beyond the thirtieth. As many as five pages hold.
pub(super) const WITHOUT_ARRAY: Tag = FIRST_CACHE + 30;
/// Tags that there can be, from 0 up.
pub(super) const NR_TAGS: usize = FIRST_CACHE as usize + NR_CACHES;

const _: () = assert!(NR_TAGS <= u8::MAX as usize + 1);

/// The table.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    tags: &'a [AtomicU8],
    states: &'a [AtomicU8],
    /// Where the direct map shows the span: first address, bytes.
    window: (usize, usize),
}

/// Tags that a table for `span` needs.
pub(super) const fn len(span: PhysRange) -> usize {
    span.size().div_ceil(PAGE_SIZE) as usize
}

impl<'a> Table<'a> {
    /// `tags` holds [`len`] tags; all are set to [`NONE`]. O(frames).
    pub(super) fn new(tags: &'a mut [AtomicU16], window: (usize, usize)) -> Self {
        let (first, nr) = (tags.as_mut_ptr().cast::<AtomicU8>(), tags.len());
        // SAFETY: the caller's memory, of which any bits are a value.
        unsafe { first.write_bytes(NONE as u8, nr) };
        // SAFETY: two bytes for each entry of the exclusive borrow, which lasts as long.
        let (tags, states) = unsafe { core::slice::from_raw_parts(first, 2 * nr) }.split_at(nr);
        Self { tags, states, window }
    }

    /// For [`Fronts`](super::front::Fronts).
    #[inline(always)]
    pub(super) const fn raw(&self) -> RawTable {
        RawTable { tags: self.tags.as_ptr().cast(), base: self.window.0, len: self.tags.len() }
    }

    #[inline(always)]
    fn index(&self, addr: usize) -> usize {
        addr.wrapping_sub(self.window.0) >> PAGE_SHIFT
    }

    /// Whose the frame is that holds `addr`.
    #[inline]
    pub(super) fn get(&self, addr: usize) -> Tag {
        // Ordering: an object's pointer reached this CPU by some synchronisation, and its tag was set before.
        self.tags.get(self.index(addr)).map_or(NONE, |tag| tag.load(Ordering::Relaxed).into())
    }

    /// What the frame's owner keeps beside its tag.
    #[inline(always)]
    pub(super) fn state(&self, addr: usize) -> u8 {
        self.states.get(self.index(addr)).map_or(0, |state| state.load(Ordering::Relaxed))
    }

    /// Sets that.
    #[inline(always)]
    pub(super) fn set_state(&self, addr: usize, state: u8) {
        if let Some(entry) = self.states.get(self.index(addr)) {
            entry.store(state, Ordering::Relaxed);
        }
    }

    /// Sets a frame's tag; what is kept beside it stays.
    #[inline(always)]
    pub(super) fn set_one(&self, addr: usize, tag: Tag) {
        if let Some(entry) = self.tags.get(self.index(addr)) {
            entry.store(tag as u8, Ordering::Relaxed);
        }
    }

    /// Sets those of `nr` frames.
    pub(super) fn set(&self, addr: usize, nr: usize, tag: Tag) {
        let first = self.index(addr);
        for entry in self.tags.get(first..first + nr).unwrap_or_default() {
            entry.store(tag as u8, Ordering::Relaxed);
        }
    }

    /// Marks the frames of a large block that begins at `addr`. O(1) for a power of two.
    #[inline(always)]
    pub(super) fn set_large(&self, addr: usize, nr: usize) {
        if nr.is_power_of_two() {
            self.set_one(addr, LARGE + nr.trailing_zeros() as Tag);
        } else {
            self.set(addr + PAGE_SIZE as usize, nr - 1, TAIL);
            self.set_one(addr, ODD);
        }
    }

    /// Takes the marks of a large block away.
    pub(super) fn clear_large(&self, addr: usize, nr: usize) {
        self.set(addr, if nr.is_power_of_two() { 1 } else { nr }, NONE);
    }

    /// Frames of the large block that begins at `addr`.
    pub(super) fn count_large(&self, addr: usize) -> usize {
        let order = self.get(addr).wrapping_sub(LARGE);
        if order < NR_ORDERS as Tag {
            return 1 << order;
        }
        let mut nr = 1;
        while self.get(addr + nr * PAGE_SIZE as usize) == TAIL {
            nr += 1;
        }
        nr
    }
}
