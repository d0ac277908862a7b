// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kvmalloc` and its family: memory for whoever does not mind where it is, from the slab if that has it, else from
//! vmalloc.
//!
//! Up to a page is the slab's alone. More is asked of it without reclaim ([`Gfp::NORETRY`]), since vmalloc makes do with
//! single pages. An address says which of the two an object is from. Objects move between them when they are resized:
//! to vmalloc when the slab has nothing so large, to the slab when half a page is enough.
//!
//! What moves is copied through the direct map, so that it does not matter whether vmalloc's tree is the one in use.
//!
//! ```
//! use mm::addr::VirtAddr;
//! use mm::gfp::Gfp;
//! use mm::kvmalloc::{KvRequest, Kvmalloc};
//! use mm::pgtable::Regime;
//! use mm::tlb::Tlb;
//! use mm::vmalloc::{self, Vmalloc};
//! # use mm::addr::{Order, PhysAddr, PhysRange};
//! # use mm::arch::host::Host;
//! # use mm::memblock::Memblock;
//! # use mm::page_alloc::{Config, Pages};
//! # let span = PhysRange::new(PhysAddr::new(1 << 30).unwrap(), PhysAddr::new((1 << 30) + (8 << 20)).unwrap()).unwrap();
//! # let mut words = vec![0_u64; 12 << 17];
//! # let skip = words.as_ptr().align_offset(4 << 20);
//! # let host = Host::new(span.start(), &mut words[skip..][..8 << 17]);
//! # let mut memblock = Memblock::new();
//! # memblock.add(span, 0)?;
//! # let mut metadata = vec![0; Pages::<Host<'_>>::metadata_bytes(&memblock, &Config::DEFAULT) as usize / 8];
//! # let pages = Pages::build(&host, &memblock, &Config::DEFAULT, &mut metadata)?;
//! # use core::sync::atomic::AtomicU16;
//! # use mm::slab::{Settings, Slab};
//! # let nr_tags = Slab::<Host<'_>, &Pages<'_, Host<'_>>>::nr_tags(span);
//! # let mut tags: Vec<AtomicU16> = (0..nr_tags).map(|_| AtomicU16::new(0)).collect();
//! # let settings = Settings::new(span.size(), 1, |fault| eprint!("{fault}"));
//! # let slab = Slab::new(&host, &pages, span, &mut tags, settings).unwrap();
//!
//! // `pages` and `slab`: 8 MiB of RAM on a host. An empty table is a whole tree.
//! let root = pages.alloc(Gfp::KERNEL | Gfp::ZERO, Order::ZERO)?.into_raw().0.addr();
//! let tlb = Tlb::new(&host);
//! let (start, ram_pages) = (VirtAddr::new(0xffff_8000_0000_0000), pages.managed_pages());
//! let lazy_pages = vmalloc::Config::lazy_limit(1, ram_pages);
//! let config = vmalloc::Config { start, size: 1 << 30, ram_pages, lazy_pages, huge: true, regions: 1 };
//! // SAFETY: the tree is ours, and so are all addresses.
//! let areas = unsafe { Vmalloc::new(&host, &pages, &tlb, root, Regime::Upper, config) };
//! let either = Kvmalloc::new(&slab, &areas);
//!
//! let small = either.alloc(&KvRequest::new(100, Gfp::KERNEL))?;
//! let large = either.alloc(&KvRequest::new(5_000_000, Gfp::KERNEL))?; // beyond the largest block
//! let is_area = |object: core::ptr::NonNull<u8>| areas.contains(VirtAddr::new(object.addr().get() as u64));
//! assert!(!is_area(small) && is_area(large));
//! // A host does not translate by the tree, so the area is not looked into here.
//! // SAFETY: both came from there, and are used no more.
//! unsafe { either.free(small) };
//! unsafe { either.free(large) };
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::ptr::NonNull;

use crate::addr::{Order, PAGE_SIZE, VirtAddr};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::slab::{MIN_ALIGN, OutOfMemory, PageSource, Slab, ZERO_SIZE};
use crate::vmalloc::{BadArea, Request, Vmalloc, VmallocError, pointer};

const PAGE: usize = PAGE_SIZE as usize;

