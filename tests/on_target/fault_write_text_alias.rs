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
    use firmware::fault::Class;
    use firmware::memory;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        let alias = memory::direct_map(machine.memory.image.range().start()).as_raw();
        let text: *mut u64 = core::ptr::with_exposed_provenance_mut(alias as usize);
        // SAFETY: the direct map shows the first bytes of the image; reading them is fine.
        let header = unsafe { text.read_volatile() };
        let words = &[
            "data abort on a write: permission fault at level",
            "direct map of physical address 0x",
            ": RO NX Normal",
        ];
        tests::expect_fault(Class::Write, alias..alias + 8, words);
        // SAFETY: none; the store must fault, and the machine ends in the handler.
        unsafe { text.write_volatile(header) };
        tests::no_fault("write to the alias of text")
    }
}
