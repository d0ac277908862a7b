// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owners: a buffer that is with a device cannot be touched, and shared memory goes back by itself.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use super::coherent::CoherentMemory;
use super::device::{Device, DmaAddr};
use super::{Attrs, Direction, DmaError, Mapper, Platform};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::slab::PageSource;

/// Memory that can be lent to a device.
///
/// # Safety
///
/// The region is the value's alone, initialised, any bytes may be written to it, and it stays where it is while the value
/// is moved.
pub unsafe trait DmaBuffer {
    /// Where it is, and how many bytes.
    fn region(&mut self) -> (NonNull<u8>, usize);
}

// SAFETY: bytes, borrowed for good.
unsafe impl DmaBuffer for &'static mut [u8] {
    fn region(&mut self) -> (NonNull<u8>, usize) {
        (NonNull::from_mut(&mut **self).cast(), self.len())
    }
}

// SAFETY: the bytes of a vector are its own, on a heap.
#[cfg(feature = "alloc")]
unsafe impl<A: crate::allocators::Allocator> DmaBuffer for crate::allocators::Vec<u8, A> {
    fn region(&mut self) -> (NonNull<u8>, usize) {
        (NonNull::from_mut(self.as_mut_slice()).cast(), self.len())
    }
}

// SAFETY: the bytes of a box are its own, on a heap.
#[cfg(feature = "alloc")]
unsafe impl<A: crate::allocators::Allocator> DmaBuffer for crate::allocators::Box<[u8], A> {
    fn region(&mut self) -> (NonNull<u8>, usize) {
        (NonNull::from_mut(&mut **self).cast(), self.len())
    }
}

/// A buffer that is with a device: nobody can touch it until [`unmap`](Self::unmap) gives it back. One that is dropped
/// stays with the device, and is named when that is released.
#[derive(Debug)]
#[must_use = "the buffer stays with the device unless it is unmapped"]
pub struct Dma<'m, 'a, B, A: Arch, S: PageSource, P: Platform> {
    mapper: &'m Mapper<'a, A, S, P>,
    device: &'m Device,
    buffer: ManuallyDrop<B>,
    pointer: NonNull<u8>,
    size: usize,
    addr: DmaAddr,
    direction: Direction,
}

impl<'m, 'a, B: DmaBuffer, A: Arch, S: PageSource, P: Platform> Dma<'m, 'a, B, A, S, P> {
    /// Lends `buffer` to `device`.
    ///
    /// # Errors
    ///
    /// [`DmaError`], and the buffer.
    #[track_caller]
    pub fn map(
        mapper: &'m Mapper<'a, A, S, P>,
        device: &'m Device,
        mut buffer: B,
        direction: Direction,
    ) -> Result<Self, (B, DmaError)> {
        let (pointer, size) = buffer.region();
        // SAFETY: the region is the buffer's alone, which nobody can get at while we have it.
        match unsafe { mapper.map_single(device, pointer, size as u64, direction, Attrs::empty()) } {
            Ok(addr) => Ok(Self { mapper, device, buffer: ManuallyDrop::new(buffer), pointer, size, addr, direction }),
            Err(error) => Err((buffer, error)),
        }
    }

    /// What the device calls it.
    #[must_use]
    pub const fn addr(&self) -> DmaAddr {
        self.addr
    }

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Takes the buffer back.
    ///
    /// # Safety
    ///
    /// The device is done with it.
    pub unsafe fn unmap(self) -> B {
        let Self { mapper, device, size, addr, direction, .. } = self;
        // SAFETY: the caller's promise.
        let unmapped = unsafe { mapper.unmap(device, addr, size as u64, direction, Attrs::empty()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
        ManuallyDrop::into_inner(self.buffer)
    }

    /// Looks into it, and may write it, while the device leaves it alone. It is the device's again when the view ends.
    ///
    /// # Safety
    ///
    /// The device does not touch it while the view lives.
    pub unsafe fn view(&mut self) -> DmaView<'_, 'm, 'a, B, A, S, P> {
        let Self { mapper, device, size, addr, direction, .. } = *self;
        // SAFETY: the caller's promise.
        let synced = unsafe { mapper.sync_for_cpu(device, addr, size as u64, direction) };
        debug_assert!(synced.is_ok(), "{synced:?}");
        DmaView(self)
    }
}

/// The bytes of a buffer that is with a device which leaves it alone.
#[derive(Debug)]
pub struct DmaView<'v, 'm, 'a, B: DmaBuffer, A: Arch, S: PageSource, P: Platform>(&'v mut Dma<'m, 'a, B, A, S, P>);

