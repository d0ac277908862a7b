// SPDX-License-Identifier: MIT OR Apache-2.0
//! One frame of a packed heap for large objects: where each begins, and how long it is.
//!
//! Objects are of 256 bytes and more, so no two begin in the same 256 bytes of a frame. Those have an entry each:
//!
//! ```text
//!   bytes     0..32                  256       512       768            3840
//!             [ 16 entries ][ object .|....... ][ free .. |.. ][ object .. | ........ ]
//!   entry     nr of granules << 5 | granule within the 256 bytes; 0 if no object begins there
//! ```
//!
//! What lies between two objects is free, so nothing more needs to be noted of it: 32 bytes where
//! [marks](super::frame) take 96. Four entries are a word, and a search reads a word at a time.
//!
//! An entry belongs to its object: it is written under the heap's lock before that is handed out and after it was freed,
//! and read by whoever has it without the lock.

use super::atomic::{AtomicU16, Ordering, four};
use crate::addr::PAGE_SIZE;

/// Bytes of a granule.
const GRANULE: usize = 8;
/// Granules of a frame.
const GRANULES: usize = PAGE_SIZE as usize / GRANULE;
/// The least object in granules: what an entry is for.
pub(super) const LEAST_LARGE: usize = 32;
/// log2 of that.
const SHIFT: u32 = LEAST_LARGE.ilog2();
/// Entries of a frame.
const NR: usize = GRANULES / LEAST_LARGE;
/// The first granule behind the entries.
pub(super) const FIRST_LARGE: usize = NR * 2 / GRANULE;
/// Entries of a word, and bits of one.
const LANES: usize = 4;
const BITS: usize = 16;

/// What stands at the beginning of the frame.
#[derive(Default)]
#[repr(C, align(8))]
pub(super) struct Register([AtomicU16; NR]);

/// An object's entry, if it is not 0: where it begins, counted from the entry's first granule, and its granules.
#[inline(always)]
const fn parts(entry: u16) -> (usize, usize) {
    ((entry & (LEAST_LARGE as u16 - 1)) as usize, (entry >> SHIFT) as usize)
}

impl Register {
    #[inline(always)]
    fn entry(&self, granule: usize) -> &AtomicU16 {
        // SAFETY: the index is masked to the array's length.
        unsafe { self.0.get_unchecked(granule >> SHIFT & (NR - 1)) }
    }

    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        debug_assert!(index < NR / LANES);
        // SAFETY: every index is below their number: see the callers.
        four(unsafe { self.0.as_chunks().0.get_unchecked(index) })
    }

    /// Notes an object of `nr` granules, [`LEAST_LARGE`] at least, or changes its length.
    #[inline(always)]
    pub(super) fn set(&self, granule: usize, nr: usize) {
        debug_assert!(nr >= LEAST_LARGE && granule >= FIRST_LARGE && granule + nr <= GRANULES);
        let within = (granule & (LEAST_LARGE - 1)) as u16;
        self.entry(granule).store((nr as u16) << SHIFT | within, Ordering::Relaxed);
    }

    /// Takes the object that begins at `granule` out.
    #[inline(always)]
    pub(super) fn clear(&self, granule: usize) {
        self.entry(granule).store(0, Ordering::Relaxed);
    }

    /// Granules of the object that begins at just this address; 0 if there is none. The heap's lock is not needed by whoever
    /// has it.
    #[inline(always)]
    pub(super) fn get(&self, addr: usize) -> usize {
        let (within, nr) = parts(self.entry(addr / GRANULE).load(Ordering::Relaxed));
        if within * GRANULE == addr % (LEAST_LARGE * GRANULE) { nr } else { 0 }
    }

    /// Where the last object ends that begins before the 256 bytes around `granule`; the first granule if there is none.
    #[inline(always)]
    pub(super) fn end_before(&self, granule: usize) -> usize {
        let index = granule >> SHIFT & (NR - 1);
        let mut at = index / LANES;
        let mut bits = self.word(at) & ((1 << (index % LANES * BITS)) - 1);
        while bits == 0 {
            if at == 0 {
                return FIRST_LARGE;
            }
            at -= 1;
            bits = self.word(at);
        }
        let lane = (63 - bits.leading_zeros() as usize) / BITS;
        let (within, nr) = parts((bits >> (lane * BITS)) as u16);
        ((at * LANES + lane) << SHIFT) + within + nr
    }

    /// Where the first object begins in the 256 bytes around `granule` or behind them; the frame's end if there is none.
    /// If `granule` is where an object ends, or the first, there is none before it in those bytes.
    #[inline(always)]
    pub(super) fn start_from(&self, granule: usize) -> usize {
        let index = granule >> SHIFT;
        if index >= NR {
            return GRANULES;
        }
        let mut at = index / LANES;
        let mut bits = self.word(at) & (u64::MAX << (index % LANES * BITS));
        while bits == 0 {
            at += 1;
            if at == NR / LANES {
                return GRANULES;
            }
            bits = self.word(at);
        }
        let lane = bits.trailing_zeros() as usize / BITS;
        ((at * LANES + lane) << SHIFT) + parts((bits >> (lane * BITS)) as u16).0
    }

    /// Whether no object in use covers `granule`.
    pub(super) fn is_free(&self, granule: usize) -> bool {
        let (within, nr) = parts(self.entry(granule).load(Ordering::Relaxed));
        let begins_here = nr != 0 && within <= granule % LEAST_LARGE;
        granule >= FIRST_LARGE && !begins_here && granule >= self.end_before(granule)
    }
}

const _: () = assert!(u16::BITS as usize == BITS && GRANULES << SHIFT <= 1 << BITS && FIRST_LARGE < LEAST_LARGE);
