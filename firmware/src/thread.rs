// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads, as few and as small as tests and benchmarks need: each stays on the CPU it was spawned on, and runs until it
//! waits, yields or ends.
//!
//! ```text
//!   guard | stack, growing down ... | closure, then result | Thread |     one stack of `stack.rs`, no heap
//! ```
//!
//! A CPU without a thread that can run is idle: its *idle thread* waits for an interrupt. The context that the machine
//! boots in is a thread too, and so is the one that every other CPU comes in.
//!
//! *Locks:* a [`WaitQueue`]'s, and under it a CPU's queues. Only a CPU itself takes threads out of its queues, so a
//! context is never entered before it has been saved. What a thread may not do is wait in an interrupt handler, with a
//! lock held, or from within a call of another CPU; the first two are caught.

mod join;
mod list;
mod wait;

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use aarch64_cpu::asm;

pub use self::join::{JoinHandle, SpawnError, spawn_on};
use self::list::List;
pub use self::wait::WaitQueue;
use crate::boot::Machine;
use crate::cpu::{self, PerCpu};
use crate::smp::{self, CpuSet, Signal};
use crate::stacks::{Stack, StackError, Use};
use crate::sync::{self, Lock, masked, watch};
use crate::{irq, tick, time};

core::arch::global_asm!(include_str!("thread/switch.S"));

unsafe extern "C" {
    /// `thread/switch.S`: keeps the context at `*from` and goes on with `to`.
    fn switch_context(from: *mut u64, to: u64);
    /// `thread/switch.S`: calls [`thread_main`].
    fn thread_start();
}

/// Bytes of a thread's stack; some of it is what the thread was given and gives back.
const STACK_SIZE: u64 = 16 * 1024;
/// Bytes of the boot CPU's idle thread's stack.
const IDLE_STACK_SIZE: u64 = 8 * 1024;
/// Registers that a context keeps on its stack, in `switch.S`.
const CONTEXT_WORDS: usize = 12;
/// Of them, where the thread and the return address are.
const CONTEXT_X19: usize = 0;
const CONTEXT_X30: usize = 11;

/// A thread.
#[derive(Debug)]
pub struct Thread {
    /// SP while it does not run; what it needs is on its stack.
    context: Cell<u64>,
    /// The next thread of the list it is in, guarded by that list's lock.
    next: Cell<*const Thread>,
    /// The CPU it stays on.
    cpu: usize,
    /// What it runs: called with the thread itself.
    entry: Option<unsafe fn(*const Thread)>,
    /// While it sleeps: until when, in counter ticks.
    wake_at: AtomicU64,
    /// It has ended, and nobody is on its stack any more.
    is_done: AtomicBool,
    /// Who waits for that.
    joiners: WaitQueue,
}

// SAFETY: `context` is touched by the thread's CPU alone; `next` under the lock of the list that the thread is in.
unsafe impl Sync for Thread {}
// SAFETY: as above; a thread is pinned to its stack and its CPU.
unsafe impl Send for Thread {}

impl Thread {
    const fn new(cpu: usize, entry: Option<unsafe fn(*const Self)>) -> Self {
        Self {
            context: Cell::new(0),
            next: Cell::new(core::ptr::null()),
            cpu,
            entry,
            wake_at: AtomicU64::new(0),
            is_done: AtomicBool::new(false),
            joiners: WaitQueue::new(),
        }
    }
}

/// The threads of a CPU.
#[derive(Debug)]
pub(crate) struct Sched {
    /// The one that runs. Only its own CPU touches this and the next two.
    current: AtomicPtr<Thread>,
    idle: AtomicPtr<Thread>,
    /// One that has ended, from which the CPU is switching away.
    ended: AtomicPtr<Thread>,
    /// The context that the CPU came in: the boot CPU's first thread, or an idle thread.
    first: Thread,
    queues: Lock<Queues>,
}

#[derive(Debug)]
struct Queues {
    ready: List,
    asleep: List,
}

