// SPDX-License-Identifier: MIT OR Apache-2.0
//! A panic tells who called whom.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fatal::{self, Cause, Expected, Turn};

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let words = &[
            "fatal: panicked at tests/on_target/fault_panic.rs:",
            "a test panics",
            "] fault_panic::on_target::main+0x",
        ];
        fatal::expect(Expected { cause: Cause::Panic, addresses: 0..1, turn: Turn::First, words });
        fails()
    }

    #[inline(never)]
    #[expect(clippy::panic, reason = "that is the test")]
    fn fails() -> ! {
        panic!("a test panics")
    }
}
