// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's `test_vmalloc`: its thirteen tests, by their names, parameters and summary lines.
//!
//! Worker threads go round the CPUs; each runs the tests of the mask in an order of its own, as often as it is told, and
//! says what came of it. What Linux expects to fail is counted apart. Started by `modprobe test_vmalloc KEY=VALUE...` on the
//! console, or by `test_vmalloc.KEY=VALUE` on the command line.

mod cases;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mm::arch::MAX_CPUS;

use crate::modules::{Module, Values};
use crate::random::Generator;
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

    fn from_values(values: &Values) -> Self {
        let [nr_threads, order, test_repeat_count, test_loop_count, nr_pages, huge, run_test_mask, nr_pcpu_objects] =
            *values;
        Self {
            nr_threads,
            sequential_test_order: order != 0,
            test_repeat_count,
            test_loop_count,
            nr_pages,
            use_huge: huge != 0,
            run_test_mask,
            nr_pcpu_objects,
        }
    }
}

/// What `modprobe` and the command line know of it.
pub(crate) const MODULE: Module = Module {
    name: "test_vmalloc",
    parameters: &[
        ("nr_threads", Parameters::DEFAULT.nr_threads),
        ("sequential_test_order", 0),
        ("test_repeat_count", Parameters::DEFAULT.test_repeat_count),
        ("test_loop_count", Parameters::DEFAULT.test_loop_count),
        ("nr_pages", Parameters::DEFAULT.nr_pages),
        ("use_huge", 0),
        ("run_test_mask", Parameters::DEFAULT.run_test_mask),
        ("nr_pcpu_objects", Parameters::DEFAULT.nr_pcpu_objects),
    ],
    run: |values, is_enough| run(&Parameters::from_values(values), is_enough),
};

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
    random: Generator,
}

impl Worker {
    /// The next number of this worker's sequence.
    const fn next(&mut self) -> u64 {
        self.random.next() >> 16
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
static PASSED: AtomicUsize = AtomicUsize::new(0);
static FAILURES: AtomicUsize = AtomicUsize::new(0);
static EXPECTED: AtomicUsize = AtomicUsize::new(0);

/// Runs one test by its number, here and now. Whether it passed.
pub(crate) fn run_one(number: usize, parameters: &Parameters) -> bool {
    IS_ENOUGH.store(false, Ordering::Relaxed);
    let mut worker = Worker { parameters: *parameters, random: Generator::new(SEED) };
    cases::TESTS.get(number).is_some_and(|test| (test.run)(&mut worker) == Outcome::Passed)
}

/// Where the workers' sequences begin.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Runs the tests, or as many of them until `is_enough`.
fn run(parameters: &Parameters, is_enough: &mut dyn FnMut() -> bool) -> Result<(), &'static str> {
    /// Workers on one CPU at most.
    const PER_CPU: usize = 4;
    const MOST_WAITS: usize = 1000;
    let most = (smp::nr_online() * PER_CPU).min(2 * MAX_CPUS);
    let nr = (parameters.nr_threads.max(1) as usize).min(most);
    IS_ENOUGH.store(false, Ordering::Relaxed);
    FINISHED.store(0, Ordering::Relaxed);
    [&PASSED, &FAILURES, &EXPECTED].iter().for_each(|count| count.store(0, Ordering::Relaxed));
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
    let [passed, failed, expected] = [&PASSED, &FAILURES, &EXPECTED].map(|count| count.load(Ordering::Relaxed));
    println!("test_vmalloc: {nr} workers: {passed} runs passed, {failed} failed, {expected} failed as expected");
    match failed {
        _ if spawned < nr => Err("no memory for the workers"),
        0 => Ok(()),
        _ => Err("a test failed, or was ended"),
    }
}

fn work(number: usize, parameters: Parameters) {
    let start = time::ticks();
    let mut worker = Worker { parameters, random: Generator::new(SEED.wrapping_mul(number as u64 + 1)) };
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
        PASSED.fetch_add(passed, Ordering::Relaxed);
        FAILURES.fetch_add(failed, Ordering::Relaxed);
        EXPECTED.fetch_add(expected, Ordering::Relaxed);
        let (repeat, loops) = (parameters.test_repeat_count, parameters.test_loop_count);
        let usec = time::to_ns(ticks / repeat.max(1)) / 1000;
        println!(
            "test_vmalloc: Summary: {} passed: {passed} failed: {failed} xfailed: {expected} repeat: {repeat} loops: {loops} avg: {usec} usec",
            test.name
        );
    }
    println!("test_vmalloc: All test took worker{number}={} cycles", time::ticks() - start);
    FINISHED.fetch_add(1, Ordering::Relaxed);
}
