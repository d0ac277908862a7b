// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory in pieces (`frag=1`): all single pages were taken, and every second one is free again, those in reserve
//! too: else whoever comes first would find the last large blocks.

use mm::addr::{Order, PhysAddr};
use mm::arch::Arch;
use mm::buddy::PageBlock;
use mm::gfp::Gfp;

use crate::cpu::hardware;
use crate::slab::Source;

/// The pages that are held, each with the address of the next in its first word.
pub(super) struct Fragmented {
    pages: Source,
    head: u64,
}

/// The end of the list; a frame begins nowhere so high.
const END: u64 = u64::MAX;

impl Fragmented {
    pub(super) fn new(pages: Source) -> Self {
        let mut held = Self { pages, head: END };
        while let Ok(block) = pages.alloc(Gfp::KERNEL | Gfp::MEMALLOC, Order::ZERO) {
            held.push(block);
        }
        let mut all = Self { pages, head: core::mem::replace(&mut held.head, END) };
        let mut is_kept = false;
        while let Some(block) = all.pop() {
            is_kept = !is_kept;
            if is_kept {
                held.push(block);
            } else {
                // It came from there.
                let _ = pages.free(block);
            }
        }
        held
    }

    fn push(&mut self, block: PageBlock) {
        let (pfn, _) = block.into_raw();
        let first: *mut u64 = hardware().direct_map(pfn.addr()).cast();
        // SAFETY: a page that is held, which the direct map shows.
        unsafe { first.write(self.head) };
        self.head = pfn.addr().as_raw();
    }

    fn pop(&mut self) -> Option<PageBlock> {
        if self.head == END {
            return None;
        }
        let phys = PhysAddr::new_saturating(self.head);
        let first: *const u64 = hardware().direct_map(phys).cast();
        // SAFETY: a page that is held, written by `push`.
        self.head = unsafe { first.read() };
        Some(PageBlock::from_raw(phys.pfn(), Order::ZERO))
    }
}

impl Drop for Fragmented {
    fn drop(&mut self) {
        while let Some(block) = self.pop() {
            // It came from there.
            let _ = self.pages.free(block);
        }
        self.pages.drain();
    }
}