/// A slab and a vmalloc, which have their pages from the same source.
#[derive(Debug)]
pub struct Kvmalloc<'k, 'a, A: Arch, S: PageSource> {
    slab: &'k Slab<'a, A, S>,
    vmalloc: &'k Vmalloc<'a, A, S>,
}

impl<A: Arch, S: PageSource> Clone for Kvmalloc<'_, '_, A, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Arch, S: PageSource> Copy for Kvmalloc<'_, '_, A, S> {}

/// What an object should be.
#[derive(Clone, Copy, Debug)]
pub struct KvRequest {
    /// Bytes.
    pub bytes: usize,
    /// A power of two.
    pub align: usize,
    /// As for [`Slab::kmalloc`]. [`Gfp::ZERO`]: filled with zeros.
    pub gfp: Gfp,
    /// Who asks, for reports: an address in code, or 0.
    pub caller: u64,
}

impl KvRequest {
    /// With the alignment that every object has.
    #[must_use]
    pub const fn new(bytes: usize, gfp: Gfp) -> Self {
        Self { bytes, align: MIN_ALIGN, gfp, caller: 0 }
    }

    const fn is_large(&self) -> bool {
        self.bytes > PAGE
    }

    /// How the slab is asked, if vmalloc may be asked too.
    fn slab_gfp(&self) -> Gfp {
        if self.is_large() { self.gfp | Gfp::NORETRY } else { self.gfp }
    }

    fn area(&self) -> Request {
        let align = self.align.max(PAGE) as u64;
        Request { align, caller: self.caller, ..Request::new(self.bytes as u64, self.gfp) }
    }
}

impl<'k, 'a, A: Arch, S: PageSource + Copy + Send> Kvmalloc<'k, 'a, A, S> {
    /// The two together.
    pub const fn new(slab: &'k Slab<'a, A, S>, vmalloc: &'k Vmalloc<'a, A, S>) -> Self {
        Self { slab, vmalloc }
    }

    /// Memory of so many bytes (Linux's `kvmalloc`, `kvzalloc`, and with a product of sizes `kvcalloc`). An address of
    /// vmalloc can be used where its tree is in use.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], if neither has it.
    #[track_caller]
    #[inline(always)]
    pub fn alloc(&self, request: &KvRequest) -> Result<NonNull<u8>, OutOfMemory> {
        if request.bytes as u64 <= Order::MAX.bytes() {
            let object = self.slab.kmalloc_aligned(request.bytes, request.align, request.slab_gfp());
            if object.is_ok() || !request.is_large() {
                return object;
            }
        }
        self.alloc_area(request)
    }

    /// From vmalloc.
    #[cold]
    #[inline(never)]
    fn alloc_area(&self, request: &KvRequest) -> Result<NonNull<u8>, OutOfMemory> {
        Ok(pointer(self.vmalloc.alloc(&request.area())?)?)
    }

    /// The address of an object of vmalloc; `None` for one of the slab.
    #[must_use]
    pub fn area_of(&self, object: NonNull<u8>) -> Option<VirtAddr> {
        let virt = VirtAddr::new(object.addr().get() as u64);
        self.vmalloc.contains(virt).then_some(virt)
    }

    /// Frees an object (Linux's `kvfree`); from anywhere, interrupt handlers included.
    ///
    /// # Errors
    ///
    /// [`BadArea`], for an address of vmalloc that is none of an area; nothing has changed then. The slab reports its
    /// faults itself.
    ///
    /// # Safety
    ///
    /// 1. Nobody uses the object from now on.
    /// 2. If its address is not vmalloc's, as for [`Slab::kfree`].
    #[track_caller]
    #[inline(always)]
    pub unsafe fn free(&self, object: NonNull<u8>) -> Result<(), BadArea> {
        match self.area_of(object) {
            Some(virt) => self.vmalloc.free(virt),
            None => {
                // SAFETY: the caller's promise.
                unsafe { self.slab.kfree(object) };
                Ok(())
            }
        }
    }

