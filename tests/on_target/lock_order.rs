// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks taken in the wrong order end the machine with a report, even where nobody waits.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::sync::{self, Lock, watch};
    use mm::sync::Rank;

    static FIRST: Lock<u32> = Lock::new(Rank::SLAB, 1);
    static SECOND: Lock<u32> = Lock::new(sync::RUN_QUEUE, 2);

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        watch::start();
        {
            let (first, second) = (FIRST.lock(), SECOND.lock());
            if *first + *second != 3 {
                tests::no_fault("locks in order");
            }
        }
        tests::expect_panic(&[
            "lock order: CPU 0 holds a lock of rank 52 (run queue) and wants one of rank 24 (slab)",
            "lock_order::on_target::main",
        ]);
        let second = SECOND.lock();
        let first = FIRST.lock();
        firmware::println!("{} {}", *first, *second);
        tests::no_fault("locks out of order")
    }
}
