// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fault while a fault is reported is told in one line.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::fatal::{self, Cause, Expected, Turn};
    use firmware::fault::Class;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let words = &["fatal: the report has failed: data abort on a read: translation fault at level 0: null pointer"];
        fatal::expect(Expected { cause: Cause::Fault(Class::Read), addresses: 8..16, turn: Turn::Nested, words });
        fatal::notify(fault);
        // SAFETY: none; the machine ends in the handler.
        unsafe { core::arch::asm!("brk #1") };
        tests::no_fault("breakpoint")
    }

    fn fault() {
        let null: *const u64 = core::hint::black_box(core::ptr::without_provenance(8));
        // SAFETY: none; the load must fault, and the machine ends in the handler.
        unsafe { null.read_volatile() };
    }
}
