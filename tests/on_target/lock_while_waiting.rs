// SPDX-License-Identifier: MIT OR Apache-2.0
//! A CPU that holds a lock must not wait for others: they may want that lock.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::Machine;
    use firmware::smp::{self, CpuSet};
    use firmware::sync::{Lock, watch};
    use mm::sync::Rank;

    static LOCK: Lock<u32> = Lock::new(Rank::SLAB, 1);

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        watch::start();
        tests::expect_panic(&["lock held while waiting: CPU 0 holds a lock of rank 24 (slab) and calls other CPUs"]);
        let _guard = LOCK.lock();
        smp::call(CpuSet::online(), &|_| ());
        tests::no_fault("a call with a lock held")
    }
}
