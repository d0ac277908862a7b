// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cycle counter of the PMU (Arm ARM D13): instructions under QEMU's `-icount shift=0`, and otherwise not.

use core::arch::asm;

use aarch64_cpu::registers::ID_AA64DFR0_EL1;
use tock_registers::interfaces::Readable;

/// Starts the counter of this CPU; `false` if there is none.
pub(super) fn start() -> bool {
    // 0: none. 0xf: not the Arm PMU.
    let version = ID_AA64DFR0_EL1.get() >> 8 & 0xf;
    if version == 0 || version == 0xf {
        return false;
    }
    // SAFETY: the PMU is there, and nobody else uses its cycle counter. All of PMCR_EL0.{E, C, LC}: on, cleared,
    // 64 bits wide; PMCCFILTR_EL0 0 counts at EL1; bit 31 of PMCNTENSET_EL0 is the cycle counter.
    unsafe {
        asm!(
            "msr pmccfiltr_el0, xzr",
            "msr pmcntenset_el0, {cycles}",
            "msr pmcr_el0, {control}",
            "isb",
            cycles = in(reg) 1u64 << 31,
            control = in(reg) 1u64 | 1 << 2 | 1 << 6,
            options(nostack, preserves_flags),
        );
    }
    true
}

/// The counter. The barrier keeps what stands before it from being counted behind it.
#[inline(always)]
pub(super) fn now() -> u64 {
    let count: u64;
    // SAFETY: reads a counter. Without `nomem`, no access moves across it.
    unsafe { asm!("isb", "mrs {}, pmccntr_el0", out(reg) count, options(nostack, preserves_flags)) };
    count
}

/// Whether it counts instructions: so it is in QEMU with `-icount shift=0`. Boards count cycles, and QEMU otherwise
/// nanoseconds.
pub(super) fn counts_instructions() -> bool {
    const ROUNDS: u64 = 1000;
    let overhead = overhead();
    let loops = || {
        // SAFETY: five instructions a round that change a register and the flags.
        unsafe {
            asm!(
                "2: add {other}, {other}, {rounds}",
                "eor {other}, {other}, {rounds}",
                "add {other}, {other}, {rounds}",
                "subs {rounds}, {rounds}, #1",
                "b.ne 2b",
                rounds = inout(reg) ROUNDS => _,
                other = inout(reg) 0u64 => _,
                options(nomem, nostack),
            );
        }
    };
    // A few more set the registers up.
    (5 * ROUNDS..5 * ROUNDS + 8).contains(&count(overhead, loops))
}

/// What two reads count with nothing between them.
pub(super) fn overhead() -> u64 {
    let mut least = u64::MAX;
    for _ in 0..8 {
        let start = now();
        least = least.min(now() - start);
    }
    least
}

/// Counts `what`, without the reads.
#[inline(always)]
pub(super) fn count(overhead: u64, what: impl FnOnce()) -> u64 {
    let start = now();
    what();
    (now() - start).saturating_sub(overhead)
}

/// The median of a few counts. O(their number squared): a sort would be larger than all the benchmarks of a kind.
pub(super) fn median(counts: &[u64]) -> u64 {
    let rank = |count: u64| {
        let below = counts.iter().filter(|other| **other < count).count();
        below..below + counts.iter().filter(|other| **other == count).count()
    };
    counts.iter().copied().find(|count| rank(*count).contains(&(counts.len() / 2))).unwrap_or(0)
}
