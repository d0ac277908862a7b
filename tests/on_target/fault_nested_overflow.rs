// SPDX-License-Identifier: MIT OR Apache-2.0
//! A handler that recurses without end runs into its own stack's guard page, and that is told.
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
    use firmware::stack;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let Some(stack) = stack::all().find(|stack| stack.name == "fault stack") else { tests::no_fault("search") };
        let words =
            &["the report has failed: stack overflow on CPU 0: 0xffffffff8", "in the guard page of the fault stack"];
        let addresses = stack.guard.start().as_raw()..stack.guard.end().as_raw();
        fatal::expect(Expected { cause: Cause::Fault(Class::Write), addresses, turn: Turn::Nested, words });
        fatal::notify(overflow);
        // SAFETY: none; the machine ends in the handler.
        unsafe { core::arch::asm!("brk #1") };
        tests::no_fault("breakpoint")
    }

    fn overflow() {
        recurse(0);
    }

    /// Never ends, and cannot be turned into a loop: each frame is used after the call.
    #[expect(unconditional_recursion, reason = "that is the test")]
    fn recurse(depth: u64) -> u64 {
        let frame = core::hint::black_box([depth; 32]);
        recurse(depth + 1) + frame[0]
    }
}
