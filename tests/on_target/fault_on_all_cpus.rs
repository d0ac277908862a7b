// SPDX-License-Identifier: MIT OR Apache-2.0
//! When all CPUs fail at once, one of them reports, whole and alone.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use firmware::boot::Machine;
    use firmware::fault::Class;
    use firmware::smp::{self, CpuSet};
    use firmware::{fatal, println, thread, time};

    /// CPUs that are about to fail.
    static READY: AtomicUsize = AtomicUsize::new(0);
    /// Reports that were written.
    static REPORTS: AtomicUsize = AtomicUsize::new(0);

    pub(crate) fn main(_machine: &'static Machine) -> ! {
        tests::expect_fault(
            Class::Breakpoint,
            tests::text(),
            &["fatal: BRK 0x7", "call trace:", ">  fault_on_all_cpus::"],
        );
        fatal::notify(only_once);
        for cpu in CpuSet::others().iter() {
            match thread::spawn_on(cpu, fail) {
                // Nobody waits for it.
                Ok(handle) => core::mem::forget(handle),
                Err(_) => tests::no_fault("spawn"),
            }
        }
        fail();
        tests::no_fault("breakpoint")
    }

    #[inline(never)]
    fn fail() {
        READY.fetch_add(1, Ordering::Relaxed);
        let start = time::ticks();
        while READY.load(Ordering::Relaxed) < smp::nr_online() && !time::has_passed(start, 10_000) {
            core::hint::spin_loop();
        }
        breakpoint();
    }

    #[inline(never)]
    fn breakpoint() {
        // SAFETY: none; nobody handles breakpoints, and the machine ends in the handler.
        unsafe { core::arch::asm!("brk #7") };
    }

    /// Called behind each report. Time enough for a second one to come, if one can.
    fn only_once() {
        let start = time::ticks();
        while !time::has_passed(start, 200) {
            core::hint::spin_loop();
        }
        if REPORTS.fetch_add(1, Ordering::Relaxed) != 0 {
            println!("test one report ... FAILED: there are two");
            firmware::power::exit(1);
        }
    }
}
