// SPDX-License-Identifier: MIT OR Apache-2.0
//! An exception return to a level above us is reported.
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
        tests::expect_fault(Class::IllegalState, tests::text(), &["fatal: illegal execution state", "+IL EL1t)"]);
        // SAFETY: none; the return to EL2h (DAIF masked) is illegal, and the machine ends in the handler.
        unsafe {
            core::arch::asm!(
                // An interrupt behind this would put another state into both registers.
                "msr daifset, #0xf",
                "mov {0}, #0x3c9",
                "msr spsr_el1, {0}",
                "adr {0}, 2f",
                "msr elr_el1, {0}",
                "eret",
                "2: nop",
                out(reg) _
            );
        }
        tests::no_fault("illegal return")
    }
}
