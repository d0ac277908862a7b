// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts: from the vector to whoever has registered for the line.
//!
//! ```text
//!   vector -> irq/entry.S -> taken: until nothing is pending: acknowledge -> signal of a CPU (smp) or line -> end
//! ```
//!
//! A line is some device's. One that nobody registered for, whose handlers say 100 times in a row that it was not
//! theirs, or that *screams* (asks more than 1000 times a tick, ten ticks in a row) is masked and reported: the machine
//! goes on without it. That works since the tick has a higher priority than any other line.
//!
//! *Lock:* the controller's set-up. Taking an interrupt needs none. Handlers run with interrupts masked, on their CPU's
//! interrupt stack, and must not wait for threads.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bsp::info::Interrupt;
pub use bsp::irq::Line;
use bsp::irq::{Controller, CpuInterface, Event, Irq, IrqError, Target};
use mm::arch::aarch64::restart;
use spin::Once;

use crate::boot::Machine;
use crate::cpu::{self, PerCpu};
use crate::smp;
use crate::sync::{self, Lock};
use crate::{pr_info, pr_warn};

core::arch::global_asm!(include_str!("irq/entry.S"), IRQ_STACK = const PerCpu::IRQ_STACK);

/// Most lines that can be registered for.
pub const MAX_LINES: usize = 16;
/// More interrupts of a line between two ticks than this, many ticks in a row, are a storm.
const STORM_COUNT: u32 = 1000;
/// So many ticks.
const STORM_TICKS: u32 = 10;
/// A line that is nobody's so many times in a row is masked.
const UNHANDLED_LIMIT: u32 = 100;

/// Whether the line's device wanted something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handled {
    /// It did, and has it.
    Yes,
    /// It did not.
    No,
}

/// Called with interrupts masked, on the CPU that the line goes to.
pub type Handler = fn() -> Handled;

/// A line that somebody takes care of.
#[derive(Debug)]
struct Registration {
    line: Line,
    name: &'static str,
    handler: Handler,
    is_masked: AtomicBool,
}

/// What a CPU counts of each registered line.
#[derive(Debug)]
pub(crate) struct LineCounts {
    /// Interrupts since boot.
    total: AtomicU32,
    /// Of them, up to the last tick.
    at_last_tick: AtomicU32,
    /// Ticks in a row with too many.
    stormy_ticks: AtomicU32,
    /// Interrupts in a row that were not the device's.
    unhandled: AtomicU32,
}

impl LineCounts {
    pub(crate) const fn new() -> Self {
        Self {
            total: AtomicU32::new(0),
            at_last_tick: AtomicU32::new(0),
            stormy_ticks: AtomicU32::new(0),
            unhandled: AtomicU32::new(0),
        }
    }
}

static CONTROLLER: Lock<Option<Controller>> = Lock::new(sync::INTERRUPTS, None);
static INTERFACE: Once<CpuInterface> = Once::new();
static LINES: [Once<Registration>; MAX_LINES] = [const { Once::new() }; MAX_LINES];
/// Lines that were masked since they were nobody's or screamed.
static NR_MASKED: AtomicU32 = AtomicU32::new(0);

/// Takes the machine's controller over, and this CPU's part of it.
///
/// # Errors
///
/// [`IrqError`]; the machine then runs without interrupts, and on one CPU.
pub(crate) fn start(machine: &'static Machine) -> Result<(), IrqError> {
    #[expect(clippy::panic, reason = "with the first interrupt, memory would be handed out twice")]
    if !restart::is_linked_in_order() {
        panic!("irq: the image was linked with functions moved around");
    }
    let map = |range| machine.memory.map_device(range).ok().map(|virt| virt.as_raw() as usize);
    // SAFETY: (1) the tree is the truth about the board, and this is the only driver; (2) devices stay mapped.
    let (controller, interface) = unsafe { Controller::new(machine.info, map) }?;
    pr_info!("irq: {}", controller.kind().name());
    *CONTROLLER.lock() = Some(controller);
    INTERFACE.call_once(|| interface);
    start_cpu(cpu::this())
}

