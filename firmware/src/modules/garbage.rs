// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that a test writes and looks for, and calls of the slab that are not inlined: its fast paths are in the image often
//! enough.

use core::ptr::NonNull;

use mm::gfp::Gfp;
use mm::slab::CacheRef;

use crate::slab::KernelSlab;

/// An object of any size.
#[inline(never)]
pub(super) fn kmalloc(slab: &KernelSlab, bytes: usize, gfp: Gfp) -> Option<NonNull<u8>> {
    slab.kmalloc(bytes, gfp | Gfp::NOWARN).ok()
}

/// Frees it.
///
/// # Safety
///
/// It came from there, and is not used any more.
#[inline(never)]
pub(super) unsafe fn kfree(slab: &KernelSlab, object: NonNull<u8>) {
    // SAFETY: the caller's promise.
    unsafe { slab.kfree(object) };
}

/// An object of a cache.
#[inline(never)]
pub(super) fn cache_alloc(slab: &KernelSlab, cache: CacheRef, gfp: Gfp) -> Option<NonNull<u8>> {
    slab.cache_alloc(cache, gfp | Gfp::NOWARN).ok()
}

/// Frees it.
///
/// # Safety
///
/// It came from there, and is not used any more.
#[inline(never)]
pub(super) unsafe fn cache_free(slab: &KernelSlab, cache: CacheRef, object: NonNull<u8>) {
    // SAFETY: the caller's promise.
    unsafe { slab.cache_free(cache, object) };
}

/// Fills memory with anything but zeros.
///
/// # Safety
///
/// They are so many bytes of the caller's own.
pub(super) unsafe fn fill(memory: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { memory.write_bytes(0xa5, bytes) };
}

/// Whether all of the bytes are this one.
///
/// # Safety
///
/// They can be read.
pub(super) unsafe fn is_all(memory: NonNull<u8>, bytes: usize, byte: u8) -> bool {
    // SAFETY: the caller's promise.
    (0..bytes).all(|at| unsafe { peek(memory, at) } == byte)
}

/// Reads a byte; of memory that was freed too.
///
/// # Safety
///
/// It can be read.
pub(super) unsafe fn peek(memory: NonNull<u8>, at: usize) -> u8 {
    // SAFETY: the caller's promise.
    let byte = unsafe { memory.add(at) };
    // SAFETY: as above.
    unsafe { byte.read_volatile() }
}

/// Writes a byte; to memory that was freed too, which is the point of some tests.
///
/// # Safety
///
/// It can be written, and whoever owns it finds out.
pub(super) unsafe fn poke(memory: NonNull<u8>, at: usize, value: u8) {
    // SAFETY: the caller's promise.
    let byte = unsafe { memory.add(at) };
    // SAFETY: as above.
    unsafe { byte.write_volatile(value) };
}
