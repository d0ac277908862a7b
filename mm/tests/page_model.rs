// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page allocator as a whole, zones and hoards, beside a model that knows of each frame who has it.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::collections::BTreeMap;

use mm::addr::{MAX_ORDER, Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::arch::MAX_CPUS;
use mm::arch::host::Host;
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, Fault, Faults, Pages, Shrinker, Tuning};
use proptest::prelude::*;

const FRAMES: u64 = 24 * 1024;

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

/// What every test starts from: three ranges of RAM on two nodes, a DMA limit that no word ends at.
struct Setup {
    memblock: Memblock,
    config: Config,
    metadata: Vec<u64>,
    host: Host<'static>,
}

impl Setup {
    fn new(hoarding: bool) -> Self {
        let mut memblock = Memblock::new();
        memblock.add(frames(3, 9000), 0).unwrap();
        memblock.add(frames(9100, 20_000), 0).unwrap();
        memblock.add(frames(20_000, FRAMES), 1).unwrap();
        let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
        let dma_limit = PhysAddr::new(5003 * PAGE_SIZE);
        // Threads of the test runner have any number.
        let nr_cpus = if cfg!(miri) { 8 } else { MAX_CPUS };
        let config = Config { dma_limit, nr_cpus, tuning, hoarding, pool_words: Some(40), ..Config::DEFAULT };
        let bytes = Pages::<Host<'_>>::metadata_bytes(&memblock, &config);
        let metadata = (0..bytes / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        Self { memblock, config, metadata, host: Host::new(PhysAddr::ZERO, &mut []) }
    }

    fn pages(&mut self) -> Pages<'_, Host<'static>> {
        Pages::build(&self.host, &self.memblock, &self.config, &mut self.metadata).unwrap()
    }
}

/// Looks at every frame, for which Miri would take minutes.
fn validate(pages: &Pages<'_, Host<'_>>) {
    if !cfg!(miri) {
        assert_eq!(pages.validate(), Ok(()));
    }
}

/// Blocks that are out, by first frame.
#[derive(Default)]
struct Model {
    held: BTreeMap<u64, Order>,
}

impl Model {
    fn add(&mut self, block: PageBlock) -> (Pfn, Order) {
        let (first, order) = block.into_raw();
        assert!(first.is_aligned(order));
        assert!(!self.touches(first, order), "{first:?} is handed out twice");
        self.held.insert(first.as_raw(), order);
        (first, order)
    }

    fn touches(&self, first: Pfn, order: Order) -> bool {
        let end = first.as_raw() + order.pages();
        let before = self.held.range(..end).next_back();
        before.is_some_and(|(at, order)| at + order.pages() > first.as_raw())
    }

    fn frames(&self) -> u64 {
        self.held.values().map(|order| order.pages()).sum()
    }

