// SPDX-License-Identifier: MIT OR Apache-2.0
//! Failures on demand, to see what their reports look like: the console's `crash`.

use core::hint::black_box;

/// Names, and what each does. None returns.
pub(crate) const FAILURES: [(&str, fn()); 7] = [
    ("null", read_null),
    ("call", call_null),
    ("undefined", run_nothing),
    ("brk", break_here),
    ("write", write_text),
    ("overflow", overflow_stack),
    ("panic", panic),
];

fn read_null() {
    let null: *const u64 = black_box(core::ptr::without_provenance(8));
    // SAFETY: none; the load faults, which ends the machine.
    unsafe { null.read_volatile() };
}

fn call_null() {
    // SAFETY: none; the fetch faults, which ends the machine.
    unsafe { core::arch::asm!("blr {}", in(reg) 0_u64, clobber_abi("C")) };
}

fn run_nothing() {
    // SAFETY: none; the instruction is permanently undefined, which ends the machine.
    unsafe { core::arch::asm!("udf #0") };
}

fn break_here() {
    // SAFETY: none; nobody handles breakpoints, which ends the machine.
    unsafe { core::arch::asm!("brk #1") };
}

fn write_text() {
    let text: fn() = write_text;
    let text: *mut u32 = core::ptr::with_exposed_provenance_mut(text as usize);
    // SAFETY: none; text is read-only, so the store faults, which ends the machine.
    unsafe { text.write_volatile(0) };
}

fn overflow_stack() {
    recurse(0);
}

#[expect(unconditional_recursion, reason = "the stack is to overflow")]
fn recurse(depth: u64) -> u64 {
    // Used after the call, so that it cannot become a loop.
    let frame = black_box([depth; 32]);
    recurse(depth + 1) + frame.first().copied().unwrap_or(0)
}

#[expect(clippy::panic, reason = "asked for")]
fn panic() {
    panic!("asked for at the console")
}
