// SPDX-License-Identifier: MIT OR Apache-2.0
//! The free blocks of a packed heap, by size.
//!
//! Up to 63 granules there is a bin for each size; above, 16 bins for each doubling. A bin is a list through the free
//! blocks themselves. Links are kept XORed with a secret and checked from both sides before they are followed, so
//! that a stray write into free memory is found and cannot be used to lead the allocator elsewhere.

use core::cell::Cell;
use core::ptr;

/// Exact bins end here.
const EXACT: usize = 64;
/// Bins for each doubling above.
const STEPS: usize = 16;
/// For sizes below 512 granules, a frame.
pub(super) const NR_BINS: usize = EXACT + 3 * STEPS;

/// The bin of each size below 512 granules: a load costs less than to compute it.
static BINS: [u8; 512] = {
    let mut bins = [0; 512];
    let mut granules = 0;
    while granules < 512 {
        #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
        {
            bins[granules] = if granules < EXACT {
                granules as u8
            } else {
                let log = granules.ilog2() as usize;
                (EXACT + (log - 6) * STEPS + ((granules >> (log - 4)) & (STEPS - 1))) as u8
            };
        }
        granules += 1;
    }
    bins
};

/// The bin of blocks of `granules`, below 512.
#[inline(always)]
pub(super) fn bin_of(granules: usize) -> usize {
    // SAFETY: the index is masked to the table's length.
    usize::from(*unsafe { BINS.get_unchecked(granules & 511) })
}

/// What stands in the first two words of a free block.
#[repr(C)]
pub(super) struct Node {
    next: Cell<*mut Node>,
    prev: Cell<*mut Node>,
}

/// A link does not lead back: free memory was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broken;

/// The lists.
pub(super) struct Bins<const NR: usize = NR_BINS> {
    heads: [*mut Node; NR],
    filled: [u64; 2],
    secret: usize,
    /// Where nodes can be: first address of the direct map, and how many multiples of eight there are.
    base: usize,
    words: usize,
}

impl<const NR: usize> Bins<NR> {
    /// Empty bins. `window` is where frames may lie: first address, bytes.
    pub(super) const fn new(secret: usize, window: (usize, usize)) -> Self {
        Self { heads: [ptr::null_mut(); NR], filled: [0; 2], secret, base: window.0, words: window.1 / 8 }
    }

    #[inline(always)]
    fn coded(&self, node: *mut Node) -> *mut Node {
        node.map_addr(|addr| addr ^ self.secret)
    }

    /// What a link leads to, if it can be a node: the rotation puts what is misaligned outside.
    #[inline(always)]
    fn follow<'n>(&self, at: *mut Node) -> Option<&'n Node> {
        let inside = at.addr().wrapping_sub(self.base).rotate_right(3) < self.words;
        // SAFETY: a link that came from `insert`, or one that was overwritten and still lies in the direct map,
        // aligned: either way mapped memory. Cells allow aliases.
        if inside { Some(unsafe { &*at }) } else { None }
    }

    #[inline(always)]
    fn head(&mut self, bin: usize) -> &mut *mut Node {
        debug_assert!(bin < NR);
        // SAFETY: every bin number comes from `bin_of`, or from a bit that was set for one.
        unsafe { self.heads.get_unchecked_mut(bin) }
    }

    /// The first bin from `from` on, at most [`NR_BINS`], that holds a block.
    #[inline(always)]
    pub(super) fn first_filled(&self, from: usize) -> Option<usize> {
        let [low, mut high] = self.filled;
        if from < 64 {
            let rest = low >> from << from;
            if rest != 0 {
                return Some(rest.trailing_zeros() as usize);
            }
        } else {
            high = high >> (from & 63) << (from & 63);
        }
        if high == 0 { None } else { Some(64 + high.trailing_zeros() as usize) }
    }

    /// The first block of a bin; null if there is none.
    #[inline(always)]
    pub(super) fn first(&self, bin: usize) -> *mut Node {
        debug_assert!(bin < NR);
        // SAFETY: as for `head`.
        unsafe { *self.heads.get_unchecked(bin) }
    }

    /// The block behind this one in its bin; null at the end, or where the link is no link.
    #[inline(always)]
    pub(super) fn next(&self, node: *mut Node) -> *mut Node {
        let next = self.follow(node).map_or(ptr::null_mut(), |found| self.coded(found.next.get()));
        if self.follow(next).is_some() { next } else { ptr::null_mut() }
    }