    fn nth(&self, index: usize) -> Option<(Pfn, Order)> {
        let at = index.checked_rem(self.held.len())?;
        self.held.iter().nth(at).map(|(first, order)| (pfn(*first), *order))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(Gfp, usize),
    Bulk(usize),
    Free(usize),
    FreeBulk(usize),
    FreeAny(u64, usize),
    Drain,
}

fn gfp() -> impl Strategy<Value = Gfp> {
    prop_oneof![
        Just(Gfp::KERNEL),
        Just(Gfp::ATOMIC),
        Just(Gfp::USER),
        Just(Gfp::KERNEL | Gfp::DMA),
        Just(Gfp::KERNEL | Gfp::RECLAIMABLE),
        Just(Gfp::NOWAIT | Gfp::THISNODE),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (gfp(), 0..=MAX_ORDER).prop_map(|(gfp, order)| Step::Alloc(gfp, order)),
        8 => (gfp(), 0..4usize).prop_map(|(gfp, order)| Step::Alloc(gfp, order)),
        1 => (1..200usize).prop_map(Step::Bulk),
        12 => any::<usize>().prop_map(Step::Free),
        1 => (1..200usize).prop_map(Step::FreeBulk),
        4 => (0..FRAMES + 10, 0..=MAX_ORDER).prop_map(|(at, order)| Step::FreeAny(at, order)),
        1 => Just(Step::Drain),
    ]
}

fn apply(step: Step, pages: &Pages<'_, Host<'_>>, model: &mut Model) {
    match step {
        Step::Alloc(gfp, at) => match pages.alloc(gfp, order(at)) {
            Ok(block) => {
                let (first, order) = model.add(block);
                assert!(!gfp.contains(Gfp::DMA) || first.as_raw() + order.pages() <= 5003);
                assert!(!gfp.contains(Gfp::THISNODE) || first.as_raw() < 20_000);
            }
            Err(error) => {
                assert_eq!(error.order(), order(at));
                // Everything was drained, and no reserve is kept.
                assert!(error.largest_free_order().is_none_or(|largest| largest < order(at)), "{error}");
            }
        },
        Step::Bulk(count) => {
            let mut block = vec![pfn(0); count];
            let taken = pages.alloc_bulk(Gfp::KERNEL, &mut block);
            for first in &block[..taken] {
                model.add(PageBlock::from_raw(*first, Order::ZERO));
            }
        }
        Step::Free(index) => {
            if let Some((first, order)) = model.nth(index) {
                model.held.remove(&first.as_raw());
                assert_eq!(pages.free(PageBlock::from_raw(first, order)), Ok(()));
                // At once again, and in other orders: all of it is free now.
                assert!(pages.free(PageBlock::from_raw(first, order)).is_err());
                assert!(pages.free(PageBlock::from_raw(first, Order::ZERO)).is_err());
            }
        }
        Step::FreeBulk(count) => {
            let singles = model.held.iter().filter(|block| *block.1 == Order::ZERO).map(|block| pfn(*block.0));
            let singles: Vec<_> = singles.take(count).collect();
            model.held.retain(|first, _| !singles.contains(&pfn(*first)));
            assert_eq!(pages.free_bulk(&singles), Ok(()));
            if let Some(last) = singles.last() {
                assert_eq!(pages.free_bulk(&[*last]).map_err(|error| error.0), Err(0));
            }
        }
        Step::FreeAny(at, of) => {
            let (first, order) = (pfn(at), order(of));
            let free = || pages.free(PageBlock::from_raw(first, order)).map_err(|error| error.fault());
            let ram = [3..9000, 9100..20_000, 20_000..FRAMES].iter().any(|range| range.contains(&at));
            if !ram {
                assert_eq!(free(), Err(Fault::Foreign));
            } else if !first.is_aligned(order) {
                assert_eq!(free(), Err(Fault::Misaligned));
            } else if !model.touches(first, order) {
                assert!(free().is_err(), "{first:?} is free");
            }
        }
        Step::Drain => {
            pages.drain();
            assert_eq!(pages.hoarded_pages(), 0);
            assert_eq!(pages.free_pages() + model.frames(), pages.managed_pages());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 300 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn pages_agree_with_a_model(
        hoarding in prop::bool::weighted(0.9),
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 12 } else { 400 }),
    ) {
        let mut setup = Setup::new(hoarding);
        let pages = setup.pages();
        let pristine = pages.info();
        let mut model = Model::default();
        for (index, step) in steps.into_iter().enumerate() {
            apply(step, &pages, &mut model);
            if !cfg!(miri) && index % 16 == 0 {
                validate(&pages);
            }
        }
        validate(&pages);
        while !model.held.is_empty() {
            apply(Step::Free(model.held.len() / 2), &pages, &mut model);
        }
        apply(Step::Drain, &pages, &mut model);
        validate(&pages);
        prop_assert_eq!(pages.info(), pristine);
    }
}

#[test]
#[cfg_attr(miri, ignore = "many pages")]
fn every_page_can_be_had_once() {
    let mut setup = Setup::new(true);
    let pages = setup.pages();
    let pristine = pages.info();
    let mut model = Model::default();
    while let Ok(block) = pages.alloc(Gfp::KERNEL, order(model.held.len() % 3)) {
        model.add(block);
    }
    while let Ok(block) = pages.alloc(Gfp::KERNEL, Order::ZERO) {
        model.add(block);
    }
    assert_eq!((pages.free_pages(), model.frames()), (0, pages.managed_pages()));
    let error = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap_err();
    assert_eq!((error.free_pages(), error.largest_free_order()), (0, None));
    while let Some((first, order)) = model.nth(7) {
        model.held.remove(&first.as_raw());
        assert_eq!(pages.free(PageBlock::from_raw(first, order)), Ok(()));
    }
    pages.drain();
    assert_eq!(pages.info(), pristine);
}

#[test]
fn a_block_is_freed_once_and_as_what_it_is() {
    for hoarding in [true, false] {
        let mut setup = Setup::new(hoarding);
        let pages = setup.pages();
        for at in Order::all() {
            let neighbours: Vec<_> = (0..3).map(|_| pages.alloc(Gfp::KERNEL, at).unwrap().into_raw()).collect();
            let (first, _) = neighbours[1];
            for wrong in
                Order::all().filter(|wrong| *wrong != at && (hoarding || wrong.as_usize().max(at.as_usize()) > 5))
            {
                assert!(pages.free(PageBlock::from_raw(first, wrong)).is_err(), "order {at:?} as {wrong:?}");
                if at > wrong {
                    let inside = pfn(first.as_raw() + at.pages() - wrong.pages());
                    assert!(pages.free(PageBlock::from_raw(inside, wrong)).is_err(), "end of {at:?} as {wrong:?}");
                }
            }
            for (first, order) in neighbours {
                assert_eq!(pages.free(PageBlock::from_raw(first, order)), Ok(()));
                let again = pages.free(PageBlock::from_raw(first, order)).unwrap_err();
                assert_eq!((again.fault(), again.pfn(), again.order()), (Fault::AlreadyFree, first, order));
            }
        }
        validate(&pages);
    }
}

/// Threads take, and free what others took; whatever the interleaving, no page is in two hands and all come back.
#[test]
fn threads_share_pages() {
    use std::sync::mpsc::channel;

    let mut setup = Setup::new(true);
    let pages = setup.pages();
    let pristine = pages.info();
    let owners: Vec<_> = (0..FRAMES).map(|_| std::sync::atomic::AtomicU8::new(0)).collect();
    let rounds = if cfg!(miri) { 12 } else { 20_000 };
    let own = |block: &PageBlock, from, to| {
        let first = block.pfn().as_raw() as usize;
        for owner in &owners[first..first + block.order().pages() as usize] {
            assert_eq!(owner.swap(to, std::sync::atomic::Ordering::Relaxed), from);
        }
    };
    std::thread::scope(|scope| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| channel::<PageBlock>()).unzip();
        for (id, receiver) in receivers.into_iter().enumerate() {
            let next = senders[(id + 1) % 3].clone();
            let (pages, own) = (&pages, &own);
            scope.spawn(move || {
                let mut seed = 0x9e37_79b9_7f4a_7c15 + id as u64;
                for round in 0..rounds {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    let at = order((seed >> 32 | 1 << 7).trailing_zeros() as usize);
                    let gfp = if seed & 4 == 0 { Gfp::KERNEL } else { Gfp::USER };
                    if let Ok(block) = pages.alloc(gfp, at) {
                        own(&block, 0, 1);
                        if seed & 8 == 0 {
                            own(&block, 1, 0);
                            pages.free(block).unwrap();
                        } else {
                            next.send(block).unwrap();
                        }
                    }
                    if round % 2 == 0 {
                        for block in receiver.try_iter().take(3) {
                            own(&block, 1, 0);
                            pages.free(block).unwrap();
                        }
                    }
                    if seed.is_multiple_of(1000) {
                        pages.drain();
                    }
                }
                drop(next);
                for block in receiver.iter() {
                    own(&block, 1, 0);
                    pages.free(block).unwrap();
                }
            });
        }
        drop(senders);
    });
    pages.drain();
    validate(&pages);
    assert_eq!(pages.info(), pristine);
}

