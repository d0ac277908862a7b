// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which free block of the packed heap an object is cut from, and where in it.

use super::super::bins::bin_of;
use super::kind::Kind;
use super::{Heap, LEAST, frame, granule_of};

/// How many blocks of a bin are looked at before the next bin is.
const TRIES: usize = 8;
/// Objects of this many granules lie at the end of their block, the others at its beginning: that keeps the large ones
/// and what fills up their frames apart, and frames go back sooner.
const AT_THE_END: usize = 256;

impl Heap {
    /// The free block to take and where in it the object begins.
    #[inline(always)]
    pub(super) fn find<K: Kind>(&mut self, group: usize, nr: usize, align: usize) -> Option<Found> {
        let bins = self.bins(group);
        let mut bin = bins.first_filled(bin_of(nr))?;
        loop {
            let mut node = bins.first(bin);
            for _ in 0..TRIES {
                if let Some(found) = place::<K>(node.cast(), bin, nr, align) {
                    return Some(found);
                }
                node = bins.next(node);
                if node.is_null() {
                    break;
                }
            }
            bin = bins.first_filled(bin + 1)?;
        }
    }
}

/// A free block that an object fits into.
pub(super) struct Found {
    pub(super) block: *mut u8,
    pub(super) bin: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where the object begins.
    pub(super) granule: usize,
}

/// Where in the free block an object of `nr` granules fits.
#[inline(always)]
fn place<K: Kind>(block: *mut u8, bin: usize, nr: usize, align: usize) -> Option<Found> {
    let start = granule_of(block);
    // SAFETY: a node of a bin lies in a frame of the heap, of its group's kind.
    let end = unsafe { frame::<K>(block) }.free_end(start);
    let granule = position(start, end, nr, align)?;
    Some(Found { block, bin, start, end, granule })
}

/// Where between two granules an object of `nr` begins, with no room before it that is too small for a block.
#[inline(always)]
pub(super) fn position(start: usize, end: usize, nr: usize, align: usize) -> Option<usize> {
    let mut granule = start;
    if align > 1 {
        granule = (start + align - 1) & !(align - 1);
        if granule > start && granule - start < LEAST {
            granule += align;
        }
    } else if nr >= AT_THE_END && start + nr + LEAST <= end {
        granule = end - nr;
    }
    (granule + nr <= end).then_some(granule)
}
