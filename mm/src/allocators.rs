// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocators as types: what `#[global_allocator]` and collections name.
//!
//! This crate has no globals. [`kernel_allocators!`](crate::kernel_allocators) makes them where they belong, and a
//! buffer's type says where it lives:
//!
//! | type | from | collections |
//! | --- | --- | --- |
//! | `Kmalloc` | the slab: physically contiguous, in the direct map | `KBox`, `KVec` |
//! | `Vmalloc` | whole pages, contiguous in addresses only; grows without copying | `VBox`, `VVec` |
//! | `KVmalloc` | the slab if that has it, else vmalloc | `KVBox`, `KVVec` |
//!
//! All three reach `krealloc`, `vrealloc` and `kvrealloc` when something grows or shrinks.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

pub use allocator_api2::alloc::{AllocError, Allocator};
pub use allocator_api2::boxed::Box;
pub use allocator_api2::vec::Vec;

use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::kvmalloc::{KvRequest, Kvmalloc};
use crate::slab::PageSource;
use crate::{kmalloc, vmalloc};

/// What stands behind the types.
///
/// # Safety
///
/// A block has the size and alignment that was asked for and is the caller's alone until it is freed; nothing unwinds.
pub unsafe trait Backend {
    /// As [`GlobalAlloc::alloc`](core::alloc::GlobalAlloc::alloc).
    fn alloc(&self, layout: Layout, gfp: Gfp) -> *mut u8;

    /// As [`GlobalAlloc::dealloc`](core::alloc::GlobalAlloc::dealloc).
    ///
    /// # Safety
    ///
    /// `memory` came from here with that layout, and is not used from now on.
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout);

    /// As [`GlobalAlloc::realloc`](core::alloc::GlobalAlloc::realloc).
    ///
    /// # Safety
    ///
    /// As for [`dealloc`](Self::dealloc); on null the memory stays the caller's.
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize, gfp: Gfp) -> *mut u8;
}

// SAFETY: the slab's promises are these.
unsafe impl<A: Arch, S: PageSource> Backend for kmalloc::Global<A, S> {
    #[inline]
    #[track_caller]
    fn alloc(&self, layout: Layout, gfp: Gfp) -> *mut u8 {
        Self::alloc(self, layout, gfp)
    }

    #[inline]
    #[track_caller]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { Self::dealloc(self, memory, layout) }
    }

    #[inline]
    #[track_caller]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize, gfp: Gfp) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { Self::realloc(self, memory, layout, bytes, gfp) }
    }
}

// SAFETY: areas are made of whole pages that are the caller's alone, and whoever started it promised that they can be
// used by their addresses.
unsafe impl<A: Arch, S: PageSource + Copy + Send> Backend for vmalloc::Global<A, S> {
    #[inline]
    fn alloc(&self, layout: Layout, gfp: Gfp) -> *mut u8 {
        Self::alloc(self, layout, gfp)
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { Self::dealloc(self, memory, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize, gfp: Gfp) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { Self::realloc(self, memory, layout, bytes, gfp) }
    }
}

/// Both, as [`kvmalloc`](crate::kvmalloc) has it. Before vmalloc is set up it is the slab alone.
#[derive(Debug)]
pub struct Either<A: Arch + 'static, S: PageSource + 'static>(
    /// The slab.
    pub &'static kmalloc::Global<A, S>,
    /// vmalloc.
    pub &'static vmalloc::Global<A, S>,
);

impl<A: Arch, S: PageSource + Copy + Send> Either<A, S> {
    fn both(&self) -> Option<Kvmalloc<'static, 'static, A, S>> {
        Some(Kvmalloc::new(self.0.get()?, self.1.get()?))
    }

