// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binary buddy allocator: page frames in blocks of 1 to 1024.
//!
//! A *block* of order `n` is `2^n` frames, aligned to its own length. Splitting makes two *buddies*
//! whose frame numbers differ in bit `n`; a block and its buddy are one block as soon as both are free.
//! Nothing is ever written to a frame: all state lives in metadata that the caller provides.
//!
//! ```text
//!   spans    [ frames of RAM )      [ frames of RAM )       holes have no metadata
//!   chunks   | 0 | 1 | 2 | 3 |      | 4 | 5 | 6 | 7 |       1024 frames each, numbered without gaps
//!                  |
//!                  +- head, 8 bytes: first frame, mobility, order of the largest free block
//!                  +- leaf, 152 bytes: a bit a frame, and labels that find the best word of them
//!   sets     chunks by mobility and largest free block: bitmaps with two summary levels
//! ```
//!
//! A chunk that is free or taken as a whole has no leaf: it is set up when the chunk is split, so starting
//! up costs nothing for a frame and 8 bytes for 4 MiB. Allocation takes from the lowest of those chunks
//! whose largest free block is the smallest that will do, and in there from the word of 64 frames of which
//! the same is true: what is in pieces is used up before anything whole is broken.
//!
//! *Mobility* keeps pages that stay for ever together: see [`Mobility`]. *Cost:* O(orders) to allocate and
//! free, whatever the size; 0.16 bytes a frame. *Lock:* the caller holds the [`Zone`](crate::zone::Zone)'s.
//! *Invariants* ([`Buddy::validate`], `tests/buddy_model.rs`): free buddies are one block, the free blocks
//! add up to [`Buddy::free_pages`], and every index says what the frames say.
#![forbid(unsafe_code)]

use core::mem;

use crate::addr::{MAX_ORDER, Order, Pfn, PhysRange};

pub(crate) mod block;
mod bulk;
mod chunk;
mod chunks;
mod group;
mod index;
mod lane;
mod mobility;
mod range;
mod report;
mod row;
mod span;
mod validate;
mod view;

use block::Refused;
pub use block::{AllocError, FreeError, PageBlock, TooSmall};
use chunk::Put;
use chunks::Chunks;
use index::{ChunkSets, Class, Head, ROWS, SHARED, whole_row};
pub(crate) use lane::{Lane, MAX_LANES};
pub use mobility::Mobility;
pub use range::RangeError;
use span::{SPAN_WORDS, Spans};
pub use validate::Broken;
use view::View;

/// Frames in a chunk: those of the largest block.
const CHUNK_PAGES: u64 = Order::MAX.pages();
const TOP: u32 = MAX_ORDER as u32;
/// No frame has this number.
const NOTHING: u64 = u64::MAX;

/// The allocator over one zone.
#[derive(Debug)]
pub struct Buddy<'a> {
    spans: Spans<'a>,
    sets: ChunkSets<'a>,
    chunks: Chunks<'a>,
    /// Free frames by row.
    free_pages: [u64; ROWS],
    managed_pages: u64,
    /// The bits of a type that count: none if chunks are not grouped.
    grouping: usize,
}

impl<'a> Buddy<'a> {
    /// Words of metadata for these ranges of RAM, which are sorted and apart from each other.
    pub fn metadata_words(ranges: impl Iterator<Item = PhysRange>) -> usize {
        let (nr_spans, nr_chunks) = span::count(ranges);
        nr_spans * SPAN_WORDS + Self::chunk_words(nr_chunks)
    }

    /// Words of metadata for `nr_chunks` times 4 MiB, its spans not counted.
    const fn chunk_words(nr_chunks: usize) -> usize {
        Chunks::metadata_words(nr_chunks) + ChunkSets::words(nr_chunks)
    }

