// SPDX-License-Identifier: MIT OR Apache-2.0
//! The call trace of a report: [`Unwind`] over the stacks of this machine, with names.

use core::fmt::{self, Write};
use core::ops::Range;

use crate::fault::{End, Stacks, Unwind};
use crate::symbols::Code;
use crate::{stack, translate};

/// Most lines of a trace.
const MAX_LINES: u32 = 64;

/// The stacks of this machine. A record is read only if its page is there.
#[derive(Clone, Copy, Debug)]
struct Known;

impl Stacks for Known {
    fn stack_of(&self, address: u64) -> Option<Range<u64>> {
        let range = stack::of(address)?.range;
        Some(range.start().as_raw()..range.end().as_raw())
    }

    fn record(&self, address: u64) -> Option<[u64; 2]> {
        Some([translate::peek(address)?, translate::peek(address + 8)?])
    }
}

/// The return addresses from `frame_pointer` (x29) on, innermost first.
pub fn from(frame_pointer: u64) -> impl Iterator<Item = u64> {
    Unwind::new(Known, frame_pointer)
}

/// Writes the trace: where the code stands, and who called it, as far as these are known; then the callers that
/// the records from `frame_pointer` on tell.
pub(crate) fn write(w: &mut dyn Write, place: Option<u64>, caller: Option<u64>, frame_pointer: u64) -> fmt::Result {
    writeln!(w, "call trace:")?;
    if let Some(place) = place {
        writeln!(w, "  <{place:016x}>  {}", Code::at(place))?;
    }
    let mut unwind = Unwind::new(Known, frame_pointer);
    let mut addresses = caller.into_iter().chain(&mut unwind).peekable();
    let mut lines = 0;
    while let Some(address) = addresses.next() {
        // A function that calls itself, time and again, is told once.
        let mut times = 1;
        while addresses.next_if_eq(&address).is_some() {
            times += 1;
        }
        if lines == MAX_LINES {
            return writeln!(w, "  ... {}", End::TooMany);
        }
        write!(w, " [<{address:016x}>] {}", Code::returning_to(address))?;
        writeln!(w, "{}", Times(times))?;
        lines += 1;
    }
    match unwind.end() {
        Some(End::Bottom) | None => Ok(()),
        Some(end) => writeln!(w, "  ... {end}"),
    }
}

/// `, N times`, if it is more than once.
struct Times(u32);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 1 { Ok(()) } else { write!(f, ", {} times", self.0) }
    }
}

/// The frame pointer of the function that calls this.
#[must_use]
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let x29: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) x29, options(nomem, nostack, preserves_flags)) };
    x29
}
