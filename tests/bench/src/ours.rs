// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quire's own allocators behind the traits of this harness.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::buddy::{Buddy, Mobility, PageBlock};

use crate::frames::Frames;

/// The buddy by itself: no lock, no zone, no per-CPU lists.
pub struct RawBuddy {
    buddy: Buddy<'static>,
    metadata: *mut [u64],
}

/// The loop's own cost.
pub struct Null;

fn range(frames: usize) -> PhysRange {
    PhysRange::below(PhysAddr::new_saturating(frames as u64 * PAGE_SIZE))
}

impl Frames for RawBuddy {
    const NAME: &'static str = "quire-buddy";

    fn new(_: *mut u8, frames: usize) -> Box<Self> {
        let range = range(frames);
        let words = Buddy::metadata_words(core::iter::once(range));
        let mut memory: Vec<u64> = Vec::with_capacity(words);
        // SAFETY: the buddy takes metadata of any content, and the words are reserved.
        #[expect(clippy::uninit_vec, reason = "what the allocator leaves untouched must stay so")]
        unsafe {
            memory.set_len(words);
        }
        let metadata = Box::into_raw(memory.into_boxed_slice());
        // SAFETY: it is given back in `drop` only, when the buddy is not used any more.
        let borrowed = unsafe { &mut *metadata };
        let mut buddy = Buddy::new(core::iter::once(range), borrowed).unwrap();
        buddy.add_range(range).unwrap();
        Box::new(Self { buddy, metadata })
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        let order = Order::new(order as usize)?;
        let block = self.buddy.alloc(order, Mobility::Unmovable).ok()?;
        Some(block.into_raw().0.as_raw() as usize)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: u32) {
        let (Some(pfn), Some(order)) = (Pfn::new(frame as u64), Order::new(order as usize)) else {
            return;
        };
        self.buddy.free(PageBlock::from_raw(pfn, order)).unwrap();
    }

    fn alloc_bulk(&mut self, order: u32, frames: &mut [usize]) {
        let mut pfns = [Pfn::default(); 64];
        let Some(order) = Order::new(order as usize) else { return };
        for frames in frames.chunks_mut(64) {
            let taken = self.buddy.alloc_bulk(order, Mobility::Unmovable, &mut pfns[..frames.len()]);
            for (frame, pfn) in frames.iter_mut().zip(&pfns[..taken]) {
                *frame = pfn.as_raw() as usize;
            }
        }
    }

    fn free_bulk(&mut self, order: u32, frames: &[usize]) {
        let mut pfns = [Pfn::default(); 64];
        let Some(order) = Order::new(order as usize) else { return };
        for frames in frames.chunks(64) {
            for (frame, pfn) in frames.iter().zip(&mut pfns) {
                *pfn = Pfn::new(*frame as u64).unwrap();
            }
            self.buddy.free_bulk(order, &pfns[..frames.len()]).unwrap();
        }
    }

    fn metadata_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

impl Drop for RawBuddy {
    fn drop(&mut self) {
        // SAFETY: it came from `into_raw`, and nothing uses it after this.
        drop(unsafe { Box::from_raw(self.metadata) });
    }
}

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

#[allow(dead_code)]
fn unused() {
    let _ = vec![0];
}
