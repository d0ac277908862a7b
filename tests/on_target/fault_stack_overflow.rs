// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stack that grows into its guard page faults there, and the report is still written.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fault::Class;
    use firmware::stack;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let Some(stack) = stack::all().find(|stack| stack.name == "stack") else { tests::no_fault("search") };
        let words = &[
            "fatal: stack overflow on CPU 0: 0xffffffff8",
            "is in the guard page of the stack: data abort on a write: translation fault at level 3",
            "kernel guard page",
            "level 3 entry",
            "0x0000000000000000 invalid",
            "] fault_stack_overflow::on_target::recurse+0x",
            " times",
            "] fault_stack_overflow::on_target::main+0x",
            " below the stack of CPU 0",
        ];
        tests::expect_fault(Class::Write, stack.guard.start().as_raw()..stack.guard.end().as_raw(), words);
        recurse(0);
        tests::no_fault("stack overflow")
    }

    /// Never ends, and cannot be turned into a loop: each frame is used after the call.
    #[expect(unconditional_recursion, reason = "that is the test")]
    fn recurse(depth: u64) -> u64 {
        let frame = core::hint::black_box([depth; 32]);
        recurse(depth + 1) + frame[0]
    }
}
