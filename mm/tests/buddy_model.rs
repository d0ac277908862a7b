// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Buddy` beside a model that cannot be wrong: a flag for each frame.
//!
//! Which blocks are free follows from which frames are free, since buddies always merge; and which
//! block an allocation takes follows from the policy. So the model predicts every result exactly.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::ops::Range;
use std::slice;

use mm::addr::{MAX_ORDER, NR_ORDERS, Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::buddy::{AllocError, Buddy, FreeError, Mobility, PageBlock};
use proptest::prelude::*;

const CHUNK: u64 = 1024;
/// Not 0, so that offsets and frame numbers differ.
const BASE: u64 = 0x4_0000;

fn pages(frames: &Range<u64>) -> PhysRange {
    let address = |frame: u64| PhysAddr::new((BASE + frame) * PAGE_SIZE).unwrap();
    PhysRange::new(address(frames.start), address(frames.end)).unwrap()
}

fn order(order: usize) -> Order {
    Order::new(order).unwrap()
}

/// Metadata full of garbage, as boot memory is.
fn metadata(spans: &[Range<u64>]) -> Vec<u64> {
    let words = Buddy::metadata_words(spans.iter().map(pages));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..words).map(|_| next()).collect()
}

/// Frame numbers count from `BASE`.
#[derive(Clone, PartialEq, Debug)]
struct Model {
    ram: Vec<bool>,
    free: Vec<bool>,
    spans: Vec<Range<u64>>,
}

impl Model {
    fn new(spans: &[Range<u64>]) -> Self {
        let end = spans.last().map_or(0, |span| span.end.next_multiple_of(CHUNK)) as usize;
        let mut ram = vec![false; end];
        for span in spans {
            ram[span.start as usize..span.end as usize].fill(true);
        }
        Self { free: vec![false; end], ram, spans: spans.to_vec() }
    }

    fn frames(&self, start: u64, order: usize) -> Range<usize> {
        start as usize..(start as usize + (1 << order)).min(self.free.len())
    }

    /// Free blocks of the chunk or block at `start`, lowest first.
    fn blocks(&self, start: u64, order: usize, found: &mut Vec<(u64, usize)>) {
        let free = &self.free[self.frames(start, order)];
        if free.iter().all(|free| *free) {
            found.push((start, order));
        } else if free.iter().any(|free| *free) {
            self.blocks(start, order - 1, found);
            self.blocks(start + (1 << (order - 1)), order - 1, found);
        }
    }

    fn chunk(&self, chunk: u64) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        self.blocks(chunk * CHUNK, MAX_ORDER, &mut found);
        found
    }

    fn chunks(&self) -> impl Iterator<Item = Vec<(u64, usize)>> + '_ {
        (0..self.free.len() as u64 / CHUNK).map(|chunk| self.chunk(chunk))
    }

    fn free_pages(&self) -> u64 {
        self.free.iter().filter(|free| **free).count() as u64
    }

    fn largest(blocks: &[(u64, usize)]) -> Option<usize> {
        blocks.iter().map(|(_, order)| *order).max()
    }

    /// The policy: the chunk with the smallest sufficient largest block, in it the smallest sufficient
    /// block; the lowest of each.
    fn best(&self, order: usize) -> Option<u64> {
        let chunks = self.chunks().filter(|blocks| Self::largest(blocks) >= Some(order));
        let chunk = chunks.min_by_key(|blocks| Self::largest(blocks))?;
        let blocks = chunk.into_iter().filter(|(_, at)| *at >= order);
        blocks.min_by_key(|(_, at)| *at).map(|(start, _)| start)
    }

    fn why_not_free(&self, start: u64, order: usize) -> Option<&'static str> {
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

    fn check(&self, buddy: &Buddy<'_>) {
        assert_eq!(buddy.validate(), Ok(()));
        let mut blocks: Vec<_> =
            buddy.free_blocks().map(|(pfn, order)| (pfn.as_raw() - BASE, order.as_usize())).collect();
        blocks.sort_unstable();
        let expected: Vec<_> = self.chunks().flatten().collect();
        assert_eq!(blocks, expected);
        let mut nr_free = [0; NR_ORDERS];
        expected.iter().for_each(|(_, order)| nr_free[*order] += 1);
        assert_eq!(buddy.nr_free(), nr_free);
        assert_eq!(buddy.free_pages(), self.free_pages());
        assert_eq!(buddy.largest_free_order().map(Order::as_usize), Self::largest(&expected));
    }
}

/// Both, and the blocks that are out.
struct Pair<'a> {
    buddy: Buddy<'a>,
    model: Model,
    held: Vec<(u64, usize)>,
}

impl<'a> Pair<'a> {
    fn new(spans: &[Range<u64>], metadata: &'a mut [u64]) -> Self {
        let buddy = Buddy::new(spans.iter().map(pages), metadata).unwrap();
        Self { buddy, model: Model::new(spans), held: Vec::new() }
    }

