// SPDX-License-Identifier: MIT OR Apache-2.0
//! A contiguous memory area: what stays never gets in, what moves does when all else is taken, and the area has its pages
//! back by moving that away; or names what does not move.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::arch::Arch;
use mm::arch::host::Host;
use mm::buddy::PageBlock;
use mm::dma::Cma;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, ContigFault, MovableBlock, MovableOwner, Pages, Tuning};
use proptest::prelude::*;

/// Eight chunks of 1024 frames; the area is the third and the fourth.
const FRAMES: u64 = 8 * 1024;
const AREA: std::ops::Range<u64> = 2048..4096;

type Allocator<'a> = Pages<'a, Host<'a>>;

fn frames(start: u64, end: u64) -> PhysRange {
    let at = |frame: u64| PhysAddr::new(frame * PAGE_SIZE).unwrap();
    PhysRange::new(at(start), at(end)).unwrap()
}

/// Who has single frames that move, each with a number in it; some are pinned for now.
struct Owner<'h> {
    host: &'h Host<'h>,
    frames: Mutex<BTreeMap<u64, (u64, bool)>>,
}

impl Owner<'_> {
    fn word(&self, frame: u64) -> *mut u64 {
        self.host.direct_map(Pfn::new(frame).unwrap().addr()).cast()
    }

    fn add(&self, block: PageBlock, number: u64, pinned: bool) {
        let frame = block.into_raw().0.as_raw();
        // SAFETY: a frame of the host's memory that is ours.
        unsafe { self.word(frame).write(number) };
        assert!(self.frames.lock().unwrap().insert(frame, (number, pinned)).is_none());
    }

    fn check(&self) {
        for (frame, (number, _)) in self.frames.lock().unwrap().iter() {
            // SAFETY: as above.
            assert_eq!(unsafe { self.word(*frame).read() }, *number);
        }
    }
}

impl MovableOwner for Owner<'_> {
    fn block_at(&self, pfn: Pfn) -> Option<MovableBlock> {
        let (_, pinned) = *self.frames.lock().unwrap().get(&pfn.as_raw())?;
        (!pinned).then_some(MovableBlock { first: pfn, order: Order::ZERO, gfp: Gfp::USER })
    }

    fn migrate(&self, block: MovableBlock, target: PageBlock) -> Result<PageBlock, PageBlock> {
        let mut frames = self.frames.lock().unwrap();
        let Some(entry) = frames.remove(&block.first.as_raw()) else { return Err(target) };
        let to = target.into_raw().0.as_raw();
        // SAFETY: both frames are ours.
        unsafe { self.word(to).copy_from_nonoverlapping(self.word(block.first.as_raw()), 512) };
        frames.insert(to, entry);
        Ok(PageBlock::from_raw(block.first, Order::ZERO))
    }
}

type Area<'p, 'a> = Cma<'p, 'a, Host<'a>>;

/// Builds a machine with an area, and checks afterwards that no page is missing.
fn with_area(test: impl FnOnce(&Allocator<'_>, &Area<'_, '_>, &Owner<'_>)) {
    let mut words = vec![0u64; (FRAMES * PAGE_SIZE / 8) as usize];
    let host = Host::new(PhysAddr::ZERO, &mut words);
    let mut memblock = Memblock::new();
    memblock.add(frames(0, FRAMES), 0).unwrap();
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    let config = Config { tuning, ..Config::DEFAULT };
    let mut metadata = vec![0; Allocator::metadata_bytes(&memblock, &config) as usize / 8];
    let owner = Owner { host: &host, frames: Mutex::default() };
    let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
    assert!(pages.add_owner(&owner));
    let free = || {
        pages.drain();
        pages.free_pages()
    };
    let area = Cma::new(&host, &pages, frames(AREA.start, AREA.end)).unwrap();
    assert_eq!(pages.cma_free_pages(), AREA.end - AREA.start);
    let before = free();
    test(&pages, &area, &owner);
    owner.check();
    for (frame, _) in core::mem::take(&mut *owner.frames.lock().unwrap()) {
        pages.free(PageBlock::from_raw(Pfn::new(frame).unwrap(), Order::ZERO)).unwrap();
    }
    assert_eq!(area.usage().used_pages, 0);
    assert_eq!(free(), before);
    assert_eq!(pages.cma_free_pages(), AREA.end - AREA.start);
    assert_eq!(pages.validate(), Ok(()));
}

fn is_inside(frame: u64) -> bool {
    AREA.contains(&frame)
}

#[test]
fn what_stays_never_gets_in_and_what_moves_does_at_last() {
    with_area(|pages, _, owner| {
        let mut kernel = Vec::new();
        while let Ok(block) = pages.alloc(Gfp::KERNEL | Gfp::NOWARN, Order::ZERO) {
            assert!(!is_inside(block.pfn().as_raw()));
            kernel.push(block);
        }
        assert_eq!(kernel.len() as u64 + 1, FRAMES - (AREA.end - AREA.start), "and the bitmap");
        assert!(pages.alloc_contig_pages(Gfp::KERNEL | Gfp::NOWARN, 5).is_err());
        for number in AREA {
            let block = pages.alloc(Gfp::USER, Order::ZERO).unwrap();
            assert!(is_inside(block.pfn().as_raw()));
            owner.add(block, number, false);
        }
        assert!(pages.alloc(Gfp::USER | Gfp::NOWARN, Order::ZERO).is_err());
        assert_eq!(pages.cma_free_pages(), 0);
        kernel.into_iter().for_each(|block| pages.free(block).unwrap());
    });
}

