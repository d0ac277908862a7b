// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects of whole pages: from the page allocator, the pages behind the last one needed given back at once if it
//! takes parts of blocks.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::table::LARGE;
use super::{FaultKind, PageSource, Refused, Slab};
use crate::addr::{Order, PAGE_SIZE, Pfn};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// One page.
    #[inline(always)]
    pub(super) fn page_alloc(&self, gfp: Gfp) -> Option<NonNull<u8>> {
        let block = self.source.take(Order::ZERO, gfp - Gfp::ZERO)?;
        let page = self.arch.direct_map(block.pfn().addr());
        self.table.set_one(page.addr(), LARGE);
        self.counters.large_pages.fetch_add(1, Ordering::Relaxed);
        NonNull::new(page)
    }

    /// Whole pages. O(1) if their number is a power of two, else O(pages).
    #[inline(never)]
    pub(super) fn large_alloc(&self, bytes: usize, align: usize, gfp: Gfp) -> Option<NonNull<u8>> {
        let nr = bytes.div_ceil(PAGE_SIZE as usize);
        let order = Order::for_bytes(bytes.max(align) as u64)?;
        let block = self.source.take(order, gfp - Gfp::ZERO)?;
        let first_pfn = block.pfn();
        let first = self.arch.direct_map(first_pfn.addr());
        let (_, order) = block.into_raw();
        let taken = order.pages() as usize;
        let nr = if nr < taken { self.trim(first_pfn, first, nr, order) } else { taken };
        self.table.set_large(first.addr(), nr);
        self.counters.large_pages.fetch_add(nr, Ordering::Relaxed);
        NonNull::new(first)
    }

    /// Gives the pages behind the first `nr` of a block back, if it can be taken apart. Returns how many are left.
    #[cold]
    #[inline(never)]
    fn trim(&self, first_pfn: Pfn, first: *mut u8, nr: usize, order: Order) -> usize {
        let taken = order.pages() as usize;
        if !S::SPLITS {
            if nr.is_power_of_two() {
                // Whoever frees it could not tell that the block was taken apart.
                return taken;
            }
            self.source.take_apart(&PageBlock::from_raw(first_pfn, order));
        }
        self.give_parts(first.wrapping_add(nr * PAGE_SIZE as usize), taken - nr);
        nr
    }

    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the object lies in the first page of a large block.
    #[inline(always)]
    pub(super) unsafe fn large_free(&self, object: NonNull<u8>) -> Result<(), Refused> {
        let addr = object.addr().get();
        if !addr.is_multiple_of(PAGE_SIZE as usize) {
            return Err(FaultKind::NotAnObject);
        }
        let nr = self.table.count_large(addr);
        // SAFETY: the caller's promise.
        if nr <= 2 && unsafe { self.is_kept(self.own(object.as_ptr())) } {
            return Err(FaultKind::DoubleFree);
        }
        if self.settings.init_on_free {
            // SAFETY: the object's own pages, which nothing uses any more.
            unsafe { self.own(object.as_ptr()).write_bytes(0, nr * PAGE_SIZE as usize) };
        }
        self.counters.large_pages.fetch_sub(nr, Ordering::Relaxed);
        self.table.clear_large(addr, nr);
        self.give_frames(self.own(object.as_ptr()), nr);
        Ok(())
    }
}
