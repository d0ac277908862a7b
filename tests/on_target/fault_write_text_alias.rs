// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text cannot be written through the direct map either.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::exception::{self, Cause};
    use firmware::memory;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        let alias = memory::direct_map(machine.memory.image.range().start()).as_raw();
        let text: *mut u64 = core::ptr::with_exposed_provenance_mut(alias as usize);
        // SAFETY: the direct map shows the first bytes of the image; reading them is fine.
        let header = unsafe { text.read_volatile() };
        let address = alias;
        exception::expect(Cause::Write, address..address + 8);
        // SAFETY: none; the store must fault, and the machine ends in the handler.
        unsafe { text.write_volatile(header) };
        tests::no_fault("write to the alias of text")
    }
}
