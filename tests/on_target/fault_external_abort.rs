// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of an external abort whose address is lost. No device of ours refuses an access, so it is forged.
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
        let words = &[
            "fatal: data abort on a write: synchronous external abort",
            "EA 1; FnV 1 FAR is not valid",
            "FAR 0x0000000000001234: not set by this exception",
        ];
        tests::expect_fault(Class::Write, tests::text(), words);
        // SAFETY: the machine ends in the handler.
        unsafe { tests::forge(0, 0x9600_0000 | 1 << 10 | 1 << 9 | 1 << 6 | 0x10, 0x1234) };
        tests::no_fault("external abort")
    }
}
