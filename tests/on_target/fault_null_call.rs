// SPDX-License-Identifier: MIT OR Apache-2.0
//! A call of a null pointer faults, and its report knows the caller.
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
            Class::Fetch,
            0..4,
            &[
                "fatal: instruction abort: translation fault at level 0: call of a null pointer",
                "pc  0000000000000000 ",
                "lr  ffffffff8",
                "code: not readable",
                "] fault_null_call::on_target::main+0x",
            ],
        );
        // SAFETY: none; the fetch must fault, and the machine ends in the handler.
        unsafe { core::arch::asm!("blr {}", in(reg) 0_u64, clobber_abi("C")) };
        tests::no_fault("null call")
    }
}
