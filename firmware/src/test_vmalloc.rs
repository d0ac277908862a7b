// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's `test_vmalloc`: its thirteen tests, by their names, parameters and summary lines.
//!
//! Worker threads go round the CPUs; each runs the tests of the mask in an order of its own, as often as it is told, and
//! says what came of it. What Linux expects to fail is counted apart. Started by `modprobe test_vmalloc KEY=VALUE...` on the
//! console, or by `test_vmalloc.KEY=VALUE` on the command line.

mod cases;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mm::arch::MAX_CPUS;

use crate::thread::{self, JoinHandle};
use crate::{println, time};
use crate::{rcu, smp};

/// What may be set, with Linux's defaults.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Worker threads; 0 is one.
    pub nr_threads: u64,
    /// Whether each worker takes the tests in order.
    pub sequential_test_order: bool,
    /// How often each test is run.
    pub test_repeat_count: u64,
    /// Rounds of each run.
    pub test_loop_count: u64,
    /// Pages of tests of a fixed size; 0 is one.
    pub nr_pages: u64,
    /// Whether those are aligned so that larger descriptors can be used.
    pub use_huge: bool,
    /// A bit for each test.
    pub run_test_mask: u64,
    /// Objects of the per-CPU test.
    pub nr_pcpu_objects: u64,
}

impl Parameters {
    /// Linux's.
    pub const DEFAULT: Self = Self {
        nr_threads: 0,
        sequential_test_order: false,
        test_repeat_count: 1,
        test_loop_count: 1_000_000,
        nr_pages: 0,
        use_huge: false,
        run_test_mask: 7,
        nr_pcpu_objects: 35_000,
    };

    /// Sets one; `false` if there is none of that name, or the value is no number (0x for hexadecimal).
    pub fn set(&mut self, key: &str, value: &str) -> bool {
        let number = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        let Ok(number) = number else { return false };
        match key {
            "nr_threads" => self.nr_threads = number,
            "sequential_test_order" => self.sequential_test_order = number != 0,
            "test_repeat_count" => self.test_repeat_count = number,
            "test_loop_count" => self.test_loop_count = number,
            "nr_pages" => self.nr_pages = number,
            "use_huge" => self.use_huge = number != 0,
            "run_test_mask" => self.run_test_mask = number,
            "nr_pcpu_objects" => self.nr_pcpu_objects = number,
            _ => return false,
        }
        true
    }
}

/// How a run of a test ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed,
    /// It failed, as Linux expects it to.
    ExpectedFailure,
}

/// A test: its name, and the function.
struct Test {
    name: &'static str,
    run: fn(&mut Worker) -> Outcome,
}

/// One of the threads.
struct Worker {
    parameters: Parameters,
    random: u64,
}

impl Worker {
    /// The next number of this worker's sequence (Marsaglia's xorshift).
    const fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }

    /// Runs `step` for each loop, until it fails or somebody has enough; others on this CPU run in between.
    fn each(&mut self, mut step: impl FnMut(&mut Self) -> bool) -> Outcome {
        for number in 0..self.parameters.test_loop_count {
            if number.is_multiple_of(64) {
                thread::yield_now();
                if IS_ENOUGH.load(Ordering::Relaxed) {
                    return Outcome::Failed;
                }
            }
            if !step(self) {
                return Outcome::Failed;
            }
        }
        Outcome::Passed
    }
}

static IS_ENOUGH: AtomicBool = AtomicBool::new(false);
static FINISHED: AtomicUsize = AtomicUsize::new(0);
static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Why it did not run, or not well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TestError {
    /// A thread could not be had.
    NoThread,
    /// So many runs of tests failed that should have passed.
    Failed(usize),
}

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoThread => f.write_str("test_vmalloc: no memory for the workers"),
            Self::Failed(count) => write!(f, "test_vmalloc: {count} runs failed"),
        }
    }
}

