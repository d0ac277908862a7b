// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of one's own among live blocks: movable ones are moved with what is in them, others are named, and whatever
//! happens no frame is lost and no chunk stays isolated.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::arch::host::Host;
use mm::arch::{Arch, MAX_CPUS};
use mm::buddy::{Mobility, PageBlock};
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{
    Config, ContigError, ContigFault, ContigRange, Fault, Fill, MovableBlock, MovableOwner, Pages, Tuning,
};
use proptest::prelude::*;

/// Eight chunks, the first three of them in zone DMA.
const FRAMES: u64 = 8 * 1024;
const DMA: u64 = 3 * 1024;

type Allocator<'a> = Pages<'a, Host<'a>>;

fn pfn(raw: u64) -> Pfn {
    Pfn::new(raw).unwrap()
}

fn order(order: usize) -> Order {
    Order::new(order).unwrap()
}

fn frames(start: u64, end: u64) -> PhysRange {
    let at = |pfn: u64| PhysAddr::new(pfn * PAGE_SIZE).unwrap();
    PhysRange::new(at(start), at(end)).unwrap()
}

/// Who has blocks whose content matters.
struct Owner<'h> {
    host: &'h Host<'h>,
    /// By first frame: order, the number that its content is made of, and whether it moves.
    blocks: Mutex<BTreeMap<u64, (Order, u64, bool)>>,
}

impl Owner<'_> {
    fn word(&self, frame: u64, at: usize) -> *mut u64 {
        self.host.direct_map(pfn(frame).addr()).cast::<u64>().wrapping_add(at)
    }

    fn add(&self, block: PageBlock, number: u64, moves: bool) {
        let (first, order) = block.into_raw();
        for frame in 0..order.pages() {
            for at in [0, 511] {
                // SAFETY: a frame of the host's memory, and of a block that is ours.
                unsafe { self.word(first.as_raw() + frame, at).write(number ^ frame << 32 ^ at as u64) };
            }
        }
        assert_eq!(self.blocks.lock().unwrap().insert(first.as_raw(), (order, number, moves)), None);
    }

    fn check(&self) {
        for (first, (order, number, _)) in self.blocks.lock().unwrap().iter() {
            for frame in 0..order.pages() {
                for at in [0, 511] {
                    // SAFETY: as above.
                    let word = unsafe { self.word(first + frame, at).read() };
                    assert_eq!(word, number ^ frame << 32 ^ at as u64, "frame {frame} of the block at {first:#x}");
                }
            }
        }
    }

    fn around(&self, frame: u64) -> Option<(u64, Order, bool)> {
        let blocks = self.blocks.lock().unwrap();
        let (first, (order, _, moves)) = blocks.range(..=frame).next_back()?;
        (frame < first + order.pages()).then_some((*first, *order, *moves))
    }

    fn frames(&self) -> u64 {
        self.blocks.lock().unwrap().values().map(|block| block.0.pages()).sum()
    }

    fn take(&self, index: usize) -> Option<PageBlock> {
        let mut blocks = self.blocks.lock().unwrap();
        let first = *blocks.keys().nth(index.checked_rem(blocks.len())?)?;
        let (order, ..) = blocks.remove(&first)?;
        Some(PageBlock::from_raw(pfn(first), order))
    }
}

impl MovableOwner for Owner<'_> {
    fn block_at(&self, pfn: Pfn) -> Option<MovableBlock> {
        let (first, order, moves) = self.around(pfn.as_raw())?;
        moves.then_some(MovableBlock { first: Pfn::new(first)?, order, gfp: Gfp::USER })
    }

    fn migrate(&self, block: MovableBlock, target: PageBlock) -> Result<PageBlock, PageBlock> {
        let mut blocks = self.blocks.lock().unwrap();
        let Some(entry) = blocks.remove(&block.first.as_raw()) else { return Err(target) };
        let (from, to) = (self.word(block.first.as_raw(), 0), self.word(target.pfn().as_raw(), 0));
        // SAFETY: both blocks are ours, as large, and apart.
        unsafe { from.copy_to_nonoverlapping(to, (block.order.pages() * PAGE_SIZE / 8) as usize) };
        blocks.insert(target.into_raw().0.as_raw(), entry);
        Ok(PageBlock::from_raw(block.first, block.order))
    }
}

