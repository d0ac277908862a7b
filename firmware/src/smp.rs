// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several CPUs: how they are started, call each other, and stand still.
//!
//! - `smp/start.rs`: PSCI and spin tables; who does not come is reported
//! - `smp/call.rs`: a function on other CPUs, now: [`call`], [`post`]
//! - `smp/park.rs`: all others in the parking lot while one works: [`park_others`]; and the end: [`stop_others`]
//!
//! CPUs signal each other by four interrupts. A CPU that waits with interrupts masked, for a lock or for another CPU,
//! looks for parking and stopping by itself (`serve_while_waiting`), so no two can wait for each other.

mod call;
mod park;
mod set;
mod start;

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use self::call::{Mailbox, serve_calls};
pub use self::call::{call, post};
pub use self::park::{park_others, stop_others};
pub use self::set::CpuSet;
pub(crate) use self::start::{StartState, start};
use crate::cpu::{self, PerCpu};
use crate::irq;

/// What a CPU wants of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Signal {
    /// Look into the mailbox.
    Call,
    /// Go to the parking lot.
    Park,
    /// Stop for good.
    Stop,
    /// A thread can run; the interrupt itself is all it takes.
    Wake,
}

/// What they are called in the table of interrupts.
const SIGNALS: [(&str, &str); bsp::irq::NR_SIGNALS as usize] = [
    ("call", "function calls between CPUs"),
    ("park", "parking"),
    ("stop", "stops"),
    ("wake", "threads made runnable by other CPUs"),
];

/// A bit for each CPU that has come up.
static ONLINE: AtomicU64 = AtomicU64::new(1);

/// The CPUs that have come up, in ascending order.
pub fn online() -> impl Iterator<Item = &'static PerCpu> {
    CpuSet::online().iter().filter_map(cpu::get)
}

/// Number of CPUs that have come up.
#[must_use]
pub fn nr_online() -> usize {
    CpuSet::online().len()
}

fn set_online(cpu: &PerCpu) {
    ONLINE.fetch_or(1 << cpu.number(), Ordering::AcqRel);
}

/// Signals CPUs.
pub(crate) fn signal(signal: Signal, cpus: CpuSet) {
    irq::signal(signal as u32, cpus.iter().filter_map(cpu::get).map(PerCpu::irq_target));
}

/// This CPU was signalled.
pub(crate) fn signalled(cpu: &PerCpu, signal: u32) {
    if let Some(count) = cpu.signals.get(signal as usize) {
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
    // Whatever the signal was, what is asked for stands in memory.
    serve_while_waiting();
    serve_calls(cpu);
}

/// What a CPU does for others while it waits with interrupts masked. Tells whether there was anything.
pub(crate) fn serve_while_waiting() -> bool {
    park::serve(cpu::this())
}

/// Counters of received signals.
pub(crate) type SignalCounts = [AtomicU32; SIGNALS.len()];

/// Lines for the table of interrupts.
pub(crate) fn write_signal_counts(w: &mut impl fmt::Write) -> fmt::Result {
    for (index, (name, help)) in SIGNALS.iter().enumerate() {
        write!(w, "{name:>5}:")?;
        for cpu in online() {
            let count = cpu.signals.get(index).map_or(0, |count| count.load(Ordering::Relaxed));
            write!(w, " {count:>10}")?;
        }
        writeln!(w, "  {help}")?;
    }
    Ok(())
}
