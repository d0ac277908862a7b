// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page allocator on real frames: every page can be had once, holds what is written to it, and comes back.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicU64, Ordering};

    use firmware::boot::Machine;
    use firmware::cpu::Hardware;
    use firmware::memory::{self, LateError};
    use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
    use mm::buddy::PageBlock;
    use mm::gfp::Gfp;
    use mm::page_alloc::{AddError, ContigFault, Fault, MovableBlock, MovableOwner, Pages};
    use mm::zone::Zone;
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("memory that was held back is added, if there is any", late_memory_is_added),
                ("every page is handed out once and holds what is written", every_page_is_distinct_ram),
                ("blocks of every order are aligned and come back", every_order_works),
                ("a block freed twice is refused", double_free_is_refused),
                ("no page belongs to the kernel or to a reservation", pages_are_free_memory),
                ("live pages are moved out of a range with what is in them", live_pages_move),
            ],
        )
    }

    /// Those who come later use it to the last page; with `mem=` on the command line there is some.
    fn late_memory_is_added(machine: &'static Machine) -> Result<(), &'static str> {
        let memory = &machine.memory;
        let (before, mut late) = (memory.pages.managed_pages(), memory.late_bytes() / PAGE_SIZE);
        let mut added = 0;
        // A page alone has no room for its own metadata, and stays.
        if late > 0 {
            let refused = memory.add_late(PhysRange::EVERYTHING, PAGE_SIZE);
            check(matches!(refused, Err(LateError::Add(AddError::TooSmall(_)))), "a page was added")?;
            check(memory.late_bytes() == late * PAGE_SIZE, "memory was lost")?;
        }
        for bytes in
            [5 << 20, 64 << 10, u64::MAX, u64::MAX, u64::MAX].into_iter().take_while(|_| memory.late_bytes() > 0)
        {
            let (range, pages) = memory.add_late(PhysRange::EVERYTHING, bytes).map_err(|_| "it could not be added")?;
            check(range.size() / PAGE_SIZE <= pages + pages / 512 + 4, "most of it is metadata")?;
            late -= range.size() / PAGE_SIZE;
            added += pages;
        }
        check(late == 0 && memory.late_bytes() == 0, "not all was added")?;
        check(memory.pages.managed_pages() == before + added, "the count is wrong")?;
        check(memory.add_late(PhysRange::EVERYTHING, u64::MAX).is_err(), "there was more")?;
        let account = memory.account();
        check(account.total == account.free + account.reserved + account.used, "the account does not add up")
    }

    /// The first word of a frame, through the direct map.
    fn word(pfn: Pfn) -> *mut u64 {
        core::ptr::with_exposed_provenance_mut(memory::direct_map(pfn.addr()).as_raw() as usize)
    }

    /// Takes everything in single frames; each frame's first word links to the one before it.
    fn take_all(pages: &Pages<'static, Hardware>) -> Result<(u64, u64), &'static str> {
        let (mut last, mut count) = (u64::MAX, 0);
        while let Ok(block) = pages.alloc(Gfp::MEMALLOC, Order::ZERO) {
            let (pfn, _) = block.into_raw();
            // SAFETY: the frame is ours and in the direct map.
            unsafe { word(pfn).write_volatile(last) };
            // SAFETY: as above, the frame's last word.
            unsafe { word(pfn).wrapping_add(PAGE_SIZE as usize / 8 - 1).write_volatile(!pfn.as_raw()) };
            last = pfn.as_raw();
            count += 1;
        }
        Ok((last, count))
    }

    fn every_page_is_distinct_ram(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        pages.drain();
        // What is lent to movable blocks is for those alone.
        let (before, lent) = (pages.free_pages(), pages.cma_free_pages());
        let (mut next, count) = take_all(pages)?;
        check(count == before - lent, "not every free page could be had")?;
        check(pages.free_pages() == lent, "pages are left")?;
        let mut seen = 0;
        while next != u64::MAX {
            let pfn = Pfn::new(next).ok_or("a frame does not hold what was written")?;
            // SAFETY: the frame is ours and in the direct map.
            let tail = unsafe { word(pfn).wrapping_add(PAGE_SIZE as usize / 8 - 1).read_volatile() };
            check(tail == !next, "two pages share their memory")?;
            // SAFETY: as above.
            next = unsafe { word(pfn).read_volatile() };
            pages.free(PageBlock::from_raw(pfn, Order::ZERO)).map_err(|_| "a page could not be freed")?;
            seen += 1;
        }
        pages.drain();
        check(seen == count && pages.free_pages() == before, "pages were lost")?;
        pages.validate().map_err(|_| "the allocator contradicts itself")
    }

    fn every_order_works(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        pages.drain();
        let before = pages.free_pages();
        for order in Order::all() {
            let block = pages.alloc(Gfp::KERNEL, order).map_err(|_| "no block of this order")?;
            check(block.pfn().is_aligned(order), "a block is misaligned")?;
            let hoarded = pages.hoarded_pages();
            check(pages.free_pages() + hoarded == before - order.pages(), "the count is wrong")?;
            pages.free(block).map_err(|_| "a block could not be freed")?;
        }
        pages.drain();
        check(pages.free_pages() == before, "pages were lost")
    }

    fn double_free_is_refused(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        pages.drain();
        let (pfn, order) = pages.alloc(Gfp::KERNEL, Order::ZERO).map_err(|_| "no page")?.into_raw();
        pages.free(PageBlock::from_raw(pfn, order)).map_err(|_| "a page could not be freed")?;
        let again = pages.free(PageBlock::from_raw(pfn, order)).err().ok_or("the second free went through")?;
        check(again.fault() == Fault::AlreadyFree, "it is refused for another reason")?;
        pages.drain();
        let before = pages.free_pages();
        check(pages.free(PageBlock::from_raw(pfn, order)).is_err(), "a late free went through")?;
        check(pages.free_pages() == before, "it changed something")
    }

    fn pages_are_free_memory(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        pages.drain();
        let (mut next, _) = take_all(pages)?;
        while next != u64::MAX {
            let pfn = Pfn::new(next).ok_or("a frame does not hold what was written")?;
            let is_late = machine.memory.added().any(|range| range.contains(pfn.addr()));
            check(is_late || machine.memory.memblock.is_memory(pfn.addr()), "a page is no RAM")?;
            check(machine.memory.memblock.owner_of(pfn.addr()).is_none(), "a page belongs to somebody")?;
            // SAFETY: the frame is ours and in the direct map.
            next = unsafe { word(pfn).read_volatile() };
            pages.free(PageBlock::from_raw(pfn, Order::ZERO)).map_err(|_| "a page could not be freed")?;
        }
        Ok(())
    }

    /// Pages whose content matters, each at a place of its own; all ones for none.
    struct Movable([AtomicU64; 100]);

    static MOVABLE: Movable = Movable([const { AtomicU64::new(u64::MAX) }; 100]);

    impl Movable {
        fn fill(&self, pages: &Pages<'static, Hardware>) -> Result<(), &'static str> {
            for (number, place) in (0..).zip(&self.0) {
                let (pfn, _) = pages.alloc(Gfp::USER, Order::ZERO).map_err(|_| "no page")?.into_raw();
                (0..PAGE_SIZE / 8).for_each(|at| {
                    // SAFETY: the frame is ours and in the direct map.
                    unsafe { word(pfn).wrapping_add(at as usize).write_volatile(number << 32 | at) };
                });
                place.store(pfn.as_raw(), Ordering::Relaxed);
            }
            Ok(())
        }

        fn frames(&self) -> impl Iterator<Item = Pfn> {
            self.0.iter().filter_map(|place| Pfn::new(place.load(Ordering::Relaxed)))
        }

        fn is_whole(&self) -> bool {
            (0..).zip(self.frames()).all(|(number, pfn)| {
                (0..PAGE_SIZE / 8).all(|at| {
                    // SAFETY: the frame is ours and in the direct map.
                    let found = unsafe { word(pfn).wrapping_add(at as usize).read_volatile() };
                    found == (number << 32 | at)
                })
            })
        }
    }

    impl MovableOwner for Movable {
        fn block_at(&self, pfn: Pfn) -> Option<MovableBlock> {
            let first = self.frames().find(|mine| *mine == pfn)?;
            Some(MovableBlock { first, order: Order::ZERO, gfp: Gfp::USER })
        }

        fn migrate(&self, block: MovableBlock, target: PageBlock) -> Result<PageBlock, PageBlock> {
            let is_it = |place: &&AtomicU64| place.load(Ordering::Relaxed) == block.first.as_raw();
            let Some(place) = self.0.iter().find(is_it) else { return Err(target) };
            // SAFETY: both frames are ours, in the direct map, and apart.
            unsafe { word(block.first).copy_to_nonoverlapping(word(target.pfn()), PAGE_SIZE as usize / 8) };
            place.store(target.into_raw().0.as_raw(), Ordering::Relaxed);
            Ok(PageBlock::from_raw(block.first, block.order))
        }
    }

    fn live_pages_move(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        pages.drain();
        let before = pages.free_pages();
        check(pages.add_owner(&MOVABLE), "no room for an owner")?;
        MOVABLE.fill(pages)?;
        let lowest = MOVABLE.frames().min().ok_or("no page")?;
        let stays = pages.alloc(Gfp::KERNEL, Order::ZERO).map_err(|_| "no page")?;
        // Sixteen of the largest blocks, where so much lies in a row.
        let ram_end =
            |zone: &Zone<'_>| zone.buddy().ranges().find(|ram| ram.contains(lowest.addr())).map(PhysRange::end);
        let ram_end = pages.each_zone(ram_end).into_iter().flatten().flatten().next().ok_or("a page is no RAM")?;
        let length = (16 * Order::MAX.bytes()).min(ram_end.as_raw() - lowest.addr().as_raw());
        let range = |first: Pfn, length: u64| {
            let end = PhysAddr::new(first.addr().as_raw() + length).ok_or("no range")?;
            PhysRange::new(first.addr(), end).ok_or("no range")
        };
        let only = range(stays.pfn(), PAGE_SIZE)?;
        let error = pages.alloc_contig_range(Gfp::USER, only).err().ok_or("a page was taken away")?;
        check((error.fault, error.pfn) == (ContigFault::Busy, stays.pfn()), "another page is named")?;
        pages.free(stays).map_err(|_| "a page could not be freed")?;
        let mine = pages.alloc_contig_range(Gfp::USER, range(lowest, length)?).or_else(|error| {
            // What was set aside at boot may be at the end of RAM.
            let length = error.pfn.addr().as_raw().saturating_sub(lowest.addr().as_raw());
            pages.alloc_contig_range(Gfp::USER, range(lowest, length)?).map_err(|_| "the range could not be had")
        })?;
        check(2 * mine.pages() * PAGE_SIZE > length, "half of the range could not be had")?;
        let end = mine.first().as_raw() + mine.pages();
        check(MOVABLE.frames().all(|pfn| pfn < lowest || pfn.as_raw() >= end), "a page was left in the range")?;
        check(MOVABLE.is_whole(), "the content changed")?;
        let more = pages.alloc_contig_pages(Gfp::USER, 1500).map_err(|_| "no frames in a row")?;
        check(MOVABLE.is_whole(), "the content changed")?;
        for range in [more, mine] {
            pages.free_contig_range(range).map_err(|_| "a range could not be freed")?;
        }
        for place in &MOVABLE.0 {
            let pfn = Pfn::new(place.swap(u64::MAX, Ordering::Relaxed)).ok_or("a page was lost")?;
            pages.free(PageBlock::from_raw(pfn, Order::ZERO)).map_err(|_| "a page could not be freed")?;
        }
        pages.drain();
        check(pages.free_pages() == before, "pages were lost")?;
        pages.validate().map_err(|_| "the allocator contradicts itself")
    }
}
