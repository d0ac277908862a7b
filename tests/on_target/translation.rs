// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation tables on the real MMU: what `AT` says after each change, and what the changes cost.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::layout::{DIRECT_MAP, VMALLOC_START};
    use firmware::memory::{TableFrames, tlb};
    use firmware::println;
    use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
    use mm::buddy::PageBlock;
    use mm::gfp::Gfp;
    use mm::pgtable::{Attributes, MapError};
    use mm::tlb::Event;
    use tests::check;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("no page is writable and executable", no_page_breaks_the_rule),
                ("what is mapped can be used, what is unmapped cannot", mappings_come_and_go),
                ("blocks and groups are split and keep their rest", parts_can_be_unmapped),
                ("a page of the direct map becomes read-only and back", set_memory_changes_one_page),
                ("a page that is not valid cannot be read", set_memory_takes_pages_out_of_use),
                ("what would be writable and executable is refused", write_and_execute_stay_apart),
                ("flushes are counted", flushes_are_counted),
                ("tables come back", tables_come_back),
            ],
        )
    }

    fn va(offset: u64) -> VirtAddr {
        VirtAddr::new(VMALLOC_START + (1 << 44) + offset)
    }

    /// What the hardware makes of a read or write of EL1: the physical address, if it is allowed.
    fn translates(virt: VirtAddr, write: bool) -> Option<u64> {
        let par: u64;
        let raw = virt.as_raw();
        if write {
            // SAFETY: asks for a translation, touches no memory.
            unsafe { core::arch::asm!("at s1e1w, {0}", "isb", "mrs {1}, par_el1", in(reg) raw, out(reg) par) };
        } else {
            // SAFETY: as above.
            unsafe { core::arch::asm!("at s1e1r, {0}", "isb", "mrs {1}, par_el1", in(reg) raw, out(reg) par) };
        }
        (par & 1 == 0).then_some(par & 0xffff_ffff_f000 | raw & 0xfff)
    }

    fn word(virt: VirtAddr) -> *mut u64 {
        core::ptr::with_exposed_provenance_mut(virt.as_raw() as usize)
    }

    /// A block of RAM for the time of a test.
    fn with_block(
        machine: &'static Machine,
        order: usize,
        test: impl FnOnce(PhysAddr) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let order = Order::new(order).ok_or("no such order")?;
        let block = machine.memory.pages.alloc(Gfp::KERNEL, order).map_err(|_| "no block")?;
        let (pfn, _): (Pfn, _) = block.into_raw();
        let result = test(pfn.addr());
        machine.memory.pages.free(PageBlock::from_raw(pfn, order)).map_err(|_| "not freed")?;
        result
    }

    fn map(machine: &'static Machine, at: u64, phys: PhysAddr, size: u64) -> Result<(), &'static str> {
        let mut frames = TableFrames(&machine.memory);
        let mut map = machine.memory.map.lock();
        map.tree_mut().map(va(at), phys, size, Attributes::DATA, &mut frames).map_err(|_| "cannot map")
    }

    fn unmap(machine: &'static Machine, at: u64, size: u64) -> Result<(), &'static str> {
        let mut frames = TableFrames(&machine.memory);
        let unmapped = machine.memory.map.lock().tree_mut().unmap(va(at), size, tlb(), &mut frames);
        unmapped.map_err(|_| "cannot unmap")?.flush(tlb()).release();
        Ok(())
    }

    fn no_page_breaks_the_rule(machine: &'static Machine) -> Result<(), &'static str> {
        let report = machine.memory.map.lock().tree().check_wx();
        println!("{report}");
        check(report.pages == 0, "there are W+X pages")?;
        check(machine.memory.map.lock().tree().validate().is_ok(), "the tables contradict themselves")
    }

    fn mappings_come_and_go(machine: &'static Machine) -> Result<(), &'static str> {
        with_block(machine, 10, |phys| {
            for (offset, size) in [(0, PAGE_SIZE), (0x3000, 64 * KIB), (64 * KIB, 64 * KIB), (2 * MIB, 2 * MIB)] {
                map(machine, offset, phys, size)?;
                for at in [0, size - 8] {
                    // SAFETY: just mapped; the frames are this test's.
                    unsafe { word(va(offset + at)).write_volatile(!at) };
                    let direct = VirtAddr::new(DIRECT_MAP + phys.as_raw() + at);
                    // SAFETY: the same frame by the direct map.
                    check(unsafe { word(direct).read_volatile() } == !at, "the page is elsewhere")?;
                }
                unmap(machine, offset, size)?;
                check(translates(va(offset), false).is_none(), "still translated after the flush")?;
                check(translates(va(offset + size - 1), false).is_none(), "its end is still translated")?;
            }
            Ok(())
        })
    }

    fn parts_can_be_unmapped(machine: &'static Machine) -> Result<(), &'static str> {
        with_block(machine, 10, |phys| {
            for size in [64 * KIB, 2 * MIB, 4 * MIB] {
                let hole = size / 2 - PAGE_SIZE;
                map(machine, 0, phys, size)?;
                unmap(machine, hole, PAGE_SIZE)?;
                check(translates(va(hole), false).is_none(), "the hole is mapped")?;
                for at in [0, hole - 1, hole + PAGE_SIZE, size - 1] {
                    check(translates(va(at), true) == Some(phys.as_raw() + at), "the rest has moved")?;
                }
                unmap(machine, 0, size)?;
            }
            Ok(())
        })
    }

    fn set_memory_changes_one_page(machine: &'static Machine) -> Result<(), &'static str> {
        let memory = &machine.memory;
        with_block(machine, 9, |phys| {
            let page = VirtAddr::new(DIRECT_MAP + phys.as_raw() + 5 * PAGE_SIZE);
            let next = VirtAddr::new(page.as_raw() + PAGE_SIZE);
            let stack = VirtAddr::new((&raw const phys).addr() as u64);
            for _ in 0..2 {
                // SAFETY: the frame is this test's, and it does not write it.
                unsafe { memory.set_memory_ro(page, 1) }.map_err(|_| "refused")?;
                check(translates(page, false).is_some() && translates(page, true).is_none(), "not read-only")?;
                check(translates(next, true).is_some(), "its neighbour too")?;
                check(translates(stack, true).is_some(), "this stack too")?;
                memory.set_memory_rw(page, 1).map_err(|_| "refused")?;
                check(translates(page, true).is_some(), "not writable again")?;
            }
            check(memory.map.lock().tree().validate().is_ok(), "the tables contradict themselves")
        })
    }

    fn set_memory_takes_pages_out_of_use(machine: &'static Machine) -> Result<(), &'static str> {
        let memory = &machine.memory;
        with_block(machine, 4, |phys| {
            let page = VirtAddr::new(DIRECT_MAP + phys.as_raw());
            // SAFETY: the frames are this test's, and it does not touch them.
            unsafe { memory.set_memory_valid(page, 16, false) }.map_err(|_| "refused")?;
            check(translates(page, false).is_none(), "still valid")?;
            // SAFETY: as above.
            unsafe { memory.set_memory_valid(page, 16, true) }.map_err(|_| "refused")?;
            check(translates(page, true) == Some(phys.as_raw()), "not what it was")
        })
    }

    fn write_and_execute_stay_apart(machine: &'static Machine) -> Result<(), &'static str> {
        let memory = &machine.memory;
        with_block(machine, 0, |phys| {
            map(machine, 0, phys, PAGE_SIZE)?;
            let refused = Err(MapError::WritableAndExecutable(va(0)));
            check(memory.set_memory_x(va(0), 1) == refused, "executable while writable")?;
            // SAFETY: the frame is this test's.
            unsafe { memory.set_memory_ro(va(0), 1) }.map_err(|_| "refused")?;
            memory.set_memory_x(va(0), 1).map_err(|_| "refused")?;
            check(memory.set_memory_rw(va(0), 1) == refused, "writable while executable")?;
            // SAFETY: no code runs there.
            unsafe { memory.set_memory_nx(va(0), 1) }.map_err(|_| "refused")?;
            unmap(machine, 0, PAGE_SIZE)?;
            check(memory.set_memory_rw(va(0), 1) == Err(MapError::NotMapped(va(0))), "not mapped, and no error")
        })
    }

    fn flushes_are_counted(machine: &'static Machine) -> Result<(), &'static str> {
        with_block(machine, 10, |phys| {
            let counters = tlb().counters();
            let count = || (counters.get(Event::RemoteFlush), counters.get(Event::RemoteFlushOne));
            let before = count();
            map(machine, 0x3000, phys, 20 * PAGE_SIZE)?;
            check(count() == before, "a mapping needs no flush")?;
            unmap(machine, 0x3000, 20 * PAGE_SIZE)?;
            let ranges = tlb().features().tlb_range;
            println!("range invalidates: {ranges}, BBM level 2: {}", tlb().features().bbm_level_2);
            let invalidates = if ranges { 1..=3 } else { 20..=20 };
            check(count().0 == before.0 + 1, "one flush")?;
            check(invalidates.contains(&(count().1 - before.1)), "wrong number of invalidates")
        })
    }

    fn tables_come_back(machine: &'static Machine) -> Result<(), &'static str> {
        let free = || machine.memory.pages.free_pages() + machine.memory.pages.hoarded_pages();
        let before = machine.memory.map.lock().tree().tables();
        let pages = free();
        with_block(machine, 0, |phys| {
            map(machine, 3 << 30, phys, PAGE_SIZE)?;
            unmap(machine, 3 << 30, PAGE_SIZE)
        })?;
        let mut map = machine.memory.map.lock();
        let mut frames = TableFrames(&machine.memory);
        let made = map.tree().tables() - before;
        let trimmed = map.tree_mut().trim(va(3 << 30), PAGE_SIZE, tlb(), &mut frames).map_err(|_| "refused")?;
        check(made == trimmed && map.tree().tables() == before, "some are left")?;
        drop(map);
        check(free() == pages, "pages were lost")
    }
}
