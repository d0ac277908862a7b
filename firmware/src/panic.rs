// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a program that broke its own rules. Takes no lock for good, allocates nothing.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::log::record;
use crate::{boot, output, power, println};

/// The status that a panic ends QEMU with, as of every Rust program.
const PANIC_STATUS: u32 = 101;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    if !PANICKING.swap(true, Ordering::Relaxed) {
        // SAFETY: whoever held the port has panicked or been interrupted for good; one CPU runs.
        unsafe { output::steal() };
        boot::open_last_resort();
        println!("\nquire: {info}");
        let (file, line) = info.location().map_or(("?", 0), |at| (at.file(), at.line()));
        record!(error, "panic at {=str}:{=u32}", file, line);
    }
    power::exit(PANIC_STATUS)
}
