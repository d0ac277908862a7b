// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data cannot be executed.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fault::Class;

    /// `ret`.
    static mut CODE: u32 = 0xd65f_03c0;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let code = &raw mut CODE;
        let address = code.addr() as u64;
        tests::expect_fault(
            Class::Fetch,
            address..address + 8,
            &[
                "instruction abort: permission fault at level 3",
                "kernel data",
                "RW NX Normal",
                "] fault_execute_data::",
            ],
        );
        // SAFETY: none; the fetch must fault, and the machine ends in the handler.
        unsafe { core::arch::asm!("blr {}", in(reg) code, clobber_abi("C")) };
        tests::no_fault("execution of data")
    }
}
