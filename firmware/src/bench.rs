// SPDX-License-Identifier: MIT OR Apache-2.0
//! Benchmarks on the target: what an operation costs in instructions, by the loops that Linux was measured with.
//!
//! Each subsystem has a file here with a list of [`Bench`]es, named once in [`SUITES`]. They run in the image that
//! boots, with all its checks. Under `-icount shift=0` the cycle counter counts instructions, exactly and repeatably;
//! on other machines it counts what the CPU calls cycles. A result is a line of JSON on the console;
//! `firmware/tools/bench.sh` collects them and puts them beside Linux's.
//!
//! *Rules:* the cost of the loop is in the figure, the reads of the counter around it are not; calls are out of line;
//! what a loop works on is in an array, made beforehand. *Hot* loops are the median of 30 batches of 1000 after one
//! that is left out, batches the median of 11 rounds.

mod buffer;
mod counter;
mod counting;
mod dma;
mod footprint;
mod fragmented;
mod pages;
mod pgtable;
mod replay;
mod slab;
mod trace;
mod vmalloc;

use core::fmt::{self, Write};

use bsp::cmdline;

pub(crate) use self::buffer::Buffer;
use crate::boot::Machine;
use crate::console::{Failure, Session};
use crate::cpu::hardware;

/// The lists, a subsystem each.
static SUITES: [&[Bench]; 6] =
    [pages::BENCHES, slab::BENCHES, footprint::BENCHES, pgtable::BENCHES, vmalloc::BENCHES, dma::BENCHES];

/// A benchmark with its variants.
pub(crate) struct Bench {
    /// What names begin with.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// How many variants there are.
    pub(crate) variants: usize,
    /// Writes the rest of the name of a variant.
    pub(crate) suffix: fn(usize, &mut dyn Write) -> fmt::Result,
    /// Measures a variant.
    pub(crate) run: fn(&mut Context<'_>, usize) -> Result<(), Failure>,
}

/// For benchmarks without variants.
pub(crate) fn no_suffix(_: usize, _: &mut dyn Write) -> fmt::Result {
    Ok(())
}

/// What a machine may lack for a benchmark; among others, that one is left out then.
pub(crate) const NO_ROOM: &str = "not enough memory for this one";
pub(crate) const NO_OTHER_CPU: &str = "this needs two CPUs";

const PARAMETERS: &str = "parameters are seed=N, slots=N, ops=N, frag=1";

/// What may be set by the user; the defaults are Linux's figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    /// Of the generator.
    pub(crate) seed: u64,
    /// Of a trace; its own number if `None`.
    pub(crate) slots: Option<u64>,
    /// Of a trace; its own number if `None`.
    pub(crate) ops: Option<u64>,
    /// Whether memory is in pieces.
    pub(crate) frag: bool,
}

impl Parameters {
    const DEFAULT: Self = Self { seed: trace::SEED, slots: None, ops: None, frag: false };

    /// `seed=N slots=N ops=N frag=1`; numbers may be hexadecimal.
    fn read(text: &str) -> Result<Self, Failure> {
        let mut parameters = Self::DEFAULT;
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').ok_or(PARAMETERS)?;
            let value =
                cmdline::parse_number(value).filter(|value| *value != 0).ok_or("a parameter is a number above 0")?;
            match key {
                "seed" => parameters.seed = value,
                "slots" => parameters.slots = Some(value.min(1 << 15)),
                "ops" => parameters.ops = Some(value),
                "frag" if value == 1 => parameters.frag = true,
                _ => return Err(Failure::Because(PARAMETERS)),
            }
        }
        Ok(parameters)
    }
}

/// What a benchmark works with.
pub(crate) struct Context<'a> {
    pub(crate) machine: &'static Machine,
    pub(crate) parameters: Parameters,
    /// Whether the counter counts instructions.
    is_exact: bool,
    session: &'a mut Session,
}

