// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Memblock` beside a model that cannot be wrong: an array of cells, each with a node and an owner.
//!
//! Cells have odd sizes, five to a page, so that edges fall on, just before and just behind page
//! boundaries, and every byte counts.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use mm::memblock::{Direction, Memblock, MemblockError, MemoryRegion, Request, Reservation, ReserveFlags, Tag};
use proptest::prelude::*;

const PAGES: usize = 12;
/// Where cells begin within a page.
const EDGES: [u64; 5] = [0, 1, 100, 2048, 4095];
const CELLS: usize = PAGES * EDGES.len();

/// The address of the edge before cell `cell`.
fn edge(cell: usize) -> PhysAddr {
    let page = (cell / EDGES.len()) as u64 * PAGE_SIZE;
    PhysAddr::new(0x4000_0000 + page + EDGES[cell % EDGES.len()]).unwrap()
}

fn range((start, end): (usize, usize)) -> PhysRange {
    PhysRange::new(edge(start), edge(end)).unwrap()
}

struct Model {
    node: Vec<Option<u32>>,
    owner: Vec<Option<(Tag, ReserveFlags)>>,
}

impl Model {
    fn new() -> Self {
        Self { node: vec![None; CELLS], owner: vec![None; CELLS] }
    }

    /// Maximal runs of cells for which `key` gives the same value.
    fn runs<K: PartialEq + Copy>(&self, key: impl Fn(usize) -> Option<K>) -> Vec<(PhysRange, K)> {
        let mut runs = Vec::new();
        let mut cell = 0;
        while cell < CELLS {
            let start = cell;
            let value = key(cell);
            while cell < CELLS && key(cell) == value {
                cell += 1;
            }
            runs.extend(value.map(|value| (range((start, cell)), value)));
        }
        runs
    }

    fn bytes(&self, count: impl Fn(usize) -> bool) -> u64 {
        (0..CELLS).filter(|cell| count(*cell)).map(|cell| range((cell, cell + 1)).size()).sum()
    }

    fn free_bytes(&self) -> Vec<(PhysRange, u32)> {
        self.runs(|cell| self.node[cell].filter(|_| self.owner[cell].is_none()))
    }

    fn free(&self) -> Vec<(PhysRange, u32)> {
        let frames = self.free_bytes().into_iter().map(|(run, node)| (run.frames_inside(), node));
        frames.filter(|(run, _)| !run.is_empty()).collect()
    }

    fn mapped(&self) -> Vec<PhysRange> {
        let nomap = |cell: usize| self.owner[cell].is_some_and(|(_, flags)| flags.contains(ReserveFlags::NOMAP));
        let runs = self.runs(|cell| (self.node[cell].is_some() && !nomap(cell)).then_some(()));
        runs.into_iter().map(|(run, ())| run.frames_inside()).filter(|run| !run.is_empty()).collect()
    }

    /// Tries every page.
    fn place(&self, request: &Alloc) -> Option<PhysRange> {
        let within = range(request.within);
        let size = request.size.next_multiple_of(PAGE_SIZE);
        let fits = |page: &usize| {
            let start = edge(page * EDGES.len());
            let block = PhysRange::new(start, start.checked_add(size)?)?;
            let inside = |outer: PhysRange| outer.intersection(block) == Some(block);
            let free = self.free().iter().any(|(run, _)| inside(*run));
            (start.is_aligned(request.align) && inside(within) && free).then_some(block)
        };
        let mut fitting = (0..PAGES).filter_map(|page| fits(&page));
        match request.direction {
            Direction::BottomUp => fitting.next(),
            Direction::TopDown => fitting.next_back(),
        }
    }

    fn check(&self, memblock: &Memblock) {
        let memory: Vec<_> = memblock.memory().iter().map(|m| (m.range, m.node)).collect();
        assert_eq!(memory, self.runs(|cell| self.node[cell]));
        let reserved: Vec<_> = memblock.reserved().iter().map(|r| (r.range, (r.tag, r.flags))).collect();
        assert_eq!(reserved, self.runs(|cell| self.owner[cell]));
        let free: Vec<_> = memblock.free_ranges().map(|m| (m.range, m.node)).collect();
        assert_eq!(free, self.free());
        assert_eq!(memblock.mapped_ranges().collect::<Vec<_>>(), self.mapped());
        for cell in 0..CELLS {
            let owner = memblock.owner_of(edge(cell)).map(|r| (r.tag, r.flags));
            assert_eq!(owner, self.owner[cell]);
            assert_eq!(memblock.is_memory(edge(cell)), self.node[cell].is_some());
        }
        self.check_ledger(memblock);
    }

