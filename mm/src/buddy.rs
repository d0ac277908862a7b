// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binary buddy allocator: page frames in blocks of 1 to 1024.
//!
//! A *block* of order `n` is `2^n` frames, aligned to its own length. Splitting makes two *buddies*
//! whose frame numbers differ in bit `n`; freeing merges a block with its buddy while both are free.
//! Nothing is ever written to a frame: all state lives in metadata that the caller provides.
//!
//! ```text
//!   spans    [ frames of RAM )      [ frames of RAM )       holes have no metadata
//!   chunks   | 0 | 1 | 2 | 3 |      | 4 | 5 | 6 | 7 |       1024 frames each, numbered without gaps
//!                  |
//!                  +- head, 8 bytes: which leaf words hold something, how many frames are free
//!                  +- leaf, 256 bytes: a bit a block, orders 9 to 1, and a bit a frame
//!   sets     chunks by the largest free block in them, 0 to 10: bitmaps with two summary levels
//! ```
//!
//! A chunk that is free as a whole is just a bit in set 10: its leaf is set up only when it is
//! split, so starting up costs nothing for a frame and 8 bytes for 4 MiB. Allocation takes from the
//! lowest of those chunks whose largest free block is the smallest that will do, and in there the
//! smallest block that will do, the lowest first: chunks that are in pieces are used up before whole
//! ones are broken.
//!
//! *Cost:* O(orders) to allocate and free, whatever the size; 0.26 bytes a frame. *Lock:* the caller
//! holds the [`Zone`](crate::zone::Zone)'s. *Invariants* ([`Buddy::validate`], `tests/buddy_model.rs`):
//! no two free buddies stand side by side below the top order, the free blocks add up to
//! [`Buddy::free_pages`], and every index says what the leaves say.
#![forbid(unsafe_code)]

use core::mem;

use crate::addr::{MAX_ORDER, NR_ORDERS, Order, PAGE_SHIFT, Pfn, PhysAddr, PhysRange};

pub(crate) mod block;
mod index;
mod leaf;
mod mobility;
mod span;
mod validate;

use block::Refused;
pub use block::{AllocError, FreeError, PageBlock, TooSmall};
use index::{Best, ChunkSets};
use leaf::{Chunk, Class, Counts, LEAF_WORDS, View};
pub use mobility::Mobility;
use span::{SPAN_WORDS, Spans};
pub use validate::Broken;

/// Frames in a chunk: those of the largest block.
const CHUNK_PAGES: u64 = Order::MAX.pages();

/// The allocator over one zone.
#[derive(Debug)]
pub struct Buddy<'a> {
    spans: Spans<'a>,
    sets: ChunkSets<'a>,
    heads: &'a mut [u64],
    leaves: &'a mut [[u64; LEAF_WORDS]],
    nr_free: Counts,
    free_pages: u64,
    managed_pages: u64,
}

impl<'a> Buddy<'a> {
    /// Words of metadata for these ranges of RAM, which are sorted and apart from each other.
    pub fn metadata_words(ranges: impl Iterator<Item = PhysRange>) -> usize {
        let (nr_spans, nr_chunks) = span::count(ranges);
        nr_spans * SPAN_WORDS + Self::chunk_words(nr_chunks)
    }

    /// Words of metadata for `nr_chunks` times 4 MiB, its spans not counted.
    const fn chunk_words(nr_chunks: usize) -> usize {
        nr_chunks * (LEAF_WORDS + 1) + ChunkSets::words(nr_chunks)
    }