    /// Puts a free block in front of its bin.
    ///
    /// # Safety
    ///
    /// The block of two words and more at `node` is free memory of the direct map and in no bin.
    #[inline(always)]
    pub(super) unsafe fn insert(&mut self, node: *mut Node, bin: usize) {
        let first = self.first(bin);
        let (coded, end) = (self.coded(node), self.coded(ptr::null_mut()));
        let new = Node { next: Cell::new(self.coded(first)), prev: Cell::new(end) };
        // SAFETY: the caller gives two words that are nobody else's. They may hold anything, so they are not read.
        unsafe { node.write(new) };
        if first.is_null() {
            self.set_filled(bin);
        } else {
            // SAFETY: heads stand outside the blocks: it is a node.
            unsafe { &*first }.prev.set(coded);
        }
        *self.head(bin) = node;
    }

    /// Takes a block out of its bin.
    ///
    /// # Safety
    ///
    /// `node` is a free block of the heap, in a bin as its marks say.
    #[inline(always)]
    pub(super) unsafe fn remove(&mut self, node: *mut Node, bin: usize) -> Result<(), Broken> {
        // SAFETY: the caller's promise.
        let found = unsafe { &*node };
        let (next, prev) = (found.next.get(), found.prev.get());
        let (coded, end) = (self.coded(node), self.coded(ptr::null_mut()));
        let before = if prev == end {
            if self.first(bin) != node {
                return Err(Broken);
            }
            None
        } else {
            let before = self.follow(self.coded(prev)).ok_or(Broken)?;
            if before.next.get() != coded {
                return Err(Broken);
            }
            Some(before)
        };
        if next != end {
            let behind = self.follow(self.coded(next)).ok_or(Broken)?;
            if behind.prev.get() != coded {
                return Err(Broken);
            }
            behind.prev.set(prev);
        } else if before.is_none() {
            self.clear_filled(bin);
        }
        match before {
            Some(before) => before.next.set(next),
            None => *self.head(bin) = self.coded(next),
        }
        Ok(())
    }

    /// Granules of all blocks in the bins, as `size` tells those of a block. Walks them all.
    pub(super) fn sum(&self, size: impl Fn(*mut Node) -> usize) -> usize {
        (0..NR).map(|bin| self.sum_of(bin, &size)).sum()
    }

    /// The same of one bin.
    pub(super) fn sum_of(&self, bin: usize, size: impl Fn(*mut Node) -> usize) -> usize {
        let (mut sum, mut node) = (0, self.first(bin));
        while !node.is_null() {
            sum += size(node);
            node = self.next(node);
        }
        sum
    }

    /// Gives up a bin whose links are broken: its blocks are lost, and nothing else.
    #[cold]
    pub(super) fn abandon(&mut self, bin: usize) {
        *self.head(bin) = ptr::null_mut();
        self.clear_filled(bin);
    }

    #[inline(always)]
    fn word(&mut self, bin: usize) -> &mut u64 {
        debug_assert!(bin < NR);
        // SAFETY: bins are below 128.
        unsafe { self.filled.get_unchecked_mut(bin >> 6) }
    }

    #[inline(always)]
    fn set_filled(&mut self, bin: usize) {
        *self.word(bin) |= 1 << (bin & 63);
    }

    #[inline(always)]
    fn clear_filled(&mut self, bin: usize) {
        *self.word(bin) &= !(1 << (bin & 63));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_ascend_with_size_and_cover_a_frame() {
        let bins: Vec<_> = (2..512).map(bin_of).collect();
        assert!(bins.is_sorted());
        assert_eq!(bins.iter().max(), Some(&(NR_BINS - 1)));
        assert_eq!((bin_of(63), bin_of(64), bin_of(67), bin_of(68)), (63, 64, 64, 65));
    }

    #[test]
    fn a_filled_bin_is_found_from_every_lower_one() {
        for bin in 0..NR_BINS {
            let mut bins = Bins::<NR_BINS>::new(0x55, (0, 0));
            bins.set_filled(bin);
            for from in 0..NR_BINS + 1 {
                assert_eq!(bins.first_filled(from), (from <= bin).then_some(bin), "{bin} from {from}");
            }
        }
    }

    #[test]
    fn an_overwritten_link_is_not_followed() {
        let mut memory = [0_u64; 8];
        let base = memory.as_mut_ptr();
        let mut bins = Bins::<NR_BINS>::new(0x1234_5678, (base.addr(), 64));
        let nodes = [0, 2, 4].map(|at| base.wrapping_add(at).cast::<Node>());
        for node in nodes {
            // SAFETY: two words of the array each.
            unsafe { bins.insert(node, 2) };
        }
        // SAFETY: inside the array; a stray write into a free block.
        unsafe { base.wrapping_add(2).write(0x4141_4141) };
        // Of the three, the last was inserted first and is not reached through the bad link.
        // SAFETY: blocks of the array, in that bin.
        let removed = nodes.map(|node| unsafe { bins.remove(node, 2) });
        assert_eq!(removed, [Err(Broken), Err(Broken), Ok(())]);
        bins.abandon(2);
        assert_eq!(bins.first_filled(0), None);
    }
}
