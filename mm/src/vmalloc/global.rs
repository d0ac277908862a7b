// SPDX-License-Identifier: MIT OR Apache-2.0
//! vmalloc as Rust's allocator: a static of the user's crate.

use core::alloc::Layout;
use core::fmt;
use core::ptr;

use spin::Once;

use super::{Request, Vmalloc, VmallocError, pointer};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::slab::PageSource;

/// A vmalloc that is set up while the machine runs. Until then nothing can be allocated.
pub struct Global<A: Arch + 'static, S: PageSource + 'static>(Once<Vmalloc<'static, A, S>>);

impl<A: Arch, S: PageSource + Copy + Send> Global<A, S> {
    /// Not set up yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Once::new())
    }

    /// Sets it up, the first time.
    ///
    /// # Safety
    ///
    /// 1. Its tree is one that every CPU translates by from now on: what is mapped can be read and written.
    /// 2. Nobody frees by the vmalloc itself what was allocated here.
    pub unsafe fn start(&self, make: impl FnOnce() -> Vmalloc<'static, A, S>) -> &Vmalloc<'static, A, S> {
        self.0.call_once(make)
    }

    /// It, once it is set up.
    #[must_use]
    #[inline(always)]
    pub fn get(&self) -> Option<&Vmalloc<'static, A, S>> {
        self.0.get()
    }

    /// As [`GlobalAlloc::alloc`](core::alloc::GlobalAlloc::alloc); null without memory, beyond an alignment of 1 GiB, or
    /// before the start.
    #[must_use]
    pub fn alloc(&self, layout: Layout, gfp: Gfp) -> *mut u8 {
        let Some(vmalloc) = self.get() else { return ptr::null_mut() };
        memory(vmalloc.alloc(&request(layout, layout.size(), gfp)))
    }

    /// As [`GlobalAlloc::dealloc`](core::alloc::GlobalAlloc::dealloc).
    ///
    /// # Safety
    ///
    /// `memory` came from here with that layout, and is not used from now on.
    pub unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        if let Some(vmalloc) = self.get() {
            // It is an area, so it cannot be refused.
            let freed = vmalloc.free(VirtAddr::new(memory.addr() as u64));
            debug_assert!(freed.is_ok());
        }
    }

    /// As [`GlobalAlloc::realloc`](core::alloc::GlobalAlloc::realloc). Data is not copied, unless the alignment is more
    /// than a page.
    ///
    /// # Safety
    ///
    /// As for [`dealloc`](Self::dealloc); on null the memory stays the caller's.
    #[must_use]
    pub unsafe fn realloc(&self, object: *mut u8, layout: Layout, bytes: usize, gfp: Gfp) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(bytes, layout.align()) else { return ptr::null_mut() };
        if layout.align() as u64 > PAGE_SIZE && bytes > layout.size() {
            let moved = self.alloc(wanted, gfp);
            if !moved.is_null() {
                // SAFETY: two blocks of at least so many bytes.
                unsafe { moved.copy_from_nonoverlapping(object, layout.size()) };
                // SAFETY: the caller gives it up.
                unsafe { self.dealloc(object, layout) };
            }
            return moved;
        }
        let Some(vmalloc) = self.get() else { return ptr::null_mut() };
        let virt = vmalloc.resize(Some(VirtAddr::new(object.addr() as u64)), &request(wanted, bytes, gfp));
        memory(virt.and_then(|virt| virt.ok_or(VmallocError::Zero)))
    }
}

/// An area's address as the allocator interfaces of Rust have it: null if there is none.
fn memory(virt: Result<VirtAddr, VmallocError>) -> *mut u8 {
    virt.and_then(pointer).map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
}

fn request(layout: Layout, bytes: usize, gfp: Gfp) -> Request {
    Request { align: (layout.align() as u64).max(PAGE_SIZE), ..Request::new(bytes as u64, gfp) }
}

impl<A: Arch, S: PageSource + Copy + Send> Default for Global<A, S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Arch, S: PageSource> fmt::Debug for Global<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Global").field(&self.0.get()).finish()
    }
}
