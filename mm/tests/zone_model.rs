// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zones built from random memory maps: banks on two nodes with any edges, reservations to the byte,
//! any DMA limit; beside a model that knows of each frame whether it is free and where it belongs.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use mm::addr::{MAX_ORDER, Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::arch::host::Host;
use mm::buddy::{FreeError, PageBlock};
use mm::gfp::Gfp;
use mm::memblock::{Memblock, Request, ReserveFlags, Tag};
use mm::page_alloc::{Config, Fault, Pages, Tuning};
use mm::zone::{MAX_ZONES, ZoneError, ZoneKind};
use proptest::prelude::*;

/// Six chunks, the first at address 0.
const FRAMES: u64 = 6 * 1024;
const BYTES: u64 = FRAMES * PAGE_SIZE;

fn address(raw: u64) -> PhysAddr {
    PhysAddr::new(raw).unwrap()
}

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(address(start.min(BYTES)), address((start + size).min(BYTES))).unwrap()
}

fn pfn(raw: u64) -> Pfn {
    Pfn::new(raw).unwrap()
}

type Home = (u32, ZoneKind);

/// Where each frame belongs, if it is RAM, and whether it is free.
struct Model {
    home: Vec<Option<Home>>,
    free: Vec<bool>,
    /// Whether some device reaches less than all.
    has_limit: bool,
}

impl Model {
    fn new(memblock: &Memblock, dma_limit: Option<PhysAddr>) -> Self {
        let frame = |index: u64| range(index * PAGE_SIZE, PAGE_SIZE);
        let inside = |outer: PhysRange, index: u64| outer.intersection(frame(index)) == Some(frame(index));
        let home = |index: u64| {
            let region = memblock.memory().iter().find(|region| inside(region.range, index))?;
            let is_dma = dma_limit.is_some_and(|limit| frame(index).end() <= limit);
            Some((region.node, if is_dma { ZoneKind::Dma } else { ZoneKind::Normal }))
        };
        let mut free = vec![false; FRAMES as usize];
        for region in memblock.free_ranges() {
            let frames = region.range.start().pfn().as_raw()..region.range.end().pfn().as_raw();
            frames.for_each(|frame| free[frame as usize] = true);
        }
        Self { home: (0..FRAMES).map(home).collect(), free, has_limit: dma_limit.is_some() }
    }

    fn homes(&self) -> Vec<Home> {
        let mut homes: Vec<_> = self.home.iter().flatten().copied().collect();
        homes.sort_unstable();
        homes.dedup();
        homes
    }

    /// In what order an allocation tries the zones.
    fn fallback(&self, highest: ZoneKind, node: u32) -> Vec<Home> {
        let homes = self.homes();
        let node = if homes.iter().any(|home| home.0 == node) { node } else { homes[0].0 };
        let mut homes: Vec<_> = homes.into_iter().filter(|home| home.1 <= highest).collect();
        homes.sort_by_key(|home| (home.0 != node, home.0, std::cmp::Reverse(home.1)));
        homes
    }

    fn free_in(&self, home: Home) -> u64 {
        let frames = self.home.iter().zip(&self.free);
        frames.filter(|(at, free)| **at == Some(home) && **free).count() as u64
    }

    fn has_block(&self, home: Home, order: Order) -> bool {
        let pages = order.pages();
        (0..FRAMES / pages).any(|block| {
            (block * pages..(block + 1) * pages)
                .all(|at| self.free[at as usize] && self.home[at as usize] == Some(home))
        })
    }

    fn set(&mut self, block: (Pfn, Order), free: bool) {
        let start = block.0.as_raw() as usize;
        self.free[start..start + block.1.pages() as usize].fill(free);
    }