    /// An allocator for these ranges of RAM, which are sorted and apart from each other. Nothing is
    /// free yet. `metadata` may hold anything; best at the start of a cache line. Touches 24 bytes a
    /// chunk. A zone of few chunks does not group them by mobility.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if `metadata` is less than [`Buddy::metadata_words`].
    pub fn new(ranges: impl Iterator<Item = PhysRange> + Clone, metadata: &'a mut [u64]) -> Result<Self, TooSmall> {
        let (nr_spans, nr_chunks) = span::count(ranges.clone());
        let too_small = TooSmall(nr_spans * SPAN_WORDS + Self::chunk_words(nr_chunks));
        let mut rest = metadata;
        let mut part = |words| {
            let (part, behind) = mem::take(&mut rest).split_at_mut_checked(words)?;
            rest = behind;
            Some(part)
        };
        let chunks = part(Chunks::metadata_words(nr_chunks)).ok_or(too_small)?;
        let mut chunks = Chunks::new(nr_chunks, chunks).ok_or(too_small)?;
        let sets = part(ChunkSets::words(nr_chunks)).ok_or(too_small)?;
        let spans = Spans::new(ranges, part(nr_spans * SPAN_WORDS).ok_or(too_small)?);
        let grouping = if nr_chunks >= Mobility::COUNT { !0 } else { 0 };
        for (numbers, first_pfn) in spans.runs() {
            chunks.set_heads(numbers, Head::taken(first_pfn, Mobility::Movable as usize & grouping));
        }
        Ok(Self {
            spans,
            sets: ChunkSets::new(nr_chunks, sets).ok_or(too_small)?,
            chunks,
            free_pages: [0; ROWS],
            managed_pages: 0,
            grouping,
        })
    }

    /// Takes a block, from among blocks of the same mobility if possible. Nothing comes from
    /// [`Mobility::HighAtomic`] chunks but for that type, which in turn takes from nowhere else, and
    /// nothing from [`Mobility::Isolate`] ones. From [`Mobility::Cma`] chunks that type takes, and movable blocks when
    /// they find nothing else that is free for them.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is none, which is no fault.
    #[inline]
    pub fn alloc(&mut self, order: Order, mobility: Mobility) -> Result<PageBlock, AllocError> {
        match self.take(order, mobility) {
            Some(pfn) => Ok(PageBlock::from_raw(pfn, order)),
            None => Err(self.out_of_memory(order)),
        }
    }

    #[cold]
    fn out_of_memory(&self, order: Order) -> AllocError {
        let largest_free_order = self.largest_free_order();
        AllocError { order, free_pages: self.free_pages(), largest_free_order }
    }

    /// Gives a block back. It merges with its buddy if that is free, and so on.
    ///
    /// # Errors
    ///
    /// [`FreeError`] if it cannot be a block that was allocated here.
    #[inline]
    pub fn free(&mut self, block: PageBlock) -> Result<(), FreeError> {
        let (pfn, order) = block.into_raw();
        self.put(pfn, order).map_err(|why| why.about(pfn, order))
    }

    /// Each order has a copy of its own, in which all shifts are constants.
    const TAKE: [fn(&mut Self, usize) -> u64; 16] = [
        Self::take_at::<0>,
        Self::take_at::<1>,
        Self::take_at::<2>,
        Self::take_at::<3>,
        Self::take_at::<4>,
        Self::take_at::<5>,
        Self::take_at::<6>,
        Self::take_at::<7>,
        Self::take_at::<8>,
        Self::take_at::<9>,
        Self::take_whole,
        Self::take_whole,
        Self::take_whole,
        Self::take_whole,
        Self::take_whole,
        Self::take_whole,
    ];

    /// The first frame of a block of this order, if there is one.
    #[inline(always)]
    pub(crate) fn take(&mut self, order: Order, mobility: Mobility) -> Option<Pfn> {
        let take = Self::TAKE.get(order.as_usize() % Self::TAKE.len())?;
        Pfn::new(take(self, self.row_of(mobility)))
    }

