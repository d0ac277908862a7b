// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hunt for stale translations: one CPU maps, unmaps and maps something else at the same addresses, all others
//! read there. Without the broadcast they read what is no longer mapped, and the hunt must see it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicU64, Ordering};

    use firmware::boot::Machine;
    use firmware::layout::VMALLOC_START;
    use firmware::memory::{self, TableFrames, tlb};
    use firmware::smp::{self, CpuSet};
    use firmware::{cpu, println, thread};
    use mm::addr::{Order, PAGE_SIZE, PhysAddr, VirtAddr};
    use mm::buddy::PageBlock;
    use mm::gfp::Gfp;
    use mm::pgtable::{Attributes, Change, Regime};
    use tests::check;

    /// What is mapped: a page, a contiguous group, a block.
    const SIZES: [u64; 3] = [PAGE_SIZE, 16 * PAGE_SIZE, 512 * PAGE_SIZE];
    const ROUNDS: u64 = 240;
    /// So many reads of each CPU while a mapping is there.
    const READS: u64 = 8;
    /// The round that is open for readers; even numbers: none.
    static OPEN: AtomicU64 = AtomicU64::new(0);
    /// The last byte that is mapped, where readers look; and what they must find.
    static PLACE: AtomicU64 = AtomicU64::new(0);
    static TAG: AtomicU64 = AtomicU64::new(0);
    /// Readers that are done with the open round.
    static DONE: AtomicU64 = AtomicU64::new(0);
    static STALE: AtomicU64 = AtomicU64::new(0);
    const END: u64 = u64::MAX;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("nobody reads what was unmapped and flushed", nobody_reads_stale),
                ("without the broadcast, the others do", the_hunt_sees_a_missing_broadcast),
                ("nobody writes what has become read-only", permissions_reach_everybody),
            ],
        )
    }

    fn va(offset: u64) -> VirtAddr {
        VirtAddr::new(VMALLOC_START + (1 << 45) + offset)
    }

    fn read(virt: u64) -> u64 {
        let word: *const u64 = core::ptr::with_exposed_provenance(virt as usize);
        // SAFETY: mapped, as long as the round is open.
        unsafe { word.read_volatile() }
    }

    /// Reads in each round that is opened, until the end.
    fn reader() {
        let mut seen = 0;
        loop {
            let open = OPEN.load(Ordering::Acquire);
            if open == END {
                return;
            }
            if open == seen || open.is_multiple_of(2) {
                thread::yield_now();
                continue;
            }
            seen = open;
            let (place, tag) = (PLACE.load(Ordering::Relaxed), TAG.load(Ordering::Relaxed));
            // The mapping was made by another CPU: see it (Arm ARM D8.2.6).
            aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
            let stale = (0..READS).filter(|_| read(place) != tag).count() as u64;
            STALE.fetch_add(stale, Ordering::Relaxed);
            DONE.fetch_add(1, Ordering::Release);
        }
    }

    /// Opens a round for the readers, reads too, and closes it.
    fn round(number: u64, place: VirtAddr, tag: u64, readers: u64) {
        PLACE.store(place.as_raw(), Ordering::Relaxed);
        TAG.store(tag, Ordering::Relaxed);
        DONE.store(0, Ordering::Relaxed);
        OPEN.store(2 * number + 1, Ordering::Release);
        while DONE.load(Ordering::Acquire) != readers {
            core::hint::spin_loop();
        }
        OPEN.store(2 * number + 2, Ordering::Relaxed);
        if read(place.as_raw()) != tag {
            STALE.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many stale reads there were.
    fn hunt(machine: &'static Machine, rounds: u64, broadcast: bool) -> Result<u64, &'static str> {
        let memory = &machine.memory;
        let order = Order::for_bytes(2 * 512 * PAGE_SIZE).ok_or("no such order")?;
        let block = memory.pages.alloc(Gfp::KERNEL, order).map_err(|_| "no block")?;
        let (pfn, _) = block.into_raw();
        let halves = (pfn.addr().as_raw(), pfn.addr().as_raw() + 512 * PAGE_SIZE);
        STALE.store(0, Ordering::Relaxed);
        OPEN.store(0, Ordering::Relaxed);
        let mut readers = CpuSet::online().iter().filter(|&number| number != cpu::this().number());
        let mut handles = [const { None }; mm::arch::MAX_CPUS];
        let mut count = 0;
        for (slot, number) in handles.iter_mut().zip(&mut readers) {
            *slot = Some(thread::spawn_on(number, reader).map_err(|_| "no thread")?);
            count += 1;
        }
        for number in 0..rounds {
            // A block takes the place of a table, which `trim` flushes for everybody: not where none is wanted.
            let kinds = if broadcast { SIZES.len() } else { SIZES.len() - 1 };
            let size = SIZES.get(number as usize % kinds).copied().unwrap_or(PAGE_SIZE);
            let half = if (number as usize / kinds).is_multiple_of(2) { halves.0 } else { halves.1 };
            let place = va(size - 8);
            let phys = PhysAddr::new(half).ok_or("no address")?;
            let word = memory::direct_map(PhysAddr::new(half + size - 8).ok_or("no address")?);
            let word: *mut u64 = core::ptr::with_exposed_provenance_mut(word.as_raw() as usize);
            // SAFETY: the block is this test's.
            unsafe { word.write_volatile(number) };
            let mut frames = TableFrames(memory);
            let mapped = memory.map.lock().tree_mut().map(va(0), phys, size, Attributes::DATA, &mut frames);
            mapped.map_err(|_| "cannot map")?;
            round(number, place, number, count);
            let unmapped = memory.map.lock().tree_mut().unmap(va(0), size, tlb(), &mut frames);
            let unmapped = unmapped.map_err(|_| "cannot unmap")?;
            if broadcast {
                unmapped.flush(tlb()).release();
                let trimmed = memory.map.lock().tree_mut().trim(va(0), size, tlb(), &mut frames);
                trimmed.map_err(|_| "cannot trim")?;
            } else {
                // What a kernel does that forgot the `IS`.
                drop(unmapped);
                tlb().flush_local();
            }
        }
        OPEN.store(END, Ordering::Release);
        for handle in handles.into_iter().flatten() {
            handle.join();
        }
        tlb().flush_everything(Regime::Upper);
        memory.pages.free(PageBlock::from_raw(pfn, order)).map_err(|_| "not freed")?;
        Ok(STALE.load(Ordering::Relaxed))
    }

    fn nobody_reads_stale(machine: &'static Machine) -> Result<(), &'static str> {
        let stale = hunt(machine, ROUNDS, true)?;
        println!("{} CPUs, {ROUNDS} mappings: {stale} stale reads", smp::nr_online());
        check(stale == 0, "stale translations")
    }

    fn the_hunt_sees_a_missing_broadcast(machine: &'static Machine) -> Result<(), &'static str> {
        if smp::nr_online() == 1 {
            return Ok(());
        }
        let stale = hunt(machine, 40, false)?;
        println!("without the broadcast: {stale} stale reads");
        check(stale != 0, "the hunt is blind")
    }

    /// Each CPU asks its own MMU whether it may write, by `AT`.
    fn permissions_reach_everybody(machine: &'static Machine) -> Result<(), &'static str> {
        static WRITABLE: AtomicU64 = AtomicU64::new(0);
        let memory = &machine.memory;
        let block = memory.pages.alloc(Gfp::KERNEL, Order::ZERO).map_err(|_| "no page")?;
        let (pfn, order) = block.into_raw();
        let page = memory::direct_map(pfn.addr());
        let ask = || {
            WRITABLE.store(0, Ordering::Relaxed);
            smp::call(CpuSet::online(), &|_| {
                let par: u64;
                let raw = page.as_raw();
                // SAFETY: asks for a translation, touches no memory.
                unsafe { core::arch::asm!("at s1e1w, {0}", "isb", "mrs {1}, par_el1", in(reg) raw, out(reg) par) };
                WRITABLE.fetch_add(u64::from(par & 1 == 0), Ordering::Relaxed);
            });
            WRITABLE.load(Ordering::Relaxed)
        };
        let all = smp::nr_online() as u64;
        for _ in 0..20 {
            check(ask() == all, "not writable")?;
            let mut map = memory.map.lock();
            // SAFETY: nobody writes this page.
            unsafe { map.change(page, PAGE_SIZE, Change::ReadOnly, &mut TableFrames(memory)) }
                .map_err(|_| "refused")?;
            drop(map);
            check(ask() == 0, "some can still write")?;
            memory.set_memory_rw(page, 1).map_err(|_| "refused")?;
        }
        memory.pages.free(PageBlock::from_raw(pfn, order)).map_err(|_| "not freed")
    }
}