    fn check_ledger(&self, memblock: &Memblock) {
        let ledger = memblock.ledger();
        assert_eq!(ledger.total_bytes, self.bytes(|cell| self.node[cell].is_some()));
        let free: u64 = self.free().iter().map(|(run, _)| run.size()).sum();
        assert_eq!(ledger.free_bytes, free);
        let unowned: u64 = self.free_bytes().iter().map(|(run, _)| run.size()).sum();
        assert_eq!(ledger.rounding_bytes, unowned - free);
        let mut reserved = 0;
        for tag in (0..TAGS).map(Tag) {
            let owned = |cell: usize| self.owner[cell].is_some_and(|(owner, _)| owner == tag);
            let bytes = self.bytes(|cell| self.node[cell].is_some() && owned(cell));
            assert_eq!(memblock.reserved_bytes(tag), bytes);
            reserved += bytes;
        }
        assert_eq!(ledger.reserved_bytes, reserved);
        assert_eq!(ledger.total_bytes, ledger.free_bytes + ledger.reserved_bytes + ledger.rounding_bytes);
    }
}

const TAGS: u16 = 3;

#[derive(Clone, Debug)]
struct Alloc {
    size: u64,
    align: u64,
    within: (usize, usize),
    tag: Tag,
    direction: Direction,
}

#[derive(Clone, Debug)]
enum Step {
    Add((usize, usize), u32),
    Reserve((usize, usize), Tag, ReserveFlags),
    Release((usize, usize)),
    Clip((usize, usize)),
    Limit(u64, (usize, usize)),
    Alloc(Alloc),
}

/// Forgets the memory of some cells; what `clip` and `limit` must report.
fn hold_back(model: &mut Model, drop: impl Fn(usize) -> bool) -> Vec<(PhysRange, u32)> {
    let dropped = model.runs(|cell| model.node[cell].filter(|_| drop(cell)));
    (0..CELLS).filter(|cell| drop(*cell)).for_each(|cell| model.node[cell] = None);
    dropped
}

/// The number of cells that hold the lowest `bytes` of memory, if the border falls between cells.
fn cells_below(model: &Model, bytes: u64) -> Option<usize> {
    (0..=CELLS).find(|end| model.bytes(|cell| cell < *end && model.node[cell].is_some()) == bytes)
}

fn apply(step: Step, memblock: &mut Memblock, model: &mut Model) {
    let mut told = Vec::new();
    match step {
        Step::Add(at, node) => {
            let overlap = model.bytes(|cell| (at.0..at.1).contains(&cell) && model.node[cell].is_some());
            assert_eq!(memblock.add(range(at), node).unwrap().overlap_bytes, overlap);
            model.node[at.0..at.1].iter_mut().for_each(|old| *old = old.or(Some(node)));
        }
        Step::Reserve(at, tag, flags) => {
            let already = model.bytes(|cell| (at.0..at.1).contains(&cell) && model.owner[cell].is_some());
            assert_eq!(memblock.reserve(range(at), tag, flags).unwrap().already_bytes, already);
            model.owner[at.0..at.1].iter_mut().for_each(|old| *old = old.or(Some((tag, flags))));
        }
        Step::Release(at) => {
            let owned = model.bytes(|cell| (at.0..at.1).contains(&cell) && model.owner[cell].is_some());
            assert_eq!(memblock.release(range(at)), Ok(owned));
            model.owner[at.0..at.1].fill(None);
        }
        Step::Clip(at) => {
            let dropped = hold_back(model, |cell| !(at.0..at.1).contains(&cell));
            let bytes = memblock.clip(range(at), |m| told.push((m.range, m.node)));
            assert_eq!(bytes, dropped.iter().map(|(run, _)| run.size()).sum::<u64>());
            assert_eq!(told, dropped);
        }
        Step::Limit(bytes, keep) => {
            let Some(end) = cells_below(model, bytes) else {
                return;
            };
            let dropped = hold_back(model, |cell| cell >= end && !(keep.0..keep.1).contains(&cell));
            let limited = memblock.limit(bytes, range(keep), |m| told.push((m.range, m.node)));
            assert_eq!(limited, Ok(dropped.iter().map(|(run, _)| run.size()).sum::<u64>()));
            assert_eq!(told, dropped);
        }
        Step::Alloc(alloc) => {
            let request = Request::new(alloc.size, alloc.tag)
                .align(alloc.align)
                .within(range(alloc.within))
                .direction(alloc.direction);
            let placed = memblock.alloc(request);
            match model.place(&alloc) {
                Some(block) => {
                    assert_eq!(placed, Ok(block));
                    let inside = |cell: &usize| block.contains(edge(*cell));
                    let owner = Some((alloc.tag, ReserveFlags::empty()));
                    (0..CELLS).filter(inside).for_each(|cell| model.owner[cell] = owner);
                }
                None => assert!(matches!(placed, Err(MemblockError::NoSpace { .. }))),
            }
        }
    }
}

