// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of a misaligned stack pointer. QEMU does not check it, so the exception is forged.
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
            Class::SpAlignment,
            tests::text(),
            &["fatal: misaligned SP", "EC 0x26 misaligned SP; IL 1"],
        );
        // SAFETY: the machine ends in the handler.
        unsafe { tests::forge(0, 0x9a00_0000, 0) };
        tests::no_fault("misaligned SP")
    }
}