    /// Takes a block from a split chunk of this row. Returns its first frame, or [`NOTHING`].
    ///
    /// What is rare is left to a function that is called last: so this one needs no stack.
    #[inline(never)]
    fn take_at<const ORDER: u32>(&mut self, row: usize) -> u64 {
        let Some((chunk, class)) = self.sets.best(row, ORDER) else {
            return self.take_elsewhere(row, ORDER);
        };
        self.take_from_split::<ORDER>(row, chunk, class)
    }

    /// The same from a chunk of this row and class, which has one.
    #[inline(always)]
    fn take_from_split<const ORDER: u32>(&mut self, row: usize, chunk: usize, class: Class) -> u64 {
        let Some(mut it) = self.chunks.get_mut(chunk) else { return NOTHING };
        let Some((offset, left)) = it.take::<ORDER>(class) else {
            return self.take_from_full(chunk, ORDER);
        };
        let pfn = it.head().first_pfn() + u64::from(offset);
        if let Some(pages) = self.free_pages.get_mut(row % ROWS) {
            *pages -= 1 << ORDER;
        }
        if left != class { self.refile(chunk, left, offset) } else { pfn }
    }

    /// Takes the first frames of a full word: nothing smaller will do.
    #[inline(never)]
    fn take_from_full(&mut self, chunk: usize, order: u32) -> u64 {
        let Some(mut it) = self.chunks.get_mut(chunk) else { return NOTHING };
        let Some((offset, left)) = it.take_from_full(order) else { return NOTHING };
        let head = it.head();
        if let Some(pages) = self.free_pages.get_mut(head.row()) {
            *pages -= 1 << order;
        }
        if left != head.class() { self.refile(chunk, left, offset) } else { head.first_pfn() + u64::from(offset) }
    }

    /// Takes a block when no split chunk of the row has one: from a chunk that is free as a whole, or else from
    /// another type's.
    #[inline(never)]
    fn take_elsewhere(&mut self, row: usize, order: u32) -> u64 {
        let Some(chunk) = self.sets.whole(whole_row(row)) else {
            return self.fall_back(row, order);
        };
        self.take_from_whole(chunk, row, order)
    }

    /// Takes the first frames of a chunk that is free as a whole.
    fn take_from_whole(&mut self, chunk: usize, row: usize, order: u32) -> u64 {
        let Some(mut it) = self.chunks.get_mut(chunk) else { return NOTHING };
        let whole = it.head();
        it.split_whole(row, order);
        let split = it.head();
        self.move_pages(whole.row(), row, CHUNK_PAGES);
        if let Some(pages) = self.free_pages.get_mut(row) {
            *pages -= 1 << order;
        }
        self.sets.refile(chunk, whole, split, 0)
    }

    #[inline]
    fn take_raw(&mut self, row: usize, order: u32) -> u64 {
        match Self::TAKE.get(order as usize % Self::TAKE.len()) {
            Some(take) => take(self, row),
            None => NOTHING,
        }
    }

    /// Takes a block of order 3 to 9 from a lane, if that has one for this type: of its own or free as a whole. O(chunks /
    /// 64) at worst.
    #[inline(never)]
    pub(crate) fn take_from_lane(&mut self, order: Order, mobility: Mobility, lane: Lane) -> Option<Pfn> {
        let (row, order) = (self.row_of(mobility), order.as_usize() as u32);
        let chunk = self.sets.best_of(row, order, |first| self.spans.chunks_of(lane, first))?;
        let head = self.chunk(chunk)?.head();
        let class = head.class();
        Pfn::new(match order {
            _ if !head.is_split() => self.take_from_whole(chunk, row, order),
            3 => self.take_from_split::<3>(row, chunk, class),
            4 => self.take_from_split::<4>(row, chunk, class),
            5 => self.take_from_split::<5>(row, chunk, class),
            6 => self.take_from_split::<6>(row, chunk, class),
            7 => self.take_from_split::<7>(row, chunk, class),
            8 => self.take_from_split::<8>(row, chunk, class),
            9 => self.take_from_split::<9>(row, chunk, class),
            _ => NOTHING,
        })
    }