    fn check(&self, zones: &Pages<'_, Host<'static>>) {
        assert_eq!(zones.validate(), Ok(()));
        let each = zones.each_zone(|zone| {
            let blocks: Vec<_> = zone.buddy().free_blocks().collect();
            let figures = (zone.buddy().free_pages(), zone.present_pages(), zone.spanned());
            ((zone.node(), zone.kind()), figures, blocks)
        });
        let each: Vec<_> = each.into_iter().flatten().collect();
        assert_eq!(each.iter().map(|zone| zone.0).collect::<Vec<_>>(), self.homes());
        let mut free = vec![false; FRAMES as usize];
        for (home, (free_pages, present_pages, spanned), blocks) in each {
            assert_eq!(free_pages, self.free_in(home));
            let present = self.home.iter().filter(|at| **at == Some(home)).count();
            assert_eq!(present_pages, present as u64);
            for (first, order) in blocks {
                for frame in first.as_raw()..first.as_raw() + order.pages() {
                    assert_eq!(self.home[frame as usize], Some(home));
                    assert!(!free[frame as usize], "frame {frame} is free twice");
                    free[frame as usize] = true;
                }
            }
            let frames = || (0..FRAMES).filter(|at| self.home[*at as usize] == Some(home));
            let (first, last) = (frames().next().unwrap(), frames().next_back().unwrap());
            assert_eq!(spanned, range(first * PAGE_SIZE, (last + 1 - first) * PAGE_SIZE));
        }
        assert!(free == self.free, "free frames differ");
    }
}

#[derive(Clone, Debug)]
struct Map {
    banks: Vec<(u64, u64, u32)>,
    reserved: Vec<(u64, u64)>,
    dma_limit: Option<u64>,
}

/// Byte positions: of a chunk, of a frame, or any.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![(0..=6u64).prop_map(|chunk| chunk << 22), (0..FRAMES).prop_map(|frame| frame << 12), 0..BYTES,]
}

fn map() -> impl Strategy<Value = Map> {
    let bank = (position(), position(), prop_oneof![Just(0u32), Just(3u32)]);
    let reserved = (position(), prop_oneof![0..5 * PAGE_SIZE, 0..BYTES / 4]);
    let banks = proptest::collection::vec(bank, 1..5);
    let reserved = proptest::collection::vec(reserved, 0..6);
    (banks, reserved, proptest::option::of(position())).prop_map(|(banks, reserved, dma_limit)| Map {
        banks,
        reserved,
        dma_limit,
    })
}

/// Zones and nothing in front of them, no page held back.
fn config(dma_limit: Option<PhysAddr>) -> Config {
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    Config { dma_limit, tuning, hoarding: false, ..Config::DEFAULT }
}

fn metadata_bytes(memblock: &Memblock, dma_limit: Option<PhysAddr>) -> u64 {
    Pages::<Host<'_>>::metadata_bytes(memblock, &config(dma_limit))
}

/// The only host there is: its frames are counted and never touched.
fn host() -> &'static Host<'static> {
    Box::leak(Box::new(Host::new(PhysAddr::ZERO, &mut [])))
}

fn build<'a>(
    memblock: &Memblock,
    dma_limit: Option<PhysAddr>,
    metadata: &'a mut [u64],
) -> Result<Pages<'a, Host<'static>>, ZoneError> {
    Pages::build(host(), memblock, &config(dma_limit), metadata)
}

