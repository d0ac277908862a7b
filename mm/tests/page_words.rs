// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that are out beside words that are hoarded, words that wait on another node, the lanes of CPUs, and what
//! all of it costs.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::sync::{Barrier, Mutex};

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::MAX_CPUS;
use mm::arch::host::Host;
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, Pages, Tuning};
use mm::slab::Slab;

type Allocator<'a> = Pages<'a, Host<'a>>;
type PageSlab<'a> = Slab<'a, Host<'a>, Allocator<'a>>;

fn frames(start: u64, end: u64) -> PhysRange {
    let at = |pfn: u64| PhysAddr::new(pfn * PAGE_SIZE).unwrap();
    PhysRange::new(at(start), at(end)).unwrap()
}

fn order(order: usize) -> Order {
    Order::new(order).unwrap()
}

/// An allocator over these frames, each range on a node of its own.
fn with_ranges(ranges: &[PhysRange], test: impl FnOnce(&Allocator<'_>)) {
    let mut memblock = Memblock::new();
    for (node, range) in (0..).zip(ranges) {
        memblock.add(*range, node).unwrap();
    }
    let host = Host::new(PhysAddr::ZERO, &mut []);
    let config = Config { pool_words: Some(64), nr_cpus: MAX_CPUS, ..Config::DEFAULT };
    let mut metadata = vec![!0; Allocator::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    let before = pages.free_pages();
    test(&pages);
    pages.drain();
    assert_eq!(pages.validate(), Ok(()));
    assert_eq!(pages.free_pages(), before);
}

#[test]
fn what_comes_straight_from_a_zone_goes_back_as_what_it_is_alone() {
    for out in 3..6 {
        with_ranges(&[frames(0, 2048)], |pages| {
            let outside = pages.alloc_on(0, Gfp::KERNEL, order(out)).unwrap();
            let single = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
            let free = || pages.free_pages() + pages.hoarded_pages();
            let before = free();
            let wrong = |pfn, at: usize| pages.free(PageBlock::from_raw(pfn, order(at)));
            for (block, own) in [(&outside, out), (&single, 0)] {
                for at in (0..=10).filter(|at| *at != own) {
                    assert!(wrong(block.pfn(), at).is_err(), "order {at} instead of {own}");
                }
            }
            assert_eq!(free(), before);
            assert_eq!(pages.validate(), Ok(()));
            let (outside_pfn, single_pfn) = (outside.pfn(), single.pfn());
            pages.free(outside).unwrap();
            assert!(wrong(outside_pfn, out).is_err(), "twice");
            pages.free(single).unwrap();
            assert!(wrong(single_pfn, 0).is_err(), "twice");
        });
    }
}

#[test]
fn a_range_that_was_out_before_its_word_was_hoarded_goes_back() {
    with_ranges(&[frames(0, 2048)], |pages| {
        let range = pages.alloc_contig_range(Gfp::KERNEL, frames(8, 16)).unwrap();
        let single = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        // The word is hoarded around the range.
        assert!(single.pfn().as_raw() < 64);
        pages.free_contig_range(range).unwrap();
        pages.free(single).unwrap();
    });
}

#[test]
fn where_every_word_has_a_block_the_one_in_use_stays() {
    with_ranges(&[frames(0, 4096)], |pages| {
        let take = || pages.alloc(Gfp::KERNEL, order(4)).unwrap();
        let taken: Vec<_> = (0..64).map(|_| take()).collect();
        // One of each word.
        let (back, kept): (Vec<_>, Vec<_>) = taken.into_iter().partition(|block| block.pfn().as_raw() % 64 == 0);
        back.into_iter().for_each(|block| pages.free(block).unwrap());
        let first = take();
        let pfn = first.pfn();
        pages.free(first).unwrap();
        for _ in 0..10 {
            let again = take();
            assert_eq!(again.pfn(), pfn);
            pages.free(again).unwrap();
        }
        kept.into_iter().for_each(|block| pages.free(block).unwrap());
    });
}

#[test]
fn a_word_that_waits_is_taken_on_its_own_node_first() {
    const FAR: u64 = 4096;
    with_ranges(&[frames(0, 1024), frames(FAR, FAR + 1024)], |pages| {
        let take = |count: usize| -> Vec<PageBlock> {
            (0..count).map(|_| pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap()).collect()
        };
        // Whichever CPU this thread is.
        let be_on = |node| (0..MAX_CPUS).for_each(|cpu| pages.set_node(cpu, node));
        let node_of = |block: &PageBlock| u32::from(block.pfn().as_raw() >= FAR);
        let first = take(4 * 64);
        assert!(first.iter().all(|block| node_of(block) == 0));
        // One of each word, so that they wait in pieces; the word in use has some too.
        let (back, kept): (Vec<_>, Vec<_>) = first.into_iter().partition(|block| block.pfn().as_raw() % 2 == 0);
        back.into_iter().for_each(|block| pages.free(block).unwrap());
        be_on(1);
        let second = take(4 * 64);
        let near = second.iter().filter(|block| node_of(block) == 0).count();
        assert!(near <= 32, "{near} {second:?}");
        be_on(0);
        let third = take(64);
        assert!(third.iter().any(|block| node_of(block) == 0));
        for block in kept.into_iter().chain(second).chain(third) {
            pages.free(block).unwrap();
        }
    });
}

/// A stripe, of which a lane has every second, and a lane's least RAM.
const STRIPE: u64 = 4096;
const LANE: u64 = 8 * STRIPE;

#[test]
fn each_of_two_threads_keeps_to_its_lane_until_that_is_used_up() {
    let frames = frames(STRIPE, STRIPE + 2 * LANE);
    let mut memblock = Memblock::new();
    memblock.add(frames, 0).unwrap();
    let host = Host::new(PhysAddr::ZERO, &mut []);
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    // The RAM is enough for two lanes.
    let config = Config { pool_words: Some(64), nr_cpus: MAX_CPUS, tuning, ..Config::DEFAULT };
    let mut metadata = vec![!0; Allocator::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    let before = pages.free_pages();
    let rounds = if cfg!(miri) { 1 } else { 20 };
    let (few, barrier) = (if cfg!(miri) { 40 } else { 3000 }, Barrier::new(2));
    let handed = [const { Mutex::new(Vec::new()) }; 2];
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (pages, barrier, handed) = (&pages, &barrier, &handed);
            scope.spawn(move || {
                let lane_of = |block: &PageBlock| block.pfn().as_raw() / STRIPE % 2;
                // Threads that are there at once have different numbers, but they may be of one lane.
                let mine = lane_of(&pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap());
                for round in 0..rounds {
                    let blocks: Vec<_> = (0..few).map(|at| pages.alloc(Gfp::KERNEL, order(at % 4)).unwrap()).collect();
                    assert!(round > 0 || blocks.iter().all(|block| lane_of(block) == mine));
                    *handed[thread].lock().unwrap() = blocks;
                    barrier.wait();
                    // What the other has allocated.
                    let blocks = std::mem::take(&mut *handed[1 - thread].lock().unwrap());
                    blocks.into_iter().for_each(|block| pages.free(block).unwrap());
                    barrier.wait();
                }
            });
        }
    });
    // Each thread kept one.
    pages.drain();
    assert_eq!(pages.validate(), Ok(()));
    assert_eq!(pages.free_pages(), before - 2);
    if !cfg!(miri) {
        let all: Vec<_> = std::iter::from_fn(|| pages.alloc(Gfp::KERNEL, Order::ZERO).ok()).collect();
        assert_eq!(all.len() as u64, before - 2);
        all.into_iter().for_each(|block| pages.free(block).unwrap());
    }
}

