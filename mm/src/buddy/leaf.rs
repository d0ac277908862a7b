// SPDX-License-Identifier: MIT OR Apache-2.0
//! One chunk of 1024 frames: 32 words of bits and a head word.
//!
//! Every block that a chunk can have is a bit, the small ones first: the block of order `o` at frame
//! `f` is *node* `2048 - (2048 >> o) + (f >> o)`. So the buddy of node `n` is `n ^ 1`, the block that
//! holds it `1024 + n / 2`, and the lowest bit that is set is the lowest of the smallest free blocks.
//! Node `n` is bit `n % 64` of word `n / 64`:
//!
//! ```text
//!   word     0 .. 15    16 .. 23   24 .. 27   28, 29   30    31
//!   order    frames     1          2          3        4     5      6       7       8       9
//!   bits                                                     0..31  32..47  48..55  56..59  60, 61
//! ```
//!
//! Orders 1 to 9: the bit is set if this very block is free. The first row is different, a bit for
//! each free *frame*, whatever the block it is in: so one look tells whether any part of a block is
//! free, in a block of its own or a larger one. A free block of order 0 is a frame whose buddy is not
//! free, a *single*.
//!
//! The head tells whether the chunk is split (the words mean nothing otherwise), which words hold a
//! free block, how many frames are free, and the order of the largest free block. Zero is not split.

use crate::addr::{MAX_ORDER, NR_ORDERS, Order};

/// Words of a leaf.
pub(super) const LEAF_WORDS: usize = 32;
/// Words of the row of frames.
const FRAME_WORDS: usize = LEAF_WORDS / 2;
const PAGES: u32 = 1 << MAX_ORDER;
const NODES: u32 = 2 * PAGES;

/// Low half of the head: a bit a word that holds a free block.
const WORDS_MASK: u64 = 0xffff_ffff;
/// The words have a meaning.
const SPLIT: u64 = 1 << 32;
/// 4 bits: [`Class`]. Bits 40 to 52 are spare.
const CLASS_SHIFT: u32 = 36;
const CLASS_MASK: u64 = 0xf << CLASS_SHIFT;
/// The top 11 bits: free frames.
const FREE_SHIFT: u32 = 53;

/// The order of the largest free block of a chunk plus 1; 0 if there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Class(u32);

impl Class {
    pub(super) const NONE: Self = Self(0);
    /// Free as a whole.
    pub(super) const WHOLE: Self = Self::of(MAX_ORDER as u32);

    pub(super) const fn of(order: u32) -> Self {
        Self(order + 1)
    }

    pub(super) const fn as_usize(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn largest_order(self) -> Option<Order> {
        Order::new(self.as_usize().wrapping_sub(1))
    }
}

/// Free blocks of each order; sixteen, so that masking an index is enough.
#[derive(Default, Debug)]
pub(super) struct Counts([u64; 16]);

impl Counts {
    pub(super) fn add(&mut self, order: u32, blocks: u64) {
        if let Some(count) = self.0.get_mut(order as usize & 15) {
            *count = count.wrapping_add(blocks);
        }
    }

    pub(super) fn sub(&mut self, order: u32, blocks: u64) {
        self.add(order, blocks.wrapping_neg());
    }

    /// Adds one block of each order from `from` up to 9, or takes it away.
    fn add_halves(&mut self, from: u32, sign: i64) {
        for count in self.0.iter_mut().take(MAX_ORDER).skip(from as usize) {
            *count = count.wrapping_add_signed(sign);
        }
    }

    pub(super) fn all(&self) -> [u64; NR_ORDERS] {
        self.0.first_chunk().copied().unwrap_or_default()
    }
}

/// Head and leaf of one chunk, to look at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) head: u64,
    pub(super) words: &'a [u64; LEAF_WORDS],
}

