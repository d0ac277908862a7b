// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lock that is never released is reported by whoever waits, with who holds it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicBool, Ordering};

    use firmware::boot::Machine;
    use firmware::sync::{Lock, watch};
    use firmware::{smp, thread};
    use mm::sync::Rank;

    static LOCK: Lock<u32> = Lock::new(Rank::SLAB, 1);
    static IS_HELD: AtomicBool = AtomicBool::new(false);

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        watch::start();
        watch::set_wait_limit(200);
        let hold = || {
            let guard = LOCK.lock();
            IS_HELD.store(true, Ordering::Relaxed);
            loop {
                core::hint::spin_loop();
                if *guard == 0 {
                    break;
                }
            }
        };
        if smp::nr_online() == 1 {
            // Nobody else can hold it: what is wanted twice is reported as that.
            tests::expect_panic(&["lock taken twice: CPU 0"]);
            let _guard = LOCK.lock();
            let _again = LOCK.lock();
        } else {
            tests::expect_panic(&[
                "lock stuck: CPU 0 waits for the lock of rank 24 (slab) at 0x",
                ", which CPU 1 holds",
            ]);
            let _handle = thread::spawn_on(1, hold);
            while !IS_HELD.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
            let _guard = LOCK.lock();
        }
        tests::no_fault("a lock that is never released")
    }
}
