// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thread that overflows its stack faults in the guard, on whichever CPU, and the report is still written.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fault::Class;
    use firmware::layout::VMALLOC_START;
    use firmware::{smp, thread};

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        // Wherever the thread's stack is: what lies between areas is a guard.
        let words = &[
            "fatal: stack overflow on CPU ",
            "is in the guard page of the thread stack: data abort on a write: translation fault at level 3",
            "] fault_thread_stack::on_target::recurse+0x",
            " times",
        ];
        tests::expect_fault(Class::Write, VMALLOC_START..VMALLOC_START + (256 << 30), words);
        match thread::spawn_on(smp::nr_online() - 1, || recurse(0)) {
            Ok(handle) => handle.join(),
            Err(_) => tests::no_fault("a thread can be spawned"),
        };
        tests::no_fault("stack overflow of a thread")
    }

    /// Never ends, and cannot be turned into a loop: each frame is used after the call.
    #[expect(unconditional_recursion, reason = "that is the test")]
    fn recurse(depth: u64) -> u64 {
        let frame = core::hint::black_box([depth; 32]);
        recurse(depth + 1) + frame[0]
    }
}