impl Sched {
    pub(crate) const fn new(cpu: usize) -> Self {
        Self {
            current: AtomicPtr::new(core::ptr::null_mut()),
            idle: AtomicPtr::new(core::ptr::null_mut()),
            ended: AtomicPtr::new(core::ptr::null_mut()),
            first: Thread::new(cpu, None),
            queues: Lock::new(sync::RUN_QUEUE, Queues { ready: List::new(), asleep: List::new() }),
        }
    }
}

/// Makes the context that runs the boot CPU's first thread, and gives the CPU an idle thread.
pub(crate) fn start_boot_cpu(machine: &'static Machine, cpu: &'static PerCpu) -> Result<(), StackError> {
    unsafe fn run_idle(_: *const Thread) {
        idle()
    }
    let stack = Stack::new(&machine.memory, Use::Idle, IDLE_STACK_SIZE, cpu.number(), cpu.node())?;
    let place = (stack.top().as_raw() - size_of::<Thread>() as u64) & !63;
    let thread: *mut Thread = core::ptr::with_exposed_provenance_mut(place as usize);
    // SAFETY: the top of a new stack, aligned, that nobody else uses.
    unsafe { thread.write(Thread::new(cpu.number(), Some(run_idle))) };
    // SAFETY: as above; the rest of the stack is free.
    unsafe { prepare(thread) };
    core::mem::forget(stack);
    cpu.sched.idle.store(thread, Ordering::Relaxed);
    cpu.sched.current.store((&raw const cpu.sched.first).cast_mut(), Ordering::Relaxed);
    Ok(())
}

/// Writes the context of a new thread below it.
///
/// # Safety
///
/// `thread` is new, at the top of a stack of its own.
unsafe fn prepare(thread: *mut Thread) {
    let mut words = [0_u64; CONTEXT_WORDS];
    words[CONTEXT_X19] = thread.expose_provenance() as u64;
    words[CONTEXT_X30] = thread_start as *const () as u64;
    let context = (thread.addr() - size_of_val(&words)) & !15;
    let place: *mut [u64; CONTEXT_WORDS] = core::ptr::with_exposed_provenance_mut(context);
    // SAFETY: on the stack below the thread, by the caller's promise.
    unsafe { place.write(words) };
    // SAFETY: the thread is there, and nobody else knows it yet.
    unsafe { (*thread).context.set(context as u64) };
}

/// What every CPU does when there is nothing to do; the CPUs that were started come here for good.
pub(crate) fn idle() -> ! {
    let cpu = cpu::this();
    if cpu.sched.idle.load(Ordering::Relaxed).is_null() {
        let first = (&raw const cpu.sched.first).cast_mut();
        cpu.sched.idle.store(first, Ordering::Relaxed);
        cpu.sched.current.store(first, Ordering::Relaxed);
    }
    irq::unmask();
    loop {
        masked(|| {
            // Looked at with interrupts masked: one that comes in between stays pending, and ends the wait.
            if cpu.sched.queues.lock().ready.is_empty() {
                wait_for_interrupt();
            } else {
                schedule(cpu);
            }
        });
    }
}

fn wait_for_interrupt() {
    if irq::is_running() {
        asm::wfi();
    } else {
        core::hint::spin_loop();
    }
}

/// Whether the context that runs this can wait as a thread: the machine is up that far.
#[must_use]
pub fn is_thread() -> bool {
    !cpu::this().sched.current.load(Ordering::Relaxed).is_null()
}

/// Lets the other threads of this CPU run that can.
pub fn yield_now() {
    watch::must_hold_nothing("yields");
    masked(|| {
        let cpu = cpu::this();
        let Some(current) = current(cpu) else { return };
        cpu.sched.queues.lock().ready.push(current);
        schedule(cpu);
    });
}

/// Lets the other threads of this CPU run; without any that can, waits for an interrupt, unless `is_there` already what
/// the caller is after. It is asked with interrupts masked.
pub(crate) fn rest_unless(is_there: impl FnOnce() -> bool) {
    watch::must_hold_nothing("rests");
    masked(|| {
        let cpu = cpu::this();
        let Some(current) = current(cpu) else { return };
        let mut queues = cpu.sched.queues.lock();
        if !queues.ready.is_empty() {
            queues.ready.push(current);
            drop(queues);
            schedule(cpu);
        } else {
            drop(queues);
            if !is_there() {
                wait_for_interrupt();
            }
        }
    });
}

