// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last report of a machine that failed, by a fault or by a panic.
//!
//! One CPU writes it; others that fail meanwhile park. A failure of the report itself is told in one line, and if that
//! fails too, the machine ends without another word. So it always ends.
//!
//! A test may announce the failure that it is about: then the machine ends well if the report has the words that it
//! must have.

mod expect;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use core::arch::asm;

use mm::arch::Arch;
use spin::Once;

pub use self::expect::{Expected, expect};
use crate::cpu::hardware;
use crate::fault::Class;
use crate::power::{self, Failure};
use crate::sync::watch;
use crate::{boot, output, println, smp};

/// What kind of failure it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// An exception that nobody handles.
    Fault(Class),
    /// The program found a contradiction.
    Panic,
}

/// Whose turn it is to speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The first failure of the machine: the whole report.
    First,
    /// The report failed: one line.
    Nested,
    /// That line failed: not a word.
    Hopeless,
}

/// A failure: its headline is how it prints.
pub(crate) trait Event: fmt::Display {
    /// What it is.
    fn cause(&self) -> Cause;

    /// How the machine ends for it.
    fn failure(&self) -> Failure;

    /// The address in question, if there is one.
    fn address(&self) -> u64 {
        0
    }

    /// Writes the report below the headline.
    fn write(&self, w: &mut dyn Write) -> fmt::Result;

    /// Sends the structured record of it.
    fn record(&self);
}

/// The CPU that reports, plus 1; 0 for nobody yet.
static REPORTER: AtomicU32 = AtomicU32::new(0);
/// Failures of that CPU.
static FAILURES: AtomicU32 = AtomicU32::new(0);
/// Called when the report is written.
static NOTIFIED: [Once<fn()>; 4] = [const { Once::new() }; 4];

/// Has `notify` called when a report has been written, before the machine ends. It may print; if it fails, that is
/// a failure of the report.
///
/// Tells whether there was room: for four.
pub fn notify(notify: fn()) -> bool {
    let free = NOTIFIED.iter().find(|slot| !slot.is_completed());
    free.is_some_and(|slot| {
        slot.call_once(|| notify);
        true
    })
}

/// Ends the machine over `event`.
pub(crate) fn end(event: &dyn Event) -> ! {
    mask();
    let turn = turn();
    if turn == Turn::Hopeless {
        expect::end_well_without_a_word();
        power::fail_silently(event.failure());
    }
    // What this CPU does now need not keep to the order of locks.
    watch::stop();
    smp::stop_others();
    wait_for_the_console();
    // SAFETY: whoever held it has failed or been stopped for good, or was given the time that any message takes.
    unsafe { output::steal() };
    boot::open_last_resort();
    let mut report = expect::Watch::new(event.cause(), event.address(), turn);
    // The console never fails.
    let _ = match turn {
        Turn::First => write_report(event, &mut report),
        Turn::Nested | Turn::Hopeless => writeln!(report, "\nquire: fatal: the report has failed: {event}"),
    };
    report.end_if_expected();
    power::fail(event.failure())
}

fn write_report(event: &dyn Event, w: &mut dyn Write) -> fmt::Result {
    writeln!(w, "\nquire: fatal: {event}")?;
    event.write(w)?;
    event.record();
    writeln!(w, "---[ end of report ]---")?;
    NOTIFIED.iter().filter_map(Once::get).for_each(|notify| notify());
    Ok(())
}

/// Nothing may come between a failure and its report, another CPU's call to park included.
fn mask() {
    // SAFETY: masks debug exceptions, SError, interrupts; there is no way back from here.
    unsafe { asm!("msr daifset, #0xf", options(nostack, preserves_flags)) };
}

/// Whose turn it is. Returns on one CPU only.
fn turn() -> Turn {
    let me = hardware().cpu() as u32 + 1;
    match REPORTER.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Err(reporter) if reporter != me => loop {
            aarch64_cpu::asm::wfe();
        },
        _ => match FAILURES.fetch_add(1, Ordering::Relaxed) {
            0 => Turn::First,
            1 => Turn::Nested,
            _ => Turn::Hopeless,
        },
    }
}

/// Another CPU may be in the middle of a message, and go on: that takes less than a tenth of a second.
fn wait_for_the_console() {
    let start = boot::uptime_ns();
    while output::is_held_elsewhere() && boot::uptime_ns().wrapping_sub(start) < 100_000_000 {
        core::hint::spin_loop();
    }
}

/// The outcome of a test that ended as it should.
fn passed() -> ! {
    println!("1 passed, 0 failed");
    power::exit(0)
}
