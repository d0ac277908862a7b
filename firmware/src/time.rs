// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system counter: the same on all CPUs, from the moment the machine started (Arm ARM D12.1).
//!
//! The virtual count is read, since a hypervisor above may keep the physical one for itself; where we came in at EL2
//! the two are the same.

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0};
use tock_registers::interfaces::Readable;

/// Ticks of the counter so far.
///
/// Not ordered against the accesses around it: good to some tens of instructions.
#[must_use]
#[inline(always)]
pub fn ticks() -> u64 {
    CNTVCT_EL0.get()
}

/// Ticks per second; 0 where the firmware before us forgot to say.
#[must_use]
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// Nanoseconds that so many ticks last; 0 without a known frequency.
#[must_use]
pub fn to_ns(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000).checked_div(u128::from(frequency())).unwrap_or(0) as u64
}

/// Ticks that so many milliseconds last. An unknown frequency is taken for 1 GHz, which is as fast as counters are: no
/// wait ends too early.
#[must_use]
pub fn from_ms(ms: u64) -> u64 {
    let frequency = match frequency() {
        0 => 1_000_000_000,
        known => known,
    };
    (u128::from(ms) * u128::from(frequency) / 1000) as u64
}

/// Whether `ms` milliseconds have passed since `start`.
#[must_use]
pub fn has_passed(start: u64, ms: u64) -> bool {
    ticks().wrapping_sub(start) >= from_ms(ms)
}
