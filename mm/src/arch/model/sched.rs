// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who runs next: model CPUs are threads, one of them runs at a time, and before each operation on the model the
//! schedule may hand over to another.
//!
//! A [`Schedule`] is a list of choices, so it can be replayed: drawn from a seed, or by [`every_schedule`] one after
//! the other until there is none left.

extern crate std;

use core::cell::Cell;
use std::boxed::Box;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::vec::Vec;

use super::{CPU, Model};

/// What a CPU does.
pub type Program<'a> = Box<dyn FnOnce() + Send + 'a>;

#[derive(Debug)]
enum Chooser {
    /// xorshift64*.
    Random(u64),
    /// These choices, then always the first.
    Given(Vec<usize>),
}

#[derive(Debug)]
struct Turns {
    /// Whose turn it is.
    now: usize,
    /// Those that have not ended.
    alive: Vec<usize>,
    /// Those that wait for something since the last operation of another.
    waiting: u64,
    chooser: Chooser,
    /// What was chosen so far, and out of how many.
    taken: Vec<(usize, usize)>,
    /// Switches that nothing forced, which may still be made.
    switches_left: usize,
}

/// Hands the turn around.
#[derive(Debug)]
pub(super) struct Scheduler {
    turns: Mutex<Turns>,
    changed: Condvar,
}

std::thread_local! {
    /// Whether this thread takes part.
    static SCHEDULED: Cell<bool> = const { Cell::new(false) };
}

impl Turns {
    fn choose(&mut self, choices: usize) -> usize {
        if choices == 1 {
            return 0;
        }
        let choice = match &mut self.chooser {
            Chooser::Random(state) => {
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % choices
            }
            Chooser::Given(list) => list.get(self.taken.len()).copied().unwrap_or(0),
        };
        self.taken.push((choice, choices));
        choice
    }
}

impl Scheduler {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the schedule choose; with `forced`, another one than `cpu` if there is one.
    pub(super) fn switch(&self, cpu: usize, forced: bool) {
        if !SCHEDULED.get() {
            return;
        }
        let mut turns = self.turns();
        // Whoever waits runs again when another has done something, or it would wait for ever.
        turns.waiting = if forced { turns.waiting | 1 << cpu } else { 0 };
        let waiting = turns.waiting;
        let may_run = |&other: &usize| other != cpu && waiting >> other & 1 == 0;
        let mut others: Vec<usize> = turns.alive.iter().copied().filter(may_run).collect();
        if others.is_empty() || !forced && turns.switches_left == 0 {
            return;
        }
        if !forced {
            others.insert(0, cpu);
        }
        let choice = turns.choose(others.len());
        let next = others[choice];
        if next == cpu {
            return;
        }
        if !forced {
            turns.switches_left -= 1;
        }
        turns.now = next;
        self.changed.notify_all();
        self.wait_for(cpu, turns);
    }

    fn wait_for(&self, cpu: usize, mut turns: MutexGuard<'_, Turns>) {
        while turns.now != cpu {
            turns = self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self, cpu: usize) {
        let mut turns = self.turns();
        turns.alive.retain(|&other| other != cpu);
        if !turns.alive.is_empty() {
            let choices = turns.alive.len();
            let choice = turns.choose(choices);
            turns.now = turns.alive[choice];
        }
        self.changed.notify_all();
    }
}

/// Ends a CPU's turn even if its program panics, so that the others do not wait for ever.
struct Turn<'a>(&'a Scheduler, usize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

/// An order in which CPUs take turns, made up as they run.
#[derive(Debug)]
pub struct Schedule {
    turns: Option<Turns>,
    taken: Vec<(usize, usize)>,
}

impl Schedule {
    fn new(chooser: Chooser, switches_left: usize) -> Self {
        let turns = Turns { now: 0, alive: Vec::new(), waiting: 0, chooser, taken: Vec::new(), switches_left };
        Self { turns: Some(turns), taken: Vec::new() }
    }

    /// An order drawn from `seed`. The same seed gives the same run.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        Self::new(Chooser::Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), usize::MAX)
    }

    /// The choices that were made, to be told with a failure.
    #[must_use]
    pub fn taken(&self) -> Vec<usize> {
        self.taken.iter().map(|&(choice, _)| choice).collect()
    }

    /// Runs one program on each CPU of `model`, once.
    pub fn run(&mut self, model: &Model, programs: Vec<Program<'_>>) {
        let mut turns = self.turns.take().unwrap();
        turns.alive = (0..programs.len()).collect();
        let scheduler = Scheduler { turns: Mutex::new(turns), changed: Condvar::new() };
        let scheduler = model.scheduler.get_or_init(|| scheduler);
        thread::scope(|scope| {
            for (cpu, program) in programs.into_iter().enumerate() {
                scope.spawn(move || {
                    CPU.set(cpu);
                    SCHEDULED.set(true);
                    let _turn = Turn(scheduler, cpu);
                    scheduler.wait_for(cpu, scheduler.turns());
                    program();
                });
            }
        });
        self.taken = core::mem::take(&mut scheduler.turns().taken);
    }
}

/// Calls `body` with every order that has at most `switches` switches that nothing forces. It makes a model, runs
/// its programs and looks at what came of it. Tells how many orders there were.
pub fn every_schedule(switches: usize, mut body: impl FnMut(&mut Schedule)) -> u64 {
    let mut choices: Vec<usize> = Vec::new();
    let mut count = 0;
    loop {
        let mut schedule = Schedule::new(Chooser::Given(choices), switches);
        body(&mut schedule);
        count += 1;
        // The next list in order: the last choice that has an alternative is raised, what follows starts anew.
        let raised = schedule.taken.iter().rposition(|&(choice, choices)| choice + 1 < choices);
        let Some(last) = raised else { return count };
        choices = schedule.taken();
        choices.truncate(last + 1);
        choices[last] += 1;
    }
}
