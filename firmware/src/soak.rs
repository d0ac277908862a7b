// SPDX-License-Identifier: MIT OR Apache-2.0
//! A soak: every CPU calls, posts, parks, spawns, joins, sleeps, waits, takes a lock and now and then says a line on the
//! console, all at once and for as long as one likes, while its tick does the same work in small. Every operation is counted where it is asked for and where it is
//! done; at the end both sums must agree, and every page must be back.
//!
//! ```text
//!   on each CPU   a worker: one operation after the other, chosen by a generator of its own
//!                 a runner: passes a token on to the next CPU's runner
//! ```

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use mm::arch::MAX_CPUS;
use mm::sync::Rank;
use spin::Once;

use crate::boot::Machine;
use crate::cpu::{self, PerCpu};
use crate::random::Generator;
use crate::smp::{self, CpuSet};
use crate::sync::Lock;
use crate::thread::{self, JoinHandle, SpawnError, WaitQueue};
use crate::{println, stacks, tick, time};

/// What is counted, on the side that asks and on the side that does.
#[derive(Clone, Copy, Debug)]
enum Work {
    Call,
    Post,
    Park,
    Thread,
    Sleep,
    Lock,
    Lap,
    Line,
}

impl Work {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Call, "calls of one CPU by another"),
        (Self::Post, "posted calls"),
        (Self::Park, "times alone at work"),
        (Self::Thread, "threads"),
        (Self::Sleep, "sleeps"),
        (Self::Lock, "times under one lock"),
        (Self::Lap, "times that the token went on"),
        (Self::Line, "lines on the console"),
    ];
}

/// A counter for each kind of work.
#[derive(Debug)]
struct Counts([AtomicU64; Work::ALL.len()]);