fn cells() -> impl Strategy<Value = (usize, usize)> {
    (0..CELLS, 0..CELLS).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

fn flags() -> impl Strategy<Value = ReserveFlags> {
    (0..4u8).prop_map(ReserveFlags::from_bits_truncate)
}

fn alloc() -> impl Strategy<Value = Alloc> {
    let direction = prop_oneof![Just(Direction::TopDown), Just(Direction::BottomUp)];
    (1..4 * PAGE_SIZE, 0..4u32, cells(), 0..TAGS, direction).prop_map(|(size, align, within, tag, direction)| Alloc {
        size,
        align: PAGE_SIZE << align,
        within,
        tag: Tag(tag),
        direction,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (cells(), 0..2u32).prop_map(|(at, node)| Step::Add(at, node)),
        4 => (cells(), 0..TAGS, flags()).prop_map(|(at, tag, f)| Step::Reserve(at, Tag(tag), f)),
        2 => cells().prop_map(Step::Release),
        1 => cells().prop_map(|(a, b)| Step::Clip((a / 4, CELLS - (CELLS - b) / 4 - 1))),
        1 => (0..CELLS, cells()).prop_map(|(end, keep)| {
            Step::Limit(range((0, end)).size(), keep)
        }),
        4 => alloc().prop_map(Step::Alloc),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 1000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn memblock_agrees_with_an_array_of_cells(steps in proptest::collection::vec(step(), 1..24)) {
        let mut memblock = Memblock::new();
        let mut model = Model::new();
        for step in steps {
            apply(step, &mut memblock, &mut model);
            model.check(&memblock);
        }
    }
}

#[test]
fn walks_yield_regions_in_memory_only() {
    let mut memblock = Memblock::new();
    let node = |at, node| MemoryRegion { range: range(at), node };
    memblock.add(range((5, 20)), 0).unwrap();
    memblock.add(range((20, 40)), 1).unwrap();
    memblock.reserve(range((0, 10)), Tag(1), ReserveFlags::empty()).unwrap();
    memblock.reserve(range((15, 25)), Tag(2), ReserveFlags::NOMAP).unwrap();
    let inside: Vec<Reservation> = memblock.reserved_memory().collect();
    let reserved = |at, tag, flags| Reservation { range: range(at), tag: Tag(tag), flags };
    assert_eq!(
        inside,
        [
            reserved((5, 10), 1, ReserveFlags::empty()),
            reserved((15, 20), 2, ReserveFlags::NOMAP),
            reserved((20, 25), 2, ReserveFlags::NOMAP),
        ]
    );
    assert_eq!(memblock.free_ranges().collect::<Vec<_>>(), [node((10, 15), 0), node((25, 40), 1)]);
    let mapped: Vec<_> = memblock.mapped_ranges().collect();
    assert_eq!(mapped, [range((5, 15)), range((25, 40))]);
}
