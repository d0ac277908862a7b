// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the on-target tests share. Each file of `on_target/` is one image and one boot.
//!
//! On the host they are empty programs, so that `cargo test --workspace` works.
#![cfg_attr(target_os = "none", no_std)]

/// A test case: its name, a sentence, and the function, which tells what it found wrong.
pub type Case = (&'static str, fn(&'static Machine) -> Result<(), &'static str>);

#[cfg(target_os = "none")]
pub use firmware::boot::Machine;
/// Stands in for the real one where there is none.
#[cfg(not(target_os = "none"))]
#[derive(Debug)]
pub struct Machine;

/// Runs all cases, prints a line for each and the sum, and ends the machine: status 0 if all passed.
#[cfg(target_os = "none")]
pub fn run(machine: &'static Machine, cases: &[Case]) -> ! {
    use firmware::{power, println};

    let mut failed = 0;
    for (name, test) in cases {
        match test(machine) {
            Ok(()) => println!("test {name} ... ok"),
            Err(why) => {
                failed += 1;
                println!("test {name} ... FAILED: {why}");
            }
        }
    }
    println!("{} passed, {failed} failed", cases.len() - failed);
    power::exit(u32::from(failed != 0))
}

/// Announces a fault: the machine ends well if it comes and its report has these words, each within a line.
#[cfg(target_os = "none")]
pub fn expect_fault(class: firmware::fault::Class, addresses: core::ops::Range<u64>, words: &'static [&'static str]) {
    use firmware::fatal::{self, Cause, Expected, Turn};

    fatal::expect(Expected { cause: Cause::Fault(class), addresses, turn: Turn::First, words });
}

/// Announces a panic: the machine ends well if it comes and its report has these words, each within a line.
#[cfg(target_os = "none")]
pub fn expect_panic(words: &'static [&'static str]) {
    use firmware::fatal::{self, Cause, Expected, Turn};

    fatal::expect(Expected { cause: Cause::Panic, addresses: 0..1, turn: Turn::First, words });
}

/// Where the image's instructions are: of a fault that comes without an address.
#[cfg(target_os = "none")]
#[must_use]
pub fn text() -> core::ops::Range<u64> {
    let [text, ..] = firmware::boot::image().sections();
    text.virt.start().as_raw()..text.virt.end().as_raw()
}

/// Ends a test that this machine has no use for.
#[cfg(target_os = "none")]
pub fn skip(why: &str) -> ! {
    firmware::println!("skipped: {why}");
    firmware::println!("0 passed, 0 failed");
    firmware::power::exit(0)
}

/// Takes an exception that the hardware here does not raise: enters `vector` of the table as if by a fault with
/// these registers. Returns if the handler does.
///
/// Vectors 0 to 3 are those of the kernel, 4 to 7 those of a handler, on whose stack this then runs.
///
/// # Safety
///
/// The handler ends the machine, or returns and leaves everything as it was.
#[cfg(target_os = "none")]
#[inline(never)] // the instruction that seems to fault is always the same
pub unsafe fn forge(vector: u64, esr: u64, far: u64) {
    // A handler has all exceptions masked: else a tick could come before the way back to this stack.
    let handler: u64 = if vector >= 4 { 0x3c1 } else { 0 };
    // SAFETY: the registers are those that an exception writes, nothing else can write them while all exceptions
    // are masked, and the way back is an exception return to the end of this.
    unsafe {
        core::arch::asm!(
            "mrs {daif}, daif",
            "msr daifset, #0xf",
            "msr esr_el1, {esr}",
            "msr far_el1, {far}",
            "adr {scratch}, 2f",
            "msr elr_el1, {scratch}",
            "orr {scratch}, {daif}, #4",            // EL1, on the stack pointer and with the masks that `handler` says
            "orr {scratch}, {scratch}, {handler}",
            "msr spsr_el1, {scratch}",
            "adrp {scratch}, exception_vectors",
            "add {scratch}, {scratch}, #:lo12:exception_vectors",
            "add {scratch}, {scratch}, {vector}, lsl #7",
            "msr spsel, #1",
            "br {scratch}",
            "2: msr spsel, #0",
            "msr daif, {daif}",
            esr = in(reg) esr,
            far = in(reg) far,
            vector = in(reg) vector,
            handler = in(reg) handler,
            scratch = out(reg) _,
            daif = out(reg) _,
        );
    }
}

/// Ends a fault test that did not fault.
#[cfg(target_os = "none")]
pub fn no_fault(what: &str) -> ! {
    firmware::println!("test {what} ... FAILED: nothing happened");
    firmware::println!("0 passed, 1 failed");
    firmware::power::exit(1)
}

/// `Err(why)` unless `condition` holds.
///
/// # Errors
///
/// `why`.
pub const fn check(condition: bool, why: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(why) }
}