    /// Whether it is vmalloc's.
    #[inline(always)]
    fn is_area(&self, memory: *mut u8) -> bool {
        self.1.get().is_some_and(|vmalloc| vmalloc.contains(crate::addr::VirtAddr::new(memory.addr() as u64)))
    }
}

const fn request(layout: Layout, bytes: usize, gfp: Gfp) -> KvRequest {
    KvRequest { bytes, align: layout.align(), gfp, caller: 0 }
}

// SAFETY: a block is from one of the two, and its address says from which.
unsafe impl<A: Arch, S: PageSource + Copy + Send> Backend for Either<A, S> {
    #[inline]
    #[track_caller]
    fn alloc(&self, layout: Layout, gfp: Gfp) -> *mut u8 {
        match self.both() {
            Some(both) if layout.size() as u64 > crate::addr::PAGE_SIZE => {
                both.alloc(&request(layout, layout.size(), gfp)).map_or(ptr::null_mut(), NonNull::as_ptr)
            }
            _ => self.0.alloc(layout, gfp),
        }
    }

    #[inline]
    #[track_caller]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if self.is_area(memory) {
            // SAFETY: the caller's promise.
            unsafe { self.1.dealloc(memory, layout) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.0.dealloc(memory, layout) };
        }
    }

    #[inline]
    #[track_caller]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize, gfp: Gfp) -> *mut u8 {
        let (Some(both), Some(object)) = (self.both(), NonNull::new(memory)) else {
            // SAFETY: the caller's promise; without vmalloc it is the slab's.
            return unsafe { self.0.realloc(memory, layout, bytes, gfp) };
        };
        // SAFETY: the caller's promise.
        let moved = unsafe { both.realloc(Some(object), &request(layout, bytes, gfp)) };
        moved.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

fn block(memory: *mut u8, bytes: usize) -> Result<NonNull<[u8]>, AllocError> {
    NonNull::new(memory).map(|memory| NonNull::slice_from_raw_parts(memory, bytes)).ok_or(AllocError)
}

/// A block, as an [`Allocator`] returns it: for no bytes no memory, at an address that is aligned.
///
/// # Errors
///
/// [`AllocError`] without memory.
#[inline]
#[track_caller]
pub fn allocate(backend: &impl Backend, layout: Layout, gfp: Gfp) -> Result<NonNull<[u8]>, AllocError> {
    match layout.size() {
        0 => block(ptr::without_provenance_mut(layout.align()), 0),
        bytes => block(backend.alloc(layout, gfp), bytes),
    }
}

/// Frees what [`allocate`] or [`change`] returned.
///
/// # Safety
///
/// `memory` is a block of `backend` with that layout, and not used from now on.
#[inline]
#[track_caller]
pub unsafe fn deallocate(backend: &impl Backend, memory: NonNull<u8>, layout: Layout) {
    if layout.size() != 0 {
        // SAFETY: the caller's promise.
        unsafe { backend.dealloc(memory.as_ptr(), layout) };
    }
}