impl<B: DmaBuffer, A: Arch, S: PageSource, P: Platform> Deref for DmaView<'_, '_, '_, B, A, S, P> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region of a buffer that we have, which the device leaves alone.
        unsafe { core::slice::from_raw_parts(self.0.pointer.as_ptr(), self.0.size) }
    }
}

impl<B: DmaBuffer, A: Arch, S: PageSource, P: Platform> DerefMut for DmaView<'_, '_, '_, B, A, S, P> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and we are borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.0.pointer.as_ptr(), self.0.size) }
    }
}

impl<B: DmaBuffer, A: Arch, S: PageSource, P: Platform> Drop for DmaView<'_, '_, '_, B, A, S, P> {
    fn drop(&mut self) {
        let Dma { mapper, device, size, addr, direction, .. } = *self.0;
        let synced = mapper.sync_for_device(device, addr, size as u64, direction);
        debug_assert!(synced.is_ok(), "{synced:?}");
    }
}

/// What can be shared with a device: any bytes are a value.
///
/// # Safety
///
/// Any bytes are a value of it, and it has no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: any bytes are a number.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: an array is its items, one behind the other.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// An array of `T` that the CPU and a device share. It goes back when it is dropped: whoever told the device of it must have
/// stopped that before.
#[derive(Debug)]
pub struct Coherent<'m, 'a, T: Plain, A: Arch, S: PageSource, P: Platform> {
    mapper: &'m Mapper<'a, A, S, P>,
    device: &'m Device,
    memory: CoherentMemory,
    len: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory is the value's alone, but for the device, wherever it goes.
unsafe impl<T: Plain + Send, A: Arch, S: PageSource, P: Platform> Send for Coherent<'_, '_, T, A, S, P> {}

impl<'m, 'a, T: Plain, A: Arch, S: PageSource, P: Platform> Coherent<'m, 'a, T, A, S, P> {
    /// `len` values, all zeros.
    ///
    /// # Errors
    ///
    /// [`DmaError`], as [`Mapper::alloc_coherent`].
    #[track_caller]
    pub fn new(mapper: &'m Mapper<'a, A, S, P>, device: &'m Device, len: usize, gfp: Gfp) -> Result<Self, DmaError> {
        let size = len.checked_mul(size_of::<T>()).ok_or(DmaError::TooLarge(u64::MAX))?;
        let memory = mapper.alloc_coherent(device, size as u64, gfp)?;
        Ok(Self { mapper, device, memory, len, values: PhantomData })
    }

    /// What the device calls it.
    #[must_use]
    pub const fn addr(&self) -> DmaAddr {
        self.memory.addr
    }

    /// How many values.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Where the CPU has it.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<T> {
        self.memory.pointer.cast()
    }

    /// The value at `index`, as it is now.
    #[must_use]
    pub fn read(&self, index: usize) -> Option<T> {
        // SAFETY: one of the values that there are; volatile, since the device writes behind the compiler's back.
        (index < self.len).then(|| unsafe { self.as_ptr().as_ptr().wrapping_add(index).read_volatile() })
    }

    /// Writes the value at `index`; `false` if there is none.
    pub fn write(&mut self, index: usize, value: T) -> bool {
        if index < self.len {
            // SAFETY: as above.
            unsafe { self.as_ptr().as_ptr().wrapping_add(index).write_volatile(value) };
        }
        index < self.len
    }
}

impl<T: Plain, A: Arch, S: PageSource, P: Platform> Drop for Coherent<'_, '_, T, A, S, P> {
    fn drop(&mut self) {
        let freed = self.mapper.free_coherent(self.device, (self.len * size_of::<T>()) as u64, self.memory);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}