/// Bytes for each frame: of the page allocator, and with the slab's tags, for RAM of so many frames in ranges as told.
fn bytes_per_frame(ranges: &[PhysRange], nr_cpus: usize) -> (f64, f64) {
    let mut memblock = Memblock::new();
    for range in ranges {
        memblock.add(*range, 0).unwrap();
    }
    let config = Config { nr_cpus, dma_limit: PhysAddr::new(1 << 30), ..Config::DEFAULT };
    let pages = Allocator::metadata_bytes(&memblock, &config);
    let span = PhysRange::new(ranges.first().unwrap().start(), ranges.last().unwrap().end()).unwrap();
    let tags = PageSlab::nr_tags(span) as u64 * 2;
    let nr_frames: u64 = ranges.iter().map(|range| (range.end().as_raw() - range.start().as_raw()) / PAGE_SIZE).sum();
    (pages as f64 / nr_frames as f64, (pages + tags) as f64 / nr_frames as f64)
}

#[test]
fn metadata_is_half_a_byte_a_frame_and_eight_with_all_others() {
    const MIB: u64 = 256;
    for (mib, nr_cpus) in [(512, 1), (512, 4), (1024, 4), (4096, 8), (8192, 8), (65_536, 8)] {
        let (pages, all) = bytes_per_frame(&[frames(1024 * MIB, (1024 + mib) * MIB)], nr_cpus);
        assert!(pages <= 0.5 && all <= 8.0, "{mib} MiB: {pages}, {all}");
    }
    // What does not grow with RAM weighs more on small boards, but not that much.
    for mib in [16, 32, 64, 128, 256] {
        let (_, all) = bytes_per_frame(&[frames(0, mib * MIB)], 4);
        assert!(all <= 8.0, "{mib} MiB: {all}");
    }
    // As on a Pi 4: 948 MiB, 3008 MiB, and 4 GiB above a hole.
    let ranges = [frames(0, 948 * MIB), frames(1024 * MIB, 4032 * MIB), frames(4096 * MIB, 8192 * MIB)];
    let (pages, all) = bytes_per_frame(&ranges, 4);
    assert!(pages <= 0.5 && all <= 8.0, "{pages}, {all}");
}
