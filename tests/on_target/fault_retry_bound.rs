// SPDX-License-Identifier: MIT OR Apache-2.0
//! A translation fault that comes back again and again is a real one, whatever AT says: retries are bounded.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::exception;
    use firmware::fault::Class;

    /// A translation fault at level 3, on a read.
    const FAULT: u64 = 0x9600_0007;
    static MAPPED: u64 = 42;

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        let mapped = (&raw const MAPPED).addr() as u64;
        for _ in 0..exception::MAX_RETRIES {
            // SAFETY: the address is mapped, so that the handler returns.
            unsafe { tests::forge(0, FAULT, mapped) };
        }
        if exception::nr_retried() != u64::from(exception::MAX_RETRIES) {
            tests::no_fault("count of retries");
        }
        let words = &["translation fault at level 3 at 0xffffffff8", "AT S1E1R: PAR_EL1 0xff", "Normal write-back"];
        tests::expect_fault(Class::Read, mapped..mapped + 1, words);
        // SAFETY: the machine ends in the handler.
        unsafe { tests::forge(0, FAULT, mapped) };
        tests::no_fault("endless retry")
    }
}
