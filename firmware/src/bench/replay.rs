// SPDX-License-Identifier: MIT OR Apache-2.0
//! What benches of a trace have in common: its entries made beforehand, and each operation measured by itself.

use core::fmt;

use super::trace::{SEED, Trace};
use super::{Buffer, Context, counter};
use crate::console::Failure;

/// The entries of a trace with the user's parameters, and its slots, all empty.
///
/// # Errors
///
/// Not enough memory, or not the trace that Linux was measured with although it should be.
pub(super) fn prepare(context: &mut Context<'_>, linux: &Trace) -> Result<(Buffer<u32>, Buffer<u64>), Failure> {
    let parameters = context.parameters;
    let trace = Trace {
        slots: parameters.slots.unwrap_or(linux.slots),
        operations: parameters.ops.unwrap_or(linux.operations),
        ..*linux
    };
    let mut entries = context.buffer::<u32>(trace.operations as usize)?;
    let slots = context.buffer::<u64>(trace.slots as usize)?;
    let hash = trace.fill(parameters.seed, &mut entries);
    let is_linux = parameters.seed == SEED && parameters.slots.is_none() && parameters.ops.is_none();
    if is_linux && hash != linux.hash {
        return Err(Failure::Because("the trace is not the one that Linux was measured with"));
    }
    context.note(format_args!("trace of {} operations, hash {hash:016x}", trace.operations))?;
    Ok((entries, slots))
}

/// The cost of each operation of a trace, sorted.
pub(super) struct Costs {
    counts: Buffer<u32>,
    allocs: usize,
}

/// Runs a trace, an operation at a time; `operate` tells whether it was an allocation.
///
/// # Errors
///
/// Not enough memory.
#[inline(always)]
pub(super) fn measure(
    context: &Context<'_>,
    entries: &[u32],
    mut operate: impl FnMut(u32) -> bool,
) -> Result<Costs, Failure> {
    let overhead = counter::overhead();
    let mut counts = context.buffer::<u32>(entries.len())?;
    // Allocations from the front, frees from the back.
    let (mut allocs, mut frees) = (0, entries.len());
    for entry in entries {
        let start = counter::now();
        let is_alloc = operate(*entry);
        let count = (counter::now() - start).saturating_sub(overhead);
        let at = if is_alloc {
            allocs += 1;
            allocs - 1
        } else {
            frees -= 1;
            frees
        };
        if let Some(slot) = counts.get_mut(at) {
            *slot = u32::try_from(count).unwrap_or(u32::MAX);
        }
    }
    Ok(Costs { counts, allocs })
}

impl Costs {
    /// Reports `NAME_p999_alloc` and `NAME_p999_free`, and says what else there is.
    pub(super) fn report(mut self, context: &mut Context<'_>, name: &str) -> Result<(), Failure> {
        let Some((allocs, frees)) = self.counts.split_at_mut_checked(self.allocs) else { return Ok(()) };
        for (what, counts) in [("alloc", allocs), ("free", frees)] {
            counts.sort_unstable();
            let at = |thousandths: usize| {
                let index = (counts.len() * thousandths / 1000).min(counts.len().saturating_sub(1));
                counts.get(index).copied().unwrap_or(0)
            };
            let (p50, p99, p999, most) = (at(500), at(990), at(999), at(1000));
            context.note(format_args!("{name} {what}: p50 {p50}, p99 {p99}, p99.9 {p999}, most {most}"))?;
            context.note(format_args!("{name} {what}: from {}", Histogram(counts)))?;
            context.report(format_args!("{name}_p999_{what}"), u64::from(p999), 1, "instructions")?;
        }
        Ok(())
    }
}

/// Sorted costs by quarters of a power of two: `FROM:COUNT FROM:COUNT ..`.
struct Histogram<'a>(&'a [u32]);

impl fmt::Display for Histogram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = |cost: &u32| cost & !u32::MAX.checked_shr(cost.leading_zeros() + 3).unwrap_or(0);
        self.0
            .chunk_by(|a, b| from(a) == from(b))
            .try_for_each(|part| write!(f, "{}:{} ", part.first().map_or(0, from), part.len()))
    }
}
