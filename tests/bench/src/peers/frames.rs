// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allocators of page frames.

use alloc::alloc::{alloc_zeroed, handle_alloc_error};
use alloc::boxed::Box;
use core::alloc::Layout;
use core::ptr::NonNull;

use crate::frames::Frames;

const PAGE: usize = 4096;

/// The loop's own cost.
pub struct Null;

impl Frames for Null {
    const NAME: &'static str = "null";

    fn new(_: *mut u8, _: usize) -> Box<Self> {
        Box::new(Self)
    }

    #[inline(never)]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        // "No" to what would go on for ever: counting blocks of order 9.
        if core::hint::black_box(order) == 9 { None } else { Some(0) }
    }

    #[inline(never)]
    fn free(&mut self, frame: usize, _: u32) {
        core::hint::black_box(frame);
    }

    fn metadata_bytes(&self) -> usize {
        0
    }
}

/// buddy_system_allocator's sets of frame numbers; 11 orders, as Linux has.
pub struct FrameAllocator(buddy_system_allocator::FrameAllocator<11>);

impl Frames for FrameAllocator {
    const NAME: &'static str = "buddy_system_allocator::FrameAllocator";

    fn new(_: *mut u8, frames: usize) -> Box<Self> {
        let mut allocator = Box::new(Self(buddy_system_allocator::FrameAllocator::new()));
        allocator.0.add_frame(0, frames);
        allocator
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        self.0.alloc(1 << order)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: u32) {
        self.0.dealloc(frame, 1 << order);
    }

    fn metadata_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// buddy_system_allocator's lists, which run through the free frames themselves.
pub struct BuddyHeap {
    heap: buddy_system_allocator::Heap<23>,
    base: usize,
}

impl Frames for BuddyHeap {
    const NAME: &'static str = "buddy_system_allocator::Heap";
    const LINEAR: bool = true;

    fn new(base: *mut u8, frames: usize) -> Box<Self> {
        let mut allocator = Box::new(Self { heap: buddy_system_allocator::Heap::new(), base: base as usize });
        // SAFETY: the frames at `base` are this allocator's.
        unsafe { allocator.heap.init(base as usize, frames * PAGE) };
        allocator
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        let block = self.heap.alloc(block_layout(order)).ok()?;
        Some((block.as_ptr() as usize - self.base) / PAGE)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: u32) {
        let Some(block) = NonNull::new((self.base + frame * PAGE) as *mut u8) else { return };
        // SAFETY: the workload frees what it was given.
        unsafe { self.heap.dealloc(block, block_layout(order)) };
    }

    fn metadata_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

fn block_layout(order: u32) -> Layout {
    // SAFETY: a power of two, and far below the limit.
    unsafe { Layout::from_size_align_unchecked(PAGE << order, PAGE) }
}

/// The tree of bits of rCore and ArceOS: 1M bits for up to 4 GiB, 16M for up to 64 GiB.
pub struct Bitmap<B>(B);
/// For up to 4 GiB.
pub type Bitmap1M = Bitmap<bitmap_allocator::BitAlloc1M>;
/// For up to 64 GiB.
pub type Bitmap16M = Bitmap<bitmap_allocator::BitAlloc16M>;

impl<B: bitmap_allocator::BitAlloc> Frames for Bitmap<B> {
    const NAME: &'static str = "bitmap-allocator";

    fn new(_: *mut u8, frames: usize) -> Box<Self> {
        let layout = Layout::new::<Self>();
        // All zero is "nothing free". Too large for a stack.
        // SAFETY: not of size 0; bits and nothing else, for which zero is a value.
        let mut allocator = unsafe {
            let memory = alloc_zeroed(layout).cast::<Self>();
            if memory.is_null() {
                handle_alloc_error(layout);
            }
            Box::from_raw(memory)
        };
        allocator.0.insert(0..frames);
        allocator
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        if order == 0 { self.0.alloc() } else { self.0.alloc_contiguous(None, 1 << order, order as usize) }
    }

    #[inline]
    fn free(&mut self, frame: usize, order: u32) {
        if order == 0 {
            self.0.dealloc(frame);
        } else {
            self.0.dealloc_contiguous(frame, 1 << order);
        }
    }

