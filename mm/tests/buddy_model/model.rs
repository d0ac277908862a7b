// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `Buddy` should do, said in the plainest way: a flag for each frame, a type for each chunk.
//!
//! Which blocks are free follows from which frames are free, since buddies always merge; and which block an
//! allocation takes follows from the policy. So the model predicts every result exactly.

use std::ops::Range;

use mm::addr::{MAX_ORDER, NR_ORDERS, Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::buddy::{Buddy, Mobility};

pub(crate) const CHUNK: u64 = 1024;
/// Not 0, so that offsets and frame numbers differ.
pub(crate) const BASE: u64 = 0x4_0000;

pub(crate) fn pages(frames: &Range<u64>) -> PhysRange {
    let address = |frame: u64| PhysAddr::new((BASE + frame) * PAGE_SIZE).unwrap();
    PhysRange::new(address(frames.start), address(frames.end)).unwrap()
}

pub(crate) fn pfn(frame: u64) -> Pfn {
    Pfn::new(BASE + frame).unwrap()
}

pub(crate) fn order(order: usize) -> Order {
    Order::new(order).unwrap()
}

/// A free block: its first frame and its order.
type Block = (u64, usize);

/// Frame numbers count from `BASE`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Model {
    pub(crate) spans: Vec<Range<u64>>,
    pub(crate) free: Vec<bool>,
    /// By chunk; without a meaning for ordinary types while the chunk is free as a whole.
    types: Vec<Mobility>,
    /// By chunk that is isolated: the type that it had, if it was not free as a whole.
    aside: Vec<Option<Mobility>>,
    grouping: bool,
}

const fn is_ordinary(mobility: Mobility) -> bool {
    matches!(mobility, Mobility::Unmovable | Mobility::Movable | Mobility::Reclaimable)
}

impl Model {
    pub(crate) fn new(spans: &[Range<u64>]) -> Self {
        let end = spans.last().map_or(0, |span| span.end.next_multiple_of(CHUNK));
        let ram_chunks = (0..end / CHUNK).filter(|chunk| {
            let frames = chunk * CHUNK..(chunk + 1) * CHUNK;
            spans.iter().any(|span| span.start < frames.end && frames.start < span.end)
        });
        let grouping = ram_chunks.count() >= Mobility::COUNT;
        let first_type = if grouping { Mobility::Movable } else { Mobility::Unmovable };
        Self {
            spans: spans.to_vec(),
            free: vec![false; end as usize],
            types: vec![first_type; (end / CHUNK) as usize],
            aside: vec![None; (end / CHUNK) as usize],
            grouping,
        }
    }

    pub(crate) fn frames(&self, start: u64, order: usize) -> Range<usize> {
        start as usize..(start as usize + (1 << order)).min(self.free.len())
    }

    pub(crate) fn is_ram(&self, frame: u64) -> bool {
        self.spans.iter().any(|span| span.contains(&frame))
    }

    fn is_ram_chunk(&self, chunk: u64) -> bool {
        (chunk * CHUNK..(chunk + 1) * CHUNK).any(|frame| self.is_ram(frame))
    }

    /// Free blocks of the chunk or block at `start`, lowest first.
    fn blocks(&self, start: u64, order: usize, found: &mut Vec<Block>) {
        let free = &self.free[self.frames(start, order)];
        if free.iter().all(|free| *free) {
            found.push((start, order));
        } else if free.iter().any(|free| *free) {
            self.blocks(start, order - 1, found);
            self.blocks(start + (1 << (order - 1)), order - 1, found);
        }
    }

    fn chunk(&self, chunk: u64) -> Vec<Block> {
        let mut found = Vec::new();
        self.blocks(chunk * CHUNK, MAX_ORDER, &mut found);
        found
    }

    fn nr_chunks(&self) -> u64 {
        self.free.len() as u64 / CHUNK
    }

    pub(crate) fn all_blocks(&self) -> Vec<Block> {
        (0..self.nr_chunks()).flat_map(|chunk| self.chunk(chunk)).collect()
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.free.iter().filter(|free| **free).count() as u64
    }

    pub(crate) fn largest(blocks: &[Block]) -> Option<usize> {
        blocks.iter().map(|(_, order)| *order).max()
    }

    /// The largest free block for everybody.
    pub(crate) fn largest_ordinary(&self) -> Option<usize> {
        let ordinary = (0..self.nr_chunks()).filter(|chunk| is_ordinary(self.types[*chunk as usize]));
        ordinary.filter_map(|chunk| Self::largest(&self.chunk(chunk))).max()
    }

