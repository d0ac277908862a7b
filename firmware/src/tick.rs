// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tick: the generic timer interrupts every CPU [`HZ`] times a second (Arm ARM D12.2).
//!
//! The virtual timer is used, which a hypervisor above lets us have and which is there without one; the physical one
//! only if the tree leaves the virtual one out. Deadlines are absolute, so that the tick does not drift; those that
//! were missed are left out.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0};
use bsp::irq::Line;
use spin::Once;
use tock_registers::interfaces::{Readable, Writeable};

use crate::boot::Machine;
use crate::cpu::{self, PerCpu};
use crate::irq::{self, Handled, RegisterError};
use crate::sync::watch;
use crate::{rcu, thread, time};

/// Ticks a second.
pub const HZ: u64 = 100;
/// Most functions that want to be called.
const MAX_HOOKS: usize = 8;

/// Called on each CPU at each tick, with interrupts masked.
pub type Hook = fn(&'static PerCpu);

static HOOKS: [Once<Hook>; MAX_HOOKS] = [const { Once::new() }; MAX_HOOKS];
static LINE: Once<Line> = Once::new();
static IS_PHYSICAL: AtomicBool = AtomicBool::new(false);

/// A CPU's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    ticks: AtomicU64,
    /// When the next tick is due, in the timer's count.
    deadline: AtomicU64,
    /// The latest that a tick came while locks were watched, in counter ticks.
    latest: AtomicU32,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self { ticks: AtomicU64::new(0), deadline: AtomicU64::new(0), latest: AtomicU32::new(0) }
    }

    /// Ticks so far.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Nanoseconds that a tick came late at most, while locks were watched.
    pub(crate) fn latest_ns(&self) -> u64 {
        time::to_ns(u64::from(self.latest.load(Ordering::Relaxed)))
    }

    pub(crate) fn reset(&self) {
        self.latest.store(0, Ordering::Relaxed);
    }
}

/// Ticks so far on the CPU that runs this.
#[must_use]
pub fn count() -> u64 {
    cpu::this().clock.ticks()
}

/// Whether there is a tick.
#[must_use]
pub fn is_running() -> bool {
    LINE.get().is_some()
}

/// Calls `hook` at each tick of each CPU from now on. `false` if there are too many hooks.
pub fn on_tick(hook: Hook) -> bool {
    HOOKS.iter().any(|slot| {
        let mut is_mine = false;
        slot.call_once(|| {
            is_mine = true;
            hook
        });
        is_mine
    })
}

/// Finds the timer's line and starts this CPU's tick.
///
/// # Errors
///
/// [`RegisterError`]: the machine then runs without a tick.
pub(crate) fn start(machine: &Machine) -> Result<(), RegisterError> {
    let timer = machine.info.timer.as_ref().ok_or(RegisterError::NoLine)?;
    let find = |interrupt: Option<_>| interrupt.and_then(|interrupt| irq::line_of(machine, &interrupt));
    let virtual_line = find(timer.virtual_());
    IS_PHYSICAL.store(virtual_line.is_none(), Ordering::Relaxed);
    let line = virtual_line.or_else(|| find(timer.physical())).ok_or(RegisterError::NoLine)?;
    if time::frequency() == 0 {
        return Err(RegisterError::NoLine);
    }
    irq::register(line, "timer", taken)?;
    LINE.call_once(|| line);
    start_cpu(cpu::this())
}

/// Starts the tick of the CPU that runs this.
pub(crate) fn start_cpu(cpu: &PerCpu) -> Result<(), RegisterError> {
    let Some(line) = LINE.get() else { return Ok(()) };
    set_deadline(&cpu.clock, now() + interval());
    // Enabled, not masked (CNTV_CTL_EL0, CNTP_CTL_EL0).
    match IS_PHYSICAL.load(Ordering::Relaxed) {
        true => CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::SET),
        false => CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET),
    }
    irq::enable(*line)?;
    irq::prefer(*line);
    rcu::start_cpu();
    Ok(())
}

fn interval() -> u64 {
    (time::frequency() / HZ).max(1)
}

/// The count that the timer compares with.
fn now() -> u64 {
    barrier::isb(barrier::SY);
    if IS_PHYSICAL.load(Ordering::Relaxed) { CNTPCT_EL0.get() } else { time::ticks() }
}

fn set_deadline(clock: &Clock, deadline: u64) {
    clock.deadline.store(deadline, Ordering::Relaxed);
    match IS_PHYSICAL.load(Ordering::Relaxed) {
        true => CNTP_CVAL_EL0.set(deadline),
        false => CNTV_CVAL_EL0.set(deadline),
    }
    // The line falls before the interrupt is ended.
    barrier::isb(barrier::SY);
}

fn taken() -> Handled {
    let cpu = cpu::this();
    let clock = &cpu.clock;
    let deadline = clock.deadline.load(Ordering::Relaxed);
    let now = now();
    let Some(late) = now.checked_sub(deadline) else { return Handled::No };
    if watch::is_on() {
        clock.latest.fetch_max(u32::try_from(late).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
    clock.ticks.store(clock.ticks() + 1, Ordering::Relaxed);
    // The next deadline that is still to come, in step with the old ones.
    let intervals = late / interval() + 1;
    set_deadline(clock, deadline + intervals * interval());
    thread::wake_sleepers(cpu);
    rcu::tick();
    irq::look_for_storms(cpu);
    for hook in HOOKS.iter().map_while(Once::get) {
        hook(cpu);
    }
    Handled::Yes
}