fn with_memory(fill: Fill, test: impl FnOnce(&Allocator<'_>, &Owner<'_>)) {
    let mut memblock = Memblock::new();
    memblock.add(frames(0, FRAMES), 0).unwrap();
    let mut words = vec![0u64; FRAMES as usize * 512];
    let host = Host::new(PhysAddr::ZERO, &mut words);
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    let dma_limit = PhysAddr::new(DMA * PAGE_SIZE);
    let config = Config { fill, tuning, dma_limit, nr_cpus: MAX_CPUS, pool_words: Some(20), ..Config::DEFAULT };
    let mut metadata = vec![!0; Allocator::metadata_bytes(&memblock, &config) as usize / 8];
    let owner = Owner { host: &host, blocks: Mutex::default() };
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    assert!(pages.add_owner(&owner));
    let pristine = pages.info();
    test(&pages, &owner);
    owner.check();
    while let Some(block) = owner.take(0) {
        assert_eq!(pages.free(block), Ok(()));
    }
    check(&pages, &owner, 0);
    assert_eq!(pages.info(), pristine);
}

/// Nothing is isolated, nothing is lost.
fn check(pages: &Allocator<'_>, owner: &Owner<'_>, in_ranges: u64) {
    pages.drain();
    assert_eq!(pages.validate(), Ok(()));
    assert_eq!(pages.free_pages() + owner.frames() + in_ranges, pages.managed_pages());
    let isolated = pages.each_zone(|zone| zone.buddy().nr_chunks_of(Mobility::Isolate));
    assert_eq!(isolated.into_iter().flatten().sum::<u64>(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize, bool),
    Free(usize),
    Range(u64, u64),
    Pages(u64),
    FreeRange(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![1..20u64, 1..3000u64];
    prop_oneof![
        16 => (prop_oneof![0..4usize, 0..=10usize], prop::bool::weighted(0.98)).prop_map(|(at, moves)| Step::Alloc(at, moves)),
        6 => any::<usize>().prop_map(Step::Free),
        4 => (0..FRAMES + 5, length.clone()).prop_map(|(at, pages)| Step::Range(at, pages)),
        2 => length.prop_map(Step::Pages),
        3 => any::<usize>().prop_map(Step::FreeRange),
    ]
}

/// What must come of a range: the first frame in it that cannot be moved, if it is not for want of memory.
fn obstacle(owner: &Owner<'_>, ranges: &[ContigRange], first: u64, pages: u64) -> Option<ContigError> {
    let busy = |fault, frame| Some(ContigError { fault, pfn: pfn(frame) });
    if first >= FRAMES {
        return busy(ContigFault::Foreign, first);
    }
    let end = if first < DMA { DMA } else { FRAMES };
    if first + pages > end {
        // Told when the chunk is isolated that begins there.
        return busy(ContigFault::Foreign, end);
    }
    (first..first + pages).find_map(|frame| {
        let in_range =
            ranges.iter().any(|range| (range.first().as_raw()..).take(range.pages() as usize).any(|at| at == frame));
        let stays = owner.around(frame).is_some_and(|(.., moves)| !moves);
        if in_range || stays { busy(ContigFault::Busy, frame) } else { None }
    })
}

fn apply(step: &Step, number: u64, pages: &Allocator<'_>, owner: &Owner<'_>, ranges: &mut Vec<ContigRange>) {
    match *step {
        Step::Alloc(at, moves) => {
            let gfp = if moves { Gfp::USER } else { Gfp::KERNEL };
            if let Ok(block) = pages.alloc(gfp, order(at)) {
                owner.add(block, number, moves);
            }
        }
        Step::Free(index) => owner.take(index).into_iter().for_each(|block| assert_eq!(pages.free(block), Ok(()))),
        Step::Range(first, length) => {
            let expected = obstacle(owner, ranges, first, length);
            match (pages.alloc_contig_range(Gfp::USER, frames(first, first + length)), expected) {
                (Ok(range), None) => {
                    assert_eq!((range.first(), range.pages()), (pfn(first), length));
                    (first..first + length).for_each(|frame| assert_eq!(owner.around(frame), None));
                    ranges.push(range);
                }
                (Err(found), expected) => {
                    assert!(found.fault == ContigFault::NoMemory || Some(found) == expected, "{found}")
                }
                (Ok(range), expected) => assert_eq!(expected, None, "{range:?}"),
            }
            owner.check();
        }
        Step::Pages(length) => {
            match pages.alloc_contig_pages(Gfp::USER, length) {
                Ok(range) => {
                    assert_eq!(range.pages(), length);
                    let first = range.first().as_raw();
                    assert_eq!(obstacle(owner, ranges, first, length), None);
                    (first..first + length).for_each(|frame| assert_eq!(owner.around(frame), None));
                    ranges.push(range);
                }
                Err(error) => assert!(matches!(error.fault, ContigFault::NoMemory | ContigFault::NoRange), "{error}"),
            }
            owner.check();
        }
        Step::FreeRange(index) => {
            if let Some(index) = index.checked_rem(ranges.len()) {
                let (first, length) = ranges.swap_remove(index).into_raw();
                assert_eq!(pages.free_contig_range(ContigRange::from_raw(first, length)), Ok(()));
                let again = pages.free_contig_range(ContigRange::from_raw(first, length)).unwrap_err();
                assert_eq!(again.fault(), Fault::AlreadyFree);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "many frames")]
    fn live_blocks_are_moved_with_what_is_in_them(
        steps in proptest::collection::vec(step(), 1..120),
        poison in prop::bool::weighted(0.1),
    ) {
        with_memory(Fill { poison, ..Fill::default() }, |pages, owner| {
            let mut ranges = Vec::new();
            for (number, step) in steps.iter().enumerate() {
                apply(step, number as u64, pages, owner, &mut ranges);
                if number % 8 == 0 {
                    check(pages, owner, ranges.iter().map(ContigRange::pages).sum());
                }
            }
            owner.check();
            ranges.into_iter().for_each(|range| assert_eq!(pages.free_contig_range(range), Ok(())));
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn an_isolated_range_gives_out_nothing_and_keeps_what_is_freed() {
    /// Frees and allocates while the range is isolated: in the middle of being asked to move.
    struct Watcher {
        pages: std::sync::OnceLock<&'static Allocator<'static>>,
        mine: Mutex<Vec<PageBlock>>,
        rounds: Mutex<u64>,
    }
    impl MovableOwner for Watcher {
        fn block_at(&self, pfn: Pfn) -> Option<MovableBlock> {
            let mine = self.mine.lock().unwrap();
            let block = mine
                .iter()
                .find(|block| pfn >= block.pfn() && pfn.as_raw() < block.pfn().as_raw() + block.order().pages())?;
            Some(MovableBlock { first: block.pfn(), order: block.order(), gfp: Gfp::USER })
        }
        fn migrate(&self, block: MovableBlock, target: PageBlock) -> Result<PageBlock, PageBlock> {
            let pages = self.pages.get().unwrap();
            // Its target and all that can be had now lie elsewhere.
            let mut got = vec![target];
            for at in (0..=10).rev() {
                while let Ok(block) = pages.alloc(Gfp::MEMALLOC | Gfp::MOVABLE, order(at)) {
                    got.push(block);
                }
            }
            assert!(got.iter().all(|block| !(4096..6144).contains(&block.pfn().as_raw())));
            let target = got.remove(0);
            got.into_iter().for_each(|block| pages.free(block).unwrap());
            *self.rounds.lock().unwrap() += 1;
            let mut mine = self.mine.lock().unwrap();
            let index = mine.iter().position(|mine| mine.pfn() == block.first).unwrap();
            let old = mine.swap_remove(index);
            mine.push(target);
            Ok(old)
        }
    }
    let mut memblock = Memblock::new();
    memblock.add(frames(0, FRAMES), 0).unwrap();
    let host = Box::leak(Box::new(Host::new(PhysAddr::ZERO, &mut [])));
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    let config = Config { tuning, nr_cpus: MAX_CPUS, pool_words: Some(20), ..Config::DEFAULT };
    let metadata = vec![!0; Allocator::metadata_bytes(&memblock, &config) as usize / 8].leak();
    let watcher: &Watcher = Box::leak(Box::new(Watcher {
        pages: std::sync::OnceLock::new(),
        mine: Mutex::default(),
        rounds: Mutex::new(0),
    }));
    let pages: &Allocator<'_> = Box::leak(Box::new(Pages::build(host, &memblock, &config, metadata).unwrap()));
    watcher.pages.set(pages).ok();
    assert!(pages.add_owner(watcher));
    // All of memory in blocks of several orders; then what lies in the range stays, and the rest is free.
    let mut held = Vec::new();
    for at in [0, 6, 2, 8, 5, 7, 0].into_iter().cycle() {
        match pages.alloc(Gfp::USER, order(at)) {
            Ok(block) => held.push(block),
            Err(_) if at == 0 => break,
            Err(_) => {}
        }
    }
    for block in held {
        if (4096..6144).contains(&block.pfn().as_raw()) {
            watcher.mine.lock().unwrap().push(block);
        } else {
            pages.free(block).unwrap();
        }
    }
    let range = pages.alloc_contig_range(Gfp::USER, frames(4096, 6144)).unwrap();
    assert!(*watcher.rounds.lock().unwrap() > 10);
    pages.free_contig_range(range).unwrap();
    std::mem::take(&mut *watcher.mine.lock().unwrap()).into_iter().for_each(|block| pages.free(block).unwrap());
    pages.drain();
    assert_eq!(pages.free_pages(), pages.managed_pages());
}

/// The rest of a word that a range ends in is hoarded while the range is out; then the range comes back.
#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn a_range_comes_back_to_a_word_that_was_hoarded_meanwhile() {
    with_memory(Fill::default(), |pages, _| {
        for length in [20, 64 + 40] {
            let range = pages.alloc_contig_range(Gfp::USER, frames(5000, 5000 + length)).unwrap();
            let mut held = Vec::new();
            while let Ok(block) = pages.alloc(Gfp::USER, Order::ZERO) {
                held.push(block);
            }
            assert_eq!(held.len() as u64 + length, pages.managed_pages());
            held.into_iter().for_each(|block| assert_eq!(pages.free(block), Ok(())));
            let (first, pages_of_it) = range.into_raw();
            assert_eq!(pages.free_contig_range(ContigRange::from_raw(first, pages_of_it)), Ok(()));
            let again = pages.free_contig_range(ContigRange::from_raw(first, pages_of_it)).unwrap_err();
            assert_eq!(again.fault(), Fault::AlreadyFree);
            assert_eq!(pages.validate(), Ok(()));
        }
    });
}

/// Memory runs out at each allocation that moving needs: the range is not had, and everything else is as it was.
#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn running_out_while_blocks_are_moved_loses_nothing() {
    let mut nth = 1;
    loop {
        let mut is_done = false;
        with_memory(Fill::default(), |pages, owner| {
            for number in 0..400 {
                owner.add(pages.alloc(Gfp::USER, order(number % 4)).unwrap(), number as u64, true);
            }
            let first = owner.blocks.lock().unwrap().keys().next().copied().unwrap();
            let moved = owner.blocks.lock().unwrap().clone();
            pages.fail_nth(nth);
            let result = pages.alloc_contig_range(Gfp::USER, frames(first, first + 500));
            pages.fail_nth(0);
            match result {
                Ok(range) => {
                    is_done = true;
                    pages.free_contig_range(range).unwrap();
                }
                Err(error) => {
                    assert_eq!(error.fault, ContigFault::NoMemory);
                    let same = owner.blocks.lock().unwrap().keys().filter(|first| moved.contains_key(first)).count();
                    assert_eq!(same as u64, 402 - nth.max(2), "{error}");
                }
            }
            check(pages, owner, 0);
        });
        if is_done {
            break;
        }
        nth += 1;
    }
    assert!(nth > 100);
}

#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn faults_are_told_apart() {
    with_memory(Fill::default(), |pages, owner| {
        // The second lies behind the first, and so not at the zone's border.
        let [below, stays] = [(); 2].map(|()| pages.alloc(Gfp::KERNEL, Order::MAX).unwrap());
        let first = stays.pfn().as_raw();
        owner.add(stays, 1, false);
        pages.free(below).unwrap();
        let error = pages.alloc_contig_range(Gfp::KERNEL, frames(first - 1, first + 1)).unwrap_err();
        assert_eq!((error.fault, error.pfn), (ContigFault::Busy, pfn(first)));
        assert_eq!(error.to_string(), format!("frame {:?} is in use, and nobody moves it", pfn(first)));
        let error = pages.alloc_contig_range(Gfp::KERNEL, frames(DMA - 1, DMA + 1)).unwrap_err();
        assert_eq!((error.fault, error.pfn), (ContigFault::Foreign, pfn(DMA)));
        let error = pages.alloc_contig_pages(Gfp::KERNEL, FRAMES).unwrap_err();
        assert_eq!(error.fault, ContigFault::NoMemory);
        let range = pages.alloc_contig_pages(Gfp::KERNEL | Gfp::ZERO, 2 * 1024).unwrap();
        let (first, length) = range.into_raw();
        // Not a page of it can be freed by itself as a large block, nor as part of another range twice.
        let wrong = pages.free(PageBlock::from_raw(first, Order::MAX)).unwrap_err();
        assert_ne!(wrong.fault(), Fault::Foreign);
        let beyond = ContigRange::from_raw(first, FRAMES);
        assert!(pages.free_contig_range(beyond).is_err());
        pages.free_contig_range(ContigRange::from_raw(first, length)).unwrap();
    });
}

/// Threads take and give back while ranges come and go: no frame is in two hands.
#[test]
#[cfg_attr(miri, ignore = "many frames")]
fn ranges_come_and_go_among_threads() {
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
    with_memory(Fill::default(), |pages, _| {
        let owners: Vec<_> = (0..FRAMES).map(|_| AtomicU8::new(0)).collect();
        let own = |first: u64, count: u64, from, to| {
            for owner in owners.iter().skip(first as usize).take(count as usize) {
                assert_eq!(owner.swap(to, Relaxed), from);
            }
        };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for id in 0..2u64 {
                let (own, is_over) = (&own, &is_over);
                scope.spawn(move || {
                    let (mut seed, mut held) = (0x9e37_79b9_7f4a_7c15 + id, Vec::new());
                    while !is_over.load(Relaxed) {
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        let at = order((seed >> 32 | 1 << 10).trailing_zeros() as usize);
                        if let Ok(block) = pages.alloc(Gfp::USER, at) {
                            own(block.pfn().as_raw(), at.pages(), 0, 1);
                            held.push(block);
                        }
                        while held.len() > seed as usize % 16 {
                            let block: PageBlock = held.swap_remove(seed as usize % held.len());
                            own(block.pfn().as_raw(), block.order().pages(), 1, 0);
                            pages.free(block).unwrap();
                        }
                    }
                    for block in held {
                        own(block.pfn().as_raw(), block.order().pages(), 1, 0);
                        pages.free(block).unwrap();
                    }
                });
            }
            let mut had = 0;
            for round in 0..400u64 {
                let first = round * 97 % (FRAMES - 2000);
                if let Ok(range) = pages.alloc_contig_range(Gfp::USER, frames(first, first + 1 + round % 1500)) {
                    own(range.first().as_raw(), range.pages(), 0, 2);
                    std::thread::yield_now();
                    own(range.first().as_raw(), range.pages(), 2, 0);
                    pages.free_contig_range(range).unwrap();
                    had += 1;
                }
            }
            is_over.store(true, Relaxed);
            assert!(had > 20, "{had}");
        });
    });
}