    /// Takes the rest of what is free in the 64 frames around `pfn`, of which a block was just taken: a bit for each
    /// frame. `None`, and nothing is taken, if that is not made of blocks of this order without a remainder. O(1).
    pub(crate) fn take_rest(&mut self, pfn: Pfn, order: Order) -> Option<u64> {
        let (chunk, offset) = self.locate(pfn.as_raw(), 0).ok()?;
        let mut it = self.chunks.get_mut(chunk)?;
        let head = it.head();
        let (frames, left) = it.take_word(offset / 64, order.as_usize() as u32)?;
        if let Some(pages) = self.free_pages.get_mut(head.row()) {
            *pages -= u64::from(frames.count_ones());
        }
        if left != head.class() {
            self.refile(chunk, left, 0);
        }
        Some(frames)
    }

    /// Takes a chunk that is free as a whole. Returns its first frame, or [`NOTHING`].
    fn take_whole(&mut self, row: usize) -> u64 {
        let Some(chunk) = self.sets.whole(whole_row(row)) else { return self.fall_back(row, TOP) };
        let Some(mut it) = self.chunks.get_mut(chunk) else { return NOTHING };
        let whole = it.head();
        let taken = Head::taken(whole.first_pfn(), row);
        it.set_head(taken);
        if let Some(pages) = self.free_pages.get_mut(whole.row()) {
            *pages -= CHUNK_PAGES;
        }
        self.sets.refile(chunk, whole, taken, 0)
    }

    /// Free pages that count for another row from now on.
    fn move_pages(&mut self, from: usize, to: usize, count: u64) {
        if let Some(pages) = self.free_pages.get_mut(from) {
            *pages -= count;
        }
        if let Some(pages) = self.free_pages.get_mut(to) {
            *pages += count;
        }
    }

    /// Files a split chunk under a class other than it had. Returns the frame at `offset` in it.
    #[inline(never)]
    fn refile(&mut self, chunk: usize, class: Class, offset: u32) -> u64 {
        let Some(mut it) = self.chunks.get_mut(chunk) else { return NOTHING };
        let before = it.head();
        let after = before.split(class);
        it.set_head(after);
        self.sets.refile(chunk, before, after, offset)
    }

    const PUT: [fn(&mut Self, u64) -> u64; 16] = [
        Self::put_at::<0>,
        Self::put_at::<1>,
        Self::put_at::<2>,
        Self::put_at::<3>,
        Self::put_at::<4>,
        Self::put_at::<5>,
        Self::put_at::<6>,
        Self::put_at::<7>,
        Self::put_at::<8>,
        Self::put_at::<9>,
        Self::put_whole,
        Self::put_whole,
        Self::put_whole,
        Self::put_whole,
        Self::put_whole,
        Self::put_whole,
    ];

    #[inline]
    fn put(&mut self, pfn: Pfn, order: Order) -> Result<(), Refused> {
        let put = Self::PUT.get(order.as_usize() % Self::PUT.len()).ok_or(Refused::Foreign)?;
        Refused::decode(put(self, pfn.as_raw()))
    }

    #[inline]
    fn put_raw(&mut self, pfn: u64, order: u32) -> u64 {
        match Self::PUT.get(order as usize % Self::PUT.len()) {
            Some(put) => put(self, pfn),
            None => Refused::Foreign.encode(),
        }
    }

    /// Frees a block below the order of a chunk. Returns a frame, or a coded [`Refused`].
    #[inline(never)]
    fn put_at<const ORDER: u32>(&mut self, pfn: u64) -> u64 {
        if !pfn.is_multiple_of(1 << ORDER) {
            return Refused::Misaligned.encode();
        }
        let Some((chunk, offset)) = self.spans.locate_recent(pfn, 1 << ORDER) else {
            return self.put_elsewhere(pfn, ORDER);
        };
        let Some(mut it) = self.chunks.get_mut(chunk) else {
            return Refused::Foreign.encode();
        };
        let head = it.head();
        if !head.is_split() {
            return self.put_into_taken(chunk, pfn, ORDER);
        }
        let order = match it.put::<ORDER>(offset) {
            Put::Merged(order) => order,
            Put::Fills => return self.fill(chunk, offset, ORDER),
            Put::Occupied => return Refused::AlreadyFree.encode(),
        };
        if let Some(pages) = self.free_pages.get_mut(head.row()) {
            *pages += 1 << ORDER;
        }
        if Class::of(order) > head.class() { self.raise(chunk, order) } else { pfn }
    }

