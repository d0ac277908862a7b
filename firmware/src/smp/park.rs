// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parking lot: every other CPU stands still, interrupts masked, while one changes what no CPU may use meanwhile.
//!
//! A parked CPU runs a loop of the image, on the stack it came on, and touches data of the image: none of that is
//! reached by the direct map, which may be taken apart. It parks from the interrupt handler, or from where it waits for
//! a lock or for another CPU; so whoever wants the lot may hold locks.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::asm;
use aarch64_cpu::asm::barrier;

use super::{CpuSet, Signal, signal};
use crate::cpu::{self, PerCpu};
use crate::sync::masked;
use crate::time;

/// A CPU that does not park for so long never will.
const LIMIT_MS: u64 = 10_000;
/// How long a CPU that does not stop is waited for: it may be the one that failed.
const STOP_LIMIT_MS: u64 = 100;

/// The CPU that has the lot, plus 1; 0 while it is empty.
static OWNER: AtomicUsize = AtomicUsize::new(0);
/// Who is to park.
static WANTED: AtomicU64 = AtomicU64::new(0);
/// Who has.
static PARKED: AtomicU64 = AtomicU64::new(0);
/// The CPU that ends the machine, plus 1; 0 while it runs.
static STOPPED_BY: AtomicUsize = AtomicUsize::new(0);
/// Who has stopped.
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Runs `body` while every other CPU is parked. Interrupts are masked; `body` must not wait for anybody.
pub fn park_others<R>(body: impl FnOnce() -> R) -> R {
    masked(|| {
        let me = cpu::this();
        // Whoever has the lot may want this CPU in it.
        while OWNER.compare_exchange(0, me.number() + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            serve(me);
            core::hint::spin_loop();
        }
        let others = CpuSet::others();
        WANTED.store(others.bits(), Ordering::Release);
        signal(Signal::Park, others);
        wait_until(me, "park", |parked| parked == others.bits());
        let result = body();
        WANTED.store(0, Ordering::Release);
        barrier::dsb(barrier::ISH);
        asm::sev();
        // The next owner must not find a car that is still on its way out.
        wait_until(me, "leave the parking lot", |parked| parked == 0);
        OWNER.store(0, Ordering::Release);
        result
    })
}

fn wait_until(me: &PerCpu, what: &str, is_done: impl Fn(u64) -> bool) {
    let start = time::ticks();
    while !is_done(PARKED.load(Ordering::Acquire)) {
        stop_if_wanted(me);
        #[expect(clippy::panic, reason = "a CPU that does not answer has left the machine")]
        if time::has_passed(start, LIMIT_MS) {
            let missing = WANTED.load(Ordering::Relaxed) ^ PARKED.load(Ordering::Relaxed);
            let missing = CpuSet::from_bits(missing).iter().next();
            panic!("smp: CPU {} waits for CPU {missing:?} to {what}, which does not answer", me.number());
        }
        core::hint::spin_loop();
    }
}

/// Parks or stops if somebody wants that. Tells whether this CPU was parked. Interrupts are masked.
pub(super) fn serve(me: &PerCpu) -> bool {
    stop_if_wanted(me);
    let bit = 1 << me.number();
    if WANTED.load(Ordering::Acquire) & bit == 0 {
        return false;
    }
    PARKED.fetch_or(bit, Ordering::Release);
    while WANTED.load(Ordering::Acquire) & bit != 0 {
        stop_if_wanted(me);
        // Any store to the line that was read, the owner's SEV, or an interrupt, which stays pending, ends it.
        asm::wfe();
    }
    // What was done to this CPU's own translations counts from here on.
    barrier::isb(barrier::SY);
    PARKED.fetch_and(!bit, Ordering::Release);
    true
}

/// Stops every other CPU for good, as far as they answer: this one ends the machine. If another one does that already,
/// it is this CPU that stops.
pub fn stop_others() {
    let me = cpu::this();
    let mine = me.number() + 1;
    match STOPPED_BY.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Relaxed) {
        Ok(_) => {}
        Err(owner) if owner == mine => return,
        Err(_) => stop(me),
    }
    let others = CpuSet::others();
    signal(Signal::Stop, others);
    barrier::dsb(barrier::ISH);
    asm::sev();
    let start = time::ticks();
    while STOPPED.load(Ordering::Acquire) != others.bits() && !time::has_passed(start, STOP_LIMIT_MS) {
        core::hint::spin_loop();
    }
}

fn stop_if_wanted(me: &PerCpu) {
    let owner = STOPPED_BY.load(Ordering::Relaxed);
    if owner != 0 && owner != me.number() + 1 {
        stop(me);
    }
}

fn stop(me: &PerCpu) -> ! {
    // SAFETY: masks everything on a CPU that will do nothing more.
    unsafe { core::arch::asm!("msr daifset, #0xf", options(nomem, nostack, preserves_flags)) };
    STOPPED.fetch_or(1 << me.number(), Ordering::Release);
    loop {
        asm::wfi();
    }
}