impl Context<'_> {
    /// Room for `length` numbers, all zero.
    pub(crate) fn buffer<T: buffer::Number>(&self, length: usize) -> Result<Buffer<T>, Failure> {
        let buffer = Buffer::new(self.machine.memory.pages, hardware(), length);
        Ok(buffer.ok_or(NO_ROOM)?)
    }

    /// Reports a figure, given as a sum over `operations`; to a hundredth. What is said to be instructions is reported as
    /// what the counter counts.
    pub(crate) fn report(&mut self, name: fmt::Arguments<'_>, sum: u64, operations: u64, unit: &str) -> fmt::Result {
        let hundredths = (u128::from(sum) * 100 + u128::from(operations) / 2).checked_div(u128::from(operations));
        let hundredths = hundredths.unwrap_or(0);
        let (whole, rest) = (hundredths / 100, hundredths % 100);
        let (what, of) = match unit.strip_prefix("instructions") {
            Some(of) if !self.is_exact => ("cycles", of),
            _ => ("", unit),
        };
        writeln!(self.session, "{{\"bench\":\"{name}\",\"value\":{whole}.{rest:02},\"unit\":\"{what}{of}\"}}")
    }

    /// Says something that is no figure.
    pub(crate) fn note(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        writeln!(self.session, "# {text}")
    }
}

/// Compares what was asked for with a name that is being written.
struct Matches<'a> {
    rest: Option<&'a str>,
    is_longer: bool,
}

impl Write for Matches<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // What was asked for may end early: then it names all that go on differently.
        self.rest = self.rest.and_then(|rest| {
            if let Some(rest) = rest.strip_prefix(text) {
                return Some(rest);
            }
            self.is_longer = true;
            text.starts_with(rest).then_some("")
        });
        Ok(())
    }
}

impl Bench {
    /// Whether the name of a variant begins so, or is just that.
    fn is_meant(&self, variant: usize, asked: &str, exactly: bool) -> bool {
        let mut matches = Matches { rest: Some(asked), is_longer: false };
        let written = matches.write_str(self.name).and_then(|()| (self.suffix)(variant, &mut matches));
        written.is_ok() && matches.rest.is_some_and(str::is_empty) && !(exactly && matches.is_longer)
    }
}

/// `bench`: lists the benchmarks. `bench NAME [parameters]`: runs all whose name begins so. One that fails leaves the
/// others be; that a machine is too small for some of them is no failure.
pub(crate) fn run(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let (name, rest) = arguments.split_once(char::is_whitespace).unwrap_or((arguments, ""));
    if name.is_empty() {
        for bench in SUITES.iter().copied().flatten() {
            write!(session, "{}", bench.name)?;
            if bench.variants > 1 {
                (bench.suffix)(0, session)?;
                write!(session, " .. {}", bench.name)?;
                (bench.suffix)(bench.variants - 1, session)?;
            }
            writeln!(session, ": {}", bench.help)?;
        }
        return Ok(());
    }
    let parameters = Parameters::read(rest)?;
    if !counter::start() {
        return Err(Failure::Because("this CPU has no cycle counter"));
    }
    let is_exact = counter::counts_instructions();
    let asked = if name == "all" { "" } else { name };
    let all = || SUITES.iter().copied().flatten().flat_map(|bench| (0..bench.variants).map(move |at| (bench, at)));
    let exactly = all().any(|(bench, variant)| bench.is_meant(variant, asked, true));
    let (mut measured, mut missed, mut failed) = (0_u32, 0_u32, None);
    for (bench, variant) in all().filter(|(bench, variant)| bench.is_meant(*variant, asked, exactly)) {
        let pages = session.machine().memory.pages;
        let _pieces = parameters.frag.then(|| fragmented::Fragmented::new(pages));
        let result = (bench.run)(&mut Context { machine: session.machine(), parameters, is_exact, session }, variant);
        let why = match result {
            Err(Failure::Because(why)) => why,
            closed @ Err(Failure::Closed) => return closed,
            Ok(()) => {
                measured += 1;
                continue;
            }
        };
        write!(session, "# {}", bench.name)?;
        (bench.suffix)(variant, session)?;
        writeln!(session, " was not measured: {why}")?;
        missed += 1;
        if why != NO_ROOM && why != NO_OTHER_CPU {
            failed = Some(why);
        }
    }
    match (failed, measured, missed) {
        (Some(why), ..) => Err(Failure::Because(why)),
        (None, 0, 0) => Err(Failure::Because("no such benchmark; bench alone lists them")),
        (None, 0, _) => Err(Failure::Because("this machine is too small for that")),
        _ => Ok(()),
    }
}