/// Waits for at least `ms` milliseconds, and on to the next tick; other threads run meanwhile.
pub fn sleep(ms: u64) {
    watch::must_hold_nothing("sleeps");
    let start = time::ticks();
    if !tick::is_running() || !is_thread() {
        while !time::has_passed(start, ms) {
            yield_now();
        }
        return;
    }
    masked(|| {
        let cpu = cpu::this();
        let Some(current) = current(cpu) else { return };
        current.wake_at.store(start + time::from_ms(ms), Ordering::Relaxed);
        cpu.sched.queues.lock().asleep.push(current);
        schedule(cpu);
    });
}

/// The tick's share: sleepers whose time has come can run.
pub(crate) fn wake_sleepers(cpu: &PerCpu) {
    let now = time::ticks();
    let mut queues = cpu.sched.queues.lock();
    let Queues { ready, asleep } = &mut *queues;
    asleep.move_to(ready, |thread| thread.wake_at.load(Ordering::Relaxed) <= now);
}

/// The thread that runs on `cpu`, which is the caller's own; `None` before there are threads.
fn current(cpu: &PerCpu) -> Option<&'static Thread> {
    // SAFETY: null, or the thread that calls this, whose stack is there.
    unsafe { cpu.sched.current.load(Ordering::Relaxed).as_ref() }
}

/// `thread`, which is in no list, can run again.
fn make_ready(thread: &'static Thread) {
    let Some(home) = cpu::get(thread.cpu) else { return };
    home.sched.queues.lock().ready.push(thread);
    if home.number() != cpu::this().number() {
        smp::signal(Signal::Wake, CpuSet::single(home.number()));
    }
}

/// Goes on with the next thread that can run; returns when this one is chosen again. Interrupts are masked, and this
/// thread is in some list, or idle, or has ended.
fn schedule(cpu: &'static PerCpu) {
    #[expect(clippy::panic, reason = "the interrupted thread would be lost")]
    if cpu.in_interrupt() {
        panic!("thread: CPU {} waits in an interrupt handler", cpu.number());
    }
    let sched = &cpu.sched;
    let next = sched.queues.lock().ready.pop().map_or(sched.idle.load(Ordering::Relaxed).cast_const(), |next| next);
    let previous = sched.current.swap(next.cast_mut(), Ordering::Relaxed);
    if core::ptr::eq(next, previous) {
        return;
    }
    // SAFETY: the thread that runs this, or has until now.
    let previous = unsafe { &*previous };
    // SAFETY: it was in this CPU's queue, or is its idle thread: it is there as long as it has not ended.
    let next = unsafe { &*next };
    // SAFETY: the next thread was saved when it last ran, or prepared, and nobody else runs it; where the previous one is
    // saved, only this CPU looks.
    unsafe { switch_context(previous.context.as_ptr(), next.context.get()) };
    // Some time later, back in the previous thread.
    bury(cpu);
}

/// The thread that the CPU has just left for good is done now: nobody is on its stack any more.
fn bury(cpu: &PerCpu) {
    let ended = cpu.sched.ended.swap(core::ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: null, or a thread whose stack is kept until it is done, which is said below.
    if let Some(ended) = unsafe { ended.as_ref() } {
        ended.joiners.close(&ended.is_done);
    }
}

/// From `thread/switch.S`: the first steps of a new thread.
#[unsafe(no_mangle)]
extern "C" fn thread_main(thread: *const Thread) -> ! {
    let cpu = cpu::this();
    bury(cpu);
    irq::unmask();
    // SAFETY: the thread that runs this.
    if let Some(entry) = unsafe { (*thread).entry } {
        // SAFETY: the entry was made for this thread.
        unsafe { entry(thread) };
    }
    // SAFETY: masks interrupts until the next thread sets its own mask.
    unsafe { core::arch::asm!("msr daifset, #2", options(nostack, preserves_flags)) };
    cpu.sched.ended.store(thread.cast_mut(), Ordering::Relaxed);
    schedule(cpu);
    // Nobody goes on with a thread that has ended.
    loop {
        asm::wfi();
    }
}