/// Memblock with the metadata allocated, and a garbage buffer in its place.
fn prepare(map: &Map) -> Option<(Memblock, Option<PhysAddr>, Vec<u64>)> {
    let mut memblock = Memblock::new();
    for (a, b, node) in &map.banks {
        memblock.add(range(*a.min(b), a.abs_diff(*b)), *node).unwrap();
    }
    for (index, (start, size)) in map.reserved.iter().enumerate() {
        let tag = Tag(index as u16);
        memblock.reserve(range(*start, *size), tag, ReserveFlags::empty()).unwrap();
    }
    let dma_limit = map.dma_limit.map(address);
    let bytes = metadata_bytes(&memblock, dma_limit);
    if bytes > 0 {
        memblock.alloc(Request::new(bytes, Tag(99))).ok()?;
    }
    assert_eq!(metadata_bytes(&memblock, dma_limit), bytes);
    let words = (0..bytes / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    Some((memblock, dma_limit, words))
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize, ZoneKind, u32),
    Free(usize),
    FreeWrong(u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![1 => Just(ZoneKind::Dma), 2 => Just(ZoneKind::Normal)];
    let node = prop_oneof![Just(0), Just(3), Just(7)];
    prop_oneof![
        4 => (0..=MAX_ORDER, kind, node).prop_map(|(order, kind, node)| Step::Alloc(order, kind, node)),
        2 => any::<usize>().prop_map(Step::Free),
        1 => (0..FRAMES, 0..=MAX_ORDER).prop_map(|(at, order)| Step::FreeWrong(at, order)),
    ]
}

fn apply(step: Step, zones: &Pages<'_, Host<'static>>, model: &mut Model, held: &mut Vec<(Pfn, Order)>) {
    match step {
        Step::Alloc(order, kind, node) => {
            let order = Order::new(order).unwrap();
            // Without a limit every device reaches all.
            let highest = if model.has_limit { kind } else { ZoneKind::Normal };
            let fallback = model.fallback(highest, node);
            let home = fallback.iter().find(|home| model.has_block(**home, order));
            let gfp = if kind == ZoneKind::Dma { Gfp::KERNEL | Gfp::DMA } else { Gfp::KERNEL };
            match zones.alloc_on(node, gfp, order) {
                Ok(block) => {
                    assert_eq!(model.home[block.pfn().as_raw() as usize].as_ref(), home);
                    held.push(block.into_raw());
                    model.set(held[held.len() - 1], false);
                }
                Err(error) => {
                    assert_eq!(home, None);
                    let free = fallback.iter().map(|home| model.free_in(*home)).sum::<u64>();
                    assert_eq!((error.order(), error.free_pages()), (order, free));
                    let largest =
                        Order::all().rev().find(|order| fallback.iter().any(|home| model.has_block(*home, *order)));
                    assert_eq!(error.largest_free_order(), largest);
                    if let Some(first) = fallback.first() {
                        assert_eq!((error.node(), error.zone()), *first);
                    }
                }
            }
        }
        Step::Free(index) => {
            if !held.is_empty() {
                let block = held.swap_remove(index % held.len());
                assert_eq!(zones.free(PageBlock::from_raw(block.0, block.1)), Ok(()));
                model.set(block, true);
            }
        }
        Step::FreeWrong(at, order) => {
            let order = Order::new(order).unwrap();
            let freed = || zones.free(PageBlock::from_raw(pfn(at), order)).map_err(|error| error.fault());
            if model.home[at as usize].is_none() {
                assert_eq!(freed(), Err(Fault::Foreign));
            } else if !pfn(at).is_aligned(order) {
                assert_eq!(freed(), Err(Fault::Misaligned));
            } else if model.free[at as usize] {
                assert!(freed().is_err());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn zones_agree_with_an_array_of_frames(
        map in map(),
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 3 } else { 24 }),
    ) {
        let Some((memblock, dma_limit, mut metadata)) = prepare(&map) else { return Ok(()) };
        let mut model = Model::new(&memblock, dma_limit);
        if model.homes().is_empty() {
            return Ok(());
        }
        let zones = build(&memblock, dma_limit, &mut metadata).unwrap();
        model.check(&zones);
        prop_assert_eq!(zones.managed_pages() * PAGE_SIZE, memblock.ledger().free_bytes);
        prop_assert_eq!(zones.free_pages(), zones.managed_pages());
        let mut held = Vec::new();
        for step in steps {
            apply(step, &zones, &mut model, &mut held);
            if !cfg!(miri) {
                model.check(&zones);
            }
        }
        while !held.is_empty() {
            apply(Step::Free(held.len() / 2), &zones, &mut model, &mut held);
        }
        model.check(&zones);
        prop_assert_eq!(zones.free_pages(), zones.managed_pages());
    }
}

#[test]
fn too_many_nodes_and_too_little_metadata_are_errors() {
    let mut memblock = Memblock::new();
    for node in 0..=MAX_ZONES as u32 {
        memblock.add(range(u64::from(node) << 20, 1 << 20), node).unwrap();
    }
    let bytes = metadata_bytes(&memblock, None);
    let mut metadata = vec![0; bytes as usize / 8];
    let built = build(&memblock, None, &mut metadata).map(|_| ());
    assert_eq!(built, Err(ZoneError::TooManyZones(MAX_ZONES as u32)));
    let mut memblock = Memblock::new();
    memblock.add(range(0, BYTES), 0).unwrap();
    let words = metadata_bytes(&memblock, None) as usize / 8;
    let built = build(&memblock, None, &mut metadata[..words - 1]).map(|_| ());
    assert!(matches!(built, Err(ZoneError::Metadata(_))));
    let mut metadata = vec![0; words];
    assert!(build(&memblock, None, &mut metadata).is_ok());
}

#[test]
fn no_memory_makes_no_zones_and_allocation_fails() {
    let memblock = Memblock::new();
    assert_eq!(metadata_bytes(&memblock, None), 0);
    let mut metadata = vec![0; 2000];
    let zones = build(&memblock, None, &mut metadata).unwrap();
    assert_eq!(zones.info(), [None; MAX_ZONES]);
    let error = zones.alloc(Gfp::KERNEL, Order::ZERO).unwrap_err();
    assert_eq!((error.free_pages(), error.largest_free_order()), (0, None));
    assert!(zones.free(PageBlock::from_raw(pfn(0), Order::ZERO)).is_err());
}

#[test]
fn what_booting_held_back_can_be_added_across_a_zone_border() {
    let mut memblock = Memblock::new();
    memblock.add(range(0, BYTES), 0).unwrap();
    memblock.reserve(range(1 << 20, 8 << 20), Tag(1), ReserveFlags::empty()).unwrap();
    let limit = Some(address((5 << 20) + 0x3000));
    let mut metadata = vec![7; metadata_bytes(&memblock, limit) as usize / 8];
    let zones = build(&memblock, limit, &mut metadata).unwrap();
    let managed = zones.managed_pages();
    assert_eq!(zones.add_range(range((1 << 20) + 1, (8 << 20) - 1)), Ok((8 << 8) - 1));
    assert_eq!(zones.managed_pages(), managed + (8 << 8) - 1);
    assert_eq!(zones.validate(), Ok(()));
    assert!(zones.add_range(range(2 << 20, 1 << 20)).is_err());
    let beyond = PhysRange::new(address(BYTES), address(BYTES + PAGE_SIZE)).unwrap();
    let foreign = FreeError::Foreign(pfn(FRAMES), Order::ZERO);
    assert_eq!(zones.add_range(beyond), Err(foreign));
}

/// The bank layouts of a Raspberry Pi 4 with 8 GiB, and its 1 GiB limit.
#[test]
fn a_raspberry_pi_has_a_dma_zone() {
    let mut memblock = Memblock::new();
    let bank = |start, size| PhysRange::new(address(start), address(start + size)).unwrap();
    for (start, size) in
        [(0, 0x3b40_0000), (0x4000_0000, 0xbc00_0000), (0x1_0000_0000, 0x8000_0000), (0x1_8000_0000, 0x8000_0000)]
    {
        memblock.add(bank(start, size), 0).unwrap();
    }
    let limit = Some(address(1 << 30));
    let bytes = metadata_bytes(&memblock, limit);
    let frames = memblock.ledger().total_bytes / PAGE_SIZE;
    assert!(bytes * 1000 / frames < 500, "{bytes} bytes for {frames} frames");
    if cfg!(miri) {
        return;
    }
    let mut metadata = vec![!0; bytes as usize / 8];
    let zones = build(&memblock, limit, &mut metadata).unwrap();
    let figures = zones.each_zone(|zone| (zone.kind().name(), zone.present_pages(), zone.spanned().start().as_raw()));
    let figures: Vec<_> = figures.into_iter().flatten().collect();
    assert_eq!(figures, [("DMA", 0x3b400, 0), ("Normal", 0x1bc000, 0x4000_0000)]);
}
