// SPDX-License-Identifier: MIT OR Apache-2.0
//! Constants are read-only.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fault::Class;

    static CONSTANT: u64 = 42;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let constant = core::hint::black_box(&raw const CONSTANT);
        let address = constant.addr() as u64;
        tests::expect_fault(
            Class::Write,
            address..address + 8,
            &[
                "data abort on a write: permission fault at level 3",
                "kernel rodata",
                "level 3 entry",
                "RO NX Normal inner shareable",
                "AT S1E1W: PAR_EL1",
                ": permission fault at level 3",
            ],
        );
        // SAFETY: none; the store must fault, and the machine ends in the handler.
        unsafe { constant.cast_mut().write_volatile(0) };
        tests::no_fault("write to a constant")
    }
}