    fn metadata_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// buddy-slab-allocator's buddy: 12-byte records in front of the frames.
pub struct BuddySlab {
    buddy: buddy_slab_allocator::BuddyAllocator<PAGE>,
    first: usize,
    frames: usize,
}

/// Pages for the records and the header.
fn record_pages(frames: usize) -> usize {
    (frames * 12 + 256).div_ceil(PAGE)
}

impl Frames for BuddySlab {
    const NAME: &'static str = "buddy-slab-allocator";

    fn extra_bytes(frames: usize) -> usize {
        record_pages(frames).next_multiple_of(1024) * PAGE
    }

    fn new(base: *mut u8, frames: usize) -> Box<Self> {
        let buddy = buddy_slab_allocator::BuddyAllocator::new();
        let mut allocator = Box::new(Self { buddy, first: 0, frames });
        // The records come out of the region: place it so that the frames begin at 4 MiB.
        let records = record_pages(frames);
        let start = base.wrapping_add(Self::extra_bytes(frames) - records * PAGE);
        // SAFETY: inside what is at `base`.
        let region = unsafe { core::slice::from_raw_parts_mut(start, (records + frames) * PAGE) };
        // SAFETY: the region is this allocator's.
        unsafe { allocator.buddy.init(region) }.unwrap();
        assert_eq!(allocator.buddy.total_pages(), frames);
        allocator.first = allocator.buddy.section(0).unwrap().start;
        allocator
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        let block = self.buddy.alloc_pages(1 << order, PAGE).ok()?;
        Some((block - self.first) / PAGE)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: u32) {
        self.buddy.dealloc_pages(self.first + frame * PAGE, 1 << order);
    }

    fn metadata_bytes(&self) -> usize {
        size_of::<Self>() + self.frames * 12 + 256
    }
}

/// Hermit's sorted list of free ranges.
pub struct FreeList(free_list::FreeList<16>);

/// It takes no range at 0.
const FREE_LIST_BASE: usize = 1 << 30;

impl Frames for FreeList {
    const NAME: &'static str = "free-list";
    const LINEAR: bool = true;

    fn new(_: *mut u8, frames: usize) -> Box<Self> {
        let mut allocator = Box::new(Self(free_list::FreeList::new()));
        let range = free_list::PageRange::from_start_len(FREE_LIST_BASE, frames * PAGE).unwrap();
        // SAFETY: numbers only, nothing is touched.
        unsafe { allocator.0.deallocate(range) }.unwrap();
        allocator
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        let layout = free_list::PageLayout::from_size_align(PAGE << order, PAGE << order).ok()?;
        let range = self.0.allocate(layout).ok()?;
        Some((range.start() - FREE_LIST_BASE) / PAGE)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: u32) {
        let start = FREE_LIST_BASE + frame * PAGE;
        let range = free_list::PageRange::from_start_len(start, PAGE << order).unwrap();
        // SAFETY: numbers only, nothing is touched.
        unsafe { self.0.deallocate(range) }.unwrap();
    }

    fn metadata_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// buddy-alloc with leaves of a frame; its bitmaps stand at the start of the region.
pub struct BuddyAlloc {
    buddy: buddy_alloc::buddy_alloc::BuddyAlloc,
    base: usize,
    bitmaps: usize,
}

impl Frames for BuddyAlloc {
    const NAME: &'static str = "buddy-alloc";

    fn extra_bytes(frames: usize) -> usize {
        frames + (4 << 20)
    }

    fn new(base: *mut u8, frames: usize) -> Box<Self> {
        let length = frames * PAGE + Self::extra_bytes(frames);
        let param = buddy_alloc::BuddyAllocParam::new(base, length, PAGE);
        // SAFETY: the region is this allocator's.
        let buddy = unsafe { buddy_alloc::buddy_alloc::BuddyAlloc::new(param) };
        let bitmaps = length - buddy.available_bytes();
        Box::new(Self { buddy, base: base as usize, bitmaps })
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        let block = self.buddy.malloc(PAGE << order);
        (!block.is_null()).then(|| (block as usize - self.base) / PAGE)
    }

    #[inline]
    fn free(&mut self, frame: usize, _: u32) {
        self.buddy.free((self.base + frame * PAGE) as *mut u8);
    }

    fn metadata_bytes(&self) -> usize {
        size_of::<Self>() + self.bitmaps
    }
}