impl View<'_> {
    /// Whether the leaf has a meaning. If not, the chunk is free or taken as a whole.
    pub(super) const fn is_split(self) -> bool {
        self.head & SPLIT != 0
    }

    pub(super) const fn free_pages(self) -> u32 {
        (self.head >> FREE_SHIFT) as u32
    }

    /// Whether this block would make the chunk free as a whole.
    pub(super) const fn completes(self, order: Order) -> bool {
        self.free_pages() as u64 + order.pages() == PAGES as u64
    }

    /// As of the last change; [`Class::NONE`] if the chunk is not split.
    pub(super) const fn class(self) -> Class {
        Class(((self.head & CLASS_MASK) >> CLASS_SHIFT) as u32)
    }

    /// Whether any frame of the block is free.
    pub(super) fn any_free(self, offset: u32, order: u32) -> bool {
        let index = offset as usize / 64;
        if order <= 6 {
            return self.word(index) & frame_mask(offset, order) != 0;
        }
        let words = self.words.get(index..index + (1 << (order - 6)));
        words.unwrap_or_default().iter().any(|word| *word != 0)
    }

    /// All free blocks below the top order, as frame and order, the smallest first.
    pub(super) fn blocks(self) -> impl Iterator<Item = (u32, u32)> {
        let is_free = move |node: &u32| {
            let index = *node as usize / 64;
            blocks_in(index, self.word(index)) >> (node % 64) & 1 != 0
        };
        (0..NODES - 2).filter(is_free).map(|node| (offset_of(node), order_of(node)))
    }

    /// Whether the head says what the words say, and no two buddies are free side by side.
    pub(super) fn is_consistent(self) -> bool {
        let (frames, rows) = self.words.split_at(FRAME_WORDS);
        let head_agrees =
            |(index, word): (usize, &u64)| (blocks_in(index, *word) != 0) == (self.head >> index & 1 != 0);
        self.words.iter().enumerate().all(head_agrees)
            && rows.iter().all(|word| singles(*word) == *word)
            // What would be the chunk itself, and what is no node.
            && self.word(LEAF_WORDS - 1) >> 62 == 0
            && self.class() == self.largest()
            && self.free_pages() == frames.iter().map(|word| word.count_ones()).sum::<u32>()
            && self.free_pages() < PAGES
    }

    /// Whether the blocks are apart from each other and make up the row of frames.
    pub(super) fn rows_agree(self) -> bool {
        let mut frames = [0; FRAME_WORDS];
        for (offset, order) in self.blocks() {
            for frame in offset..offset + (1 << order) {
                let Some(word) = frames.get_mut(frame as usize / 64) else {
                    return false;
                };
                if *word >> (frame % 64) & 1 != 0 {
                    return false;
                }
                *word |= 1 << (frame % 64);
            }
        }
        self.words.iter().take(FRAME_WORDS).eq(&frames)
    }

    /// Finds the largest free block: the last row that has one.
    pub(super) fn largest(self) -> Class {
        let Some(index) = (self.head & WORDS_MASK).checked_ilog2() else {
            return Class::NONE;
        };
        let last = LEAF_WORDS as u32 - 1;
        let bit = if index == last { self.word(last as usize).checked_ilog2() } else { None };
        Class::of(order_of(index * 64 + bit.unwrap_or(0)))
    }

    /// The lowest of the smallest free blocks that are not smaller than `order`.
    #[inline(always)]
    fn best_fit(self, order: u32) -> Option<u32> {
        let first = first_node(order);
        let words = (self.head & WORDS_MASK) >> (first / 64) << (first / 64);
        if words == 0 {
            return None;
        }
        let index = words.trailing_zeros();
        // Within a word rows begin at bit 0, but for those of order 6 and more: all in the last word.
        let blocks = blocks_in(index as usize, self.word(index as usize));
        let blocks = blocks >> (first % 64) << (first % 64);
        (blocks != 0).then(|| index * 64 + blocks.trailing_zeros())
    }

    fn word(self, index: usize) -> u64 {
        self.words.get(index % LEAF_WORDS).copied().unwrap_or_default()
    }
}

/// Head and leaf of one chunk, to work on.
pub(super) struct Chunk<'a> {
    /// A copy, which is quicker to work on. To be written back.
    pub(super) head: u64,
    pub(super) words: &'a mut [u64; LEAF_WORDS],
}