#[test]
#[cfg_attr(miri, ignore = "many pages")]
fn exact_sizes_and_pieces_come_back() {
    let mut setup = Setup::new(true);
    let pages = setup.pages();
    let pristine = pages.info();
    for pages_wanted in [1, 3, 5, 33, 64, 65, 100, 1000, 1024] {
        let bytes = pages_wanted * PAGE_SIZE - 5;
        let first = pages.alloc_exact(Gfp::KERNEL, bytes).unwrap();
        assert_eq!(pages.free_pages() + pages.hoarded_pages() + pages_wanted, pages.managed_pages());
        validate(&pages);
        pages.free_exact(first, bytes).unwrap();
        assert!(pages.free_exact(first, bytes).is_err());
    }
    assert!(pages.alloc_exact(Gfp::KERNEL, (4 << 20) + 1).is_err());
    for at in Order::all() {
        let first = pages.split(pages.alloc(Gfp::KERNEL, at).unwrap());
        for frame in (0..at.pages()).rev() {
            let page = || PageBlock::from_raw(pfn(first.as_raw() + frame), Order::ZERO);
            pages.free(page()).unwrap();
            assert!(pages.free(page()).is_err());
        }
    }
    pages.drain();
    assert_eq!(pages.info(), pristine);
}

/// A workload that gives back what it has when it cannot get more, run out of memory at each of its allocations.
#[test]
#[cfg_attr(miri, ignore = "many rounds")]
fn running_out_anywhere_loses_nothing() {
    fn workload(pages: &Pages<'_, Host<'_>>) -> Result<(), ()> {
        let mut held = Vec::new();
        let mut singles = vec![pfn(0); 20];
        let result = (|| {
            for at in (0..=MAX_ORDER).chain([3, 0, 0, 7]) {
                held.push(pages.alloc(Gfp::KERNEL, order(at)).map_err(drop)?);
            }
            let exact = pages.alloc_exact(Gfp::KERNEL, 13 * PAGE_SIZE).map_err(drop)?;
            pages.free_exact(exact, 13 * PAGE_SIZE).map_err(drop)
        })();
        let taken = pages.alloc_bulk(Gfp::KERNEL, &mut singles);
        assert_eq!(pages.free_bulk(&singles[..taken]), Ok(()));
        held.into_iter().for_each(|block| pages.free(block).unwrap());
        if taken < singles.len() { Err(()) } else { result }
    }
    let mut setup = Setup::new(true);
    let pages = setup.pages();
    let pristine = pages.info();
    let mut nth = 1;
    loop {
        pages.fail_nth(nth);
        let failed = pages.injected_failures();
        let result = workload(&pages);
        pages.fail_nth(0);
        pages.drain();
        assert_eq!(pages.info(), pristine, "allocation {nth}");
        if pages.injected_failures() == failed {
            assert_eq!(result, Ok(()));
            break;
        }
        assert_eq!(result, Err(()));
        nth += 1;
    }
    assert_eq!(nth, 11 + 4 + 1 + 20 + 1);
    pages.inject_faults(Faults::parse("1,100,0,3"));
    let failures = (0..9).filter(|_| pages.alloc(Gfp::KERNEL, Order::ZERO).map(|block| pages.free(block)).is_err());
    assert_eq!(failures.count(), 3);
    pages.inject_faults(None);
    assert_eq!(pages.info(), pristine);
}

