// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for what a benchmark works on: blocks of the page allocator that lie side by side, or an area of vmalloc where
//! memory is in pieces.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use mm::addr::{Order, Pfn};
use mm::arch::Arch;
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::page_alloc::Pages;

use crate::cpu::Hardware;
use crate::vmalloc::{vfree, vzalloc};

/// Most blocks that a buffer is pieced together from, and that are tried for it.
const MAX_BLOCKS: usize = 32;

/// Whole numbers, all zero at first.
pub(crate) struct Buffer<T: Number> {
    pages: &'static Pages<'static, Hardware>,
    blocks: [Option<PageBlock>; MAX_BLOCKS],
    area: Option<NonNull<u8>>,
    first: *mut T,
    length: usize,
}

/// A type of which any bytes are a value.
///
/// # Safety
///
/// That is so, and its alignment is at most that of a page.
pub(crate) unsafe trait Number: Copy {}
// SAFETY: any bytes are a number.
unsafe impl Number for u32 {}
// SAFETY: any bytes are a number.
unsafe impl Number for u64 {}

impl<T: Number> Buffer<T> {
    /// Room for `length` numbers; `None` if there is not that much memory.
    pub(crate) fn new(pages: &'static Pages<'static, Hardware>, arch: &Hardware, length: usize) -> Option<Self> {
        let bytes = (length * size_of::<T>()).max(1) as u64;
        let (order, count) = match Order::for_bytes(bytes) {
            Some(order) => (order, 1),
            None => (Order::MAX, bytes.div_ceil(Order::MAX.bytes()) as usize),
        };
        let mut blocks = [const { None }; MAX_BLOCKS];
        // Blocks come lowest first as a rule, so that a run of neighbours soon is among them.
        let mut run = 0;
        let mut previous: Option<Pfn> = None;
        for slot in &mut blocks {
            if run == count {
                break;
            }
            let Ok(block) = pages.alloc(Gfp::KERNEL | Gfp::ZERO, order) else { break };
            let follows = previous.is_some_and(|pfn| pfn.as_raw() + order.pages() == block.pfn().as_raw());
            run = if follows { run + 1 } else { 1 };
            previous = Some(block.pfn());
            *slot = Some(block);
        }
        let last = blocks.iter().flatten().count();
        for slot in blocks.iter_mut().take(if run == count { last - run } else { last }) {
            give_back(pages, slot);
        }
        let (area, first) = match blocks.iter().flatten().next() {
            Some(block) => (None, arch.direct_map(block.pfn().addr())),
            None => vzalloc(bytes).ok().map(|area| (Some(area), area.as_ptr()))?,
        };
        Some(Self { pages, blocks, area, first: first.cast(), length })
    }
}

fn give_back(pages: &Pages<'static, Hardware>, slot: &mut Option<PageBlock>) {
    if let Some(block) = slot.take() {
        // It came from there.
        let _ = pages.free(block);
    }
}

impl<T: Number> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the blocks are ours, side by side in the direct map, or an area is, zeroed, and large enough; any bytes
        // are a `T`.
        unsafe { core::slice::from_raw_parts(self.first, self.length) }
    }
}

impl<T: Number> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.first, self.length) }
    }
}

impl<T: Number> Drop for Buffer<T> {
    fn drop(&mut self) {
        for slot in &mut self.blocks {
            give_back(self.pages, slot);
        }
        if let Some(area) = self.area.take() {
            // SAFETY: ours, and used by nobody any more.
            unsafe { vfree(area) };
        }
    }
}
