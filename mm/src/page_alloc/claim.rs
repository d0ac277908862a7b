// SPDX-License-Identifier: MIT OR Apache-2.0
//! Marks that are set under a lock and taken off without it.
//!
//! Whoever puts the first block into a word marks it afterwards; whoever takes the mark off looks for blocks afterwards.
//! Both write always, even if nothing changes: so one of them comes first, and the other sees what was done before.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::AcqRel;

use super::atomic::AtomicU64;

/// Sets a mark, or takes it off, under the lock. Returns what was there before.
#[inline(always)]
pub(super) fn mark(marks: &AtomicU64, bit: u64, is_marked: bool) -> u64 {
    if is_marked { marks.fetch_or(bit, AcqRel) } else { marks.fetch_and(!bit, AcqRel) }
}

/// Takes a mark off, without the lock. Whether it was there: of all who try, one is told so.
#[inline(always)]
pub(super) fn claim(marks: &AtomicU64, bit: u64) -> bool {
    marks.fetch_and(!bit, AcqRel) & bit != 0
}
