// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page allocator from every CPU and every CPU's tick at once: blocks pass from hand to hand, ranges come and go,
//! hoards are emptied, allocations fail on purpose; what is written stays, and every page is back at the end.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    use firmware::boot::Machine;
    use firmware::cpu::{self, Hardware, PerCpu};
    use firmware::smp::{self, CpuSet};
    use firmware::{memory, thread, tick};
    use mm::addr::{Order, PAGE_SIZE, Pfn};
    use mm::arch::MAX_CPUS;
    use mm::buddy::PageBlock;
    use mm::gfp::Gfp;
    use mm::page_alloc::{Faults, Pages};
    use spin::Once;
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        PAGES.call_once(|| machine.memory.pages);
        tests::run(
            machine,
            &[
                ("CPUs and their ticks take and free blocks, also what others took", everybody_at_once),
                ("the same while allocations fail on purpose", everybody_at_once_with_failures),
                ("a CPU's pages come from its node", pages_are_near),
            ],
        )
    }

    static PAGES: Once<&'static Pages<'static, Hardware>> = Once::new();
    /// Blocks on their way from one CPU to another: their bits plus 1.
    static HANDED: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
    /// How often each CPU's tick came by.
    static TICKS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
    static BROKEN: AtomicBool = AtomicBool::new(false);
    static IN_TICK: AtomicBool = AtomicBool::new(false);
    static FAILED: AtomicUsize = AtomicUsize::new(0);

    /// The first and the last word of a frame.
    fn words(pfn: Pfn) -> [*mut u64; 2] {
        let first: *mut u64 = core::ptr::with_exposed_provenance_mut(memory::direct_map(pfn.addr()).as_raw() as usize);
        [first, first.wrapping_add(PAGE_SIZE as usize / 8 - 1)]
    }

    fn frames(block: &PageBlock) -> impl Iterator<Item = Pfn> {
        (block.pfn().as_raw()..).take(block.order().pages() as usize).filter_map(Pfn::new)
    }

    /// A block's own words in each of its frames.
    fn mark(block: &PageBlock, salt: u64) {
        for pfn in frames(block) {
            for word in words(pfn) {
                // SAFETY: the frame is ours and in the direct map.
                unsafe { word.write_volatile(block.pfn().as_raw() << 20 ^ pfn.as_raw() ^ salt) };
            }
        }
    }

    fn is_marked(block: &PageBlock, salt: u64) -> bool {
        frames(block).all(|pfn| {
            // SAFETY: as above.
            let found = words(pfn).map(|word| unsafe { word.read_volatile() });
            found == [block.pfn().as_raw() << 20 ^ pfn.as_raw() ^ salt; 2]
        })
    }

    fn break_unless(holds: bool) {
        if !holds {
            BROKEN.store(true, Ordering::Relaxed);
        }
    }

    fn free(pages: &Pages<'static, Hardware>, block: PageBlock, salt: u64) {
        break_unless(is_marked(&block, salt));
        // Whoever has it next must not find it marked.
        mark(&block, !salt);
        break_unless(pages.free(block).is_ok());
    }

    /// Puts a new block into a place and frees what was there, whoever put it.
    fn exchange(pages: &Pages<'static, Hardware>, step: usize, gfp: Gfp) {
        // Mostly small ones; a place has blocks of any order in turn.
        let order = Order::new((step.wrapping_mul(0x9e37_79b9) >> 8 | 1 << 10).trailing_zeros() as usize);
        let index = step % HANDED.len();
        let (Some(place), Some(order)) = (HANDED.get(index), order) else { return };
        let new = match pages.alloc(gfp, order) {
            Ok(block) => {
                mark(&block, index as u64);
                block.into_bits() + 1
            }
            Err(_) => {
                FAILED.fetch_add(1, Ordering::Relaxed);
                0
            }
        };
        // Release and Acquire: the content goes with the block.
        if let Some(bits) = place.swap(new, Ordering::AcqRel).checked_sub(1) {
            free(pages, PageBlock::from_bits(bits), index as u64);
        }
    }

    /// In the tick of every CPU, in interrupt context.
    fn at_tick(data: &'static PerCpu) {
        let cpu = data.number();
        if let (true, Some(pages), Some(ticks)) = (IN_TICK.load(Ordering::Relaxed), PAGES.get(), TICKS.get(cpu)) {
            let count = ticks.fetch_add(1, Ordering::Relaxed);
            (0..20).for_each(|step| exchange(pages, (count * 20 + step) * 7 + cpu * 31, Gfp::ATOMIC));
        }
    }

    fn stress(cpu: usize) -> bool {
        let Some(pages) = PAGES.get() else { return false };
        let enough = || TICKS.get(cpu).is_none_or(|ticks| ticks.load(Ordering::Relaxed) >= 20);
        let mut bulk = [Pfn::default(); 100];
        let mut step = 0;
        // Until its tick has come often enough, and so often at least.
        while step < 10_000 || (tick::is_running() && !enough()) {
            exchange(pages, step * 13 + cpu * 57, if step % 3 == 0 { Gfp::USER } else { Gfp::KERNEL });
            if step % 64 == 7 {
                let taken = pages.alloc_bulk(Gfp::KERNEL, &mut bulk);
                let taken = bulk.get(..taken).unwrap_or_default();
                let each = || taken.iter().map(|pfn| PageBlock::from_raw(*pfn, Order::ZERO));
                each().for_each(|page| mark(&page, cpu as u64));
                break_unless(each().all(|page| is_marked(&page, cpu as u64)));
                break_unless(pages.free_bulk(taken).is_ok());
            }
            if step % 500 == 3 + cpu {
                pages.drain();
            }
            if step % 1000 == 11 + cpu
                && let Ok(range) = pages.alloc_contig_pages(Gfp::KERNEL, 1500)
            {
                let first = PageBlock::from_raw(range.first(), Order::MAX);
                mark(&first, 0x55);
                break_unless(is_marked(&first, 0x55));
                break_unless(pages.free_contig_range(range).is_ok());
            }
            step += 1;
        }
        !BROKEN.load(Ordering::Relaxed)
    }

    fn run(machine: &'static Machine, faults: Option<Faults>) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        TICKS.iter().for_each(|ticks| ticks.store(0, Ordering::Relaxed));
        pages.drain();
        IN_TICK.store(true, Ordering::Relaxed);
        let mut handles = [const { None }; MAX_CPUS];
        for (cpu, handle) in CpuSet::online().iter().zip(&mut handles) {
            let spawned = thread::spawn_on(cpu, move || stress(cpu));
            *handle = Some(spawned.map_err(|_| "a thread could not be spawned")?);
        }
        // Not before the threads are there.
        pages.inject_faults(faults);
        let all = handles.into_iter().flatten().fold(true, |all, handle| handle.join() & all);
        IN_TICK.store(false, Ordering::Relaxed);
        pages.inject_faults(None);
        smp::call(CpuSet::online(), &|_| ());
        for (index, place) in HANDED.iter().enumerate() {
            if let Some(bits) = place.swap(0, Ordering::AcqRel).checked_sub(1) {
                free(pages, PageBlock::from_bits(bits), index as u64);
            }
        }
        check(all && !BROKEN.load(Ordering::Relaxed), "a block was in two hands, or refused")?;
        // The threads' stacks wait for a flush.
        machine.memory.vmalloc.purge();
        pages.drain();
        pages.validate().map_err(|_| "the allocator contradicts itself")
    }

    fn everybody_at_once(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        check(tick::on_tick(at_tick), "no room for a function at the tick")?;
        // The first round leaves behind what threads and stacks keep.
        run(machine, None)?;
        let before = pages.free_pages();
        run(machine, None)?;
        check(pages.free_pages() == before, "pages were lost")
    }

    fn everybody_at_once_with_failures(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        let (before, failed) = (pages.free_pages(), FAILED.load(Ordering::Relaxed));
        // A tenth of those calls fails, and all go the long way.
        run(machine, Faults::parse("10,100,500,-1"))?;
        check(pages.injected_failures() > 100 && FAILED.load(Ordering::Relaxed) > failed, "nothing failed")?;
        check(pages.free_pages() == before, "pages were lost")
    }

    fn pages_are_near(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        for cpu in CpuSet::online().iter() {
            let near = thread::spawn_on(cpu, move || {
                let node = cpu::this().node();
                let Ok(block) =
                    PAGES.get().ok_or(()).and_then(|pages| pages.alloc(Gfp::KERNEL, Order::MAX).map_err(drop))
                else {
                    return false;
                };
                let pfn = block.pfn();
                let zones =
                    PAGES.get().map(|pages| pages.each_zone(|zone| zone.buddy().owns(pfn).then(|| zone.node())));
                let is_near = zones.into_iter().flatten().flatten().flatten().all(|of| of == node);
                is_near & PAGES.get().is_some_and(|pages| pages.free(block).is_ok())
            });
            check(near.map_err(|_| "a thread could not be spawned")?.join(), "a page is from another node")?;
        }
        pages.drain();
        pages.validate().map_err(|_| "the allocator contradicts itself")
    }
}