/// Runs one test by its number, here and now. Whether it passed.
pub(crate) fn run_one(number: usize, parameters: &Parameters) -> bool {
    IS_ENOUGH.store(false, Ordering::Relaxed);
    let mut worker = Worker { parameters: *parameters, random: SEED };
    cases::TESTS.get(number).is_some_and(|test| (test.run)(&mut worker) == Outcome::Passed)
}

/// Where the workers' sequences begin.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Runs the tests, or as many of them until `is_enough`.
///
/// # Errors
///
/// [`TestError`].
pub fn run(parameters: &Parameters, mut is_enough: impl FnMut() -> bool) -> Result<(), TestError> {
    /// Workers on one CPU at most.
    const PER_CPU: usize = 4;
    const MOST_WAITS: usize = 1000;
    let most = (smp::nr_online() * PER_CPU).min(2 * MAX_CPUS);
    let nr = (parameters.nr_threads.max(1) as usize).min(most);
    IS_ENOUGH.store(false, Ordering::Relaxed);
    FINISHED.store(0, Ordering::Relaxed);
    FAILURES.store(0, Ordering::Relaxed);
    let mut workers: [Option<JoinHandle<()>>; 2 * MAX_CPUS] = [const { None }; 2 * MAX_CPUS];
    let mut spawned = 0;
    for (number, slot) in workers.iter_mut().enumerate().take(nr) {
        let parameters = *parameters;
        *slot = thread::spawn_on(number % smp::nr_online(), move || work(number, parameters)).ok();
        spawned += usize::from(slot.is_some());
    }
    IS_ENOUGH.store(spawned < nr, Ordering::Relaxed);
    while FINISHED.load(Ordering::Relaxed) < spawned {
        thread::sleep(20);
        if is_enough() {
            IS_ENOUGH.store(true, Ordering::Relaxed);
        }
    }
    workers.into_iter().flatten().for_each(JoinHandle::join);
    // What was left to the ticks is free when this returns.
    for _ in 0..MOST_WAITS {
        if rcu::nr_waiting() == 0 {
            break;
        }
        thread::sleep(10);
    }
    match FAILURES.load(Ordering::Relaxed) {
        _ if spawned < nr => Err(TestError::NoThread),
        0 => Ok(()),
        failures => Err(TestError::Failed(failures)),
    }
}

fn work(number: usize, parameters: Parameters) {
    let start = time::ticks();
    let mut worker = Worker { parameters, random: SEED.wrapping_mul(number as u64 + 1) };
    let mut order: [usize; cases::TESTS.len()] = core::array::from_fn(|at| at);
    if !parameters.sequential_test_order {
        for at in (1..order.len()).rev() {
            order.swap(at, (worker.next() % (at as u64 + 1)) as usize);
        }
    }
    for at in order {
        let Some(test) = cases::TESTS.get(at).filter(|_| parameters.run_test_mask >> at & 1 != 0) else { continue };
        let (mut passed, mut failed, mut expected, mut ticks) = (0, 0, 0, 0);
        for _ in 0..parameters.test_repeat_count {
            let start = time::ticks();
            match (test.run)(&mut worker) {
                Outcome::Passed => passed += 1,
                Outcome::Failed => failed += 1,
                Outcome::ExpectedFailure => expected += 1,
            }
            ticks += time::ticks() - start;
        }
        FAILURES.fetch_add(failed, Ordering::Relaxed);
        let (repeat, loops) = (parameters.test_repeat_count, parameters.test_loop_count);
        let usec = time::to_ns(ticks / repeat.max(1)) / 1000;
        println!(
            "Summary: {} passed: {passed} failed: {failed} xfailed: {expected} repeat: {repeat} loops: {loops} avg: {usec} usec",
            test.name
        );
    }
    println!("All test took worker{number}={} cycles", time::ticks() - start);
    FINISHED.fetch_add(1, Ordering::Relaxed);
}