    fn is_whole(&self, chunk: u64) -> bool {
        self.chunk(chunk) == [(chunk * CHUNK, MAX_ORDER)]
    }

    /// As it is reported.
    pub(crate) fn type_of(&self, chunk: u64) -> Mobility {
        let of = self.types[chunk as usize];
        if is_ordinary(of) && self.is_whole(chunk) { Mobility::Movable } else { of }
    }

    pub(crate) fn set_type(&mut self, chunk: u64, mobility: Mobility) {
        let before = self.types[chunk as usize];
        if mobility == Mobility::Isolate && before != mobility {
            let had_type = !is_ordinary(before) || !self.is_whole(chunk);
            self.aside[chunk as usize] = had_type.then_some(before);
        }
        self.types[chunk as usize] = mobility;
    }

    /// Ends the isolation of a chunk.
    pub(crate) fn unisolate(&mut self, chunk: u64, mobility: Mobility) {
        if self.types[chunk as usize] == Mobility::Isolate {
            let mobility = if self.grouping { mobility } else { Mobility::Unmovable };
            self.types[chunk as usize] = self.aside[chunk as usize].unwrap_or(mobility);
        }
    }

    /// The chunk of this type, not free as a whole, with the smallest sufficient largest block.
    fn best_split(&self, order: usize, mobility: Mobility) -> Option<u64> {
        let of_type = (0..self.nr_chunks()).filter(|chunk| self.types[*chunk as usize] == mobility);
        let split = of_type.map(|chunk| (chunk, Self::largest(&self.chunk(chunk))));
        let fitting = split.filter(|(_, largest)| *largest >= Some(order) && *largest < Some(MAX_ORDER));
        fitting.min_by_key(|(chunk, largest)| (*largest, *chunk)).map(|(chunk, _)| chunk)
    }

    /// In a chunk: the word of 64 frames with the smallest sufficient largest block, in it the lowest sufficient
    /// block; or else, and for blocks of whole words, the smallest sufficient block. The lowest of each.
    fn best_block(&self, chunk: u64, order: usize) -> u64 {
        let chunk = self.chunk(chunk);
        let blocks = || chunk.iter().filter(|(_, at)| *at >= order);
        let word = |block: &Block| block.0 / 64;
        let largest_in = |of: u64| chunk.iter().filter(|block| word(block) == of).map(|(_, at)| *at).max();
        let partial = blocks().filter(|(_, at)| *at < 6).min_by_key(|block| (largest_in(word(block)), word(block)));
        let block = match partial.map(word) {
            Some(of) => blocks().find(|block| word(block) == of),
            None => blocks().min_by_key(|(_, at)| *at),
        };
        block.unwrap().0
    }

    /// What an allocation takes. The chunk is of the type then that the request asked for or found.
    pub(crate) fn alloc(&mut self, order: usize, mobility: Mobility) -> Option<u64> {
        let mobility = if self.grouping { mobility } else { Mobility::Unmovable };
        let start = self.find(order, mobility)?;
        let frames = self.frames(start, order);
        self.free[frames].fill(false);
        Some(start)
    }

    fn find(&mut self, order: usize, mobility: Mobility) -> Option<u64> {
        if let Some(chunk) = self.best_split(order, mobility) {
            return Some(self.best_block(chunk, order));
        }
        let mut whole = (0..self.nr_chunks()).filter(|chunk| self.is_whole(*chunk));
        let takes_from = |of: Mobility| of == mobility || is_ordinary(of) && is_ordinary(mobility);
        if let Some(chunk) = whole.find(|chunk| takes_from(self.types[*chunk as usize])) {
            self.types[chunk as usize] = mobility;
            return Some(chunk * CHUNK);
        }
        self.fall_back(order, mobility)
    }