#[test]
fn the_area_has_its_pages_back_or_names_what_is_in_the_way() {
    with_area(|pages, area, owner| {
        let mut kernel = Vec::new();
        while let Ok(block) = pages.alloc(Gfp::KERNEL | Gfp::NOWARN, Order::ZERO) {
            kernel.push(block);
        }
        let mut last = 0;
        for number in 0..200 {
            let block = pages.alloc(Gfp::USER, Order::ZERO).unwrap();
            last = block.pfn().as_raw();
            assert!(is_inside(last));
            owner.add(block, number, number == 199);
        }
        kernel.drain(..1000).for_each(|block| pages.free(block).unwrap());
        // All of it cannot be: one page is pinned.
        let error = area.alloc(AREA.end - AREA.start, Order::ZERO, Gfp::KERNEL).unwrap_err();
        assert_eq!((error.fault, error.pfn.as_raw()), (ContigFault::Busy, last));
        assert_eq!(area.usage().blocked_by, Some(error.pfn));
        // Half of it can, around that; what moved is whole.
        let half = area.alloc(1000, Order::new(2).unwrap(), Gfp::KERNEL | Gfp::ZERO).unwrap();
        assert!(!half.contains(Pfn::new(last).unwrap().addr()) && half.start().is_aligned(4 * PAGE_SIZE));
        owner.check();
        assert_eq!(area.usage().used_pages, 1000);
        assert_eq!(area.free(frames(10, 20)), Err(frames(10, 20)));
        let first = half.start().pfn().as_raw();
        assert!(area.free(frames(first, first + 1001)).is_err());
        area.free(half).unwrap();
        assert_eq!(area.free(half), Err(half));
        owner.frames.lock().unwrap().get_mut(&last).unwrap().1 = false;
        let all = area.alloc(AREA.end - AREA.start, Order::MAX, Gfp::KERNEL).unwrap();
        area.free(all).unwrap();
        assert!(area.alloc(AREA.end - AREA.start + 1, Order::ZERO, Gfp::KERNEL).is_err());
        kernel.into_iter().for_each(|block| pages.free(block).unwrap());
    });
}

#[derive(Clone, Debug)]
enum Step {
    Alloc { moves: bool, count: usize },
    FreeKernel(usize),
    FreeMovable(usize),
    Take { pages: u64, align: usize },
    GiveBack(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 1..1500usize).prop_map(|(moves, count)| Step::Alloc { moves, count }),
        2 => (1..2000usize).prop_map(Step::FreeKernel),
        2 => (1..2000usize).prop_map(Step::FreeMovable),
        4 => (1..700u64, 0..6usize).prop_map(|(pages, align)| Step::Take { pages, align }),
        3 => any::<usize>().prop_map(Step::GiveBack),
    ]
}

fn run(steps: &[Step]) {
    with_area(|pages, area, owner| {
        let (mut kernel, mut taken): (Vec<PageBlock>, Vec<PhysRange>) = (Vec::new(), Vec::new());
        for (number, step) in (0..).zip(steps) {
            match *step {
                Step::Alloc { moves, count } => {
                    for _ in 0..count {
                        let gfp = if moves { Gfp::USER } else { Gfp::KERNEL };
                        let Ok(block) = pages.alloc(gfp | Gfp::NOWARN, Order::ZERO) else { break };
                        let frame = block.pfn().addr();
                        assert!(taken.iter().all(|range| !range.contains(frame)), "it is with the area's user");
                        if moves {
                            owner.add(block, number, false);
                        } else {
                            assert!(!is_inside(frame.pfn().as_raw()), "what stays is in the area");
                            kernel.push(block);
                        }
                    }
                }
                Step::FreeKernel(count) => {
                    let left = kernel.len().saturating_sub(count);
                    kernel.drain(left..).for_each(|block| pages.free(block).unwrap());
                }
                Step::FreeMovable(count) => {
                    for _ in 0..count {
                        let Some((frame, _)) = owner.frames.lock().unwrap().pop_first() else { break };
                        pages.free(PageBlock::from_raw(Pfn::new(frame).unwrap(), Order::ZERO)).unwrap();
                    }
                }
                Step::Take { pages: count, align } => {
                    match area.alloc(count, Order::new(align).unwrap(), Gfp::KERNEL) {
                        Ok(range) => {
                            assert!(range.size() == count * PAGE_SIZE && range.start().is_aligned(PAGE_SIZE << align));
                            let first = range.start().pfn().as_raw();
                            assert!((first..first + count).all(is_inside));
                            assert!(
                                taken.iter().all(|other| other.intersection(range).is_none_or(PhysRange::is_empty))
                            );
                            assert!(owner.frames.lock().unwrap().range(first..first + count).next().is_none());
                            taken.push(range);
                        }
                        // All moves: only for want of room, here or elsewhere.
                        Err(error) => {
                            assert!(matches!(error.fault, ContigFault::NoRange | ContigFault::NoMemory), "{error}")
                        }
                    }
                }
                Step::GiveBack(which) => {
                    if !taken.is_empty() {
                        area.free(taken.swap_remove(which % taken.len())).unwrap();
                    }
                }
            }
            owner.check();
            assert_eq!(area.usage().used_pages * PAGE_SIZE, taken.iter().map(|range| range.size()).sum::<u64>());
        }
        taken.into_iter().for_each(|range| area.free(range).unwrap());
        kernel.into_iter().for_each(|block| pages.free(block).unwrap());
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn an_area_is_lent_and_taken_back(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}
