// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Buddy` beside a model that cannot be wrong, after every step: random ones, and all short sequences of a few.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod model;

use std::ops::Range;
use std::slice;

use mm::addr::{MAX_ORDER, Order, Pfn};
use mm::buddy::{AllocError, Buddy, FreeError, Mobility, PageBlock, RangeError};
use model::{BASE, CHUNK, Model, order, pages, pfn};
use proptest::prelude::*;

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

    /// Cut to what there are flags for.
    fn clip(&self, frames: &Range<u64>) -> Range<u64> {
        let end = self.model.free.len() as u64;
        frames.start.min(end)..frames.end.min(end)
    }

    fn add(&mut self, frames: &Range<u64>) {
        let range = frames.start as usize..frames.end as usize;
        let is_ram = frames.clone().all(|frame| self.model.is_ram(frame));
        let in_use = self.held.iter().any(|(start, order)| *start < frames.end && frames.start < start + (1 << order));
        if in_use {
            return; // A lie that nobody can see.
        }
        let added = self.buddy.add_range(pages(frames));
        if is_ram && !self.model.free[range].contains(&true) {
            assert_eq!(added, Ok(frames.end - frames.start));
            self.model.set_range(frames, true, Mobility::Movable);
        } else {
            assert!(added.is_err(), "{frames:?} was added");
        }
    }

    fn alloc(&mut self, want: usize, mobility: Mobility) {
        match (self.buddy.alloc(order(want), mobility), self.model.alloc(want, mobility)) {
            (Ok(block), Some(start)) => {
                assert_eq!((block.pfn().as_raw() - BASE, block.order().as_usize()), (start, want));
                let (pfn, order) = block.into_raw();
                self.held.push((pfn.as_raw() - BASE, order.as_usize()));
            }
            (Err(error), None) => {
                let largest_free_order = self.model.largest_ordinary().map(order);
                let free_pages = self.model.free_pages();
                let order = order(want);
                assert_eq!(error, AllocError { order, free_pages, largest_free_order });
            }
            (got, expected) => {
                let got = got.map(|block| block.pfn().as_raw() - BASE);
                assert_eq!(got.ok(), expected, "order {want}, {mobility:?}");
            }
        }
    }

    /// Takes blocks in bulk: the same as one by one.
    fn alloc_bulk(&mut self, want: usize, mobility: Mobility, count: usize) {
        let mut blocks = vec![Pfn::default(); count];
        let taken = self.buddy.alloc_bulk(order(want), mobility, &mut blocks);
        let expected: Vec<_> = (0..count).map_while(|_| self.model.alloc(want, mobility)).collect();
        let taken: Vec<_> = blocks[..taken].iter().map(|pfn| pfn.as_raw() - BASE).collect();
        assert_eq!(taken, expected, "order {want}, {mobility:?}");
        self.held.extend(taken.into_iter().map(|start| (start, want)));
    }

    fn free_raw(&mut self, start: u64, at: usize) -> Result<(), FreeError> {
        self.buddy.free(PageBlock::from_raw(pfn(start), order(at)))
    }

    fn free_held(&mut self, index: usize) {
        if self.held.is_empty() {
            return;
        }
        let (start, at) = self.held.swap_remove(index % self.held.len());
        assert_eq!(self.free_raw(start, at), Ok(()));
        self.model.put(start, at);
    }

    /// Frees held blocks of one order in bulk, in any order; and behind them one that is free already.
    fn free_bulk(&mut self, at: usize, sorted: bool, twice: bool) {
        let (mut blocks, held): (Vec<_>, Vec<_>) = self.held.iter().partition(|(_, order)| *order == at);
        self.held = held;
        if sorted {
            blocks.sort_unstable();
        }
        let freed = blocks.len();
        if twice && let Some(again) = blocks.first().copied() {
            blocks.extend([again; 2]);
        }
        let pfns: Vec<_> = blocks.iter().map(|(start, _)| pfn(*start)).collect();
        let done = self.buddy.free_bulk(order(at), &pfns);
        blocks.iter().take(freed).for_each(|(start, _)| self.model.put(*start, at));
        match pfns.get(freed) {
            Some(pfn) => assert_eq!(done, Err((freed, FreeError::AlreadyFree(*pfn, order(at))))),
            None => assert_eq!(done, Ok(())),
        }
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
        let error = match why {
            "misaligned" => FreeError::Misaligned(pfn(start), order(at)),
            "foreign" => FreeError::Foreign(pfn(start), order(at)),
            _ => FreeError::AlreadyFree(pfn(start), order(at)),
        };
        assert_eq!(self.free_raw(start, at), Err(error));
    }

    fn set_mobility(&mut self, frame: u64, mobility: Mobility) {
        let before = self.buddy.set_mobility(pfn(frame), mobility);
        if self.model.is_ram(frame) {
            assert_eq!(before, Some(self.model.type_of(frame / CHUNK)));
            self.model.set_type(frame / CHUNK, mobility);
        } else {
            assert_eq!(before, None);
        }
    }

    /// Isolates a range, takes it if nothing of it is in use, and ends the isolation.
    fn claim(&mut self, frames: &Range<u64>, isolate: bool, mobility: Mobility) {
        let range = pages(frames);
        let busy: Vec<_> = self.buddy.busy(range).collect();
        let expected: Vec<_> = self.model.busy(frames).iter().map(pages).collect();
        assert_eq!(busy, expected);
        let firsts = || (frames.start / CHUNK..frames.end.div_ceil(CHUNK)).map(|chunk| frames.start.max(chunk * CHUNK));
        let mut isolated = false;
        if isolate {
            let fault = firsts().find_map(|first| match first {
                _ if !self.model.is_ram(first) => Some(RangeError::Foreign(pfn(first))),
                _ if self.model.type_of(first / CHUNK) == Mobility::Isolate => Some(RangeError::Isolated(pfn(first))),
                _ => None,
            });
            assert_eq!(self.buddy.isolate(range), fault.map_or(Ok(()), Err));
            isolated = fault.is_none();
            if isolated {
                firsts().for_each(|first| self.model.set_type(first / CHUNK, Mobility::Isolate));
                self.model.check(&self.buddy);
            }
        }
        match self.model.busy(frames).first() {
            Some(busy) => {
                assert_eq!(self.buddy.take_range(range, mobility), Err(RangeError::Busy(pfn(busy.start))));
            }
            None => {
                assert_eq!(self.buddy.take_range(range, mobility), Ok(()));
                self.model.set_range(frames, false, mobility);
                self.held.extend(frames.clone().map(|frame| (frame, 0)));
            }
        }
        if isolated {
            self.buddy.unisolate(range, mobility);
            firsts().for_each(|first| self.model.unisolate(first / CHUNK, mobility));
        }
    }

    fn check(&self) {
        self.model.check(&self.buddy);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize, Mobility),
    AllocBulk(usize, Mobility, usize),
    Free(usize),
    FreeBulk(usize, bool, bool),
    Split(usize),
    FreeWrong(u64, usize),
    FreeTwice(usize),
    Add(Range<u64>),
    SetMobility(u64, Mobility),
    Claim(Range<u64>, bool, Mobility),
    WholeRun(u64),
}

