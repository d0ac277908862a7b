// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cross-CPU calls.
//!
//! A caller leaves the call where others find it, sets its own bit in each target's *mailbox* and signals them; a
//! target that finds a bit runs that caller's call once and crosses itself off. As long as a bit stands, the call that
//! it is about cannot end, so what the target reads is there.
//!
//! Interrupts stay masked for the whole of a [`call`], on both sides. Meanwhile the caller runs the calls of others:
//! any number of CPUs may call each other at once.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::{CpuSet, Signal, serve_while_waiting, signal};
use crate::cpu::{self, PerCpu};
use crate::sync::{masked, watch};
use crate::time;

/// A function that runs on another CPU; it is told which.
type Function = dyn Fn(usize) + Sync;

/// A CPU that does not answer for so long never will.
const LIMIT_MS: u64 = 10_000;

/// A call in progress, on its caller's stack.
struct Call {
    function: &'static Function,
    /// Who has not run it yet.
    pending: AtomicU64,
}

/// What a CPU was asked to run, and what it asks of others.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// CPUs whose call is for this one.
    callers: AtomicU64,
    /// CPUs whose posted call is for this one.
    posters: AtomicU64,
    /// This CPU's own call, while it waits.
    call: AtomicPtr<Call>,
    /// This CPU's own posted call. Written by this CPU while nobody is pending.
    posted: UnsafeCell<Option<&'static Function>>,
    /// Who has not run that yet.
    posted_pending: AtomicU64,
}

// SAFETY: `posted` is written by its own CPU alone, with interrupts masked and nobody pending; others read it while
// they are pending, which they became after the write.
unsafe impl Sync for Mailbox {}

impl Mailbox {
    pub(crate) const fn new() -> Self {
        Self {
            callers: AtomicU64::new(0),
            posters: AtomicU64::new(0),
            call: AtomicPtr::new(core::ptr::null_mut()),
            posted: UnsafeCell::new(None),
            posted_pending: AtomicU64::new(0),
        }
    }
}

/// Runs `function` on each of `cpus` that has come up, with interrupts masked, and returns when all have. Which one runs
/// it, `function` is told. It must be short, must not wait, and must not call other CPUs itself.
///
/// To be called with no lock held: a CPU that waits for that lock would never answer.
pub fn call(cpus: CpuSet, function: &(dyn Fn(usize) + Sync)) {
    watch::must_hold_nothing("calls other CPUs");
    masked(|| {
        let me = cpu::this();
        let others = cpus.and(CpuSet::others());
        // SAFETY: only the lifetime is forgotten; nobody calls it once this function has returned.
        let function: &'static Function = unsafe { core::mem::transmute(function) };
        let call = Call { function, pending: AtomicU64::new(others.bits()) };
        let nested = me.mailbox.call.swap((&raw const call).cast_mut(), Ordering::Release);
        #[expect(clippy::panic, reason = "the first call would never end")]
        if !nested.is_null() {
            panic!("smp: CPU {} calls other CPUs from within a call", me.number());
        }
        for other in others.iter().filter_map(cpu::get) {
            // What the caller wrote before is seen by the function.
            other.mailbox.callers.fetch_or(1 << me.number(), Ordering::Release);
        }
        if !others.is_empty() {
            signal(Signal::Call, others);
        }
        if cpus.contains(me.number()) {
            function(me.number());
        }
        wait_for(me, &call.pending);
        me.mailbox.call.store(core::ptr::null_mut(), Ordering::Relaxed);
    });
}

/// Has `function` run on each of `cpus` that has come up, as [`call`] does, and does not wait for it; only for those who
/// have not yet run what this CPU posted before.
pub fn post(cpus: CpuSet, function: &'static (dyn Fn(usize) + Sync)) {
    masked(|| {
        let me = cpu::this();
        let others = cpus.and(CpuSet::others());
        if !others.is_empty() {
            wait_for(me, &me.mailbox.posted_pending);
            // SAFETY: nobody is pending, and interrupts are masked: nobody else is here.
            unsafe { me.mailbox.posted.get().write(Some(function)) };
            me.mailbox.posted_pending.store(others.bits(), Ordering::Release);
            for other in others.iter().filter_map(cpu::get) {
                other.mailbox.posters.fetch_or(1 << me.number(), Ordering::Release);
            }
            signal(Signal::Call, others);
        }
        if cpus.contains(me.number()) {
            function(me.number());
        }
    });
}

/// Waits until nobody is pending, and does meanwhile what others want.
fn wait_for(me: &PerCpu, pending: &AtomicU64) {
    let mut start = time::ticks();
    // What the others' functions wrote is seen from here on.
    while pending.load(Ordering::Acquire) != 0 {
        serve_calls(me);
        if serve_while_waiting() {
            start = time::ticks();
        }
        #[expect(clippy::panic, reason = "a CPU that does not answer has left the machine")]
        if time::has_passed(start, LIMIT_MS) {
            let missing = CpuSet::from_bits(pending.load(Ordering::Relaxed)).iter().next();
            panic!("smp: CPU {} has called CPU {missing:?}, which does not answer", me.number());
        }
        core::hint::spin_loop();
    }
}

/// Runs what other CPUs have asked of this one. Interrupts are masked.
pub(crate) fn serve_calls(me: &PerCpu) {
    let bit = 1 << me.number();
    for caller in take(&me.mailbox.callers) {
        let call = caller.mailbox.call.load(Ordering::Acquire);
        // SAFETY: the caller's bit stood in the mailbox and this CPU is pending, so the call is live, and so is its
        // function, until this CPU crosses itself off.
        let call = unsafe { &*call };
        (call.function)(me.number());
        // The last touch: the caller may return now.
        call.pending.fetch_and(!bit, Ordering::Release);
    }
    for poster in take(&me.mailbox.posters) {
        // SAFETY: this CPU is pending, so the poster does not write.
        if let Some(function) = unsafe { *poster.mailbox.posted.get() } {
            function(me.number());
        }
        poster.mailbox.posted_pending.fetch_and(!bit, Ordering::Release);
    }
}

/// Empties a mailbox.
fn take(bits: &AtomicU64) -> impl Iterator<Item = &'static PerCpu> + use<> {
    let bits = if bits.load(Ordering::Relaxed) == 0 { 0 } else { bits.swap(0, Ordering::Acquire) };
    CpuSet::from_bits(bits).iter().filter_map(cpu::get)
}
