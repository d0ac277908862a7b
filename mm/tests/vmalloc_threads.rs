// SPDX-License-Identifier: MIT OR Apache-2.0
//! vmalloc from several threads at once, each with a region of its own, on the host's memory: no model of the MMU, but real
//! races, and what Miri can run. `VMALLOC_STEPS` makes it longer.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::sync::Mutex;

use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange, VirtAddr};
use mm::arch::Arch;
use mm::arch::host::Host;
use mm::buddy::{Buddy, Mobility, PageBlock};
use mm::gfp::Gfp;
use mm::page_alloc::Shrinker;
use mm::pgtable::{Attributes, PageTable, Regime, TableSource};
use mm::slab::PageSource;
use mm::tlb::Tlb;
use mm::vmalloc::{Config, Request, Vmalloc, VmallocError};

const THREADS: usize = if cfg!(miri) { 2 } else { 4 };
const FRAMES: usize = if cfg!(miri) { 512 } else { 4096 };

struct Source<'a>(Mutex<Buddy<'a>>);

// SAFETY: a buddy hands each frame out once, and takes parts of blocks back.
unsafe impl PageSource for Source<'_> {
    const SPLITS: bool = true;

    fn take(&self, order: Order, _: Gfp) -> Option<PageBlock> {
        self.0.lock().unwrap().alloc(order, Mobility::Unmovable).ok()
    }

    fn give(&self, block: PageBlock) {
        self.0.lock().unwrap().free(block).unwrap();
    }
}

impl TableSource for &Source<'_> {
    fn table(&mut self) -> Option<PhysAddr> {
        self.take(Order::ZERO, Gfp::ATOMIC).map(|block| block.pfn().addr())
    }

    fn give_back(&mut self, table: PhysAddr) {
        self.give(PageBlock::from_raw(table.pfn(), Order::ZERO));
    }
}

type Areas<'a, 'h> = Vmalloc<'a, Host<'h>, &'a Source<'a>>;

/// An area on its way from one thread to another: where, how many pages, and its mark.
type Parcel = (VirtAddr, u64, u64);

/// The first word of each page of an area.
fn words<'a>(
    host: &'a Host<'_>,
    areas: &'a Areas<'_, '_>,
    virt: VirtAddr,
    pages: u64,
) -> impl Iterator<Item = *mut u64> + 'a {
    let phys = move |page| areas.translate(VirtAddr::new(virt.as_raw() + page * PAGE_SIZE)).unwrap();
    (0..pages).map(move |page| host.direct_map(phys(page)).cast())
}

fn mark(host: &Host<'_>, areas: &Areas<'_, '_>, (virt, pages, mark): Parcel) {
    for (page, word) in words(host, areas, virt, pages).enumerate() {
        // SAFETY: a page of our own area.
        unsafe { word.write(mark ^ page as u64) };
    }
}

fn check(host: &Host<'_>, areas: &Areas<'_, '_>, (virt, pages, mark): Parcel) {
    for (page, word) in words(host, areas, virt, pages).enumerate() {
        // SAFETY: a page of our own area.
        assert_eq!(unsafe { word.read() }, mark ^ page as u64);
    }
}

/// A generator: the same in each run (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

