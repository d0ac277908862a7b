// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is added while the allocator is in use.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::host::Host;
use mm::arch::{Arch, MAX_CPUS};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{AddError, Config, Fill, Pages};
use mm::report::Cell;
use mm::zone::{MAX_ZONES, ZoneKind};
use proptest::prelude::*;

const FRAMES: u64 = 16 * 1024;
const DMA: u64 = 6000;

type Allocator<'a> = Pages<'a, Host<'a>>;

fn frames(start: u64, end: u64) -> PhysRange {
    let at = |pfn: u64| PhysAddr::new(pfn * PAGE_SIZE).unwrap();
    PhysRange::new(at(start), at(end)).unwrap()
}

/// An allocator over the first frames on each of two nodes; the rest of the host's memory is nobody's.
fn with_memory(fill: Fill, test: impl FnOnce(&Allocator<'_>, &Host<'_>)) {
    let mut memblock = Memblock::new();
    memblock.add(frames(0, 2048), 0).unwrap();
    memblock.add(frames(8192, 8192 + 1024), 1).unwrap();
    let mut words = vec![0x5555_aaaau64; FRAMES as usize * 512];
    let host = Host::new(PhysAddr::ZERO, &mut words);
    let dma_limit = PhysAddr::new(DMA * PAGE_SIZE);
    let config = Config { dma_limit, fill, nr_cpus: MAX_CPUS, ..Config::DEFAULT };
    let mut metadata = vec![!0; Allocator::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    test(&pages, &host);
    pages.drain();
    assert_eq!(pages.validate(), Ok(()));
}

fn add(pages: &Allocator<'_>, range: PhysRange, node: u32) -> Result<u64, AddError> {
    // SAFETY: the tests add only what of the host's memory nobody uses, and what is in use is refused.
    unsafe { pages.add_memory(range, node) }
}

/// Takes every page there is, writes to it, and gives it back.
fn use_all(pages: &Allocator<'_>, host: &Host<'_>) -> u64 {
    let mut held = Vec::new();
    while let Ok(block) = pages.alloc(Gfp::MEMALLOC, Order::ZERO) {
        // SAFETY: the block is ours, and in the host's memory.
        unsafe { host.direct_map(block.pfn().addr()).write_bytes(0x77, PAGE_SIZE as usize) };
        held.push(block);
    }
    let count = held.len() as u64;
    held.into_iter().for_each(|block: PageBlock| pages.free(block).unwrap());
    count
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "many frames")]
    fn what_is_added_is_used_to_the_last_frame(
        ranges in proptest::collection::vec((0..FRAMES, 0..5000u64, 0..3u32), 1..8),
        poison in prop::bool::weighted(0.2),
    ) {
        with_memory(Fill { poison, ..Fill::default() }, |pages, host| {
            let mut ram = vec![0..2048, 8192..8192 + 1024];
            for (start, length, node) in ranges {
                let range = start..(start + length).min(FRAMES);
                let (managed, zones) = (pages.managed_pages(), pages.zone_reports().count());
                let overlaps = ram.iter().any(|ram| ram.start < range.end && range.start < ram.end);
                match add(pages, frames(range.start, range.end), node) {
                    Ok(added) => {
                        assert!(!overlaps);
                        assert_eq!(pages.managed_pages(), managed + added);
                        // At most 0.5 bytes a frame, but for what a small range needs at least.
                        let metadata = (range.end - range.start) - added;
                        assert!(metadata <= (range.end - range.start) / 8192 + 2 * 2, "{metadata} frames");
                        if !range.is_empty() {
                            ram.push(range);
                        }
                    }
                    Err(AddError::Overlaps(_)) => assert!(overlaps),
                    Err(AddError::TooSmall(_)) => assert!(range.end - range.start < 10 || range.contains(&DMA)),
                    Err(error) => assert_eq!(error, AddError::TooManyZones),
                }
                assert!(pages.zone_reports().count() <= zones + 2);
                assert_eq!(use_all(pages, host), pages.managed_pages());
                assert_eq!(use_all(pages, host), pages.managed_pages());
                pages.drain();
                assert_eq!(pages.free_pages(), pages.managed_pages());
            }
            assert_eq!(pages.spoilt_blocks(), 0);
        });
    }
}

