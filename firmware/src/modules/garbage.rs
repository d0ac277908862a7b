// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that a test writes and looks for.

use core::ptr::NonNull;

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
    // SAFETY: the caller's promise. Volatile, since memory that was freed is looked at too.
    (0..bytes).all(|at| unsafe { memory.add(at).read_volatile() } == byte)
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
