// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab as Rust's allocator: a static of the user's crate, and a type of no size that stands for it.
//!
//! This crate has no globals. [`kernel_allocators!`](crate::kernel_allocators) makes them where they belong, and with
//! them `KBox` and `KVec`: a buffer's type says where it lives.

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

/// Declares a static slab, and `Kmalloc`, `KBox` and `KVec` over it.
///
/// `Kmalloc` is a type of no size. It is a [`GlobalAlloc`](core::alloc::GlobalAlloc), to be declared with
/// `#[global_allocator]` where that is wanted, and an allocator for `allocator-api2`'s collections, whose fallible
/// methods return an error when memory runs out. The static must be [started](Global::start) before either is used.
///
/// ```ignore
/// mm::kernel_allocators! {
///     /// The machine's slab.
///     pub static SLAB: Global<Hardware, Source>;
/// }
///
/// #[global_allocator]
/// static HEAP: Kmalloc = Kmalloc;
/// ```
#[cfg(feature = "alloc")]
#[macro_export]
macro_rules! kernel_allocators {
    ($(#[$attribute:meta])* $vis:vis static $name:ident: Global<$arch:ty, $source:ty>;) => {
        $(#[$attribute])*
        $vis static $name: $crate::kmalloc::Global<$arch, $source> = $crate::kmalloc::Global::new();

        /// Memory of the slab: physically contiguous, from the direct map.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        $vis struct Kmalloc;

        /// A value in memory of the slab.
        #[allow(dead_code, reason = "a user need not have all of them")]
        $vis type KBox<T> = $crate::kmalloc::exports::Box<T, Kmalloc>;

        /// A vector in memory of the slab.
        #[allow(dead_code, reason = "a user need not have all of them")]
        $vis type KVec<T> = $crate::kmalloc::exports::Vec<T, Kmalloc>;

        // SAFETY: the slab's promises are those that are asked for: blocks of that size and alignment, the caller's
        // alone; nothing unwinds.
        unsafe impl ::core::alloc::GlobalAlloc for Kmalloc {
            #[inline]
            unsafe fn alloc(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                $name.alloc(layout, $crate::gfp::Gfp::KERNEL)
            }

            #[inline]
            unsafe fn alloc_zeroed(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                $name.alloc(layout, $crate::gfp::Gfp::KERNEL | $crate::gfp::Gfp::ZERO)
            }

            #[inline]
            unsafe fn dealloc(&self, object: *mut u8, layout: ::core::alloc::Layout) {
                // SAFETY: the caller's promise.
                unsafe { $name.dealloc(object, layout) }
            }

            #[inline]
            unsafe fn realloc(&self, object: *mut u8, layout: ::core::alloc::Layout, bytes: usize) -> *mut u8 {
                // SAFETY: the caller's promise.
                unsafe { $name.realloc(object, layout, bytes, $crate::gfp::Gfp::KERNEL) }
            }
        }

        // SAFETY: the slab's blocks stay where they are until they are freed; every copy of this type stands for the
        // same slab.
        unsafe impl $crate::kmalloc::exports::Allocator for Kmalloc {
            #[inline]
            fn allocate(
                &self,
                layout: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::kmalloc::exports::AllocError> {
                $crate::kmalloc::exports::block($name.alloc(layout, $crate::gfp::Gfp::KERNEL), layout.size())
            }

            #[inline]
            fn allocate_zeroed(
                &self,
                layout: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::kmalloc::exports::AllocError> {
                let gfp = $crate::gfp::Gfp::KERNEL | $crate::gfp::Gfp::ZERO;
                $crate::kmalloc::exports::block($name.alloc(layout, gfp), layout.size())
            }

            #[inline]
            unsafe fn deallocate(&self, object: ::core::ptr::NonNull<u8>, layout: ::core::alloc::Layout) {
                // SAFETY: the caller's promise.
                unsafe { $name.dealloc(object.as_ptr(), layout) }
            }

            #[inline]
            unsafe fn grow(
                &self,
                object: ::core::ptr::NonNull<u8>,
                old: ::core::alloc::Layout,
                new: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::kmalloc::exports::AllocError> {
                // SAFETY: the caller's promise.
                unsafe { $crate::kmalloc::exports::change(&$name, self, object, old, new) }
            }

            #[inline]
            unsafe fn shrink(
                &self,
                object: ::core::ptr::NonNull<u8>,
                old: ::core::alloc::Layout,
                new: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::kmalloc::exports::AllocError> {
                // SAFETY: the caller's promise.
                unsafe { $crate::kmalloc::exports::change(&$name, self, object, old, new) }
            }
        }
    };
}

/// What [`kernel_allocators!`](crate::kernel_allocators) refers to.
#[cfg(feature = "alloc")]
#[doc(hidden)]
pub mod exports {
    use core::alloc::Layout;
    use core::ptr::NonNull;

    pub use allocator_api2::alloc::{AllocError, Allocator};
    pub use allocator_api2::boxed::Box;
    pub use allocator_api2::vec::Vec;

    use super::Global;
    use crate::arch::Arch;
    use crate::gfp::Gfp;
    use crate::slab::PageSource;

    #[inline(always)]
    pub fn block(object: *mut u8, bytes: usize) -> Result<NonNull<[u8]>, AllocError> {
        NonNull::new(object).map(|object| NonNull::slice_from_raw_parts(object, bytes)).ok_or(AllocError)
    }

    /// Growing and shrinking are one: in place where that can be.
    ///
    /// # Safety
    ///
    /// `object` is a block of `allocator`, which stands for `global`, with the layout `old`.
    #[inline]
    pub unsafe fn change<A: Arch, S: PageSource>(
        global: &Global<A, S>,
        allocator: &impl Allocator,
        object: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if new.align() <= old.align() || object.addr().get().is_multiple_of(new.align()) {
            let asked = Layout::from_size_align(old.size(), new.align()).map_err(|_| AllocError)?;
            // SAFETY: the caller's promise.
            return block(unsafe { global.realloc(object.as_ptr(), asked, new.size(), Gfp::KERNEL) }, new.size());
        }
        let moved = allocator.allocate(new)?;
        // SAFETY: two blocks of at least so many bytes.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(object, old.size().min(new.size())) };
        // SAFETY: the caller gives it up.
        unsafe { allocator.deallocate(object, old) };
        Ok(moved)
    }
}
