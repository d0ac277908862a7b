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
    use firmware::memory;
    use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
    use mm::buddy::PageBlock;
    use mm::gfp::Gfp;
    use mm::page_alloc::{ContigFault, Fault, MovableBlock, MovableOwner, Pages};
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("every page is handed out once and holds what is written", every_page_is_distinct_ram),
                ("blocks of every order are aligned and come back", every_order_works),
                ("a block freed twice is refused", double_free_is_refused),
                ("no page belongs to the kernel or to a reservation", pages_are_free_memory),
                ("live pages are moved out of a range with what is in them", live_pages_move),
            ],
        )
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
        let before = pages.free_pages();
        let (mut next, count) = take_all(pages)?;
        check(count == before, "not every free page could be had")?;
        check(pages.free_pages() == 0, "pages are left")?;
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
            check(machine.memory.memblock.is_memory(pfn.addr()), "a page is no RAM")?;
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
        // Sixteen chunks' worth on a machine that has them, more than the largest block anyway.
        let length = if before > 32 * 1024 { 16 * 1024 } else { 1100 } * PAGE_SIZE;
        let range = |first: Pfn| {
            let end = PhysAddr::new(first.addr().as_raw() + length).ok_or("no range")?;
            PhysRange::new(first.addr(), end).ok_or("no range")
        };
        let error = pages.alloc_contig_range(Gfp::USER, range(stays.pfn())?).err().ok_or("a page was taken away")?;
        check((error.fault, error.pfn) == (ContigFault::Busy, stays.pfn()), "another page is named")?;
        pages.free(stays).map_err(|_| "a page could not be freed")?;
        let mine = pages.alloc_contig_range(Gfp::USER, range(lowest)?).map_err(|_| "the range could not be had")?;
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