fn work(
    seed: u64,
    steps: u64,
    host: &Host<'_>,
    source: &Source<'_>,
    areas: &Areas<'_, '_>,
    parcels: &Mutex<Vec<Parcel>>,
) {
    let mut random = Random(seed);
    let mut areas_made = 0;
    for step in 0..steps {
        let pages = [1, 1, 2, 3, 4, 16, 37][random.below(7) as usize];
        let zero = if random.below(3) == 0 { Gfp::ZERO } else { Gfp::empty() };
        let request = Request::new(pages * PAGE_SIZE, Gfp::KERNEL | zero);
        let taken = |random: &mut Random| {
            let mut parcels = parcels.lock().unwrap();
            (!parcels.is_empty()).then(|| random.below(parcels.len() as u64)).map(|at| parcels.swap_remove(at as usize))
        };
        match random.below(8) {
            0..3 => match areas.alloc(&request) {
                Ok(virt) => {
                    if !zero.is_empty() {
                        // SAFETY: a page of our own area.
                        words(host, areas, virt, pages).for_each(|word| assert_eq!(unsafe { word.read() }, 0));
                    }
                    let parcel = (virt, pages, seed ^ step << 20);
                    mark(host, areas, parcel);
                    parcels.lock().unwrap().push(parcel);
                    areas_made += 1;
                }
                Err(error) => assert_eq!(error, VmallocError::NoMemory),
            },
            3 => {
                if let Some((virt, old, tag)) = taken(&mut random) {
                    check(host, areas, (virt, old, tag));
                    let parcel = match areas.resize(Some(virt), &request) {
                        Ok(virt) => (virt.unwrap(), pages, tag),
                        Err(_) => (virt, old, tag),
                    };
                    check(host, areas, (parcel.0, old.min(parcel.1), tag));
                    mark(host, areas, parcel);
                    parcels.lock().unwrap().push(parcel);
                }
            }
            4 => {
                let Some(block) = source.take(Order::new(1).unwrap(), Gfp::KERNEL) else { continue };
                let frames = [0, 1].map(|n| Pfn::new(block.pfn().as_raw() + n).unwrap());
                let mapped = if step % 2 == 0 {
                    // SAFETY: frames of our own; whoever has them next does not care who else sees them.
                    unsafe { areas.map_ram(&frames, 0) }
                } else {
                    // SAFETY: frames of our own.
                    unsafe { areas.map(&frames, Attributes::DATA, 0) }
                };
                if let Ok(virt) = mapped {
                    assert_eq!(areas.translate(virt), Some(frames[0].addr()));
                    if step % 2 == 0 { areas.unmap_ram(virt, 2).unwrap() } else { areas.unmap(virt).unwrap() }
                }
                source.give(block);
            }
            5 if step % 16 == 0 => drop(areas.flush()),
            _ => {
                if let Some(parcel) = taken(&mut random) {
                    check(host, areas, parcel);
                    mark(host, areas, (parcel.0, parcel.1, !parcel.2));
                    areas.free(parcel.0).unwrap();
                }
            }
        }
    }
    assert!(areas_made >= steps / 10, "{areas_made} areas were made in {steps} steps");
}

fn run(regions: usize) {
    let default = if cfg!(miri) { 40 } else { 4000 };
    let steps = std::env::var("VMALLOC_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(default);
    let mut memory = vec![0; (FRAMES + 1) * 512];
    let padding = memory.as_ptr().align_offset(PAGE_SIZE as usize);
    let host = Host::new(PhysAddr::ZERO, &mut memory[padding..padding + FRAMES * 512]);
    let range = PhysRange::clipped(0, FRAMES as u64 * PAGE_SIZE, PhysAddr::new_saturating(u64::MAX)).0;
    let mut metadata = vec![0; Buddy::metadata_words(std::iter::once(range))];
    let mut buddy = Buddy::new(std::iter::once(range), &mut metadata).unwrap();
    buddy.add_range(range).unwrap();
    let source = Source(Mutex::new(buddy));
    let tlb = Tlb::new(&host);
    let root = PageTable::new(&host, Regime::Upper, &mut &source).unwrap().root();
    let start = VirtAddr::new(0xffff_8000_0000_0000);
    let config = Config { start, size: 1 << 30, ram_pages: FRAMES as u64, lazy_pages: 100, huge: true, regions };
    // SAFETY: the tree was just made, and nobody else changes it.
    let areas = unsafe { Vmalloc::new(&host, &source, &tlb, root, Regime::Upper, config) };
    let parcels = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 1..=THREADS as u64 {
            let (host, source, areas, parcels) = (&host, &source, &areas, &parcels);
            scope.spawn(move || work(thread.wrapping_mul(0x9e37_79b9_7f4a_7c15), steps, host, source, areas, parcels));
        }
    });
    assert!(areas.validate());
    for parcel in parcels.into_inner().unwrap() {
        check(&host, &areas, parcel);
        areas.free(parcel.0).unwrap();
    }
    areas.purge();
    assert!(areas.validate());
    let usage = areas.usage();
    assert_eq!((usage.pages, usage.lazy_pages), (0, 0));
    assert_eq!(usage.free_address_pages, regions as u64 * ((1 << 30) / PAGE_SIZE) - ram_window(&areas));
}

/// Pages of the window of `map_ram`, which stays.
fn ram_window(areas: &Areas<'_, '_>) -> u64 {
    areas.areas().map(|area| area.bytes / PAGE_SIZE + mm::vmalloc::GUARD_PAGES).sum()
}

#[test]
fn threads_with_regions_of_their_own() {
    run(THREADS);
}

#[test]
fn threads_that_share_a_region() {
    run(1);
}
