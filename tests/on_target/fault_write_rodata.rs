// SPDX-License-Identifier: MIT OR Apache-2.0
//! Constants cannot be written.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::exception::{self, Cause};

    static CONSTANT: u64 = 0x1234_5678;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let constant = (&raw const CONSTANT).cast_mut();
        let address = constant.addr() as u64;
        exception::expect(Cause::Write, address..address + 8);
        // SAFETY: none; the store must fault, and the machine ends in the handler.
        unsafe { core::hint::black_box(constant).write_volatile(0) };
        tests::no_fault("write to rodata")
    }
}
