// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab as Rust's allocator: a static of the user's crate.

use core::alloc::Layout;
use core::fmt;
use core::ptr::{self, NonNull};

use spin::Once;

use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::slab::{PageSource, Slab};

/// A slab that is set up while the machine runs. Until then nothing can be allocated.
pub struct Global<A: Arch + 'static, S: PageSource + 'static>(Once<Slab<'static, A, S>>);

impl<A: Arch, S: PageSource> Global<A, S> {
    /// Not set up yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Once::new())
    }

    /// Sets it up, the first time.
    ///
    /// # Errors
    ///
    /// That of `make`.
    pub fn start<E>(&self, make: impl FnOnce() -> Result<Slab<'static, A, S>, E>) -> Result<&Slab<'static, A, S>, E> {
        self.0.try_call_once(make)
    }

    /// The slab, once it is set up.
    #[must_use]
    #[inline(always)]
    pub fn get(&self) -> Option<&Slab<'static, A, S>> {
        self.0.get()
    }

    /// The slab, which is known to be set up.
    ///
    /// # Safety
    ///
    /// [`get`](Self::get) has returned it before.
    #[must_use]
    #[inline(always)]
    pub unsafe fn get_unchecked(&self) -> &Slab<'static, A, S> {
        // SAFETY: the caller's promise.
        unsafe { self.0.get_unchecked() }
    }

    /// As [`GlobalAlloc::alloc`](core::alloc::GlobalAlloc::alloc); null without memory, or before the start.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn alloc(&self, layout: Layout, gfp: Gfp) -> *mut u8 {
        let Some(slab) = self.get() else { return ptr::null_mut() };
        slab.kmalloc_aligned(layout.size(), layout.align(), gfp).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// As [`GlobalAlloc::dealloc`](core::alloc::GlobalAlloc::dealloc).
    ///
    /// # Safety
    ///
    /// `object` came from here with that layout, and is not used from now on.
    #[inline]
    #[track_caller]
    pub unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        if let (Some(slab), Some(object)) = (self.get(), NonNull::new(object)) {
            // SAFETY: the caller's promise.
            unsafe { slab.kfree_sized(object, layout.size(), layout.align()) };
        }
    }

    /// As [`GlobalAlloc::realloc`](core::alloc::GlobalAlloc::realloc): in place where that can be.
    ///
    /// # Safety
    ///
    /// As for [`dealloc`](Self::dealloc); on null the object stays the caller's.
    #[inline]
    #[must_use]
    #[track_caller]
    pub unsafe fn realloc(&self, object: *mut u8, layout: Layout, bytes: usize, gfp: Gfp) -> *mut u8 {
        let (Some(slab), Some(object)) = (self.get(), NonNull::new(object)) else { return ptr::null_mut() };
        // SAFETY: the caller's promise.
        let moved = unsafe { slab.krealloc_aligned(object, bytes, layout.align(), gfp) };
        moved.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

impl<A: Arch, S: PageSource> Default for Global<A, S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Arch, S: PageSource> fmt::Debug for Global<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Global").field(&self.get()).finish()
    }
}
