// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allocators of objects that need no operating system, each with its own defaults where it has some.

use alloc::boxed::Box;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};

use crate::objects::Objects;

#[inline(always)]
pub(super) fn layout(size: usize, align: usize) -> Layout {
    // SAFETY: sizes and alignments of the workloads.
    unsafe { Layout::from_size_align_unchecked(size, align) }
}

#[inline(always)]
fn raw(object: Option<NonNull<u8>>) -> *mut u8 {
    object.map_or(null_mut(), NonNull::as_ptr)
}

/// An allocator that may be moved once it has its arena, by three closures, of which the last is unsafe code.
macro_rules! objects {
    (
        $(#[$doc:meta])*
        $type:ident($inner:ty), $name:literal $(, grain $grain:literal)?;
        new $new:expr;
        alloc $alloc:expr;
        free $free:expr;
    ) => {
        $(#[$doc])*
        pub struct $type($inner);

        impl Objects for $type {
            const NAME: &'static str = $name;
            $(const GRAIN: usize = $grain;)?

            unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>> {
                let inner: Option<$inner> = ($new)(base, bytes);
                inner.map(|inner| Box::new(Self(inner)))
            }

            #[inline]
            unsafe fn alloc(&mut self, size: usize, align: usize) -> *mut u8 {
                ($alloc)(&mut self.0, layout(size, align))
            }

            #[inline]
            unsafe fn free(&mut self, object: *mut u8, size: usize, align: usize) {
                // SAFETY: the caller's promise.
                unsafe { ($free)(&mut self.0, NonNull::new_unchecked(object), layout(size, align)) };
            }
        }
    };
}

/// The loop's own cost.
pub struct Null(*mut u8);

impl Objects for Null {
    const NAME: &'static str = "null";
    const IN_ARENA: bool = false;

    unsafe fn new(base: *mut u8, _: usize) -> Option<Box<Self>> {
        Some(Box::new(Self(base)))
    }

    #[inline(never)]
    unsafe fn alloc(&mut self, _: usize, _: usize) -> *mut u8 {
        self.0
    }

    #[inline(never)]
    unsafe fn free(&mut self, object: *mut u8, _: usize, _: usize) {
        core::hint::black_box(object);
    }
}

/// talc keeps pointers to itself in the arena: it must not move once it has claimed one.
pub struct Talc(talc::base::Talc<talc::source::Manual, talc::DefaultBinning>);

impl Objects for Talc {
    const NAME: &'static str = "talc";

    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>> {
        let mut talc = Box::new(Self(talc::base::Talc::new(talc::source::Manual)));
        // SAFETY: the arena is the allocator's.
        unsafe { talc.0.claim(base, bytes) }?;
        Some(talc)
    }

    #[inline]
    unsafe fn alloc(&mut self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: not of size 0.
        raw(unsafe { self.0.allocate(layout(size, align)) })
    }

    #[inline]
    unsafe fn free(&mut self, object: *mut u8, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.0.deallocate(object, layout(size, align)) };
    }
}

objects! {
    /// Address-ordered first fit.
    LinkedList(linked_list_allocator::Heap), "linked_list_allocator";
    new |base, bytes| {
        let mut heap = linked_list_allocator::Heap::empty();
        // SAFETY: the arena is the allocator's.
        unsafe { heap.init(base, bytes) };
        Some(heap)
    };
    alloc |heap: &mut linked_list_allocator::Heap, layout| raw(heap.allocate_first_fit(layout).ok());
    free |heap: &mut linked_list_allocator::Heap, object, layout| heap.deallocate(object, layout);
}

objects! {
    /// Two-level segregated fit.
    Rlsf(rlsf::Tlsf<'static, u32, u16, 24, 16>), "rlsf";
    new |base: *mut u8, bytes| {
        let mut tlsf = rlsf::Tlsf::new();
        let arena = NonNull::slice_from_raw_parts(NonNull::new(base)?, bytes);
        // SAFETY: the arena is the allocator's.
        unsafe { tlsf.insert_free_block_ptr(arena) }?;
        Some(tlsf)
    };
    alloc |tlsf: &mut rlsf::Tlsf<'static, u32, u16, 24, 16>, layout| raw(tlsf.allocate(layout));
    free |tlsf: &mut rlsf::Tlsf<'static, u32, u16, 24, 16>, object, layout: Layout| tlsf.deallocate(object, layout.align());
}

/// embedded-alloc's TLSF; its critical section is the one of a single CPU.
pub struct Embedded(embedded_alloc::TlsfHeap);

struct NoSection;
critical_section::set_impl!(NoSection);

// SAFETY: one thread uses the allocator, and no interrupt.
unsafe impl critical_section::Impl for NoSection {
    unsafe fn acquire() {}
    unsafe fn release(_: ()) {}
}

impl Objects for Embedded {
    const NAME: &'static str = "embedded-alloc";

    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>> {
        let heap = Box::new(Self(embedded_alloc::TlsfHeap::empty()));
        // SAFETY: the arena is the allocator's, and this is called once.
        unsafe { heap.0.init(base as usize, bytes) };
        Some(heap)
    }

    #[inline]
    unsafe fn alloc(&mut self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: not of size 0.
        unsafe { GlobalAlloc::alloc(&self.0, layout(size, align)) }
    }

    #[inline]
    unsafe fn free(&mut self, object: *mut u8, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::dealloc(&self.0, object, layout(size, align)) };
    }
}

objects! {
    /// Lists by power of two.
    BuddyHeap(buddy_system_allocator::Heap<30>), "buddy_system_allocator::Heap";
    new |base: *mut u8, bytes| {
        let mut heap = buddy_system_allocator::Heap::new();
        // SAFETY: the arena is the allocator's.
        unsafe { heap.init(base as usize, bytes) };
        Some(heap)
    };
    alloc |heap: &mut buddy_system_allocator::Heap<30>, layout| raw(heap.alloc(layout).ok());
    free |heap: &mut buddy_system_allocator::Heap<30>, object, layout| heap.dealloc(object, layout);
}

objects! {
    /// Seven lists, 64 to 4096 bytes, each with an eighth of the arena.
    SlabRs(slab_allocator_rs::Heap), "slab_allocator_rs", grain 32_768;
    new |base: *mut u8, bytes| {
        // SAFETY: the arena is the allocator's.
        Some(unsafe { slab_allocator_rs::Heap::new(base as usize, bytes) })
    };
    alloc |heap: &mut slab_allocator_rs::Heap, layout| raw(heap.allocate(layout).ok());
    free |heap: &mut slab_allocator_rs::Heap, object, layout| heap.deallocate(object, layout);
}

/// dlmalloc in a dlmalloc-like port with bins; it keeps pointers to itself.
pub struct Good(good_memory_allocator::Allocator);

impl Objects for Good {
    const NAME: &'static str = "good_memory_allocator";

    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>> {
        let mut allocator = Box::new(Self(good_memory_allocator::Allocator::empty()));
        // SAFETY: the arena is the allocator's.
        unsafe { allocator.0.init(base as usize, bytes) };
        Some(allocator)
    }

    #[inline]
    unsafe fn alloc(&mut self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: not of size 0.
        unsafe { self.0.alloc(layout(size, align)) }
    }

    #[inline]
    unsafe fn free(&mut self, object: *mut u8, _: usize, _: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(object) };
    }
}