    fn with_all_free(spans: &[Range<u64>], metadata: &'a mut [u64]) -> Self {
        let mut pair = Self::new(spans, metadata);
        spans.iter().for_each(|span| pair.add(span));
        pair
    }

    fn add(&mut self, frames: &Range<u64>) {
        let range = frames.start as usize..frames.end as usize;
        let ram =
            self.model.spans.iter().map(|span| span.end.min(frames.end).saturating_sub(span.start.max(frames.start)));
        let is_ram = ram.sum::<u64>() == frames.end - frames.start;
        let in_use = self.held.iter().any(|(start, order)| *start < frames.end && frames.start < start + (1 << order));
        if in_use {
            return; // A lie that nobody can see.
        }
        let added = self.buddy.add_range(pages(frames));
        if is_ram && !self.model.free[range.clone()].contains(&true) {
            assert_eq!(added, Ok(frames.end - frames.start));
            self.model.free[range].fill(true);
        } else {
            assert!(added.is_err(), "{frames:?} was added");
        }
    }

    fn alloc(&mut self, want: usize) {
        match (self.buddy.alloc(order(want), Mobility::Unmovable), self.model.best(want)) {
            (Ok(block), Some(start)) => {
                assert_eq!((block.pfn().as_raw() - BASE, block.order().as_usize()), (start, want));
                let (pfn, order) = block.into_raw();
                self.held.push((pfn.as_raw() - BASE, order.as_usize()));
                let frames = self.model.frames(start, want);
                self.model.free[frames].fill(false);
            }
            (Err(error), None) => {
                let blocks: Vec<_> = self.model.chunks().flatten().collect();
                let largest_free_order = Model::largest(&blocks).map(order);
                let free_pages = self.model.free_pages();
                let order = order(want);
                assert_eq!(error, AllocError { order, free_pages, largest_free_order });
            }
            (got, expected) => {
                let got = got.map(|block| block.pfn().as_raw() - BASE);
                assert_eq!(got.ok(), expected, "order {want}");
            }
        }
    }

    fn free_raw(&mut self, start: u64, at: usize) -> Result<(), FreeError> {
        self.buddy.free(PageBlock::from_raw(Pfn::new(BASE + start).unwrap(), order(at)))
    }

    fn free_held(&mut self, index: usize) {
        if self.held.is_empty() {
            return;
        }
        let (start, at) = self.held.swap_remove(index % self.held.len());
        assert_eq!(self.free_raw(start, at), Ok(()));
        let frames = self.model.frames(start, at);
        self.model.free[frames].fill(true);
    }

    /// Splits a held block, which is its holder's right.
    fn split_held(&mut self, index: usize) {
        if self.held.is_empty() {
            return;
        }
        let index = index % self.held.len();
        let (start, at) = self.held[index];
        if at > 0 {
            self.held[index].1 -= 1;
            self.held.push((start + (1 << (at - 1)), at - 1));
        }
    }

    /// Frees what must be refused; leaves alone what could be a holder's.
    fn free_wrong(&mut self, start: u64, at: usize) {
        let Some(why) = self.model.why_not_free(start, at) else {
            return;
        };
        let block = (Pfn::new(BASE + start).unwrap(), order(at));
        let error = match why {
            "misaligned" => FreeError::Misaligned(block.0, block.1),
            "foreign" => FreeError::Foreign(block.0, block.1),
            _ => FreeError::AlreadyFree(block.0, block.1),
        };
        assert_eq!(self.free_raw(start, at), Err(error));
    }

    fn check(&self) {
        self.model.check(&self.buddy);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize),
    Free(usize),
    Split(usize),
    FreeWrong(u64, usize),
    FreeTwice(usize),
    Add(Range<u64>),
}

fn apply(pair: &mut Pair<'_>, step: &Step) {
    match *step {
        Step::Alloc(order) => pair.alloc(order),
        Step::Free(index) => pair.free_held(index),
        Step::Split(index) => pair.split_held(index),
        Step::FreeWrong(start, order) => pair.free_wrong(start, order),
        Step::FreeTwice(index) => {
            if let Some(block) = pair.held.get(index % pair.held.len().max(1)).copied() {
                pair.free_held(index % pair.held.len());
                // Itself, each part of it, each block around it.
                (0..=MAX_ORDER).for_each(|order| {
                    pair.free_wrong(block.0 >> order << order, order);
                });
            }
        }
        Step::Add(ref frames) => {
            let end = pair.model.ram.len() as u64;
            pair.add(&(frames.start.min(end)..frames.end.min(end)));
        }
    }
}

fn orders() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..3usize, 2 => 3..8usize, 1 => 8..=MAX_ORDER]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => orders().prop_map(Step::Alloc),
        4 => any::<usize>().prop_map(Step::Free),
        1 => any::<usize>().prop_map(Step::Split),
        2 => (0..8 * CHUNK, 0..=MAX_ORDER).prop_map(|(at, o)| Step::FreeWrong(at >> o << o, o)),
        1 => (0..8 * CHUNK, 0..=MAX_ORDER).prop_map(|(at, o)| Step::FreeWrong(at, o)),
        1 => any::<usize>().prop_map(Step::FreeTwice),
        1 => (0..8 * CHUNK, 0..2 * CHUNK).prop_map(|(at, len)| Step::Add(at..at + len)),
    ]
}

