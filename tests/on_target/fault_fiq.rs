// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of an interrupt that nobody asked for. None comes, so it is forged.
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
        tests::expect_fault(Class::Other, tests::text(), &["fatal: unexpected FIQ in the kernel"]);
        // SAFETY: the machine ends in the handler.
        unsafe { tests::forge(2, 0, 0) };
        tests::no_fault("FIQ")
    }
}