/// The arena as picoalloc's address space.
pub struct Region(*mut u8, usize);

impl picoalloc::Env for Region {
    fn total_space(&self) -> picoalloc::Size {
        picoalloc::Size::from_bytes_usize(self.1).unwrap()
    }

    unsafe fn allocate_address_space(&mut self) -> *mut u8 {
        self.0
    }

    unsafe fn expand_memory_until(&mut self, _: *mut u8, size: picoalloc::Size) -> bool {
        size.bytes() as usize <= self.1
    }

    unsafe fn free_address_space(&mut self, _: *mut u8) {}
}

objects! {
    /// Two-level segregated fit in grains of 32 bytes.
    Pico(picoalloc::Allocator<Region>), "picoalloc";
    new |base, bytes| Some(picoalloc::Allocator::new(Region(base, bytes)));
    alloc |pico: &mut picoalloc::Allocator<Region>, layout: Layout| {
        let align = picoalloc::Size::from_bytes_usize(layout.align());
        let size = picoalloc::Size::from_bytes_usize(layout.size());
        match (align, size) {
            (Some(align), Some(size)) => raw(pico.alloc(align, size)),
            _ => null_mut(),
        }
    };
    free |pico: &mut picoalloc::Allocator<Region>, object, _| pico.free(object);
}

/// Grows through the arena by whole pages.
pub struct Growing(Cell<(usize, usize)>);

// SAFETY: each part of the arena is handed out once.
unsafe impl dlmalloc::Allocator for Growing {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let (at, end) = self.0.get();
        if size > end - at {
            return (null_mut(), 0, 0);
        }
        self.0.set((at + size, end));
        (at as *mut u8, size, 0)
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        false
    }

    fn page_size(&self) -> usize {
        4096
    }
}

objects! {
    /// Doug Lea's.
    Dl(dlmalloc::Dlmalloc<Growing>), "dlmalloc", grain 4096;
    new |base: *mut u8, bytes: usize| {
        let arena = Growing(Cell::new((base as usize, base as usize + bytes)));
        let mut dl = dlmalloc::Dlmalloc::new_with_allocator(arena);
        dl.set_granularity(4096);
        Some(dl)
    };
    alloc |dl: &mut dlmalloc::Dlmalloc<Growing>, layout: Layout| {
        // SAFETY: an alignment that it knows.
        unsafe { dl.malloc(layout.size(), layout.align()) }
    };
    free |dl: &mut dlmalloc::Dlmalloc<Growing>, object: NonNull<u8>, layout: Layout| {
        dl.free(object.as_ptr(), layout.size(), layout.align())
    };
}

objects! {
    /// Nodes of 64 bytes in an eighth of the arena, a buddy with leaves of 16 bytes in the rest.
    BuddyAlloc(buddy_alloc::NonThreadsafeAlloc), "buddy-alloc", grain 4096;
    new |base: *mut u8, bytes: usize| {
        use buddy_alloc::{BuddyAllocParam, FastAllocParam};
        let fast = bytes / 8 / 4096 * 4096;
        (fast > 0).then(|| {
            let buddy = BuddyAllocParam::new(base.wrapping_add(fast), bytes - fast, 16);
            buddy_alloc::NonThreadsafeAlloc::new(FastAllocParam::new(base, fast), buddy)
        })
    };
    alloc |buddy: &mut buddy_alloc::NonThreadsafeAlloc, layout| {
        // SAFETY: not of size 0.
        unsafe { GlobalAlloc::alloc(buddy, layout) }
    };
    free |buddy: &mut buddy_alloc::NonThreadsafeAlloc, object: NonNull<u8>, layout| {
        GlobalAlloc::dealloc(buddy, object.as_ptr(), layout)
    };
}
