// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kmalloc` and its family: memory for one object of any size up to 4 MiB.
//!
//! [`Slab::kmalloc`] and [`Slab::kfree`] are the heart, where the way to an object is chosen; here is what is built on
//! them: zeroed memory, arrays, and changing an object's size.
//!
//! **Zeroing.** With [`Gfp::ZERO`] all usable bytes are zeroed, those beyond what was asked for included, and
//! [`krealloc`](Slab::krealloc) keeps it so; as with Linux, `ZERO` must be given in every call for the object, or
//! bytes that appear when it grows hold anything.
//!
//! ```
//! use mm::gfp::Gfp;
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
//! // `slab`: 8 MiB of RAM on a host, as in the crate's `arena` example.
//! let object = slab.kmalloc(100, Gfp::KERNEL).expect("there is memory");
//! // SAFETY: 100 bytes of our own.
//! unsafe { object.write_bytes(0x2a, 100) };
//! // SAFETY: it came from this slab, and is used by its new address only.
//! let object = unsafe { slab.krealloc(Some(object), 3000, Gfp::KERNEL) }.expect("there is memory");
//! // SAFETY: the first 100 bytes came along.
//! assert_eq!(unsafe { object.add(99).read() }, 0x2a);
//! // SAFETY: allocated above, and used no more.
//! unsafe { slab.kfree(object) };
//! assert_eq!(slab.nr_faults(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod global;

use core::panic::Location;
use core::ptr::NonNull;

use crate::addr::PAGE_SIZE;
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::slab::{MIN_ALIGN, OutOfMemory, PageSource, Slab, ZERO_SIZE};

pub use self::global::Global;

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// [`kmalloc`](Self::kmalloc) with zeroed memory.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    #[inline]
    #[track_caller]
    pub fn kzalloc(&self, bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
        self.kmalloc(bytes, gfp | Gfp::ZERO)
    }

    /// Memory for `nr` objects of `bytes` each, not zeroed.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], also if the product overflows.
    #[inline]
    #[track_caller]
    pub fn kmalloc_array(&self, nr: usize, bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
        self.kmalloc(nr.checked_mul(bytes).ok_or(OutOfMemory)?, gfp)
    }

    /// Zeroed memory for `nr` objects of `bytes` each.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], also if the product overflows.
    #[inline]
    #[track_caller]
    pub fn kcalloc(&self, nr: usize, bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
        self.kmalloc_array(nr, bytes, gfp | Gfp::ZERO)
    }

    /// Makes an object `bytes` long, where it is if that is possible, and returns the pointer that holds its content
    /// now: the first `min(old, new)` bytes are kept. No object is allocated; no bytes free it and return
    /// [`ZERO_SIZE`].
    ///
    /// In place: within the object's slot, in the packed heap also into free memory behind it, and to fewer pages.
    /// A shorter object gives back what it no longer needs, except for a slot.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; then the object is as it was.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree), but on an error the object stays the caller's.
    #[track_caller]
    pub unsafe fn krealloc(
        &self,
        object: Option<NonNull<u8>>,
        bytes: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let Some(object) = object else { return self.kmalloc(bytes, gfp) };
        // SAFETY: the caller's promise; every object has this alignment.
        unsafe { self.change(object, bytes, MIN_ALIGN, gfp, true, Location::caller()) }
    }

    /// As [`krealloc`](Self::krealloc), for an object that is and stays at a multiple of `align`, a power of two, and may
    /// be freed by its size: it moves to where an object of the new size belongs.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; then the object is as it was.
    ///
    /// # Safety
    ///
    /// As for [`krealloc`](Self::krealloc).
    #[track_caller]
    pub unsafe fn krealloc_aligned(
        &self,
        object: NonNull<u8>,
        bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let stay = self.is_at_home(object, bytes, align);
        // SAFETY: the caller's promise.
        unsafe { self.change(object, bytes, align, gfp, stay, Location::caller()) }
    }

    /// Makes an object longer or shorter, in place only if it may `stay`.
    ///
    /// # Safety
    ///
    /// As for [`krealloc`](Self::krealloc).
    unsafe fn change(
        &self,
        object: NonNull<u8>,
        bytes: usize,
        align: usize,
        gfp: Gfp,
        stay: bool,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        if bytes == 0 {
            // SAFETY: the caller's promise.
            unsafe { self.kfree(object) };
            return Ok(ZERO_SIZE);
        }
        if object == ZERO_SIZE {
            return self.kmalloc_aligned(bytes, align, gfp);
        }
        let zero = gfp.contains(Gfp::ZERO) || self.settings().init_on_alloc;
        let aligned = !bytes.is_power_of_two() || object.addr().get().is_multiple_of(bytes.min(PAGE_SIZE as usize));
        // SAFETY: the caller's promise.
        if stay && aligned && unsafe { self.resize(object, bytes, zero, caller) } {
            return Ok(object);
        }
        // SAFETY: the caller's promise.
        let old = unsafe { self.content_size(object) }.ok_or(OutOfMemory)?;
        let new = self.kmalloc_aligned(bytes, align, gfp)?;
        // SAFETY: both objects have so many bytes, and they are two.
        unsafe { new.copy_from_nonoverlapping(object, old.min(bytes)) };
        // SAFETY: the caller gives it up.
        unsafe { self.kfree(object) };
        Ok(new)
    }
}