/// Takes over the part of the CPU that runs this, whose interrupts are masked.
pub(crate) fn start_cpu(cpu: &PerCpu) -> Result<(), IrqError> {
    let target = CONTROLLER.lock().as_mut().ok_or(IrqError::NoController)?.init_cpu(cpu.mpidr())?;
    cpu.set_irq_target(target);
    Ok(())
}

/// Lets interrupts through on this CPU.
pub(crate) fn unmask() {
    // SAFETY: there are a handler, its stack and a controller that was set up: whoever calls this has seen to it.
    unsafe { core::arch::asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Whether there are interrupts on this machine.
#[must_use]
pub fn is_running() -> bool {
    INTERFACE.get().is_some()
}

/// Why nobody will be called for a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterError {
    /// There is no controller, or the device's interrupt does not lead to it.
    NoLine,
    /// There is somebody already.
    Taken(Irq),
    /// [`MAX_LINES`] are registered.
    TooMany,
    /// The controller cannot turn it on.
    Controller(IrqError),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLine => f.write_str("its interrupt does not lead to the interrupt controller"),
            Self::Taken(irq) => write!(f, "line {} has a handler already", irq.0),
            Self::TooMany => write!(f, "more than {MAX_LINES} lines have handlers"),
            Self::Controller(error) => error.fmt(f),
        }
    }
}

/// The line that a device's node names.
#[must_use]
pub fn line_of(machine: &Machine, interrupt: &Interrupt) -> Option<Line> {
    CONTROLLER.lock().as_ref()?.line(machine.info, interrupt)
}

/// Registers for a line, for good; it is still off.
///
/// # Errors
///
/// [`RegisterError`].
pub fn register(line: Line, name: &'static str, handler: Handler) -> Result<(), RegisterError> {
    // Under the lock, so that two who come at once do not both find the line free.
    let _controller = CONTROLLER.lock();
    if find(line.irq).is_some() {
        return Err(RegisterError::Taken(line.irq));
    }
    let slot = LINES.iter().find(|slot| slot.get().is_none()).ok_or(RegisterError::TooMany)?;
    slot.call_once(|| Registration { line, name, handler, is_masked: AtomicBool::new(false) });
    Ok(())
}

/// Turns a line on: a private one for the CPU that runs this; a shared one goes to this CPU.
///
/// # Errors
///
/// [`RegisterError`].
pub fn enable(line: Line) -> Result<(), RegisterError> {
    let cpu = cpu::this();
    let mut controller = CONTROLLER.lock();
    let controller = controller.as_mut().ok_or(RegisterError::NoLine)?;
    if let Some((_, registration)) = find(line.irq) {
        registration.is_masked.store(false, Ordering::Relaxed);
    }
    controller.enable(line, cpu.irq_target(), cpu.mpidr()).map_err(RegisterError::Controller)
}

/// Gives a line, which must be on, precedence over all others.
pub(crate) fn prefer(line: Line) {
    if let Some(controller) = CONTROLLER.lock().as_mut() {
        controller.prefer(line.irq, cpu::this().mpidr());
    }
}

/// Turns a line off: a private one for the CPU that runs this.
pub fn disable(line: Line) {
    if let Some(controller) = CONTROLLER.lock().as_mut() {
        controller.disable(line.irq, cpu::this().mpidr());
    }
}

/// How many lines were masked because they were nobody's or screamed.
#[must_use]
pub fn nr_masked() -> u32 {
    NR_MASKED.load(Ordering::Relaxed)
}

/// Signals other CPUs.
pub(crate) fn signal(signal: u32, targets: impl Iterator<Item = Target>) {
    if let Some(interface) = INTERFACE.get() {
        interface.signal(signal, targets);
    }
}

fn find(irq: Irq) -> Option<(usize, &'static Registration)> {
    let registered = LINES.iter().map_while(Once::get).enumerate();
    registered.into_iter().find(|(_, registration)| registration.line.irq == irq)
}

