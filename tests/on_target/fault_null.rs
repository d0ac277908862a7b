// SPDX-License-Identifier: MIT OR Apache-2.0
//! A null pointer faults: the lower half of the address space is empty.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::exception::{self, Cause};

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        exception::expect(Cause::Read, 8..16);
        let null: *const u64 = core::hint::black_box(core::ptr::without_provenance(8));
        // SAFETY: none; the load must fault, and the machine ends in the handler.
        unsafe { null.read_volatile() };
        tests::no_fault("null read")
    }
}
