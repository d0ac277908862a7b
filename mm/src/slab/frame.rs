// SPDX-License-Identifier: MIT OR Apache-2.0
//! One frame of a packed heap: which granules begin a block, and which blocks are free.
//!
//! ```text
//!   granule   0        12                                                  511
//!             [ marks ][ used ][ free      ][ used ][used][ free             ]
//!   starts             1       1            1       1     1
//!   free               0       1            0       0     1
//! ```
//!
//! A granule is eight bytes. `starts` has a bit for each granule: a block begins here. It ends where the next one
//! begins, or with the frame. A block has two granules at least, so one bit for two of them says which are free.
//! The first eight bits of `starts`, which no block can begin at, say which of its words have any bit set, so that no
//! search reads more than two words. There is nothing else: no header before an object, and its size is known from the
//! marks. A free that does not hit the first byte of a used block is seen at once.
//!
//! Frames of objects that CPUs keep at hand have [`Notes`] behind the marks, where a free finds which array is the object's
//! without the heap's lock.

use core::cell::Cell;

use super::atomic::{AtomicU16, Ordering};
use crate::addr::PAGE_SIZE;

/// Bytes of a granule.
pub(super) const GRANULE: usize = 8;
/// Granules of a frame.
pub(super) const GRANULES: usize = PAGE_SIZE as usize / GRANULE;
/// The first granule behind the marks.
pub(super) const FIRST: usize = GRANULES / 64 + GRANULES / 128;
/// Granules of the block that is an empty frame.
pub(super) const ROOM: usize = GRANULES - FIRST;
/// The least block.
pub(super) const LEAST: usize = 2;

/// A word of marks.
type Bits = Cell<u64>;

/// What stands at the beginning of the frame.
#[derive(Default)]
#[repr(C)]
pub(super) struct Marks {
    starts: [Bits; GRANULES / 64],
    free: [Bits; GRANULES / 128],
}

impl Marks {
    /// Those of a frame that is one free block from granule `first` on.
    #[cfg(test)]
    pub(super) fn empty(first: usize) -> Self {
        let marks = Self { starts: Default::default(), free: Default::default() };
        marks.set_start(first);
        marks.set_free(first);
        marks
    }

    #[inline(always)]
    fn start_word(&self, index: usize) -> &Bits {
        // SAFETY: the index is masked to the array's length.
        unsafe { self.starts.get_unchecked(index & (GRANULES / 64 - 1)) }
    }

    #[inline(always)]
    fn free_word(&self, granule: usize) -> &Bits {
        // SAFETY: the index is masked to the array's length.
        unsafe { self.free.get_unchecked((granule >> 7) & (GRANULES / 128 - 1)) }
    }

    #[inline(always)]
    pub(super) fn is_start(&self, granule: usize) -> bool {
        self.start_word(granule >> 6).get() >> (granule & 63) & 1 != 0
    }

    #[inline(always)]
    pub(super) fn set_start(&self, granule: usize) {
        let word = self.start_word(granule >> 6);
        word.set(word.get() | 1 << (granule & 63));
        let summary = self.start_word(0);
        summary.set(summary.get() | 1 << (granule >> 6));
    }

    #[inline(always)]
    pub(super) fn clear_start(&self, granule: usize) {
        let word = self.start_word(granule >> 6);
        let rest = word.get() & !(1 << (granule & 63));
        word.set(rest);
        // The first word always has a start: that of the first block.
        if rest == 0 {
            let summary = self.start_word(0);
            summary.set(summary.get() & !(1 << (granule >> 6)));
        }
    }

    #[inline(always)]
    pub(super) fn is_free(&self, granule: usize) -> bool {
        self.free_word(granule).get() >> (granule >> 1 & 63) & 1 != 0
    }

    #[inline(always)]
    pub(super) fn set_free(&self, granule: usize) {
        let word = self.free_word(granule);
        word.set(word.get() | 1 << (granule >> 1 & 63));
    }

