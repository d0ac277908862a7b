// SPDX-License-Identifier: MIT OR Apache-2.0
//! A jump between two instructions is reported.
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
            Class::PcAlignment,
            tests::text(),
            &["fatal: misaligned PC at 0xffffffff8", "code: not readable"],
        );
        // SAFETY: none; the jump must fault, and the machine ends in the handler.
        unsafe { core::arch::asm!("adr {0}, .", "add {0}, {0}, #2", "br {0}", out(reg) _) };
        tests::no_fault("misaligned PC")
    }
}
