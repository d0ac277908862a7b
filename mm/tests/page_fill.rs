// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is filled when it changes hands, and what is found when somebody writes to what is free.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::host::Host;
use mm::arch::{Arch, MAX_CPUS};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, Fill, PAGE_POISON, Pages, Tuning};

fn order(order: usize) -> Order {
    Order::new(order).unwrap()
}

/// Looks at every frame, for which Miri would take minutes.
fn validate(pages: &Pages<'_, Host<'_>>) {
    if !cfg!(miri) {
        assert_eq!(pages.validate(), Ok(()));
    }
}

/// A host whose frames can be touched.
fn with_memory(fill: Fill, test: impl FnOnce(&Pages<'_, Host<'_>>, &Host<'_>)) {
    let mut memblock = Memblock::new();
    let end = PhysAddr::new(256 * PAGE_SIZE).unwrap();
    memblock.add(PhysRange::new(PhysAddr::ZERO, end).unwrap(), 0).unwrap();
    let mut words = vec![0x1234_5678u64; 256 * 512];
    let host = Host::new(PhysAddr::ZERO, &mut words);
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    let config = Config { fill, tuning, nr_cpus: MAX_CPUS, pool_words: Some(40), ..Config::DEFAULT };
    let mut metadata = vec![!0; Pages::<Host<'_>>::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    test(&pages, &host);
    validate(&pages);
}

fn bytes(host: &Host<'_>, block: &PageBlock) -> Vec<u8> {
    let start = host.direct_map(block.pfn().addr());
    (0..block.order().bytes() as usize)
        // SAFETY: inside the words that the host was made of.
        .map(|at| unsafe { start.wrapping_add(at).read() })
        .collect()
}

#[test]
#[cfg_attr(miri, ignore = "many pages")]
fn memory_is_filled_when_it_changes_hands() {
    for (fill, out, back) in [
        (Fill::default(), None, None),
        (Fill { on_alloc: true, ..Fill::default() }, Some(0), None),
        (Fill { on_free: true, ..Fill::default() }, None, Some(0)),
        (Fill { poison: true, ..Fill::default() }, None, Some(PAGE_POISON)),
        (Fill { on_alloc: true, on_free: true, poison: true }, Some(0), Some(PAGE_POISON)),
    ] {
        with_memory(fill, |pages, host| {
            for at in [0, 3, 6, 7] {
                let zeroed = pages.alloc(Gfp::KERNEL | Gfp::ZERO, order(at)).unwrap();
                assert!(bytes(host, &zeroed).iter().all(|byte| *byte == 0));
                let block = pages.alloc(Gfp::KERNEL, order(at)).unwrap();
                let seen = bytes(host, &block);
                assert!(out.is_none_or(|out| seen.iter().all(|byte| *byte == out)), "{fill:?}");
                let (first, at) = block.into_raw();
                pages.free(PageBlock::from_raw(first, at)).unwrap();
                let seen = bytes(host, &PageBlock::from_raw(first, at));
                assert!(back.is_none_or(|back| seen.iter().all(|byte| *byte == back)), "{fill:?}");
                pages.free(zeroed).unwrap();
            }
            assert_eq!(pages.spoilt_blocks(), 0);
        });
    }
}

#[test]
fn a_page_that_was_written_to_while_free_is_not_handed_out() {
    with_memory(Fill { poison: true, ..Fill::default() }, |pages, host| {
        for at in if cfg!(miri) { [0, 0] } else { [0, 6] } {
            let (first, at) = pages.alloc(Gfp::KERNEL, order(at)).unwrap().into_raw();
            pages.free(PageBlock::from_raw(first, at)).unwrap();
            let last = host.direct_map(first.addr()).wrapping_add(at.bytes() as usize - 1);
            // SAFETY: inside the words that the host was made of.
            unsafe { last.write(1) };
            let spoilt = pages.spoilt_blocks();
            let next = pages.alloc(Gfp::KERNEL, at).unwrap();
            assert_ne!(next.pfn(), first);
            assert_eq!(pages.spoilt_blocks(), spoilt + 1);
            pages.free(next).unwrap();
        }
    });
}