/// From `irq/entry.S`, on the interrupt stack. `elr` is where the interrupted code goes on.
#[unsafe(no_mangle)]
extern "C" fn irq_taken(elr: &mut u64) {
    let Some(interface) = INTERFACE.get() else { return };
    let cpu = cpu::this();
    cpu.set_in_interrupt(true);
    let resumed = restart::resume_at(*elr);
    if resumed != *elr {
        *elr = resumed;
        add(&cpu.restarts, 1);
    }
    while let Some(acknowledged) = interface.acknowledge(cpu.mpidr()) {
        let event = acknowledged.event;
        match event {
            Event::Signal(signal) => {
                // Ended first: what it asks for may last, or never end.
                interface.end(acknowledged);
                smp::signalled(cpu, signal);
            }
            Event::Line(irq) => {
                line_taken(cpu, irq);
                interface.end(acknowledged);
            }
        }
    }
    cpu.set_in_interrupt(false);
}

fn line_taken(cpu: &PerCpu, irq: Irq) {
    let registered = find(irq).and_then(|(index, registration)| Some((registration, cpu.lines.get(index)?)));
    let Some((registration, counts)) = registered else {
        mask(cpu, irq);
        pr_warn!("irq: CPU {}: nobody wants line {}: masked", cpu.number(), irq.0);
        return;
    };
    add(&counts.total, 1);
    match (registration.handler)() {
        Handled::Yes => counts.unhandled.store(0, Ordering::Relaxed),
        Handled::No => {
            if add(&counts.unhandled, 1) == UNHANDLED_LIMIT {
                give_up(cpu, registration, "is not its device's");
            }
        }
    }
}

/// The tick's share: looks for lines that scream on this CPU.
pub(crate) fn look_for_storms(cpu: &PerCpu) {
    for (counts, slot) in cpu.lines.iter().zip(&LINES) {
        let Some(registration) = slot.get() else { return };
        let total = counts.total.load(Ordering::Relaxed);
        let since = total.wrapping_sub(counts.at_last_tick.load(Ordering::Relaxed));
        counts.at_last_tick.store(total, Ordering::Relaxed);
        if since <= STORM_COUNT {
            counts.stormy_ticks.store(0, Ordering::Relaxed);
        } else if add(&counts.stormy_ticks, 1) == STORM_TICKS {
            counts.stormy_ticks.store(0, Ordering::Relaxed);
            give_up(cpu, registration, "screams");
        }
    }
}

/// Counts up what only this CPU writes.
fn add(counter: &AtomicU32, more: u32) -> u32 {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(more);
    counter.store(sum, Ordering::Relaxed);
    sum
}

fn give_up(cpu: &PerCpu, registration: &Registration, why: &str) {
    mask(cpu, registration.line.irq);
    registration.is_masked.store(true, Ordering::Relaxed);
    pr_warn!("irq: CPU {}: line {} ({}) {why}: masked", cpu.number(), registration.line.irq.0, registration.name);
}

fn mask(cpu: &PerCpu, irq: Irq) {
    if let Some(controller) = CONTROLLER.lock().as_mut() {
        controller.disable(irq, cpu.mpidr());
    }
    NR_MASKED.fetch_add(1, Ordering::Relaxed);
}

/// Writes the counts of each line and CPU, much as `/proc/interrupts`.
///
/// # Errors
///
/// Those of `w`.
pub fn write_counts(w: &mut impl fmt::Write) -> fmt::Result {
    write!(w, "{:>6}", "")?;
    for cpu in smp::online() {
        let digits = if cpu.number() < 10 { 1 } else { 2 };
        write!(w, " {:>width$}{}", "CPU", cpu.number(), width = 10 - digits)?;
    }
    writeln!(w)?;
    for (index, registration) in LINES.iter().map_while(Once::get).enumerate() {
        write!(w, "{:>5}:", registration.line.irq.0)?;
        for cpu in smp::online() {
            let total = cpu.lines.get(index).map_or(0, |counts| counts.total.load(Ordering::Relaxed));
            write!(w, " {total:>10}")?;
        }
        let masked = if registration.is_masked.load(Ordering::Relaxed) { " (masked)" } else { "" };
        writeln!(w, "  {}{masked}", registration.name)?;
    }
    smp::write_signal_counts(w)?;
    write!(w, " rseq:")?;
    for cpu in smp::online() {
        write!(w, " {:>10}", cpu.restarts())?;
    }
    writeln!(w, "  slab's sequences begun again")
}