    /// Frees the last frames of a word.
    #[inline(never)]
    fn fill(&mut self, chunk: usize, offset: u32, order: u32) -> u64 {
        let Some(mut it) = self.chunks.get_mut(chunk) else { return NOTHING };
        let merged = it.fill(offset);
        let head = it.head();
        if let Some(pages) = self.free_pages.get_mut(head.row()) {
            *pages += 1 << order;
        }
        if Class::of(merged) > head.class() { self.raise(chunk, merged) } else { 0 }
    }

    /// Frees a block outside the span that was used last.
    #[inline(never)]
    fn put_elsewhere(&mut self, pfn: u64, order: u32) -> u64 {
        if self.spans.turn_to(pfn, 1 << order) { self.put_raw(pfn, order) } else { Refused::Foreign.encode() }
    }

    /// Splits a chunk that is taken as a whole, and frees a part of it.
    #[inline(never)]
    fn put_into_taken(&mut self, chunk: usize, pfn: u64, order: u32) -> u64 {
        let Some(mut it) = self.chunks.get_mut(chunk) else {
            return Refused::Foreign.encode();
        };
        if it.head().class() == Class::WHOLE {
            return Refused::AlreadyFree.encode();
        }
        it.split_taken();
        self.put_raw(pfn, order)
    }

    /// The largest free block of a chunk has got larger; it may be free as a whole.
    #[inline(never)]
    fn raise(&mut self, chunk: usize, order: u32) -> u64 {
        if order < TOP {
            return self.refile(chunk, Class::of(order), 0);
        }
        let Some(mut it) = self.chunks.get_mut(chunk) else { return NOTHING };
        let before = it.head();
        let whole = before.whole();
        it.set_head(whole);
        self.move_pages(before.row(), whole.row(), CHUNK_PAGES);
        self.sets.refile(chunk, before, whole, 0)
    }

    /// Frees a chunk as a whole.
    fn put_whole(&mut self, pfn: u64) -> u64 {
        if !pfn.is_multiple_of(CHUNK_PAGES) {
            return Refused::Misaligned.encode();
        }
        let Some((chunk, _)) = self.spans.locate_recent(pfn, CHUNK_PAGES) else {
            return self.put_elsewhere(pfn, TOP);
        };
        let Some(mut it) = self.chunks.get_mut(chunk) else { return Refused::Foreign.encode() };
        let head = it.head();
        if head.class() != Class::NONE {
            return Refused::AlreadyFree.encode();
        }
        let whole = head.whole();
        it.set_head(whole);
        if let Some(pages) = self.free_pages.get_mut(whole.row()) {
            *pages += CHUNK_PAGES;
        }
        self.sets.refile(chunk, head, whole, 0)
    }

    fn locate(&self, pfn: u64, order: u32) -> Result<(usize, u32), Refused> {
        if pfn & ((1 << order) - 1) != 0 {
            return Err(Refused::Misaligned);
        }
        self.spans.locate(pfn, 1 << order).ok_or(Refused::Foreign)
    }

    fn chunk(&self, chunk: usize) -> Option<View<'_>> {
        self.chunks.get(chunk)
    }
}

const _: () = assert!(Mobility::ORDINARY == 3 && Mobility::HighAtomic as usize == 3 && SHARED == 6);
const _: () = assert!(MAX_ORDER == 10 && CHUNK_PAGES == 1024, "leaves are laid out for this");
