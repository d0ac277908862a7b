// SPDX-License-Identifier: MIT OR Apache-2.0
//! A handler whose stack pointer is of no use starts over at the top of the fault stack.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fatal::{self, Cause, Expected, Turn};
    use firmware::fault::Class;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let words = &["fatal: the report has failed: data abort on a write: translation fault"];
        fatal::expect(Expected { cause: Cause::Fault(Class::Write), addresses: 0..4096, turn: Turn::Nested, words });
        fatal::notify(lose_the_stack);
        // SAFETY: none; the machine ends in the handler.
        unsafe { core::arch::asm!("brk #1") };
        tests::no_fault("breakpoint")
    }

    fn lose_the_stack() {
        // SAFETY: none; the store must fault, and the machine ends in the handler.
        unsafe { core::arch::asm!("mov sp, {}", "str xzr, [sp]", in(reg) 0x120_u64) };
    }
}
