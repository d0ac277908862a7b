// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device registers are not read across words.
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

    pub(crate) fn main(machine: &'static Machine) -> ! {
        if machine.info.nr_cpus == 1 {
            tests::skip("QEMU with one CPU does not check the alignment of device accesses");
        }
        tests::expect_fault(
            Class::Read,
            DEVICE_WINDOW + 1..DEVICE_WINDOW + 2,
            &["data abort on a read: alignment fault", "Device-nGnRE", "AT S1E1R: PAR_EL1", ", Device-nGnRE"],
        );
        // SAFETY: none; the load must fault, and the machine ends in the handler.
        unsafe { core::arch::asm!("ldr {1:w}, [{0}]", in(reg) DEVICE_WINDOW + 1, out(reg) _) };
        tests::no_fault("unaligned read of a device")
    }
}
