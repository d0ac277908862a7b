// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of frames, of any length: put under management, isolated, taken and given back.

use core::fmt;

use super::{Buddy, CHUNK_PAGES, Class, FreeError, Head, Mobility, Refused, SHARED};
use crate::addr::{MAX_ORDER, Order, Pfn, PhysRange};

/// Why a range cannot be isolated or taken. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// This frame is no RAM of this allocator.
    Foreign(Pfn),
    /// This frame is in a chunk that is isolated already.
    Isolated(Pfn),
    /// This frame is not free.
    Busy(Pfn),
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pfn, fault) = match *self {
            Self::Foreign(pfn) => (pfn, "is no memory of this allocator"),
            Self::Isolated(pfn) => (pfn, "is isolated already"),
            Self::Busy(pfn) => (pfn, "is not free"),
        };
        write!(f, "frame {pfn:?} {fault}")
    }
}

impl core::error::Error for RangeError {}

/// What is handled in one step.
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

impl Buddy<'_> {
    /// Puts the whole frames of `range` under management and frees them, in the largest blocks.
    /// Returns their number. Whole chunks cost a bit each.
    ///
    /// # Errors
    ///
    /// [`FreeError`] if part of it is no RAM of this allocator, or is free already.
    pub fn add_range(&mut self, range: PhysRange) -> Result<u64, FreeError> {
        let pages = self.free_range(range)?;
        self.managed_pages += pages;
        Ok(pages)
    }

    /// The same for an allocator that is being built and thrown away if it fails: nothing is looked at in advance.
    pub(crate) fn add_first(&mut self, range: PhysRange) -> Result<(), FreeError> {
        let range = range.frames_inside();
        let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        self.each_piece(start, end, Self::free_piece)?;
        self.managed_pages += end - start;
        Ok(())
    }

    /// Frees the whole frames of `range`, which are taken, in the largest blocks. Returns their number.
    ///
    /// # Errors
    ///
    /// [`FreeError`] if part of it is no RAM of this allocator, or is free already. Nothing was changed.
    pub fn free_range(&mut self, range: PhysRange) -> Result<u64, FreeError> {
        let range = range.frames_inside();
        let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        self.each_piece(start, end, Self::check_piece)?;
        self.each_piece(start, end, Self::free_piece)?;
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
        let at = order.as_usize() as u32;
        let (first, offset) = self.locate(pfn.as_raw(), at).map_err(|why| why.about(pfn, order))?;
        let free = match piece {
            Piece::Block(..) => self.any_free(first, offset, at),
            Piece::Chunks(_, nr_chunks) => {
                !self.chunks.heads(first..first + nr_chunks).all(|head| head.class() == Class::NONE)
            }
        };
        if free { Err(FreeError::AlreadyFree(pfn, order)) } else { Ok(()) }
    }

    fn free_piece(&mut self, piece: Piece) -> Result<(), FreeError> {
        let (pfn, order) = piece.first_block();
        let Piece::Chunks(_, nr_chunks) = piece else {
            return self.put(pfn, order).map_err(|why| why.about(pfn, order));
        };
        let at = order.as_usize() as u32;
        let (first, _) = self.locate(pfn.as_raw(), at).map_err(|why| why.about(pfn, order))?;
        // The common case, as many as it is of.
        let head = self.chunks.get(first).map(|chunk| chunk.head());
        let is_common = |head: &Head| head.class() == Class::NONE && head.row() < Mobility::ORDINARY;
        let done = head.filter(is_common).map_or(0, |head| self.chunks.free_alike(first..first + nr_chunks, head));
        if done > 0 {
            self.sets.insert_whole(first..first + done);
        }
        if let Some(pages) = self.free_pages.get_mut(SHARED) {
            *pages += done as u64 * CHUNK_PAGES;
        }
        for chunk in done as u64..nr_chunks as u64 {
            let code = self.put_whole(pfn.as_raw() + chunk * CHUNK_PAGES);
            Refused::decode(code).map_err(|why| why.about(pfn, order))?;
        }
        Ok(())
    }

    /// Whether any frame of the block at `offset` in `chunk` is free.
    fn any_free(&self, chunk: usize, offset: u32, order: u32) -> bool {
        self.chunk(chunk).is_some_and(|chunk| {
            let head = chunk.head();
            let is_all = !head.is_split() || order >= MAX_ORDER as u32;
            head.class() != Class::NONE && (is_all || chunk.any_free(offset, order))
        })
    }

    /// Sets all chunks aside that the range touches: nothing is allocated there any more, and what is freed stays.
    /// The first step towards a range of one's own; next its owners move what is [`busy`](Buddy::busy), then
    /// [`take_range`](Buddy::take_range) has it, and [`unisolate`](Buddy::unisolate) ends it.
    ///
    /// # Errors
    ///
    /// [`RangeError::Foreign`], or [`RangeError::Isolated`] if a chunk is set aside already.
    pub fn isolate(&mut self, range: PhysRange) -> Result<(), RangeError> {
        for pfn in chunks_of(range) {
            match self.mobility_of(pfn).ok_or(RangeError::Foreign(pfn))? {
                Mobility::Isolate => return Err(RangeError::Isolated(pfn)),
                _ => continue,
            }
        }
        for pfn in chunks_of(range) {
            self.set_mobility(pfn, Mobility::Isolate);
        }
        Ok(())
    }

    /// Gives all isolated chunks that the range touches back to use, as the type that they had. Those that were free as
    /// a whole had none; what of them is in pieces by now gets this one.
    pub fn unisolate(&mut self, range: PhysRange, mobility: Mobility) {
        for pfn in chunks_of(range) {
            let Some((chunk, _)) = self.spans.locate(pfn.as_raw(), 1) else { continue };
            let Some(it) = self.chunks.get_mut(chunk) else { continue };
            if it.head().row() == Mobility::Isolate as usize {
                let before = it.row_aside();
                self.move_to_row(chunk, if before < SHARED { before } else { self.row_of(mobility) });
            }
        }
    }

    /// The frames of a range that are not free, as runs, lowest first: taken ones, and such as are no RAM of this
    /// allocator. O(words).
    pub fn busy(&self, range: PhysRange) -> impl Iterator<Item = PhysRange> + '_ {
        let range = range.frames_touched();
        let (mut at, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        core::iter::from_fn(move || {
            let mut start = None;
            while at < end {
                let (is_free, length) = self.stretch(at, end);
                if !is_free {
                    start = start.or(Some(at));
                } else if start.is_some() {
                    break;
                }
                at += length;
            }
            PhysRange::new(Pfn::new(start?)?.addr(), Pfn::new(at)?.addr())
        })
    }

    /// Whether a frame is free, and how many from there on are so too: at least 1, not beyond its word of 64.
    fn stretch(&self, pfn: u64, end: u64) -> (bool, u64) {
        let Some((chunk, offset)) = self.spans.locate(pfn, 1) else { return (false, 1) };
        let (Some(view), bit) = (self.chunk(chunk), offset % 64) else { return (false, 1) };
        let frames = match view.head().is_split() {
            true => view.frames(offset / 64),
            false if view.head().class() == Class::WHOLE => !0,
            false => 0,
        };
        let is_free = frames >> bit & 1 != 0;
        let same = if is_free { !(frames >> bit) } else { frames >> bit };
        (is_free, u64::from(same.trailing_zeros().min(64 - bit)).min(end - pfn))
    }

    /// Takes all frames of a range, which are free. Chunks that were free as a whole become of this type.
    ///
    /// # Errors
    ///
    /// [`RangeError::Busy`] with the first frame that is not free, or no RAM of this allocator.
    pub fn take_range(&mut self, range: PhysRange, mobility: Mobility) -> Result<(), RangeError> {
        let range = range.frames_touched();
        if let Some(busy) = self.busy(range).next() {
            return Err(RangeError::Busy(busy.start().pfn()));
        }
        let (mut at, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        while at < end {
            let Some((chunk, offset)) = self.spans.locate(at, 1) else { break };
            let length = (CHUNK_PAGES - u64::from(offset)).min(end - at);
            self.take_part(chunk, offset, length as u32, mobility);
            at += length;
        }
        Ok(())
    }

    /// Takes free frames out of a chunk.
    fn take_part(&mut self, chunk: usize, offset: u32, length: u32, mobility: Mobility) {
        let row = self.row_of(mobility);
        let Some(mut it) = self.chunks.get_mut(chunk) else { return };
        let before = it.head();
        let row = if before.row() == SHARED { row } else { before.row() };
        if u64::from(length) == CHUNK_PAGES {
            it.set_head(Head::taken(before.first_pfn(), row));
        } else {
            if !before.is_split() {
                it.split_free(row);
            }
            it.take_frames(offset, length);
        }
        let after = it.head();
        let free_pages = it.view().free_pages();
        self.move_pages(before.row(), after.row(), free_pages);
        if let Some(pages) = self.free_pages.get_mut(before.row()) {
            *pages -= u64::from(length);
        }
        if before != after {
            self.sets.refile(chunk, before, after, 0);
        }
    }

    /// The first run of so many chunks, side by side, that are free as a whole and for everybody. O(chunks).
    #[must_use]
    pub fn whole_run(&self, nr_chunks: u64) -> Option<Pfn> {
        let is_whole = |chunk: usize| {
            self.chunk(chunk).is_some_and(|chunk| chunk.head().class() == Class::WHOLE && chunk.head().row() == SHARED)
        };
        let mut run = (0, 0);
        for (chunk, first_pfn) in self.spans.chunks() {
            let (start, length) = run;
            run = match is_whole(chunk) {
                true if start + length * CHUNK_PAGES == first_pfn => (start, length + 1),
                true => (first_pfn, 1),
                false => (0, 0),
            };
            if run.1 >= nr_chunks && run.1 > 0 {
                return Pfn::new(run.0);
            }
        }
        None
    }
}

/// The first frame of a range in each chunk that it touches.
fn chunks_of(range: PhysRange) -> impl Iterator<Item = Pfn> {
    let range = range.frames_touched();
    let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
    let chunks = start / CHUNK_PAGES..end.div_ceil(CHUNK_PAGES);
    chunks.filter_map(move |chunk| Pfn::new(start.max(chunk * CHUNK_PAGES)))
}
