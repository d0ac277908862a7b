// SPDX-License-Identifier: MIT OR Apache-2.0
//! A CPU that wants a lock which it holds ends the machine with a report instead of hanging.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::sync::{Lock, watch};
    use mm::sync::Rank;

    static LOCK: Lock<u32> = Lock::new(Rank::SLAB, 1);

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        watch::start();
        tests::expect_panic(&[
            "lock taken twice: CPU 0 holds the lock of rank 24 (slab) at 0x",
            "lock_twice::on_target::main",
        ]);
        let once = LOCK.lock();
        let twice = LOCK.lock();
        firmware::println!("{} {}", *once, *twice);
        tests::no_fault("a lock taken twice")
    }
}
