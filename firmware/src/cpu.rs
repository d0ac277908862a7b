// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each CPU has for itself, reached by TPIDR_EL1, and the hardware as `mm` sees it.

use mm::arch::aarch64::AArch64;

use crate::layout::DIRECT_MAP;

/// Data of one CPU. The number comes first: `mm` reads it there.
#[derive(Debug)]
#[repr(C)]
pub struct PerCpu {
    number: u64,
}

/// The boot CPU's data; `entry.S` points TPIDR_EL1 here before the first line of Rust.
#[unsafe(no_mangle)]
static BOOT_CPU: PerCpu = PerCpu { number: 0 };

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
