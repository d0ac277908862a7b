// SPDX-License-Identifier: MIT OR Apache-2.0
//! A null pointer faults: the lower half of the address space is empty. Its report names what is at the address.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fault::Class;

    /// In a debug build the reading function has a frame of its own.
    const READER: &str = if cfg!(debug_assertions) { ">  core::ptr::" } else { ">  fault_null::on_target::main+0x" };

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        tests::expect_fault(
            Class::Read,
            8..16,
            &[
                "fatal: data abort on a read: translation fault at level 0: null pointer at 0x0000000000000008",
                "FAR 0x0000000000000008: first page, which is never mapped",
                "walk: no table translates it",
                "AT S1E1R: PAR_EL1",
                "DFSC 0x04 translation fault at level 0; WnR 0 read",
                "CPU 0 (MPIDR 0x",
                "EL1t)",
                READER,
                "stack of CPU 0, ",
            ],
        );
        let null: *const u64 = core::hint::black_box(core::ptr::without_provenance(8));
        // SAFETY: none; the load must fault, and the machine ends in the handler.
        unsafe { null.read_volatile() };
        tests::no_fault("null read")
    }
}
