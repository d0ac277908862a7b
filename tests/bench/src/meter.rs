// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a workload is measured with: a clock, or a counter of instructions.

/// Measures what happens between [`begin`](Meter::begin) and [`end`](Meter::end).
pub trait Meter {
    /// Starts the clock.
    fn begin(&mut self);
    /// Stops it: that were so many operations.
    fn end(&mut self, label: &str, operations: u64);
    /// A result that is no time: blocks, bytes, failures.
    fn value(&mut self, label: &str, value: f64);
    /// Measured repetitions of a workload. One that is not measured comes first.
    fn repetitions(&self) -> usize;
    /// Turns of a loop that does the same thing each time. Where instructions are counted few are enough.
    fn turns(&self) -> u64;
    /// Steps of the mixed traces.
    fn steps(&self) -> usize;
    /// Whether this group of workloads is asked for.
    fn wants(&self, group: &str) -> bool;
}

/// Runs a workload as often as the meter says, once more at first.
pub fn repeat<M: Meter>(meter: &mut M, label: &str, operations: u64, mut work: impl FnMut()) {
    for repetition in 0..=meter.repetitions() {
        if repetition == 0 {
            work();
            continue;
        }
        meter.begin();
        work();
        meter.end(label, operations);
    }
}
