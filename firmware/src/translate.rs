// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the hardware makes of an address, by its own table walk: AT S1E1R and AT S1E1W (Arm ARM C5.5).
//!
//! They take no lock and cannot fault, so a report may look at any address first. PAR_EL1 is left as it was, since
//! the code that a fault interrupted may be about to read it.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::PAR_EL1;
use tock_registers::interfaces::{Readable, Writeable};

use crate::fault::Par;

/// What a read of `address` at EL1 would find.
#[must_use]
pub fn for_read(address: u64) -> Par {
    let before = PAR_EL1.get();
    // SAFETY: writes PAR_EL1 alone, which is put back below.
    unsafe { core::arch::asm!("at s1e1r, {}", in(reg) address, options(nostack, preserves_flags)) };
    result(before)
}

/// What a write to `address` at EL1 would find.
#[must_use]
pub fn for_write(address: u64) -> Par {
    let before = PAR_EL1.get();
    // SAFETY: writes PAR_EL1 alone, which is put back below.
    unsafe { core::arch::asm!("at s1e1w, {}", in(reg) address, options(nostack, preserves_flags)) };
    result(before)
}

/// The result of the instruction above is there only after a barrier (Arm ARM D8.11.2).
fn result(before: u64) -> Par {
    barrier::isb(barrier::SY);
    let par = Par::new(PAR_EL1.get());
    PAR_EL1.set(before);
    par
}

/// Reads a word that may not be mapped, or may be changed by others; `None` if it is not readable memory.
#[must_use]
pub fn peek<T: Word>(address: u64) -> Option<T> {
    let readable = address.is_multiple_of(size_of::<T>() as u64) && for_read(address).is_memory();
    let word: *const T = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the word is aligned, so it lies in one page, which is readable memory and no device: reading it has no
    // effect. It is volatile, and any bits are a `T`.
    readable.then(|| unsafe { word.read_volatile() })
}

/// What [`peek`] can read.
pub trait Word: Copy + sealed::Sealed {}
impl Word for u32 {}
impl Word for u64 {}

mod sealed {
    /// Types of which any bits are a value.
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}
