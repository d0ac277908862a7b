// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each CPU has for itself, reached by TPIDR_EL1, and the hardware as `mm` sees it.

use core::mem::offset_of;
use core::sync::atomic::AtomicPtr;

use mm::arch::aarch64::AArch64;

use crate::layout::{DIRECT_MAP, FAULT_STACK_END};

/// Data of one CPU. Assembly knows the first fields by their offsets.
#[derive(Debug)]
#[repr(C)]
pub struct PerCpu {
    /// The number; `mm` reads it here.
    number: u64,
    /// End of the stack that exceptions are taken on (SP_EL1).
    fault_stack: AtomicPtr<u8>,
}

impl PerCpu {
    /// Where `exception/vectors.S` finds the fault stack.
    pub(crate) const FAULT_STACK: usize = offset_of!(Self, fault_stack);
}

/// The boot CPU's data; `entry.S` points TPIDR_EL1 here before the first line of Rust.
#[unsafe(no_mangle)]
static BOOT_CPU: PerCpu = PerCpu { number: 0, fault_stack: AtomicPtr::new(FAULT_STACK_END.cast_mut()) };

/// The CPU and the direct map, as the memory manager uses them.
pub type Hardware = AArch64;

// SAFETY: the direct map shows all RAM that is handed out once `memory::start` is through, and nobody touches RAM
// by this value before; `entry.S` sets TPIDR_EL1.
static HARDWARE: Hardware = unsafe { AArch64::new(DIRECT_MAP) };

/// The hardware.
#[must_use]
pub fn hardware() -> &'static Hardware {
    &HARDWARE
}
