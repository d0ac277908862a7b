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
    use firmware::exception::{self, Cause};

    pub(crate) fn main(machine: &'static Machine) -> ! {
        let guard = machine.memory.image.sections().into_iter().find(|section| section.name == "guard page");
        let Some(guard) = guard else { tests::no_fault("image has a guard page") };
        exception::expect(Cause::Write, guard.virt.start().as_raw()..guard.virt.end().as_raw());
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
