// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BRK is reported with its comment.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fault::Class;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let words = &["fatal: BRK 0x4d2", "EC 0x3c BRK; IL 1", "immediate 0x04d2", " (d4209a40)"];
        tests::expect_fault(Class::Breakpoint, tests::text(), words);
        // SAFETY: none; nobody handles breakpoints, and the machine ends in the handler.
        unsafe { core::arch::asm!("brk #0x4d2") };
        tests::no_fault("breakpoint")
    }
}