/// Small enough for Miri: the metadata lies in the memory that is added.
#[test]
fn a_little_memory_is_added_and_used() {
    let mut memblock = Memblock::new();
    memblock.add(frames(0, 20), 0).unwrap();
    let mut words = vec![!0u64; 100 * 512];
    let host = Host::new(PhysAddr::ZERO, &mut words);
    let config = Config { nr_cpus: MAX_CPUS, pool_words: Some(0), ..Config::DEFAULT };
    let mut metadata = vec![!0; Allocator::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    let added = add(&pages, frames(40, 100), 0).unwrap();
    assert_eq!(use_all(&pages, &host), 20 + added);
    assert_eq!(add(&pages, frames(99, 101), 0), Err(AddError::Overlaps(frames(99, 101))));
    assert_eq!(use_all(&pages, &host), pages.managed_pages());
}

#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn added_memory_is_part_of_its_zone_and_node() {
    with_memory(Fill::default(), |pages, _| {
        let before: Vec<_> = pages.zone_reports().collect();
        let low: u64 = before.iter().map(|zone| zone.marks.min).sum();
        let added = add(pages, frames(4096, 8192), 0).unwrap();
        let after: Vec<_> = pages.zone_reports().collect();
        // Below the limit it joins zone DMA; above, node 0 has a zone Normal now.
        let kinds: Vec<_> = after.iter().map(|zone| (zone.info.node, zone.info.kind)).collect();
        assert_eq!(kinds, [(0, ZoneKind::Dma), (1, ZoneKind::Normal), (0, ZoneKind::Normal)]);
        assert_eq!((after[0].info.present_pages, after[0].spanned_pages), (2048 + DMA - 4096, DMA));
        assert_eq!(after[2].info.present_pages, 8192 - DMA);
        let managed =
            |zones: &[mm::page_alloc::ZoneReport]| zones.iter().map(|zone| zone.info.managed_pages).sum::<u64>();
        assert_eq!(managed(&after), managed(&before) + added);
        assert_eq!(after[0].nr_chunks_of.iter().sum::<u64>(), 2 + 2);
        assert!(after.iter().map(|zone| zone.marks.min).sum::<u64>() > low);
        let mut cells = [Cell::default(); 8];
        assert_eq!(pages.survey(0, &mut cells), Some(8));
        assert_eq!(cells.iter().map(|cell| cell.ram).sum::<u64>(), 2048 + DMA - 4096);
        assert_eq!(cells[3].ram, 0);
        // Fallback goes down: who needs DMA memory gets what is below the limit, and node 0 tries Normal first.
        assert!(pages.alloc(Gfp::KERNEL | Gfp::DMA, Order::MAX).unwrap().pfn().as_raw() < DMA);
        let first = pages.alloc(Gfp::KERNEL, Order::MAX).unwrap().pfn().as_raw();
        assert!((DMA..8192).contains(&first), "{first}");
        // A CPU of node 1 stays there.
        (0..MAX_CPUS).for_each(|cpu| pages.set_node(cpu, 1));
        let first = pages.alloc(Gfp::USER, Order::ZERO).unwrap().pfn().as_raw();
        assert!((8192..8192 + 1024).contains(&first), "{first}");
    });
}

#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn what_cannot_be_added_is_refused() {
    with_memory(Fill::default(), |pages, _| {
        let managed = pages.managed_pages();
        assert_eq!(add(pages, frames(2047, 3000), 0), Err(AddError::Overlaps(frames(2047, 3000))));
        assert_eq!(add(pages, frames(3000, 3001), 0), Err(AddError::TooSmall(frames(3000, 3001))));
        assert_eq!(add(pages, frames(3000, 3000), 0), Ok(0));
        assert_eq!(pages.managed_pages(), managed);
        let mut first = 2048;
        let error = loop {
            match add(pages, frames(first, first + 16), 0) {
                Ok(added) => assert!((12..16).contains(&added), "{added}"),
                Err(error) => break error,
            }
            first += 16;
        };
        assert_eq!((error, first), (AddError::TooManyZones, 2048 + 16 * (MAX_ZONES as u64 - 2)));
    });
}