/// Up to four runs of RAM with any edges, or edges at chunks.
fn spans() -> impl Strategy<Value = Vec<Range<u64>>> {
    let lengths = prop_oneof![1..64u64, 1..2 * CHUNK, Just(CHUNK), Just(2 * CHUNK)];
    let gaps = prop_oneof![1..64u64, 1..2 * CHUNK, Just(CHUNK)];
    proptest::collection::vec((gaps, lengths), 1..5).prop_map(|runs| {
        let mut at = 0;
        let mut next = |(gap, length): (u64, u64)| {
            let start = at + gap;
            at = start + length;
            start..at
        };
        runs.into_iter().map(&mut next).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 250 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn buddy_agrees_with_an_array_of_frames(
        spans in spans(),
        all_free in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 8 } else { 60 }),
    ) {
        let mut metadata = metadata(&spans);
        let mut pair = if all_free {
            Pair::with_all_free(&spans, &mut metadata)
        } else {
            Pair::new(&spans, &mut metadata)
        };
        pair.check();
        for step in &steps {
            apply(&mut pair, step);
            pair.check();
        }
    }

    #[test]
    fn exhaustion_and_free_in_any_order_is_pristine(
        spans in spans(),
        wanted in proptest::collection::vec(orders(), 1..40),
        seed in any::<u64>(),
    ) {
        if cfg!(miri) { return Ok(()); }
        let mut metadata = metadata(&spans);
        let mut pair = Pair::with_all_free(&spans, &mut metadata);
        let pristine = pair.model.clone();
        let mut wanted = wanted.into_iter().cycle();
        let mut smallest_refused = usize::MAX;
        while pair.buddy.free_pages() > 0 {
            let held = pair.held.len();
            let want = wanted.next().unwrap();
            let want = if want < smallest_refused { want } else { 0 };
            pair.alloc(want);
            if held == pair.held.len() {
                smallest_refused = want;
            }
        }
        pair.check();
        prop_assert_eq!(pair.buddy.alloc(Order::ZERO, Mobility::Unmovable).unwrap_err().largest_free_order, None);
        let mut state = seed | 1;
        while !pair.held.is_empty() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            pair.free_held((state >> 33) as usize);
        }
        pair.check();
        prop_assert_eq!(pair.model, pristine);
    }
}

/// Every sequence of at most `depth` operations, each from the start; checked at its end.
fn every_sequence(spans: &[Range<u64>], orders: &[usize], depth: usize) -> usize {
    let mut metadata = metadata(spans);
    let mut sequences = 0;
    let mut stack = vec![Vec::new()];
    while let Some(steps) = stack.pop() {
        let mut pair = Pair::with_all_free(spans, &mut metadata);
        for step in &steps {
            apply(&mut pair, step);
        }
        pair.check();
        sequences += 1;
        if steps.len() == depth {
            continue;
        }
        let frees = (0..pair.held.len()).map(Step::Free);
        let splits = (0..pair.held.len()).map(Step::Split);
        let allocs = orders.iter().copied().map(Step::Alloc);
        for step in allocs.chain(frees).chain(splits) {
            stack.push(steps.iter().cloned().chain([step]).collect());
        }
    }
    sequences
}

#[test]
fn every_short_sequence_in_a_few_frames_across_a_chunk_border() {
    let depth = if cfg!(miri) { 1 } else { 5 };
    let sequences = every_sequence(&[1019..1027, 1030..1031], &[0, 1, 2], depth);
    assert!(cfg!(miri) || sequences > 3000, "{sequences}");
}

#[test]
fn every_short_sequence_of_large_blocks_in_two_chunks() {
    let depth = if cfg!(miri) { 1 } else { 5 };
    let sequences = every_sequence(slice::from_ref(&(0..2048)), &[0, 8, 9, 10], depth);
    assert!(cfg!(miri) || sequences > 5000, "{sequences}");
}

/// From any set of free frames of a small block, any block can be freed that is not free.
#[test]
fn every_pattern_of_twelve_frames_builds_the_same_blocks() {
    let spans = slice::from_ref(&(1018..1030));
    let patterns = if cfg!(miri) { 5..6u64 } else { 0..1 << 12 };
    let mut metadata = metadata(spans);
    for pattern in patterns {
        let mut pair = Pair::new(spans, &mut metadata);
        for bit in (0..12).rev().filter(|bit| pattern >> bit & 1 != 0) {
            pair.add(&(1018 + bit..1019 + bit));
        }
        pair.check();
        for (start, order) in (1016..1032).flat_map(|at| (0..4).map(move |order| (at, order))) {
            pair.free_wrong(start, order);
        }
        pair.check();
    }
}