    /// An allocator for these ranges of RAM, which are sorted and apart from each other. Nothing is
    /// free yet. `metadata` may hold anything; best at the start of a cache line. Touches 8 bytes a
    /// chunk and the sets.
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
        let leaves = part(nr_chunks * LEAF_WORDS).ok_or(too_small)?;
        let heads = part(nr_chunks).ok_or(too_small)?;
        let sets = part(ChunkSets::words(nr_chunks)).ok_or(too_small)?;
        let spans = part(nr_spans * SPAN_WORDS).ok_or(too_small)?;
        heads.fill(0);
        Ok(Self {
            spans: Spans::new(ranges, spans),
            sets: ChunkSets::new(nr_chunks, sets),
            heads,
            leaves: leaves.as_chunks_mut().0,
            nr_free: Counts::default(),
            free_pages: 0,
            managed_pages: 0,
        })
    }

    /// Takes a block, from among blocks of the same mobility if possible. Nothing comes from
    /// [`Mobility::HighAtomic`] chunks but for that type, which in turn takes from nowhere else, and
    /// nothing from [`Mobility::Isolate`] ones.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there is none, which is no fault.
    #[inline]
    pub fn alloc(&mut self, order: Order, mobility: Mobility) -> Result<PageBlock, AllocError> {
        if !mobility.is_ordinary() {
            return Err(self.out_of_memory(order));
        }
        match self.take(order) {
            Some(pfn) => Ok(PageBlock::from_raw(pfn, order)),
            None => Err(self.out_of_memory(order)),
        }
    }

    #[cold]
    fn out_of_memory(&self, order: Order) -> AllocError {
        let largest_free_order = self.largest_free_order();
        AllocError { order, free_pages: self.free_pages, largest_free_order }
    }

    /// Takes as many blocks of one order as `blocks` has room for, or as there are, and writes their
    /// first frames to it from the start. Returns their number. The same blocks as by
    /// [`alloc`](Buddy::alloc) one by one, but single frames cost a few instructions each.
    pub fn alloc_bulk(&mut self, order: Order, mobility: Mobility, blocks: &mut [Pfn]) -> usize {
        let mut taken = 0;
        for slot in blocks {
            let Ok(block) = self.alloc(order, mobility) else { break };
            *slot = block.pfn();
            taken += 1;
        }
        taken
    }

    /// Gives back blocks of one order, as by [`free`](Buddy::free) one by one.
    ///
    /// # Errors
    ///
    /// The index of the first block that is refused, and why. Those before it are free, those behind it
    /// are as they were.
    pub fn free_bulk(&mut self, order: Order, blocks: &[Pfn]) -> Result<(), (usize, FreeError)> {
        for (index, pfn) in blocks.iter().enumerate() {
            self.free(PageBlock::from_raw(*pfn, order)).map_err(|error| (index, error))?;
        }
        Ok(())
    }

    /// Gives a block back and merges it with its free buddies.
    ///
    /// # Errors
    ///
    /// [`FreeError`] if it cannot be a block that was allocated here.
    #[inline]
    pub fn free(&mut self, block: PageBlock) -> Result<(), FreeError> {
        let (pfn, order) = block.into_raw();
        self.put(pfn, order).map_err(|why| why.about(pfn, order))
    }

    /// Puts the whole frames of `range` under management and frees them, in the largest blocks.
    /// Returns their number. Whole chunks cost a bit each.
    ///
    /// # Errors
    ///
    /// [`FreeError`] if part of it is no RAM of this allocator, or is free already.
    pub fn add_range(&mut self, range: PhysRange) -> Result<u64, FreeError> {
        let range = range.frames_inside();
        let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        self.each_piece(start, end, Self::check_piece)?;
        self.each_piece(start, end, Self::add_piece)?;
        self.managed_pages += end - start;
        Ok(end - start)
    }

    /// Cuts frames into runs of whole chunks and, at the edges, blocks.
    fn each_piece(
        &mut self,
        mut start: u64,
        end: u64,
        mut each: impl FnMut(&mut Self, Piece) -> Result<(), FreeError>,
    ) -> Result<(), FreeError> {
        while start < end {
            let Some(pfn) = Pfn::new(start) else { break };
            let fits = start.trailing_zeros().min((end - start).ilog2());
            let piece = match Order::new(fits as usize) {
                Some(order) if order < Order::MAX => Piece::Block(pfn, order),
                _ => Piece::Chunks(pfn, self.spans.whole_chunks(start, end)),
            };
            each(self, piece)?;
            start += match piece {
                Piece::Block(_, order) => order.pages(),
                Piece::Chunks(_, nr_chunks) => nr_chunks as u64 * CHUNK_PAGES,
            };
        }
        Ok(())
    }

    fn check_piece(&mut self, piece: Piece) -> Result<(), FreeError> {
        let (pfn, order) = piece.first_block();
        let (first, offset) = self.locate(pfn, order).map_err(|why| why.about(pfn, order))?;
        let free = match piece {
            Piece::Block(..) => self.any_free(first, offset, order),
            // Chunks of which a part is free have been split.
            Piece::Chunks(_, nr_chunks) => {
                let chunks = first..first + nr_chunks;
                let heads = self.heads.get(chunks.clone()).unwrap_or_default();
                let split = heads.iter().fold(0, |all, head| all | head) != 0;
                self.sets.any(Class::WHOLE, chunks.clone())
                    || split && chunks.into_iter().any(|chunk| self.any_free(chunk, 0, order))
            }
        };
        if free { Err(FreeError::AlreadyFree(pfn, order)) } else { Ok(()) }
    }

    fn add_piece(&mut self, piece: Piece) -> Result<(), FreeError> {
        let (pfn, order) = piece.first_block();
        let Piece::Chunks(_, nr_chunks) = piece else {
            return self.put(pfn, order).map_err(|why| why.about(pfn, order));
        };
        let (first, _) = self.locate(pfn, order).map_err(|why| why.about(pfn, order))?;
        let chunks = first..first + nr_chunks;
        self.heads.get_mut(chunks.clone()).unwrap_or_default().fill(0);
        self.sets.insert_run(Class::WHOLE, chunks);
        self.nr_free.add(MAX_ORDER as u32, nr_chunks as u64);
        self.free_pages += nr_chunks as u64 * CHUNK_PAGES;
        Ok(())
    }

    /// Whether any frame of the block at `offset` in `chunk` is free.
    fn any_free(&self, chunk: usize, offset: u32, order: Order) -> bool {
        match self.view(chunk) {
            Some(split) if split.is_split() => split.any_free(offset, order.as_usize() as u32),
            _ => self.sets.contains(Class::WHOLE, chunk),
        }
    }

    #[inline]
    fn locate(&self, pfn: Pfn, order: Order) -> Result<(usize, u32), Refused> {
        if !pfn.is_aligned(order) {
            return Err(Refused::Misaligned);
        }
        self.spans.locate(pfn.as_raw(), order.pages()).ok_or(Refused::Foreign)
    }

    fn view(&self, chunk: usize) -> Option<View<'_>> {
        Some(View { head: *self.heads.get(chunk)?, words: self.leaves.get(chunk)? })
    }

    /// Takes the best block and returns its first frame. Single frames, most of all requests, have a
    /// copy of their own.
    fn take(&mut self, order: Order) -> Option<Pfn> {
        if order == Order::ZERO { self.take_any(Order::ZERO) } else { self.take_any(order) }
    }

    #[inline(always)]
    fn take_any(&mut self, order: Order) -> Option<Pfn> {
        let at = order.as_usize() as u32;
        let best = match self.sets.for_page {
            Some(best) if at == 0 => best,
            _ => self.find_best(at)?,
        };
        let Best { class, chunk, first_pfn } = best;
        if class == Class::WHOLE {
            self.take_from_whole(chunk, order)?;
            return Pfn::new(first_pfn);
        }
        let (head, words) = (self.heads.get_mut(chunk)?, self.leaves.get_mut(chunk)?);
        let mut leaf = Chunk { head: *head, words };
        let (offset, left) = leaf.take(at, &mut self.nr_free)?;
        *head = leaf.head;
        self.free_pages -= order.pages();
        if left != class {
            self.sets.change(chunk, class, left);
        }
        Pfn::new(first_pfn + u64::from(offset))
    }

    #[inline(never)]
    fn find_best(&mut self, order: u32) -> Option<Best> {
        let (class, chunk) = self.sets.best(order)?;
        let best = Best { class, chunk, first_pfn: self.spans.first_pfn(chunk)? };
        if order == 0 {
            self.sets.for_page = Some(best);
        }
        Some(best)
    }

    /// Takes the first block of a chunk that is free as a whole.
    #[inline(never)]
    fn take_from_whole(&mut self, chunk: usize, order: Order) -> Option<()> {
        let (head, words) = (self.heads.get_mut(chunk)?, self.leaves.get_mut(chunk)?);
        let mut leaf = Chunk { head: *head, words };
        if order < Order::MAX {
            leaf.split_whole(order.as_usize() as u32, &mut self.nr_free);
        }
        *head = leaf.head;
        self.nr_free.sub(MAX_ORDER as u32, 1);
        self.free_pages -= order.pages();
        self.sets.change(chunk, Class::WHOLE, leaf.view().class());
        Some(())
    }

    fn put(&mut self, pfn: Pfn, order: Order) -> Result<(), Refused> {
        if order == Order::ZERO { self.put_any(pfn, Order::ZERO) } else { self.put_any(pfn, order) }
    }

    #[inline(always)]
    fn put_any(&mut self, pfn: Pfn, order: Order) -> Result<(), Refused> {
        let at = order.as_usize() as u32;
        let (chunk, offset) = self.locate(pfn, order)?;
        let head = self.heads.get_mut(chunk).ok_or(Refused::Foreign)?;
        let words = self.leaves.get_mut(chunk).ok_or(Refused::Foreign)?;
        let mut leaf = Chunk { head: *head, words };
        if !leaf.view().is_split() || leaf.view().completes(order) {
            return self.put_rare(chunk, offset, order);
        }
        if leaf.view().any_free(offset, at) {
            return Err(Refused::AlreadyFree);
        }
        let before = leaf.view().class();
        let after = leaf.put(offset, at, &mut self.nr_free);
        *head = leaf.head;
        self.free_pages += order.pages();
        if after != before {
            self.sets.change(chunk, before, after);
        }
        Ok(())
    }

    /// Frees the first block of a chunk, or the last.
    #[inline(never)]
    fn put_rare(&mut self, chunk: usize, offset: u32, order: Order) -> Result<(), Refused> {
        let at = order.as_usize() as u32;
        let head = self.heads.get_mut(chunk).ok_or(Refused::Foreign)?;
        let words = self.leaves.get_mut(chunk).ok_or(Refused::Foreign)?;
        let mut leaf = Chunk { head: *head, words };
        let already_free = if leaf.view().is_split() {
            leaf.view().any_free(offset, at)
        } else {
            self.sets.contains(Class::WHOLE, chunk)
        };
        if already_free {
            return Err(Refused::AlreadyFree);
        }
        let before = leaf.view().class();
        let after = if leaf.view().completes(order) {
            leaf.join_whole(at, &mut self.nr_free);
            self.nr_free.add(MAX_ORDER as u32, 1);
            Class::WHOLE
        } else {
            leaf.split_taken();
            leaf.put(offset, at, &mut self.nr_free)
        };
        *head = leaf.head;
        self.free_pages += order.pages();
        self.sets.change(chunk, before, after);
        Ok(())
    }

    /// Frames that are free.
    #[must_use]
    pub const fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// Frames that were ever added.
    #[must_use]
    pub const fn managed_pages(&self) -> u64 {
        self.managed_pages
    }

    /// Free blocks of each order.
    #[must_use]
    pub fn nr_free(&self) -> [u64; NR_ORDERS] {
        self.nr_free.all()
    }

    /// Free blocks of each order in chunks of this type.
    #[must_use]
    pub fn nr_free_of(&self, mobility: Mobility) -> [u64; NR_ORDERS] {
        if mobility == Mobility::Unmovable { self.nr_free.all() } else { [0; NR_ORDERS] }
    }

    /// The order of the largest free block.
    #[must_use]
    pub fn largest_free_order(&self) -> Option<Order> {
        self.sets.largest().largest_order()
    }

    /// Whether this frame is RAM of this allocator, free or not.
    #[must_use]
    pub fn owns(&self, pfn: Pfn) -> bool {
        self.spans.locate(pfn.as_raw(), 1).is_some()
    }

    /// The ranges of RAM, lowest first.
    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.spans.iter().filter_map(|span| {
            let address = |pfn: u64| PhysAddr::new(pfn << PAGE_SHIFT);
            PhysRange::new(address(span.start)?, address(span.end)?)
        })
    }
}

/// What [`Buddy::add_range`] handles in one step.
#[derive(Clone, Copy)]
enum Piece {
    Block(Pfn, Order),
    /// This many whole chunks of one span.
    Chunks(Pfn, usize),
}

impl Piece {
    const fn first_block(self) -> (Pfn, Order) {
        match self {
            Self::Block(pfn, order) => (pfn, order),
            Self::Chunks(pfn, _) => (pfn, Order::MAX),
        }
    }
}

const _: () = assert!(MAX_ORDER == 10 && CHUNK_PAGES == 1024, "leaves are laid out for this");