fn apply(pair: &mut Pair<'_>, step: &Step) {
    match *step {
        Step::Alloc(order, mobility) => pair.alloc(order, mobility),
        Step::AllocBulk(order, mobility, count) => pair.alloc_bulk(order, mobility, count),
        Step::Free(index) => pair.free_held(index),
        Step::FreeBulk(order, sorted, twice) => pair.free_bulk(order, sorted, twice),
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
        Step::Add(ref frames) => pair.add(&pair.clip(frames)),
        Step::SetMobility(frame, mobility) => pair.set_mobility(frame, mobility),
        Step::Claim(ref frames, isolate, mobility) => pair.claim(&pair.clip(frames), isolate, mobility),
        Step::WholeRun(nr_chunks) => {
            let found = pair.buddy.whole_run(nr_chunks).map(|pfn| pfn.as_raw() - BASE);
            assert_eq!(found, pair.model.whole_run(nr_chunks));
        }
    }
}

fn orders() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..3usize, 3 => 3..8usize, 2 => 8..=MAX_ORDER]
}

fn ordinary() -> impl Strategy<Value = Mobility> {
    prop_oneof![Just(Mobility::Unmovable), Just(Mobility::Movable), Just(Mobility::Reclaimable)]
}

fn mobilities() -> impl Strategy<Value = Mobility> {
    prop_oneof![8 => ordinary(), 1 => Just(Mobility::HighAtomic), 1 => Just(Mobility::Cma)]
}