impl Counts {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Work::ALL.len()])
    }

    fn add(&self, work: Work, count: u64) {
        if let Some(counter) = self.0.get(work as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn of(&self, work: Work) -> u64 {
        self.0.get(work as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

static ASKED: Counts = Counts::new();
static DONE: Counts = Counts::new();
/// Counted up under the lock, not atomically.
static LOCKED: Lock<u64> = Lock::new(Rank::SLAB, 0);
/// As this while every other CPU is parked.
static ALONE: AtomicU64 = AtomicU64::new(0);
/// What a parked CPU must not do: the workers count here all the time.
static STEPS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Whose turn it is; [`STOP`] when nobody's.
static TOKEN: AtomicUsize = AtomicUsize::new(STOP);
static RUNNERS: WaitQueue = WaitQueue::new();
static IS_OVER: AtomicBool = AtomicBool::new(true);
/// Ticks in which a hook ran.
static HOOKED: AtomicU64 = AtomicU64::new(0);

const STOP: usize = usize::MAX;
/// Between two lines of a CPU.
const LINE_EVERY_MS: u64 = 2000;

/// What became of it.
#[derive(Debug)]
pub struct Report {
    seconds: u64,
    ticks: u64,
    /// The first thing that was wrong.
    wrong: Option<&'static str>,
}

impl Report {
    /// What was wrong, if anything.
    #[must_use]
    pub const fn wrong(&self) -> Option<&'static str> {
        self.wrong
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} CPUs, {} s, {} ticks", smp::nr_online(), self.seconds, self.ticks)?;
        for (work, name) in Work::ALL {
            let (asked, done) = (ASKED.of(work), DONE.of(work));
            let mark = if asked == done { "" } else { "  WRONG" };
            writeln!(f, "{asked:>12} {name}, {done} done{mark}")?;
        }
        match self.wrong {
            Some(wrong) => write!(f, "soak: FAILED: {wrong}"),
            None => write!(f, "soak: everything asked for was done, and all memory is back"),
        }
    }
}

/// Runs for so many seconds, or until `is_enough`.
///
/// # Errors
///
/// [`SpawnError`]: there is no memory for the threads.
pub fn run(machine: &'static Machine, seconds: u64, mut is_enough: impl FnMut() -> bool) -> Result<Report, SpawnError> {
    static HOOK: Once<bool> = Once::new();
    HOOK.call_once(|| tick::on_tick(work_in_tick));
    let before = (machine.memory.idle_pages(), stacks::total_bytes());
    let ticks = || smp::online().map(PerCpu::ticks).sum::<u64>();
    let (start, first_ticks) = (time::ticks(), ticks());
    IS_OVER.store(false, Ordering::Relaxed);
    TOKEN.store(0, Ordering::Relaxed);
    let spawned = spawn_all();
    while spawned.is_ok() && !time::has_passed(start, seconds * 1000) && !is_enough() {
        thread::sleep(50);
    }
    IS_OVER.store(true, Ordering::Relaxed);
    RUNNERS.wake_all();
    // Each is waited for when it is dropped; half of them too, if there was no memory for all.
    let all_right = spawned.map(|threads| threads.into_iter().flatten().all(JoinHandle::join))?;
    DONE.add(Work::Lock, core::mem::take(&mut *LOCKED.lock()));
    DONE.add(Work::Park, ALONE.swap(0, Ordering::Relaxed));
    wait_for_posts();
    let after = (machine.memory.idle_pages(), stacks::total_bytes());
    let wrong = if !all_right {
        Some("a result was wrong, or a parked CPU moved")
    } else if Work::ALL.iter().any(|(work, _)| ASKED.of(*work) != DONE.of(*work)) {
        Some("something was not done, or done twice")
    } else if before != after {
        Some("memory is missing")
    } else if HOOKED.load(Ordering::Relaxed) == 0 && tick::is_running() {
        Some("no tick ran the hook")
    } else {
        None
    };
    let seconds = time::to_ns(time::ticks() - start) / 1_000_000_000;
    Ok(Report { seconds, ticks: ticks() - first_ticks, wrong })
}

type Threads = [Option<JoinHandle<bool>>; 2 * MAX_CPUS];

fn spawn_all() -> Result<Threads, SpawnError> {
    let mut threads: Threads = [const { None }; 2 * MAX_CPUS];
    let mut slots = threads.iter_mut();
    for cpu in CpuSet::online().iter() {
        for main in [worker as fn() -> bool, runner] {
            if let Some(slot) = slots.next() {
                *slot = Some(thread::spawn_on(cpu, main).inspect_err(|_| IS_OVER.store(true, Ordering::Relaxed))?);
            }
        }
    }
    Ok(threads)
}

/// What was posted last may still be on its way.
fn wait_for_posts() {
    let start = time::ticks();
    while ASKED.of(Work::Post) != DONE.of(Work::Post) && !time::has_passed(start, 5000) {
        thread::yield_now();
    }
}

/// The tick's share, on every CPU: a lock, a wake-up and a posted call from an interrupt handler.
fn work_in_tick(cpu: &'static PerCpu) {
    if IS_OVER.load(Ordering::Relaxed) {
        return;
    }
    HOOKED.fetch_add(1, Ordering::Relaxed);
    add_under_lock();
    RUNNERS.wake_all();
    if cpu.ticks().is_multiple_of(8) {
        post();
    }
}

fn add_under_lock() {
    ASKED.add(Work::Lock, 1);
    *LOCKED.lock() += 1;
}

fn post() {
    ASKED.add(Work::Post, smp::nr_online() as u64);
    smp::post(CpuSet::online(), &|_| DONE.add(Work::Post, 1));
}

/// Passes the token on to the next CPU.
fn runner() -> bool {
    let me = cpu::this().number();
    let next = CpuSet::online().after(me).unwrap_or(me);
    loop {
        let token = || TOKEN.load(Ordering::Relaxed);
        RUNNERS.wait_until(|| token() == me || IS_OVER.load(Ordering::Relaxed));
        if IS_OVER.load(Ordering::Relaxed) {
            return true;
        }
        ASKED.add(Work::Lap, 1);
        TOKEN.store(next, Ordering::Relaxed);
        RUNNERS.wake_all();
        DONE.add(Work::Lap, 1);
        // The next CPU may be this one.
        thread::yield_now();
    }
}

/// One operation after the other.
fn worker() -> bool {
    let me = cpu::this().number();
    // Each CPU its own sequence.
    let mut generator = Generator::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(me as u64 + 1));
    let mut all_right = true;
    let mut last_line = time::ticks();
    while !IS_OVER.load(Ordering::Relaxed) {
        let random = generator.next();
        if let Some(steps) = STEPS.get(me) {
            steps.fetch_add(1, Ordering::Relaxed);
        }
        if time::has_passed(last_line, LINE_EVERY_MS) {
            last_line = time::ticks();
            say(me);
        }
        all_right &= match random % 64 {
            0 => park(),
            1 | 2 => spawn_on_next(me, random),
            3 => sleep(),
            4..8 => {
                post();
                true
            }
            8..24 => call(),
            24..40 => {
                add_under_lock();
                true
            }
            _ => {
                thread::yield_now();
                true
            }
        };
    }
    all_right
}

/// A line that comes out whole, among those of the other CPUs.
fn say(me: usize) {
    ASKED.add(Work::Line, 1);
    let steps = STEPS.get(me).map_or(0, |steps| steps.load(Ordering::Relaxed));
    println!("soak: CPU {me} is at step {steps}");
    DONE.add(Work::Line, 1);
}

fn call() -> bool {
    let (answers, expected) = (AtomicU64::new(0), smp::nr_online() as u64);
    ASKED.add(Work::Call, expected);
    smp::call(CpuSet::online(), &|_| {
        answers.fetch_add(1, Ordering::Relaxed);
        DONE.add(Work::Call, 1);
    });
    answers.into_inner() == expected
}

/// Alone, nobody else takes a step, and a sum that is not atomic comes out right.
fn park() -> bool {
    const LONG_ENOUGH_US: u64 = 20;
    ASKED.add(Work::Park, 1);
    let steps = || STEPS.iter().map(|steps| steps.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
    smp::park_others(|| {
        let (before, sum, start) = (steps(), ALONE.load(Ordering::Relaxed), time::ticks());
        while time::to_ns(time::ticks() - start) < LONG_ENOUGH_US * 1000 {
            core::hint::spin_loop();
        }
        ALONE.store(sum + 1, Ordering::Relaxed);
        steps() == before
    })
}

fn spawn_on_next(me: usize, value: u64) -> bool {
    let next = CpuSet::online().after(me).unwrap_or(me);
    // The threads of the others may hold all the memory there is: that is no fault.
    let Ok(handle) = thread::spawn_on(next, move || {
        DONE.add(Work::Thread, 1);
        value.wrapping_mul(3)
    }) else {
        return true;
    };
    ASKED.add(Work::Thread, 1);
    handle.join() == value.wrapping_mul(3)
}

fn sleep() -> bool {
    ASKED.add(Work::Sleep, 1);
    let start = time::ticks();
    thread::sleep(2);
    DONE.add(Work::Sleep, 1);
    time::has_passed(start, 2)
}
