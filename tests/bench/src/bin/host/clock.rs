// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host measures with: a clock, or Valgrind's counter of instructions; and the lines that come of it.

use std::collections::BTreeMap;
use std::time::Instant;

use bench::meter::Meter;

/// What a process measures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nanoseconds.
    Time,
    /// Instructions, under `valgrind --tool=callgrind --instr-atstart=no`.
    Count,
    /// Bytes, and blocks that are left.
    Memory,
}

/// Figures by label.
pub(crate) struct Samples {
    peer: &'static str,
    rows: BTreeMap<String, Row>,
}

#[derive(Default)]
struct Row {
    unit: &'static str,
    operations: u64,
    values: Vec<f64>,
}

impl Samples {
    pub(crate) fn new(peer: &'static str) -> Self {
        Self { peer, rows: BTreeMap::new() }
    }

    fn add(&mut self, label: &str, unit: &'static str, operations: u64, value: Option<f64>) {
        let row = self.rows.entry(label.to_owned()).or_default();
        (row.unit, row.operations) = (unit, operations);
        row.values.extend(value);
    }

    /// Million operations a second, unless the machine was disturbed.
    pub(crate) fn gated(&mut self, label: &str, value: Option<f64>) {
        self.add(label, "Mops/s", 0, value);
    }

    /// How many samples the label has that has the fewest.
    pub(crate) fn fewest(&self) -> usize {
        self.rows.values().map(|row| row.values.len()).min().unwrap_or(0)
    }

    /// A line of JSON for each label, on standard output.
    pub(crate) fn print(&self) {
        for (label, row) in &self.rows {
            let line = serde_json::json!({
                "peer": self.peer, "bench": label, "unit": row.unit, "operations": row.operations, "values": row.values,
            });
            println!("{line}");
        }
    }
}

/// Measures one allocator.
pub(crate) struct Clock {
    pub(crate) samples: Samples,
    mode: Mode,
    groups: Vec<String>,
    repetitions: usize,
    started: Option<Instant>,
}

impl Clock {
    /// `groups` that are wanted; all if there is none.
    pub(crate) fn new(mode: Mode, peer: &'static str, groups: &str, repetitions: usize) -> Self {
        let groups = groups.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect();
        let repetitions = if mode == Mode::Time { repetitions } else { 1 };
        Self { samples: Samples::new(peer), mode, groups, repetitions, started: None }
    }
}

impl Meter for Clock {
    #[inline(always)]
    fn begin(&mut self) {
        if self.mode == Mode::Count {
            callgrind(ZERO_STATS, 0);
            callgrind(START, 0);
        }
        self.started = Some(Instant::now());
    }

    #[inline(always)]
    fn end(&mut self, label: &str, operations: u64) {
        let elapsed = self.started.take().map(|started| started.elapsed().as_nanos() as f64 / operations as f64);
        match self.mode {
            Mode::Count => {
                callgrind(STOP, 0);
                let label_z = format!("{label}\0");
                callgrind(DUMP_STATS_AT, label_z.as_ptr() as u64);
                self.samples.add(label, "callgrind", operations, None);
            }
            _ => self.samples.add(label, "ns", operations, elapsed),
        }
    }

    fn value(&mut self, label: &str, value: f64) {
        if self.mode != Mode::Count {
            self.samples.add(label, "", 0, Some(value));
        }
    }

    fn repetitions(&self) -> usize {
        self.repetitions
    }

    fn turns(&self) -> u64 {
        match self.mode {
            Mode::Count => 500,
            _ if self.repetitions < 3 => 10_000,
            _ => 50_000,
        }
    }

    fn steps(&self) -> usize {
        if self.mode == Mode::Count { 200_000 } else { 1_000_000 }
    }

    fn wants(&self, group: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|wanted| wanted == group)
    }
}

/// Requests of Callgrind begin with its two letters (valgrind/callgrind.h).
const TOOL: u64 = (b'C' as u64) << 24 | (b'T' as u64) << 16;
const ZERO_STATS: u64 = TOOL + 1;
const DUMP_STATS_AT: u64 = TOOL + 3;
const START: u64 = TOOL + 4;
const STOP: u64 = TOOL + 5;

/// Asks Valgrind, if this runs under it, by the instructions that its manual sets apart for that and that do nothing
/// otherwise.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn callgrind(request: u64, argument: u64) {
    let arguments = [request, argument, 0, 0, 0, 0];
    // SAFETY: the rotations add up to none, and the exchange is of a register with itself.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") arguments.as_ptr(),
            inout("rdx") 0_u64 => _,
            out("rdi") _,
        );
    }
}

/// No counts on other hosts.
#[cfg(not(target_arch = "x86_64"))]
fn callgrind(_: u64, _: u64) {}