    fn fall_back(&mut self, order: usize, mobility: Mobility) -> Option<u64> {
        if mobility == Mobility::Movable
            && let Some(start) = self.find(order, Mobility::Cma)
        {
            return Some(start);
        }
        let others: &[Mobility] = match mobility {
            Mobility::Unmovable => &[Mobility::Reclaimable, Mobility::Movable],
            Mobility::Movable => &[Mobility::Reclaimable, Mobility::Unmovable],
            Mobility::Reclaimable => &[Mobility::Unmovable, Mobility::Movable],
            _ => &[],
        };
        let chunks = others.iter().rev().flat_map(|other| {
            let of_type = (0..self.nr_chunks()).rev().filter(|chunk| self.types[*chunk as usize] == *other);
            of_type.map(|chunk| (Self::largest(&self.chunk(chunk)), chunk, *other))
        });
        let largest = chunks.filter(|(largest, ..)| *largest >= Some(order)).max_by_key(|(largest, ..)| *largest);
        let (_, chunk, other) = largest?;
        let free = self.free[self.frames(chunk * CHUNK, MAX_ORDER)].iter().filter(|free| **free).count();
        if mobility != Mobility::Movable || free >= CHUNK as usize / 2 {
            self.types[chunk as usize] = mobility;
            return Some(self.best_block(chunk, order));
        }
        let chunk = self.best_split(order, other)?;
        Some(self.best_block(chunk, order))
    }

    pub(crate) fn why_not_free(&self, start: u64, order: usize) -> Option<&'static str> {
        let end = start + (1 << order);
        if !start.is_multiple_of(1 << order) {
            Some("misaligned")
        } else if !self.spans.iter().any(|span| span.start <= start && end <= span.end) {
            Some("foreign")
        } else if self.free[self.frames(start, order)].iter().any(|free| *free) {
            Some("already free")
        } else {
            None
        }
    }

    pub(crate) fn put(&mut self, start: u64, order: usize) {
        let frames = self.frames(start, order);
        self.free[frames].fill(true);
    }

    /// Frees or takes frames that are in the other state.
    pub(crate) fn set_range(&mut self, frames: &Range<u64>, free: bool, mobility: Mobility) {
        let mobility = if self.grouping { mobility } else { Mobility::Unmovable };
        for chunk in frames.start / CHUNK..frames.end.div_ceil(CHUNK) {
            if !free && self.is_whole(chunk) && is_ordinary(self.types[chunk as usize]) {
                self.types[chunk as usize] = mobility;
            }
        }
        self.free[frames.start as usize..frames.end as usize].fill(free);
    }

    /// Runs of frames that are not free.
    pub(crate) fn busy(&self, frames: &Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for frame in frames.clone().filter(|frame| !self.free[*frame as usize]) {
            match runs.last_mut() {
                Some(run) if run.end == frame => run.end += 1,
                _ => runs.push(frame..frame + 1),
            }
        }
        runs
    }

    pub(crate) fn whole_run(&self, nr_chunks: u64) -> Option<u64> {
        let is_shared = |chunk: u64| self.is_whole(chunk) && is_ordinary(self.types[chunk as usize]);
        let mut starts = 0..(self.nr_chunks() + 1).saturating_sub(nr_chunks);
        starts.find(|start| (*start..start + nr_chunks).all(is_shared)).map(|chunk| chunk * CHUNK)
    }

    pub(crate) fn check(&self, buddy: &Buddy<'_>) {
        assert_eq!(buddy.validate(), Ok(()));
        let blocks: Vec<_> = buddy.free_blocks().map(|(pfn, order)| (pfn.as_raw() - BASE, order.as_usize())).collect();
        let expected = self.all_blocks();
        assert_eq!(blocks, expected);
        let mut nr_free = [[0; NR_ORDERS]; Mobility::COUNT];
        let (mut free_pages, mut nr_chunks) = ([0; Mobility::COUNT], [0; Mobility::COUNT]);
        for (start, order) in expected {
            nr_free[self.type_of(start / CHUNK).as_usize()][order] += 1;
            free_pages[self.type_of(start / CHUNK).as_usize()] += 1 << order;
        }
        for chunk in (0..self.nr_chunks()).filter(|chunk| self.is_ram_chunk(*chunk)) {
            let frame = (chunk * CHUNK..).find(|frame| self.is_ram(*frame)).unwrap();
            assert_eq!(buddy.mobility_of(pfn(frame)), Some(self.type_of(chunk)), "chunk {chunk}");
            nr_chunks[self.type_of(chunk).as_usize()] += 1;
        }
        for mobility in Mobility::ALL {
            let index = mobility.as_usize();
            assert_eq!(buddy.nr_free_of(mobility), nr_free[index], "{mobility:?}");
            assert_eq!(buddy.free_pages_of(mobility), free_pages[index], "{mobility:?}");
            assert_eq!(buddy.nr_chunks_of(mobility), nr_chunks[index], "{mobility:?}");
        }
        assert_eq!(buddy.free_pages(), self.free_pages());
        assert_eq!(buddy.largest_free_order().map(Order::as_usize), self.largest_ordinary());
    }
}