/// Growing and shrinking are one: in place where that can be.
///
/// # Errors
///
/// [`AllocError`] without memory; the block is as it was.
///
/// # Safety
///
/// `memory` is a block of `backend` with the layout `old`, and not used from now on unless there is an error.
#[inline]
pub unsafe fn change(
    backend: &impl Backend,
    memory: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Result<NonNull<[u8]>, AllocError> {
    let stays_aligned = new.align() <= old.align() || memory.addr().get().is_multiple_of(new.align());
    if stays_aligned && old.size() != 0 && new.size() != 0 {
        let asked = Layout::from_size_align(old.size(), new.align()).map_err(|_| AllocError)?;
        // SAFETY: the caller's promise.
        return block(unsafe { backend.realloc(memory.as_ptr(), asked, new.size(), Gfp::KERNEL) }, new.size());
    }
    let moved = allocate(backend, new, Gfp::KERNEL)?;
    // SAFETY: two blocks of at least so many bytes.
    unsafe { moved.cast::<u8>().copy_from_nonoverlapping(memory, old.size().min(new.size())) };
    // SAFETY: the caller gives it up.
    unsafe { deallocate(backend, memory, old) };
    Ok(moved)
}

/// Declares a static slab, and `Kmalloc`, `KBox` and `KVec` over it; with a static vmalloc also `Vmalloc`, `KVmalloc`
/// and their collections.
///
/// These are types of no size. Each is a [`GlobalAlloc`](core::alloc::GlobalAlloc), to be declared with
/// `#[global_allocator]` where that is wanted, and an allocator for `allocator-api2`'s collections, whose fallible
/// methods return an error when memory runs out. The statics must be started ([`kmalloc::Global::start`],
/// [`vmalloc::Global::start`]) before they are used.
///
/// ```
/// # use core::sync::atomic::AtomicU16;
/// # use mm::addr::{PhysAddr, PhysRange};
/// # use mm::memblock::Memblock;
/// # use mm::page_alloc::Config;
/// # use mm::slab::{Settings, Slab};
/// use mm::arch::host::Host;
/// use mm::page_alloc::Pages;
///
/// type Hardware = Host<'static>; // `AArch64` on a target
/// type Source = &'static Pages<'static, Hardware>;
/// mm::kernel_allocators! {
///     /// The machine's slab.
///     pub static SLAB: Global<Hardware, Source>;
///     /// The machine's vmalloc.
///     pub static VMALLOC: Areas<Hardware, Source>;
/// }
/// // #[global_allocator]
/// static HEAP: KVmalloc = KVmalloc;
///
/// # let span = PhysRange::new(PhysAddr::new(1 << 30).unwrap(), PhysAddr::new((1 << 30) + (8 << 20)).unwrap()).unwrap();
/// # let words = vec![0_u64; 12 << 17].leak();
/// # let skip = words.as_ptr().align_offset(4 << 20);
/// # let host: &'static Hardware = Box::leak(Box::new(Host::new(span.start(), &mut words[skip..][..8 << 17])));
/// # let mut memblock = Memblock::new();
/// # memblock.add(span, 0)?;
/// # let metadata = vec![0; Pages::<Hardware>::metadata_bytes(&memblock, &Config::DEFAULT) as usize / 8].leak();
/// # let pages: Source = Box::leak(Box::new(Pages::build(host, &memblock, &Config::DEFAULT, metadata)?));
/// # let nr_tags = Slab::<Hardware, Source>::nr_tags(span);
/// # let tags = Vec::leak((0..nr_tags).map(|_| AtomicU16::new(0)).collect());
/// # let settings = Settings::new(span.size(), 1, |fault| eprint!("{fault}"));
/// // While booting, from pages, tags and settings of the machine:
/// SLAB.start(|| Slab::new(host, pages, span, tags, settings)).expect("there is memory");
/// let mut numbers = KVec::<u32>::new_in(Kmalloc);
/// numbers.try_reserve(1000).map_err(|_| "out of memory")?;
/// numbers.extend(0..1000);
/// assert_eq!(numbers.iter().sum::<u32>(), 499_500);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[macro_export]
macro_rules! kernel_allocators {
    ($(#[$attribute:meta])* $vis:vis static $slab:ident: Global<$arch:ty, $source:ty>;) => {
        $(#[$attribute])*
        $vis static $slab: $crate::kmalloc::Global<$arch, $source> = $crate::kmalloc::Global::new();

        $crate::allocator_type! {
            /// Memory of the slab: physically contiguous, from the direct map.
            $vis Kmalloc, KBox, KVec: $slab
        }
    };
    (
        $(#[$attribute:meta])* $vis:vis static $slab:ident: Global<$arch:ty, $source:ty>;
        $(#[$area_attribute:meta])* $area_vis:vis static $areas:ident: Areas<$area_arch:ty, $area_source:ty>;
    ) => {
        $crate::kernel_allocators! { $(#[$attribute])* $vis static $slab: Global<$arch, $source>; }

        $(#[$area_attribute])*
        $area_vis static $areas: $crate::vmalloc::Global<$area_arch, $area_source> = $crate::vmalloc::Global::new();

        $crate::allocator_type! {
            /// Memory of vmalloc: whole pages, contiguous in addresses only, which grow without being copied.
            $area_vis Vmalloc, VBox, VVec: $areas
        }
        $crate::allocator_type! {
            /// Memory of the slab if that has it, else of vmalloc.
            $area_vis KVmalloc, KVBox, KVVec: $crate::allocators::Either(&$slab, &$areas)
        }
    };
}

/// Makes a type that is an allocator over a backend, and its collections.
#[doc(hidden)]
#[macro_export]
macro_rules! allocator_type {
    ($(#[$attribute:meta])* $vis:vis $type:ident, $box:ident, $vec:ident: $backend:expr) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        $vis struct $type;

        /// A value in memory of that allocator.
        #[allow(dead_code, reason = "a user need not have all of them")]
        $vis type $box<T> = $crate::allocators::Box<T, $type>;

        /// A vector in memory of that allocator.
        #[allow(dead_code, reason = "a user need not have all of them")]
        $vis type $vec<T> = $crate::allocators::Vec<T, $type>;

        // SAFETY: the backend's promises are those that are asked for.
        unsafe impl ::core::alloc::GlobalAlloc for $type {
            #[inline]
            unsafe fn alloc(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                $crate::allocators::Backend::alloc(&$backend, layout, $crate::gfp::Gfp::KERNEL)
            }

            #[inline]
            unsafe fn alloc_zeroed(&self, layout: ::core::alloc::Layout) -> *mut u8 {
                let gfp = $crate::gfp::Gfp::KERNEL | $crate::gfp::Gfp::ZERO;
                $crate::allocators::Backend::alloc(&$backend, layout, gfp)
            }

            #[inline]
            unsafe fn dealloc(&self, memory: *mut u8, layout: ::core::alloc::Layout) {
                // SAFETY: the caller's promise.
                unsafe { $crate::allocators::Backend::dealloc(&$backend, memory, layout) }
            }

            #[inline]
            unsafe fn realloc(&self, memory: *mut u8, layout: ::core::alloc::Layout, bytes: usize) -> *mut u8 {
                let gfp = $crate::gfp::Gfp::KERNEL;
                // SAFETY: the caller's promise.
                unsafe { $crate::allocators::Backend::realloc(&$backend, memory, layout, bytes, gfp) }
            }
        }

        // SAFETY: blocks stay where they are until they are freed; every copy of this type stands for the same backend.
        unsafe impl $crate::allocators::Allocator for $type {
            #[inline]
            fn allocate(
                &self,
                layout: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::allocators::AllocError> {
                $crate::allocators::allocate(&$backend, layout, $crate::gfp::Gfp::KERNEL)
            }

            #[inline]
            fn allocate_zeroed(
                &self,
                layout: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::allocators::AllocError> {
                let gfp = $crate::gfp::Gfp::KERNEL | $crate::gfp::Gfp::ZERO;
                $crate::allocators::allocate(&$backend, layout, gfp)
            }

            #[inline]
            unsafe fn deallocate(&self, memory: ::core::ptr::NonNull<u8>, layout: ::core::alloc::Layout) {
                // SAFETY: the caller's promise.
                unsafe { $crate::allocators::deallocate(&$backend, memory, layout) }
            }

            #[inline]
            unsafe fn grow(
                &self,
                memory: ::core::ptr::NonNull<u8>,
                old: ::core::alloc::Layout,
                new: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::allocators::AllocError> {
                // SAFETY: the caller's promise.
                unsafe { $crate::allocators::change(&$backend, memory, old, new) }
            }

            #[inline]
            unsafe fn shrink(
                &self,
                memory: ::core::ptr::NonNull<u8>,
                old: ::core::alloc::Layout,
                new: ::core::alloc::Layout,
            ) -> Result<::core::ptr::NonNull<[u8]>, $crate::allocators::AllocError> {
                // SAFETY: the caller's promise.
                unsafe { $crate::allocators::change(&$backend, memory, old, new) }
            }
        }
    };
}
