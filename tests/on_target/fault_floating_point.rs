// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel does not use floating point, so that programs can have the registers: it is off.
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
        let words = &["fatal: floating point or SIMD, which is off", " (9e670000)"];
        tests::expect_fault(Class::FloatingPoint, tests::text(), words);
        // SAFETY: none; `fmov d0, x0` must trap, and the machine ends in the handler.
        unsafe { core::arch::asm!(".inst 0x9e670000") };
        tests::no_fault("floating point")
    }
}
