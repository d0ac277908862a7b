// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many stores at once.

use core::arch::asm;

use crate::addr::PAGE_SIZE;

/// Zeros memory by `DC ZVA` of 64 bytes.
///
/// # Safety
///
/// `bytes` bytes at `at`, a multiple of the page size and at one, are the caller's Normal memory; the instruction may be
/// used and stores 64 bytes.
#[inline(always)]
pub(super) unsafe fn zero_by_blocks(mut at: *mut u8, bytes: u64) {
    for _ in 0..bytes / 512 {
        // SAFETY: the caller's bytes, a multiple of the page size; `at` goes on behind them.
        unsafe {
            asm!(
                ".rept 8",
                "dc zva, {at}",
                "add {at}, {at}, #64",
                ".endr",
                at = inout(reg) at,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Zeros a frame.
///
/// # Safety
///
/// The frame at `words` is the caller's alone and mapped writable.
#[inline(always)]
pub(super) unsafe fn zero_frame(words: *mut u64) {
    // SAFETY: the caller's frame; 32 rounds of 128 bytes are exactly one.
    unsafe {
        asm!(
            "2:",
            "stp xzr, xzr, [{at}]",
            "stp xzr, xzr, [{at}, #16]",
            "stp xzr, xzr, [{at}, #32]",
            "stp xzr, xzr, [{at}, #48]",
            "stp xzr, xzr, [{at}, #64]",
            "stp xzr, xzr, [{at}, #80]",
            "stp xzr, xzr, [{at}, #96]",
            "stp xzr, xzr, [{at}, #112]",
            "add {at}, {at}, #128",
            "subs {rounds}, {rounds}, #1",
            "b.ne 2b",
            at = inout(reg) words => _,
            rounds = inout(reg) PAGE_SIZE / 128 => _,
            options(nostack),
        );
    }
}

/// Writes `count` descriptors, each by `step` more than the one before. Pairs of stores: each half is a single-copy atomic
/// access (Arm ARM B2.2.1).
///
/// # Safety
///
/// `at` is the first of so many entries of a table, mapped writable.
#[inline(always)]
pub(super) unsafe fn descriptors(mut at: *mut u64, count: usize, first: u64, step: u64) {
    let mut descriptor = first;
    if step == 0 {
        for _ in 0..count / 16 {
            // SAFETY: 16 of the caller's entries, mapped writable; `at` goes on behind them.
            unsafe {
                asm!(
                    "stp {d}, {d}, [{at}]",
                    "stp {d}, {d}, [{at}, #16]",
                    "stp {d}, {d}, [{at}, #32]",
                    "stp {d}, {d}, [{at}, #48]",
                    "stp {d}, {d}, [{at}, #64]",
                    "stp {d}, {d}, [{at}, #80]",
                    "stp {d}, {d}, [{at}, #96]",
                    "stp {d}, {d}, [{at}, #112]",
                    "add {at}, {at}, #128",
                    at = inout(reg) at,
                    d = in(reg) descriptor,
                    options(nostack, preserves_flags),
                );
            }
        }
        for _ in 0..count % 16 {
            // SAFETY: one of the caller's entries, as above.
            unsafe { at.write_volatile(descriptor) };
            at = at.wrapping_add(1);
        }
        return;
    }
    let rounds = count / 16;
    if rounds != 0 {
        // SAFETY: `rounds * 16` of the caller's entries, mapped writable. `at` and `descriptor` go on behind them.
        unsafe {
            asm!(
                "2:",
                "stp {a}, {b}, [{at}]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "stp {a}, {b}, [{at}, #16]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "stp {a}, {b}, [{at}, #32]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "stp {a}, {b}, [{at}, #48]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "stp {a}, {b}, [{at}, #64]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "stp {a}, {b}, [{at}, #80]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "stp {a}, {b}, [{at}, #96]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "stp {a}, {b}, [{at}, #112]",
                "add {a}, {a}, {two}",
                "add {b}, {b}, {two}",
                "add {at}, {at}, #128",
                "subs {rounds}, {rounds}, #1",
                "b.ne 2b",
                at = inout(reg) at,
                a = inout(reg) descriptor,
                b = inout(reg) descriptor.wrapping_add(step) => _,
                two = in(reg) step.wrapping_mul(2),
                rounds = inout(reg) rounds => _,
                options(nostack),
            );
        }
    }
    for _ in 0..count % 16 {
        // SAFETY: one of the caller's entries, as above.
        unsafe { at.write_volatile(descriptor) };
        at = at.wrapping_add(1);
        descriptor = descriptor.wrapping_add(step);
    }
}
