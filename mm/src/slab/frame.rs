// SPDX-License-Identifier: MIT OR Apache-2.0
//! One frame of a packed heap for objects of any size: which granules begin a block, and which blocks are free.
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

use core::cell::Cell;

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

/// The bits of the first word of starts that say which words have any.
const SUMMARY: u64 = 0xff;

const _: () = assert!(GRANULES / 64 <= 8 && FIRST >= 8);
