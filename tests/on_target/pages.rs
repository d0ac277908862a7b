// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page allocator on real frames: every page can be had once, holds what is written to it, and comes back.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::cpu::Hardware;
    use firmware::memory;
    use mm::addr::{Order, PAGE_SIZE, Pfn};
    use mm::buddy::PageBlock;
    use mm::gfp::Gfp;
    use mm::page_alloc::{Fault, Pages};
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("every page is handed out once and holds what is written", every_page_is_distinct_ram),
                ("blocks of every order are aligned and come back", every_order_works),
                ("a block freed twice is refused", double_free_is_refused),
                ("no page belongs to the kernel or to a reservation", pages_are_free_memory),
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
}