/// Reclaim and flushing are asked in their turn, and what they bring is used.
#[test]
#[cfg_attr(miri, ignore = "many pages")]
fn shrinkers_are_asked_before_a_request_fails() {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[derive(Default)]
    struct Cache {
        pages: std::sync::OnceLock<&'static Pages<'static, Host<'static>>>,
        kept: Mutex<Vec<PageBlock>>,
        woken: AtomicU32,
        flushed: AtomicU32,
        reclaimed: AtomicU32,
    }
    impl Cache {
        fn give_back(&self) -> u64 {
            let mut kept = self.kept.lock().unwrap();
            let some = kept.len().min(400);
            kept.drain(..some).for_each(|block| self.pages.get().unwrap().free(block).unwrap());
            some as u64
        }
    }
    impl Shrinker for Cache {
        fn flush(&self) -> u64 {
            self.flushed.fetch_add(1, Relaxed);
            0
        }
        fn reclaim(&self, _: Gfp, _: Order) -> u64 {
            self.reclaimed.fetch_add(1, Relaxed);
            self.give_back()
        }
        fn wake(&self) {
            self.woken.fetch_add(1, Relaxed);
        }
    }

    let mut setup = Setup::new(true);
    setup.config.tuning = Tuning::DEFAULT;
    let setup = Box::leak(Box::new(setup));
    let pages: &'static Pages<'_, _> = Box::leak(Box::new(setup.pages()));
    let cache: &'static Cache = Box::leak(Box::new(Cache::default()));
    cache.pages.set(pages).ok();
    assert!(pages.add_shrinker(cache));
    let mut held = Vec::new();
    while let Ok(block) = pages.alloc(Gfp::NOWAIT, Order::ZERO) {
        held.push(block);
    }
    // NOWAIT stops at the minimum, reclaim was never its to do; ATOMIC goes on, and MEMALLOC takes the rest.
    assert!(cache.woken.load(Relaxed) > 0 && cache.flushed.load(Relaxed) > 0);
    assert_eq!(cache.reclaimed.load(Relaxed), 0);
    let min: u64 = pages.watermarks().iter().flatten().map(|marks| marks.min).sum();
    assert!(pages.free_pages() >= min && min > 0);
    let before = pages.free_pages();
    while let Ok(block) = pages.alloc(Gfp::ATOMIC, Order::ZERO) {
        held.push(block);
    }
    assert!(pages.free_pages() < before && pages.free_pages() > 0);
    while let Ok(block) = pages.alloc(Gfp::MEMALLOC, Order::ZERO) {
        held.push(block);
    }
    assert_eq!(pages.free_pages(), 0);
    // Who may wait gets what the cache can do without.
    cache.kept.lock().unwrap().extend(held.drain(..3000));
    let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
    assert!(cache.reclaimed.load(Relaxed) > 0);
    pages.free(block).unwrap();
    held.into_iter().chain(cache.kept.lock().unwrap().drain(..)).for_each(|block| pages.free(block).unwrap());
    pages.drain();
    assert_eq!(pages.free_pages(), pages.managed_pages());
}
