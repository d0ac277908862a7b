// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of a trapped system register. The kernel may use all that there are, so it is forged.
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
        let words =
            &["fatal: trapped system register access: S3_0_C1_C0_0 read into x5", "EC 0x18 trapped system register"];
        tests::expect_fault(Class::SystemRegister, tests::text(), words);
        // SAFETY: the machine ends in the handler.
        unsafe { tests::forge(0, 0x6200_0000 | 3 << 20 | 1 << 10 | 5 << 5 | 1, 0) };
        tests::no_fault("trapped system register")
    }
}