impl Chunk<'_> {
    pub(super) const fn view(&self) -> View<'_> {
        View { head: self.head, words: self.words }
    }

    /// Splits a chunk that is free as a whole and takes its first block, below the top order.
    pub(super) fn split_whole(&mut self, order: u32, counts: &mut Counts) {
        self.words.fill(0);
        let (frames, _) = self.words.split_at_mut(FRAME_WORDS);
        frames.fill(!0);
        self.head = SPLIT | u64::from(PAGES) << FREE_SHIFT;
        // What is left is the second half of the chunk, of its first half, and so on.
        for half in order.max(1)..MAX_ORDER as u32 {
            self.set(first_node(half) + 1);
        }
        self.take_frames(0, order);
        counts.add_halves(order, 1);
        self.set_class(Class::of(MAX_ORDER as u32 - 1));
    }

    /// Splits a chunk of which all is taken.
    pub(super) fn split_taken(&mut self) {
        self.words.fill(0);
        self.head = SPLIT;
    }

    /// Ends the split: the given block is the only one taken, and no longer.
    pub(super) fn join_whole(&mut self, order: u32, counts: &mut Counts) {
        self.head = 0;
        counts.add_halves(order, -1);
    }

    /// Takes the smallest block that will do. Returns its first frame and the class that is left.
    #[inline(always)]
    pub(super) fn take(&mut self, order: u32, counts: &mut Counts) -> Option<(u32, Class)> {
        let mut node = self.view().best_fit(order)?;
        let mut at = order_of(node);
        let from = Class::of(at);
        counts.sub(at, 1);
        if at > 0 {
            self.clear(node);
        }
        while at > order {
            at -= 1;
            counts.add(at, 1);
            node = node.wrapping_sub(PAGES) * 2;
            if at > 0 {
                self.set(node + 1);
            }
        }
        let offset = offset_of(node);
        self.take_frames(offset, order);
        // The largest block is another one only if this was it.
        let class = self.view().class();
        if from < class {
            return Some((offset, class));
        }
        let class = self.view().largest();
        self.set_class(class);
        Some((offset, class))
    }

    /// Frees a block that is not free, below the top order and not the last of its chunk. Returns the
    /// class that this makes.
    #[inline(always)]
    pub(super) fn put(&mut self, offset: u32, order: u32, counts: &mut Counts) -> Class {
        let mut node = first_node(order) + (offset >> order);
        let mut at = order;
        self.put_frames(offset, order);
        while at < MAX_ORDER as u32 && self.take_buddy(node, at) {
            counts.sub(at, 1);
            node = PAGES + node / 2;
            at += 1;
        }
        counts.add(at, 1);
        if at > 0 {
            self.set(node);
        }
        let class = self.view().class();
        if Class::of(at) <= class {
            return class;
        }
        self.set_class(Class::of(at));
        Class::of(at)
    }

    /// If the buddy of this node is free, takes it from its row to be merged.
    #[inline(always)]
    fn take_buddy(&mut self, node: u32, order: u32) -> bool {
        let buddy = node ^ 1;
        if self.view().word(buddy as usize / 64) >> (buddy % 64) & 1 == 0 {
            return false;
        }
        if order > 0 {
            self.clear(buddy);
        }
        true
    }

    fn set_class(&mut self, class: Class) {
        self.head = self.head & !CLASS_MASK | u64::from(class.0) << CLASS_SHIFT;
    }

    fn set(&mut self, node: u32) {
        let index = node as usize / 64 % LEAF_WORDS;
        if let Some(word) = self.words.get_mut(index) {
            *word |= 1 << (node % 64);
            self.head |= 1 << index;
        }
    }

    fn clear(&mut self, node: u32) {
        let index = node as usize / 64 % LEAF_WORDS;
        if let Some(word) = self.words.get_mut(index) {
            *word &= !(1 << (node % 64));
            if *word == 0 {
                self.head &= !(1 << index);
            }
        }
    }

    #[inline(always)]
    fn take_frames(&mut self, offset: u32, order: u32) {
        self.head = self.head.wrapping_sub(1 << (FREE_SHIFT + order));
        self.change_frames(offset, order, |word, mask| word & !mask);
    }

    #[inline(always)]
    fn put_frames(&mut self, offset: u32, order: u32) {
        self.head = self.head.wrapping_add(1 << (FREE_SHIFT + order));
        self.change_frames(offset, order, |word, mask| word | mask);
    }

    #[inline(always)]
    fn change_frames(&mut self, offset: u32, order: u32, change: impl Fn(u64, u64) -> u64) {
        let index = offset as usize / 64 % FRAME_WORDS;
        if order > 6 {
            let words = self.words.get_mut(index..index + (1 << (order - 6)));
            words.unwrap_or_default().iter_mut().for_each(|word| *word = change(*word, !0));
            return;
        }
        let Some(word) = self.words.get_mut(index) else {
            return;
        };
        *word = change(*word, frame_mask(offset, order));
        // Whole pairs come and go without making singles.
        if order == 0 {
            self.head = self.head & !(1 << index) | u64::from(singles(*word) != 0) << index;
        }
    }
}

/// Where the row of an order begins.
const fn first_node(order: u32) -> u32 {
    NODES - (NODES >> order)
}

/// The order of a node.
const fn order_of(node: u32) -> u32 {
    // Counted from the end the rows begin at powers of two.
    (!node & (NODES - 1) | 1).leading_zeros() - PAGES.leading_zeros()
}

/// The first frame of a node.
const fn offset_of(node: u32) -> u32 {
    let order = order_of(node);
    node.wrapping_sub(first_node(order)) << order
}

/// The free blocks that a word holds.
const fn blocks_in(index: usize, word: u64) -> u64 {
    if index < FRAME_WORDS { singles(word) } else { word }
}

/// The bits of a block of at most 64 frames in its word.
const fn frame_mask(offset: u32, order: u32) -> u64 {
    !0 >> (64 - (1u32 << order)) << (offset % 64)
}

/// Bits of a word whose buddy is not set.
const fn singles(word: u64) -> u64 {
    let pairs = word & word >> 1 & 0x5555_5555_5555_5555;
    word & !(pairs | pairs << 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_row_by_row() {
        for order in 0..MAX_ORDER as u32 {
            for index in 0..PAGES >> order {
                let node = first_node(order) + index;
                assert_eq!((order_of(node), offset_of(node)), (order, index << order));
                let parent = PAGES + node / 2;
                assert_eq!(order_of(parent), order + 1);
                assert_eq!(offset_of(parent), offset_of(node & !1));
                assert_eq!((parent - PAGES) * 2, node & !1);
            }
        }
        assert_eq!(first_node(MAX_ORDER as u32), NODES - 2);
    }

    #[test]
    fn singles_have_no_buddy() {
        assert_eq!(singles(0b01_10_11_00), 0b01_10_00_00);
        assert_eq!(singles(!0), 0);
        assert_eq!(singles(0b0110), 0b0110);
    }
}
