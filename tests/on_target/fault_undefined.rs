// SPDX-License-Identifier: MIT OR Apache-2.0
//! An instruction that does not exist is reported with its word.
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
        tests::expect_fault(
            Class::Undefined,
            tests::text(),
            &[
                "fatal: undefined instruction 0x00001234",
                "not set by this exception",
                " (00001234)",
                ">  fault_undefined::",
            ],
        );
        // SAFETY: none; the instruction is permanently undefined, and the machine ends in the handler.
        unsafe { core::arch::asm!("udf #0x1234") };
        tests::no_fault("undefined instruction")
    }
}
