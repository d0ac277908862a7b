// SPDX-License-Identifier: MIT OR Apache-2.0
//! vmalloc on the real MMU: what it hands out is memory, on every CPU, and stays what it was.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use firmware::allocators::{KVVec, KVmalloc, VVec, Vmalloc};
    use firmware::boot::Machine;
    use firmware::cpu::{self, PerCpu};
    use firmware::kvmalloc::{kvcalloc, kvfree, kvmalloc, kvrealloc};
    use firmware::smp::CpuSet;
    use firmware::vmalloc::{ioremap, iounmap, vfree, vmalloc, vmalloc_with, vrealloc, vzalloc};
    use firmware::{stacks, thread, tick, time};
    use mm::addr::{PAGE_SIZE, VirtAddr};
    use mm::gfp::Gfp;
    use mm::pgtable::Attributes;
    use mm::vmalloc::GUARD_PAGES;
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("what is allocated can be written and read, by pages and by blocks", areas_are_memory),
                ("zeros are asked for and come", zeros_come),
                ("growing keeps what is there, in place or not", growing_keeps),
                ("shrinking gives pages back at once", shrinking_gives_back),
                ("kvmalloc takes from both, and moves between them", either_has_it),
                ("vectors grow in their pages, and where there are some", vectors_grow),
                ("permissions of an area can be changed", permissions_change),
                ("device registers can be mapped and unmapped", registers_are_mapped),
                ("all memory can be had, and comes back", exhaustion),
                ("every CPU and its tick at once: nobody sees another's memory", all_at_once),
                ("at the end everything is back", everything_is_back),
            ],
        )
    }

    const NO_MEMORY: &str = "no memory";

    fn words(memory: NonNull<u8>) -> *mut u64 {
        memory.cast().as_ptr()
    }

    fn is_area(machine: &Machine, memory: NonNull<u8>) -> bool {
        machine.memory.vmalloc.contains(VirtAddr::new(memory.addr().get() as u64))
    }

    fn either_has_it(machine: &'static Machine) -> Result<(), &'static str> {
        let resize = |memory, bytes| {
            // SAFETY: the test's own object, whose old address it forgets.
            unsafe { kvrealloc(Some(memory), bytes, Gfp::KERNEL) }.map_err(|_| NO_MEMORY)
        };
        let small = kvmalloc(100, Gfp::KERNEL).map_err(|_| NO_MEMORY)?;
        check(!is_area(machine, small), "a small object is an area")?;
        // SAFETY: the test's own object.
        unsafe { words(small).write_volatile(7) };
        // More than the largest block: it can only be vmalloc's.
        let large = resize(small, 5 << 20)?;
        check(is_area(machine, large), "a huge object is no area")?;
        mark_from(large, 1, 5 << 20, 1000);
        // SAFETY: the test's own object.
        check(unsafe { words(large).read_volatile() } == 7, "what was there is lost on the way to vmalloc")?;
        let larger = resize(large, 9 << 20)?;
        check(is_marked_from(larger, 1, 5 << 20, 1000), "what was there is lost on the way within vmalloc")?;
        let small = resize(larger, 500)?;
        check(!is_area(machine, small), "what shrank is still an area")?;
        // SAFETY: the test's own object.
        check(unsafe { words(small).read_volatile() } == 7, "what was there is lost on the way back")?;
        // SAFETY: the test's own object.
        unsafe { kvfree(small) };
        let zeros = kvcalloc(3, 2 << 20, Gfp::KERNEL).map_err(|_| NO_MEMORY)?;
        // SAFETY: the test's own object, of that many bytes.
        let is_zero = unsafe { core::slice::from_raw_parts(zeros.as_ptr(), 6 << 20) }.iter().all(|byte| *byte == 0);
        // SAFETY: the test's own object.
        unsafe { kvfree(zeros) };
        check(is_zero, "no zeros")?;
        check(kvcalloc(usize::MAX, 2, Gfp::KERNEL).is_err(), "a product that overflows was had")?;
        check(kvmalloc(1 << 40, Gfp::KERNEL).is_err(), "a TiB was had")
    }

    fn vectors_grow(_: &'static Machine) -> Result<(), &'static str> {
        let mut pages: VVec<u64> = VVec::new_in(Vmalloc);
        let mut either: KVVec<u64> = KVVec::new_in(KVmalloc);
        for number in 0..800_000 {
            pages.try_reserve(1).map_err(|_| NO_MEMORY)?;
            pages.push(number);
            either.try_reserve(1).map_err(|_| NO_MEMORY)?;
            either.push(!number);
        }
        let keeps = |numbers: &[u64], turned: &[u64]| {
            let pairs = numbers.iter().zip(turned).zip(0..);
            pairs.into_iter().all(|((number, turned), expected)| *number == expected && *turned == !expected)
        };
        check(keeps(&pages, &either), "a vector lost something while it grew")?;
        pages.truncate(100);
        either.truncate(100);
        pages.shrink_to_fit();
        either.shrink_to_fit();
        check(keeps(&pages, &either), "a vector lost something when it shrank")?;
        check(either.try_reserve(1 << 40).is_err(), "8 TiB were had")
    }

    /// Writes a mark at both ends of each page from the `first` on.
    fn mark_from(memory: NonNull<u8>, first: usize, bytes: u64, value: u64) {
        let start = first as u64 * PAGE_SIZE;
        let memory = NonNull::new(memory.as_ptr().wrapping_add(start as usize)).unwrap_or(memory);
        mark(memory, bytes - start, value);
    }

    fn is_marked_from(memory: NonNull<u8>, first: usize, bytes: u64, value: u64) -> bool {
        let start = first as u64 * PAGE_SIZE;
        let memory = NonNull::new(memory.as_ptr().wrapping_add(start as usize)).unwrap_or(memory);
        is_marked(memory, bytes - start, value)
    }

    /// Writes a mark at both ends of each page.
    fn mark(memory: NonNull<u8>, bytes: u64, mark: u64) {
        for page in 0..(bytes / PAGE_SIZE) as usize {
            // SAFETY: the caller's memory, so many bytes.
            unsafe { words(memory).wrapping_add(page * 512).write_volatile(mark + page as u64) };
            // SAFETY: as above.
            unsafe { words(memory).wrapping_add(page * 512 + 511).write_volatile(!mark) };
        }
    }

    /// Whether the marks are there.
    fn is_marked(memory: NonNull<u8>, bytes: u64, mark: u64) -> bool {
        (0..(bytes / PAGE_SIZE) as usize).all(|page| {
            // SAFETY: the caller's memory, so many bytes.
            let first = unsafe { words(memory).wrapping_add(page * 512).read_volatile() };
            // SAFETY: as above.
            let last = unsafe { words(memory).wrapping_add(page * 512 + 511).read_volatile() };
            first == mark + page as u64 && last == !mark
        })
    }

    fn areas_are_memory(_: &'static Machine) -> Result<(), &'static str> {
        for bytes in [4 << 10, 20 << 10, 64 << 10, 1 << 20] {
            let memory = vmalloc(bytes).map_err(|_| NO_MEMORY)?;
            mark(memory, bytes, bytes);
            let fine = is_marked(memory, bytes, bytes);
            // SAFETY: not used any more.
            unsafe { vfree(memory) };
            check(fine, "what was written is not there")?;
        }
        Ok(())
    }

    fn zeros_come(_: &'static Machine) -> Result<(), &'static str> {
        for _ in 0..4 {
            let memory = vzalloc(80 << 10).map_err(|_| NO_MEMORY)?;
            // SAFETY: ours, so many bytes.
            let fine = (0..10 << 10).all(|word| unsafe { words(memory).wrapping_add(word).read_volatile() } == 0);
            mark(memory, 80 << 10, 1);
            // SAFETY: not used any more.
            unsafe { vfree(memory) };
            check(fine, "not zero")?;
        }
        Ok(())
    }

    fn growing_keeps(_: &'static Machine) -> Result<(), &'static str> {
        let mut memory = vmalloc(16 << 10).map_err(|_| NO_MEMORY)?;
        mark(memory, 16 << 10, 7);
        let mut neighbours = [None; 4];
        for (neighbour, bytes) in neighbours.iter_mut().zip([32 << 10, 64 << 10, 256 << 10, 1 << 20]) {
            *neighbour = vmalloc(4096).ok();
            // SAFETY: the old address is not used any more.
            let grown = unsafe { vrealloc(Some(memory), bytes, Gfp::KERNEL | Gfp::ZERO) };
            memory = grown.ok().flatten().ok_or(NO_MEMORY)?;
            check(is_marked(memory, 16 << 10, 7), "what was there is gone")?;
            // SAFETY: ours, so many bytes.
            let last = unsafe { words(memory).wrapping_add(bytes as usize / 8 - 1).read_volatile() };
            check(last == 0, "what is new is not zero")?;
        }
        for memory in neighbours.into_iter().flatten().chain([memory]) {
            // SAFETY: not used any more.
            unsafe { vfree(memory) };
        }
        Ok(())
    }

    fn shrinking_gives_back(machine: &'static Machine) -> Result<(), &'static str> {
        let free = || machine.memory.pages.free_pages() + machine.memory.pages.hoarded_pages();
        let memory = vmalloc(1 << 20).map_err(|_| NO_MEMORY)?;
        mark(memory, 1 << 20, 3);
        let before = free();
        // SAFETY: what is behind the new end is not used any more.
        let shrunk = unsafe { vrealloc(Some(memory), 12 << 10, Gfp::KERNEL) };
        check(shrunk == Ok(Some(memory)), "it moved")?;
        let fine = is_marked(memory, 12 << 10, 3);
        let gained = free() - before;
        // SAFETY: not used any more.
        unsafe { vfree(memory) };
        check(fine && gained == 253, "not 253 pages are back")
    }

    fn permissions_change(machine: &'static Machine) -> Result<(), &'static str> {
        let memory = vmalloc(64 << 10).map_err(|_| NO_MEMORY)?;
        mark(memory, 64 << 10, 9);
        let virt = VirtAddr::new(memory.addr().get() as u64 + PAGE_SIZE);
        // SAFETY: nobody writes to it meanwhile.
        unsafe { machine.memory.set_memory_ro(virt, 1) }.map_err(|_| "not made read-only")?;
        check(!is_writable(virt) && is_marked(memory, 64 << 10, 9), "still writable, or gone")?;
        machine.memory.set_memory_rw(virt, 1).map_err(|_| "not made writable")?;
        let fine = is_writable(virt);
        // SAFETY: not used any more.
        unsafe { vfree(memory) };
        check(fine, "not writable again")
    }

    /// What the hardware makes of a write of EL1.
    fn is_writable(virt: VirtAddr) -> bool {
        let par: u64;
        // SAFETY: asks for a translation, touches no memory.
        unsafe { core::arch::asm!("at s1e1w, {}", "isb", "mrs {}, par_el1", in(reg) virt.as_raw(), out(reg) par) };
        par & 1 == 0
    }

    fn registers_are_mapped(machine: &'static Machine) -> Result<(), &'static str> {
        let Some(uart) = machine.info.uarts.first() else { return Ok(()) };
        let phys = mm::addr::PhysAddr::new(uart.base).ok_or("no address")?;
        // SAFETY: registers, mapped as what they are.
        let registers = unsafe { ioremap(phys, PAGE_SIZE) }.map_err(|_| "not mapped")?;
        let virt = VirtAddr::new(registers.addr().get() as u64);
        check(machine.memory.vmalloc.translate(virt) == Some(phys), "mapped elsewhere")?;
        // SAFETY: not used any more.
        unsafe { iounmap(registers) };
        check(!is_writable(virt), "still mapped")
    }

    fn exhaustion(machine: &'static Machine) -> Result<(), &'static str> {
        let free = || machine.memory.pages.free_pages() + machine.memory.pages.hoarded_pages();
        let vmalloc = machine.memory.vmalloc;
        vmalloc.purge();
        let mut last: Option<NonNull<u8>> = None;
        // Each area knows the one before.
        let (mut bytes, mut areas) = (4 << 20, 0);
        let before = free();
        loop {
            match vmalloc_with(bytes, PAGE_SIZE, Gfp::KERNEL, Attributes::DATA) {
                Ok(memory) => {
                    // SAFETY: ours.
                    unsafe { memory.cast::<Option<NonNull<u8>>>().write(last) };
                    last = Some(memory);
                    areas += 1;
                }
                Err(_) if bytes > PAGE_SIZE => bytes /= 4,
                Err(_) => break,
            }
        }
        let least = free();
        while let Some(memory) = last {
            // SAFETY: ours, and it was written above.
            last = unsafe { memory.cast::<Option<NonNull<u8>>>().read() };
            // SAFETY: not used any more.
            unsafe { vfree(memory) };
        }
        vmalloc.purge();
        // Tables and tags stay.
        check(areas > 3 && least < before / 4, "memory was left")?;
        check(free() + 64 + before / 256 > before, "memory is missing")
    }

    static IS_OVER: AtomicBool = AtomicBool::new(true);
    static MIXED_UP: AtomicU64 = AtomicU64::new(0);
    static IN_TICKS: AtomicU64 = AtomicU64::new(0);

    /// The tick's share: an area that comes and goes in an interrupt handler.
    fn in_tick(cpu: &'static PerCpu) {
        if IS_OVER.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(memory) = vmalloc_with(PAGE_SIZE, PAGE_SIZE, Gfp::ATOMIC, Attributes::DATA) {
            let own = 1 << 60 | (cpu.number() as u64) << 50;
            mark(memory, PAGE_SIZE, own);
            IN_TICKS.fetch_add(1, Ordering::Relaxed);
            MIXED_UP.fetch_add(u64::from(!is_marked(memory, PAGE_SIZE, own)), Ordering::Relaxed);
            // SAFETY: not used any more.
            unsafe { vfree(memory) };
        }
    }

    /// Areas come, grow, shrink and go; each must hold what its CPU wrote.
    fn worker() -> u64 {
        const AREAS: usize = 16;
        let me = cpu::this().number() as u64 + 1;
        let mut areas: [Option<(NonNull<u8>, u64, u64)>; AREAS] = [None; AREAS];
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(me);
        let mut steps = 0;
        while !IS_OVER.load(Ordering::Relaxed) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            steps += 1;
            thread::yield_now();
            let own = me << 40 | steps << 10;
            let bytes = (1 + (random >> 20) % 24) * PAGE_SIZE;
            let Some(slot) = areas.get_mut(random as usize % AREAS) else { continue };
            *slot = match *slot {
                None => vmalloc(bytes).ok().map(|memory| {
                    mark(memory, bytes, own);
                    (memory, bytes, own)
                }),
                Some((memory, size, mark_of)) => {
                    MIXED_UP.fetch_add(u64::from(!is_marked(memory, size, mark_of)), Ordering::Relaxed);
                    if random >> 60 < 6 {
                        // SAFETY: the old address is not used any more.
                        match unsafe { vrealloc(Some(memory), bytes, Gfp::KERNEL) } {
                            Ok(Some(moved)) => {
                                let kept = is_marked(moved, size.min(bytes), mark_of);
                                MIXED_UP.fetch_add(u64::from(!kept), Ordering::Relaxed);
                                mark(moved, bytes, own);
                                Some((moved, bytes, own))
                            }
                            _ => Some((memory, size, mark_of)),
                        }
                    } else {
                        // SAFETY: not used any more.
                        unsafe { vfree(memory) };
                        None
                    }
                }
            };
        }
        for (memory, ..) in areas.into_iter().flatten() {
            // SAFETY: not used any more.
            unsafe { vfree(memory) };
        }
        steps
    }

    fn all_at_once(_: &'static Machine) -> Result<(), &'static str> {
        tick::on_tick(in_tick);
        IS_OVER.store(false, Ordering::Relaxed);
        let mut handles = [const { None }; mm::arch::MAX_CPUS];
        for (cpu, slot) in CpuSet::online().iter().zip(&mut handles) {
            *slot = thread::spawn_on(cpu, worker).ok();
        }
        let start = time::ticks();
        while !time::has_passed(start, 500) {
            thread::sleep(20);
        }
        IS_OVER.store(true, Ordering::Relaxed);
        let steps: u64 = handles.into_iter().flatten().map(|handle| handle.join()).sum();
        firmware::println!("{steps} steps, {} in ticks", IN_TICKS.load(Ordering::Relaxed));
        check(steps > 0, "nobody did anything")?;
        check(!tick::is_running() || IN_TICKS.load(Ordering::Relaxed) > 0, "no tick did anything")?;
        check(MIXED_UP.load(Ordering::Relaxed) == 0, "memory of one was seen by another")
    }

    fn everything_is_back(machine: &'static Machine) -> Result<(), &'static str> {
        let vmalloc = machine.memory.vmalloc;
        vmalloc.purge();
        let usage = vmalloc.usage();
        // The stacks of CPUs are areas too.
        let (areas, pages) = (stacks::all().count() as u64, stacks::total_bytes() / PAGE_SIZE);
        check((usage.areas, usage.pages, usage.lazy_pages) == (areas, pages, 0), "areas are left")?;
        let config = vmalloc.config();
        let taken = config.regions as u64 * (config.size / PAGE_SIZE) - usage.free_address_pages;
        // A single page between two areas is the first one's.
        let least = pages + areas * GUARD_PAGES;
        check((least..=least + areas).contains(&taken), "addresses are missing")?;
        check(vmalloc.validate(), "inconsistent")
    }
}