    #[inline(always)]
    pub(super) fn set_used(&self, granule: usize) {
        let word = self.free_word(granule);
        word.set(word.get() & !(1 << (granule >> 1 & 63)));
    }

    /// Where the block that begins at `granule` ends: one past its last granule.
    #[inline(always)]
    pub(super) fn end(&self, granule: usize) -> usize {
        let index = granule >> 6;
        // Two shifts, as a shift by 64 is none.
        let word = self.start_word(index).get() >> (granule & 63) >> 1;
        if word != 0 {
            return granule + 1 + word.trailing_zeros() as usize;
        }
        self.start_of_later(index)
    }

    /// The first start in a word behind this one; the frame's end if there is none.
    #[inline(always)]
    fn start_of_later(&self, index: usize) -> usize {
        let filled = (self.start_word(0).get() & SUMMARY) >> index >> 1;
        if filled == 0 {
            return GRANULES;
        }
        let index = index + 1 + filled.trailing_zeros() as usize;
        index * 64 + self.start_word(index).get().trailing_zeros() as usize
    }

    /// Where the block before the one at `granule` begins. Before a frame's first it is one of the granules of the marks
    /// themselves, which is never free.
    #[inline(always)]
    pub(super) fn before(&self, granule: usize) -> usize {
        let index = granule >> 6;
        let mut word = self.start_word(index).get() & ((1 << (granule & 63)) - 1);
        let mut at = index;
        if index > 0 && word == 0 {
            // The first word has a start always, so there is one.
            at = 63 - ((self.start_word(0).get() & SUMMARY & ((1 << index) - 1)) | 1).leading_zeros() as usize;
            word = self.start_word(at).get();
        }
        at * 64 + 63 - (word | 1).leading_zeros() as usize
    }
}

/// For each 256 bytes of a frame, the array of the object that begins there, if it has one: no two objects that do begin in
/// the same 256 bytes. A note belongs to its object: it is written under the heap's lock before that is handed out and after
/// it was freed, and read by whoever has it.
#[derive(Default)]
#[repr(C)]
pub(super) struct Notes([AtomicU16; GRANULES / LEAST_NOTED]);

/// Objects of fewer granules have no notes.
pub(super) const LEAST_NOTED: usize = 32;
/// Granules of the notes.
pub(super) const NOTES: usize = size_of::<Notes>() / GRANULE;
/// Bits of an address within the bytes of a note.
const WITHIN: u16 = (LEAST_NOTED * GRANULE - 1) as u16;

impl Notes {
    /// The same array for each.
    pub(super) fn all(array: u8) -> Self {
        let note = u16::from(array) << WITHIN.count_ones();
        Self(core::array::from_fn(|_| AtomicU16::new(note)))
    }

    #[inline(always)]
    fn note(&self, granule: usize) -> &AtomicU16 {
        // SAFETY: the index is masked to the array's length.
        unsafe { self.0.get_unchecked((granule / LEAST_NOTED) & (GRANULES / LEAST_NOTED - 1)) }
    }

    /// Notes the number of the array of the object that begins at `granule`.
    #[inline(always)]
    pub(super) fn set(&self, granule: usize, array: u8) {
        let within = (granule * GRANULE) as u16 & WITHIN;
        self.note(granule).store(u16::from(array) << WITHIN.count_ones() | within, Ordering::Relaxed);
    }

    /// What was noted last for the 256 bytes around this address, if it was for just this address.
    #[inline(always)]
    pub(super) fn get(&self, addr: usize) -> Option<u8> {
        let note = self.note(addr / GRANULE).load(Ordering::Relaxed);
        ((note ^ addr as u16) & WITHIN == 0).then_some((note >> WITHIN.count_ones()) as u8)
    }
}

/// The bits of the first word of starts that say which words have any.
const SUMMARY: u64 = 0xff;

const _: () = assert!(GRANULES / 64 <= 8 && FIRST >= 8 && WITHIN == 0xff);