    /// Makes an object longer or shorter, where it is if that can be, and returns where it is now (Linux's `kvrealloc`).
    /// The first `min(old, new)` bytes are kept. Without an object it makes one; for 0 bytes it frees it and returns
    /// [`ZERO_SIZE`]. Zeroing is as for [`Slab::krealloc`].
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; the object is as it was. So it is for an address of vmalloc that is none of an area.
    ///
    /// # Safety
    ///
    /// As for [`free`](Self::free), but on an error the object stays the caller's. The request's alignment is one that
    /// the object has.
    #[track_caller]
    pub unsafe fn realloc(&self, object: Option<NonNull<u8>>, request: &KvRequest) -> Result<NonNull<u8>, OutOfMemory> {
        match object {
            None => self.alloc(request),
            Some(object) => match self.area_of(object) {
                Some(virt) => self.resize_area(virt, request),
                // SAFETY: the caller's promise.
                None => unsafe { self.resize_object(object, request) },
            },
        }
    }

    fn resize_area(&self, virt: VirtAddr, request: &KvRequest) -> Result<NonNull<u8>, OutOfMemory> {
        let area = self.vmalloc.find(virt).filter(|area| area.start == virt).ok_or(OutOfMemory)?;
        if request.bytes == 0 {
            return self.vmalloc.free(virt).map(|()| ZERO_SIZE).map_err(|_| OutOfMemory);
        }
        let kept = (area.bytes as usize).min(request.bytes);
        let moved = |to: NonNull<u8>| {
            self.copy(|at| self.place(virt, at), |at| Some(to.as_ptr().wrapping_add(at)), kept);
            self.vmalloc.free(virt).map(|()| to).map_err(|_| OutOfMemory)
        };
        if request.bytes <= PAGE / 2
            && let Ok(object) = self.slab.kmalloc_aligned(request.bytes, request.align, request.gfp | Gfp::NORETRY)
        {
            return moved(object);
        }
        if request.align > PAGE && request.bytes as u64 > area.size() {
            // An area that grows may go to any page.
            let new = self.vmalloc.alloc(&request.area())?;
            self.copy(|at| self.place(virt, at), |at| self.place(new, at), kept);
            self.vmalloc.free(virt).map_err(|_| OutOfMemory)?;
            return Ok(pointer(new)?);
        }
        Ok(pointer(self.vmalloc.resize(Some(virt), &request.area())?.ok_or(OutOfMemory)?)?)
    }

    /// # Safety
    ///
    /// As for [`realloc`](Self::realloc); an object of the slab.
    #[track_caller]
    unsafe fn resize_object(&self, object: NonNull<u8>, request: &KvRequest) -> Result<NonNull<u8>, OutOfMemory> {
        // SAFETY: the caller's promise.
        let resized = unsafe { self.slab.krealloc_aligned(object, request.bytes, request.align, request.slab_gfp()) };
        if resized.is_ok() || !request.is_large() {
            return resized;
        }
        // SAFETY: the object is in use, and the caller's.
        let old = if object == ZERO_SIZE { 0 } else { unsafe { self.slab.content_size(object) }.ok_or(OutOfMemory)? };
        let new = self.vmalloc.alloc(&request.area())?;
        self.copy(|at| Some(object.as_ptr().wrapping_add(at)), |at| self.place(new, at), old.min(request.bytes));
        // SAFETY: the caller gives it up.
        unsafe { self.slab.kfree(object) };
        Ok(pointer(new)?)
    }

    /// The byte of an area, in the direct map.
    fn place(&self, virt: VirtAddr, at: usize) -> Option<*mut u8> {
        let phys = self.vmalloc.translate(virt.checked_add(at as u64)?)?;
        Some(self.vmalloc.arch().direct_map(phys))
    }

    /// Copies between two objects of the caller that are at least so long: to the next border of a page of either at a
    /// time.
    fn copy(&self, from: impl Fn(usize) -> Option<*mut u8>, to: impl Fn(usize) -> Option<*mut u8>, bytes: usize) {
        let mut at = 0;
        while at < bytes
            && let (Some(source), Some(target)) = (from(at), to(at))
        {
            let in_page = |pointer: *mut u8| PAGE - pointer.addr() % PAGE;
            let length = (bytes - at).min(in_page(source)).min(in_page(target));
            // SAFETY: both objects have so many bytes more before their pages end, they are two, and the caller's alone.
            unsafe { target.copy_from_nonoverlapping(source, length) };
            at += length;
        }
    }
}

impl From<VmallocError> for OutOfMemory {
    fn from(_: VmallocError) -> Self {
        Self
    }
}
