// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory to work on, and the process's own heap with a count of its bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Zeroed memory, aligned to 1 GiB, that takes no RAM until it is touched. It stays until the process ends.
pub(crate) struct Region {
    base: *mut u8,
    bytes: usize,
}

const ALIGN: usize = 1 << 30;

impl Region {
    pub(crate) fn new(bytes: usize) -> Self {
        Self::try_new(bytes).expect("address space")
    }

    /// `None` if there is no address space for it, as there is not under Valgrind.
    pub(crate) fn try_new(bytes: usize) -> Option<Self> {
        // SAFETY: a new mapping, wherever the kernel likes.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes + ALIGN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return None;
        }
        let mapping = mapping.cast::<u8>();
        Some(Self { base: mapping.wrapping_add(mapping.align_offset(ALIGN)), bytes })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    /// Has the kernel give it RAM now rather than while something is measured.
    pub(crate) fn touch(&self) {
        // SAFETY: mapped, and nothing lies there yet.
        unsafe { self.base.write_bytes(0, self.bytes) };
    }
}

/// The system's heap, counted.
pub(crate) struct Heap;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Bytes on the heap, and the most there were since this was asked before.
pub(crate) fn heap_bytes() -> (usize, usize) {
    let now = NOW.load(Relaxed);
    (now, MOST.swap(now, Relaxed).max(now))
}

fn grown(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    MOST.fetch_max(now, Relaxed);
}

// SAFETY: every call is passed on.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }
}
