// SPDX-License-Identifier: MIT OR Apache-2.0
//! A block is freed as one of its order, or not at all, wherever its word is at the moment: with a CPU, waiting, given
//! back to its zone.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::arch::host::Host;
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, Fault, Fill, Pages, Tuning};
use proptest::prelude::*;

const FRAMES: u64 = 2048;

type Allocator<'a> = Pages<'a, Host<'a>>;

fn frames(start: u64, end: u64) -> PhysRange {
    let at = |pfn: u64| PhysAddr::new(pfn * PAGE_SIZE).unwrap();
    PhysRange::new(at(start), at(end)).unwrap()
}

fn order(order: usize) -> Order {
    Order::new(order).unwrap()
}

/// An allocator, all of whose memory is free again in the end. Without hoards if it is told to fill.
fn with_pages(fills: bool, test: impl FnOnce(&Allocator<'_>)) {
    let mut memblock = Memblock::new();
    memblock.add(frames(0, FRAMES), 0).unwrap();
    let mut words = vec![0u64; FRAMES as usize * 512];
    let host = Host::new(PhysAddr::ZERO, &mut words);
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    let config = Config { fill: Fill { on_free: fills, ..Fill::default() }, tuning, ..Config::DEFAULT };
    let mut metadata = vec![!0; Allocator::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    test(&pages);
    pages.drain();
    assert_eq!((pages.validate(), pages.free_pages()), (Ok(()), pages.managed_pages()));
}

/// Frees the first frame of a block as what it is not.
fn free_as(pages: &Allocator<'_>, first: Pfn, order: Order) -> Option<Fault> {
    pages.free(PageBlock::from_raw(first, order)).err().map(|error| error.fault())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 60 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn blocks_of_one_order_are_freed_as_such_only(
        size in 0..9usize,
        fills: bool,
        steps in proptest::collection::vec((0..8u8, any::<prop::sample::Index>(), 0..9usize), 1..200),
    ) {
        with_pages(fills, |pages| {
            let mut held = Vec::new();
            for (step, index, other) in steps {
                match step {
                    0..=3 => held.extend(pages.alloc(Gfp::MEMALLOC, order(size)).ok().map(|block| block.into_raw().0)),
                    4 if !held.is_empty() => {
                        let first = held.swap_remove(index.index(held.len()));
                        assert_eq!(free_as(pages, first, order(size)), None);
                        assert_eq!(free_as(pages, first, order(size)), Some(Fault::AlreadyFree));
                    }
                    5 => pages.drain(),
                    _ if other != size && !held.is_empty() => {
                        let first = held[index.index(held.len())];
                        let fault = free_as(pages, first, order(other));
                        assert!(matches!(fault, Some(Fault::WrongOrder | Fault::Misaligned)), "{size} {other}: {fault:?}");
                    }
                    _ => {}
                }
            }
            held.into_iter().for_each(|first| assert_eq!(free_as(pages, first, order(size)), None));
        });
    }

    #[test]
    fn blocks_of_many_orders_parts_of_blocks_and_ranges_are_never_refused(
        fills: bool,
        steps in proptest::collection::vec((0..10u8, any::<prop::sample::Index>(), 0..8usize), 1..300),
    ) {
        with_pages(fills, |pages| {
            let (mut held, mut ranges) = (Vec::new(), Vec::new());
            for (step, index, size) in steps {
                match step {
                    0..=2 => held.extend(pages.alloc(Gfp::MEMALLOC, order(size)).ok().map(|block| block.into_raw())),
                    // Taken apart: each part is a block.
                    3 => if let Ok(block) = pages.alloc(Gfp::MEMALLOC, order(size)) {
                        let part = order(size.min(5).min(index.index(6)));
                        let first = pages.split(block).as_raw();
                        let parts = (first..first + (1 << size)).step_by(part.pages() as usize);
                        held.extend(parts.map(|pfn| (Pfn::new(pfn).unwrap(), part)));
                    },
                    4 => {
                        let start = index.index(FRAMES as usize - 300) as u64;
                        let range = frames(start, start + 1 + (1 << size));
                        ranges.extend(pages.alloc_contig_range(Gfp::KERNEL, range).ok());
                    }
                    5 if !ranges.is_empty() => {
                        let range = ranges.swap_remove(index.index(ranges.len()));
                        assert_eq!(pages.free_contig_range(range), Ok(()));
                    }
                    6 => pages.drain(),
                    _ if !held.is_empty() => {
                        let (first, order) = held.swap_remove(index.index(held.len()));
                        assert_eq!(free_as(pages, first, order), None);
                    }
                    _ => {}
                }
            }
            held.into_iter().for_each(|(first, order)| assert_eq!(free_as(pages, first, order), None));
            ranges.into_iter().for_each(|range| assert_eq!(pages.free_contig_range(range), Ok(())));
        });
    }
}
