// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kvmalloc` and its family by Linux's names, over the machine's slab and vmalloc.

use core::ptr::NonNull;

use mm::gfp::Gfp;
use mm::kvmalloc::{KvRequest, Kvmalloc};
use mm::slab::OutOfMemory;

use crate::allocators::{AREAS, SLAB};
use crate::cpu::Hardware;
use crate::pr_err;
use crate::slab::Source;
use crate::vmalloc::caller;

/// Both, once `boot` is through.
pub(crate) fn both() -> Result<Kvmalloc<'static, 'static, Hardware, Source>, OutOfMemory> {
    Ok(Kvmalloc::new(SLAB.get().ok_or(OutOfMemory)?, AREAS.get().ok_or(OutOfMemory)?))
}

/// Memory of so many bytes, from the slab or from vmalloc; with [`Gfp::ZERO`] all zeros.
///
/// # Errors
///
/// [`OutOfMemory`].
#[inline(never)]
#[track_caller]
pub fn kvmalloc(bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
    both()?.alloc(&KvRequest { caller: caller(), ..KvRequest::new(bytes, gfp) })
}

/// Zeroed memory for `nr` objects of `bytes` each.
///
/// # Errors
///
/// [`OutOfMemory`], also if the product overflows.
#[inline(never)]
#[track_caller]
pub fn kvcalloc(nr: usize, bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
    let bytes = nr.checked_mul(bytes).ok_or(OutOfMemory)?;
    both()?.alloc(&KvRequest { caller: caller(), ..KvRequest::new(bytes, gfp | Gfp::ZERO) })
}

/// Frees what the above returned, or the slab, or vmalloc; from anywhere. Of anything else it says what is wrong and does
/// nothing.
///
/// # Safety
///
/// As for [`Kvmalloc::free`].
#[inline(never)]
#[track_caller]
pub unsafe fn kvfree(object: NonNull<u8>) {
    let Ok(both) = both() else { return };
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { both.free(object) } {
        pr_err!("{error}");
    }
}

/// Makes an object longer or shorter, and returns where it is now.
///
/// # Errors
///
/// [`OutOfMemory`]; the object is as it was.
///
/// # Safety
///
/// As for [`Kvmalloc::realloc`].
#[inline(never)]
#[track_caller]
pub unsafe fn kvrealloc(object: Option<NonNull<u8>>, bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
    let request = KvRequest { caller: caller(), ..KvRequest::new(bytes, gfp) };
    // SAFETY: the caller's promise.
    unsafe { both()?.realloc(object, &request) }
}