fn frames() -> impl Strategy<Value = Range<u64>> {
    let lengths = prop_oneof![1..64u64, 1..2 * CHUNK, Just(CHUNK)];
    let starts = prop_oneof![0..8 * CHUNK, (0..8u64).prop_map(|chunk| chunk * CHUNK)];
    (starts, lengths).prop_map(|(at, length)| at..at + length)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (orders(), mobilities()).prop_map(|(order, mobility)| Step::Alloc(order, mobility)),
        2 => (orders(), mobilities(), 0..200usize).prop_map(|(o, m, count)| Step::AllocBulk(o, m, count)),
        6 => any::<usize>().prop_map(Step::Free),
        2 => (orders(), any::<bool>(), any::<bool>()).prop_map(|(o, sorted, twice)| Step::FreeBulk(o, sorted, twice)),
        1 => any::<usize>().prop_map(Step::Split),
        2 => (0..8 * CHUNK, 0..=MAX_ORDER).prop_map(|(at, o)| Step::FreeWrong(at >> o << o, o)),
        1 => (0..8 * CHUNK, 0..=MAX_ORDER).prop_map(|(at, o)| Step::FreeWrong(at, o)),
        1 => any::<usize>().prop_map(Step::FreeTwice),
        1 => frames().prop_map(Step::Add),
        1 => (0..8 * CHUNK, prop_oneof![mobilities(), Just(Mobility::Isolate)])
            .prop_map(|(frame, mobility)| Step::SetMobility(frame, mobility)),
        1 => (frames(), any::<bool>(), ordinary()).prop_map(|(frames, i, m)| Step::Claim(frames, i, m)),
        1 => (1..4u64).prop_map(Step::WholeRun),
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
            // Under Miri every look at every frame takes seconds.
            if !cfg!(miri) {
                pair.check();
            }
        }
        pair.check();
    }

    #[test]
    fn exhaustion_and_free_in_any_order_is_pristine(
        spans in spans(),
        wanted in proptest::collection::vec((orders(), ordinary()), 1..40),
        seed in any::<u64>(),
    ) {
        if cfg!(miri) { return Ok(()); }
        let mut metadata = metadata(&spans);
        let mut pair = Pair::with_all_free(&spans, &mut metadata);
        let pristine = pair.model.all_blocks();
        let mut wanted = wanted.into_iter().cycle();
        let mut smallest_refused = usize::MAX;
        while pair.buddy.free_pages() > 0 {
            let held = pair.held.len();
            let (want, mobility) = wanted.next().unwrap();
            let want = if want < smallest_refused { want } else { 0 };
            pair.alloc(want, mobility);
            if held == pair.held.len() {
                smallest_refused = want;
            }
        }
        pair.check();
        for mobility in [Mobility::Unmovable, Mobility::Movable, Mobility::Reclaimable] {
            let error = pair.buddy.alloc(Order::ZERO, mobility).unwrap_err();
            prop_assert_eq!(error.largest_free_order, None);
        }
        let mut state = seed | 1;
        while !pair.held.is_empty() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            pair.free_held((state >> 33) as usize);
        }
        pair.check();
        prop_assert_eq!(pair.model.all_blocks(), pristine);
    }
}

/// Every sequence of at most `depth` operations, each from the start; checked at its end.
fn every_sequence(spans: &[Range<u64>], allocs: &[Step], depth: usize) -> usize {
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
        for step in allocs.iter().cloned().chain(frees).chain(splits) {
            stack.push(steps.iter().cloned().chain([step]).collect());
        }
    }
    sequences
}

fn alloc_each(orders: &[usize]) -> Vec<Step> {
    orders.iter().map(|order| Step::Alloc(*order, Mobility::Unmovable)).collect()
}

#[test]
fn every_short_sequence_in_a_few_frames_across_a_chunk_border() {
    let depth = if cfg!(miri) { 1 } else { 5 };
    let sequences = every_sequence(&[1019..1027, 1030..1031], &alloc_each(&[0, 1, 2]), depth);
    assert!(cfg!(miri) || sequences > 3000, "{sequences}");
}

#[test]
fn every_short_sequence_of_large_blocks_in_two_chunks() {
    let depth = if cfg!(miri) { 1 } else { 5 };
    let sequences = every_sequence(slice::from_ref(&(0..2048)), &alloc_each(&[0, 8, 9, 10]), depth);
    assert!(cfg!(miri) || sequences > 5000, "{sequences}");
}

/// Five chunks, four of them too small for a whole one, so that types run out of their own soon.
#[test]
fn every_short_sequence_of_two_types_that_fall_back() {
    let depth = if cfg!(miri) { 1 } else { 5 };
    let spans = [1000..2048, 3060..3080, 5112..5128, 7160..7176];
    let allocs: Vec<_> = [Mobility::Unmovable, Mobility::Movable]
        .into_iter()
        .flat_map(|mobility| [Step::Alloc(3, mobility), Step::Alloc(9, mobility)])
        .collect();
    let sequences = every_sequence(&spans, &allocs, depth);
    assert!(cfg!(miri) || sequences > 5000, "{sequences}");
}

/// From any set of free frames of a small block, any block can be freed that is not free.
#[test]
fn a_whole_chunk_is_borrowed_from_a_contiguous_area_too() {
    let spans = [1..2049, 3073..5121];
    let mut metadata = metadata(&spans);
    let mut pair = Pair::with_all_free(&spans, &mut metadata);
    // The only chunk that is free as a whole is the area's.
    let steps = [
        Step::SetMobility(4096, Mobility::Cma),
        Step::AllocBulk(0, Mobility::Reclaimable, 1),
        Step::Alloc(10, Mobility::Movable),
        Step::Alloc(10, Mobility::Unmovable),
    ];
    for step in &steps {
        apply(&mut pair, step);
        pair.check();
    }
}

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
