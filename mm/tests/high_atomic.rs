// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reserve for those who cannot wait, on a zone that is large enough for one.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::MAX_CPUS;
use mm::arch::host::Host;
use mm::buddy::{Mobility, PageBlock};
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, Pages, Tuning};

fn order(order: usize) -> Order {
    Order::new(order).unwrap()
}

/// Blocks for those who cannot wait: a reserve of one chunk in a hundred, which others do not touch until they waited
/// in vain.
#[test]
#[cfg_attr(miri, ignore = "many pages")]
fn who_cannot_wait_has_a_reserve_of_blocks() {
    const PAGES: u64 = 210_000;
    let mut memblock = Memblock::new();
    memblock.add(PhysRange::below(PhysAddr::new(PAGES * PAGE_SIZE).unwrap()), 0).unwrap();
    let host = Host::new(PhysAddr::ZERO, &mut []);
    let config = Config { nr_cpus: MAX_CPUS, pool_words: Some(4), ..Config::DEFAULT };
    let mut metadata = vec![!0; Pages::<Host<'_>>::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    let reserved = || pages.zone_reports().next().unwrap().nr_chunks_of[Mobility::HighAtomic.as_usize()];
    let mut held: Vec<_> = std::iter::from_fn(|| pages.alloc(Gfp::NOWAIT | Gfp::MOVABLE, order(3)).ok()).collect();
    assert_eq!(reserved(), 0);
    // Memory is short: the first that gets a block brings its chunk, up to a hundredth of the zone.
    let mut atomic = Vec::new();
    while let Ok(block) = pages.alloc(Gfp::ATOMIC, order(3)) {
        assert!(reserved() <= 2 && 2 * 1024 * 100 <= PAGES);
        atomic.push(block);
    }
    let had = reserved();
    assert!(had > 0);
    assert_eq!(pages.validate(), Ok(()));
    let some: Vec<_> = atomic.drain(..).map(PageBlock::into_raw).collect();
    some.iter().for_each(|(first, order)| pages.free(PageBlock::from_raw(*first, *order)).unwrap());
    pages.drain();
    let kept = pages.each_zone(|zone| zone.buddy().free_pages_of(Mobility::HighAtomic))[0].unwrap();
    assert!(kept > 0 && kept <= had * 1024);
    // Others leave it alone, and do not count it; who cannot wait has it, single pages at last.
    while let Ok(block) = pages.alloc(Gfp::NOWAIT, Order::ZERO) {
        held.push(block);
    }
    let now = pages.each_zone(|zone| zone.buddy().free_pages_of(Mobility::HighAtomic))[0].unwrap();
    assert_eq!(now, kept);
    let block = pages.alloc(Gfp::ATOMIC, order(1)).unwrap();
    assert_eq!(pages.each_zone(|zone| zone.buddy().mobility_of(block.pfn()))[0], Some(Some(Mobility::HighAtomic)));
    pages.free(block).unwrap();
    // Without any free page beside it, who may wait opens it.
    pages.set_watermarks(&Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 });
    while let Ok(block) = pages.alloc(Gfp::NOWAIT, Order::ZERO) {
        held.push(block);
    }
    assert_eq!(reserved(), had);
    held.push(pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap());
    assert_eq!(reserved(), had - 1);
    while let Ok(block) = pages.alloc(Gfp::KERNEL, Order::ZERO) {
        held.push(block);
    }
    assert_eq!((reserved(), pages.free_pages()), (0, 0));
    held.into_iter().for_each(|block| pages.free(block).unwrap());
    pages.drain();
    assert_eq!(pages.free_pages(), pages.managed_pages());
    assert_eq!(pages.validate(), Ok(()));
}
