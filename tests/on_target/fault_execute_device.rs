// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device registers cannot be executed.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fault::Class;
    use firmware::layout::DEVICE_WINDOW;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        tests::expect_fault(
            Class::Fetch,
            DEVICE_WINDOW..DEVICE_WINDOW + 4,
            &["instruction abort: permission fault at level 3", "above the kernel image", "RW NX Device-nGnRE"],
        );
        // SAFETY: none; the fetch must fault, and the machine ends in the handler.
        unsafe { core::arch::asm!("blr {}", in(reg) DEVICE_WINDOW, clobber_abi("C")) };
        tests::no_fault("execution of a device")
    }
}
