// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `report.sh` has written, read, and what others needed. What is not there is empty.

use std::path::Path;

use crate::samples::{Collector, Sample};

/// What Linux needed for a benchmark of the target.
pub(crate) struct Linux {
    pub(crate) name: String,
    pub(crate) lean: Option<f64>,
    pub(crate) debian: Option<f64>,
}

/// How long Linux's operations of a trace took: at the median, of 99 %, of 99.9 %, and the longest.
pub(crate) struct Percentiles {
    pub(crate) operation: String,
    pub(crate) kernel: String,
    pub(crate) instructions: Vec<f64>,
}

/// A line of `bench`.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
}

/// A line of `make bench-host`.
pub(crate) struct HostFigure {
    pub(crate) kind: String,
    pub(crate) peer: String,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    /// From the table of peers rather than measured now.
    pub(crate) is_saved: bool,
}

/// A boot.
pub(crate) struct Boot {
    pub(crate) mib: f64,
    pub(crate) instructions: f64,
    /// Bytes that are taken when the console comes.
    pub(crate) used: f64,
}

#[derive(Default)]
pub(crate) struct Data {
    pub(crate) target: Vec<Figure>,
    /// Benchmarks that could not be measured, with the reason.
    pub(crate) missed: Vec<String>,
    pub(crate) host: Vec<HostFigure>,
    pub(crate) linux: Vec<Linux>,
    pub(crate) latencies: Vec<Percentiles>,
    /// Name, and how many operations began at how many instructions.
    pub(crate) histograms: Vec<(String, Vec<(u32, u32)>)>,
    pub(crate) boot: Vec<Boot>,
    /// CPUs and operations a second.
    pub(crate) scaling: Vec<(f64, f64)>,
    /// CPUs that are there, and what an operation of one of them needs.
    pub(crate) cpus: Vec<(f64, Figure)>,
    pub(crate) churn: Vec<Sample>,
}

impl Data {
    pub(crate) fn read(folder: &Path) -> Self {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let log = text("target.log");
        let mut host: Vec<HostFigure> = text("host.jsonl").lines().filter_map(host_figure).collect();
        let saved: Vec<HostFigure> = include_str!("../peers.tsv").lines().filter_map(saved_figure).collect();
        for figure in saved {
            let is_same = |other: &HostFigure| {
                (&other.kind, &other.peer, &other.name, &other.unit)
                    == (&figure.kind, &figure.peer, &figure.name, &figure.unit)
            };
            if !host.iter().any(is_same) {
                host.push(figure);
            }
        }
        let mut collector = Collector::default();
        Self {
            target: text("target.jsonl").lines().filter_map(figure).collect(),
            missed: log
                .lines()
                .filter_map(|line| line.strip_prefix("# "))
                .filter(is_missed)
                .map(str::to_owned)
                .collect(),
            host,
            linux: include_str!("../linux-6.12.tsv").lines().filter_map(linux).collect(),
            latencies: include_str!("../linux-6.12-latencies.tsv").lines().filter_map(percentiles).collect(),
            histograms: log.lines().filter_map(histogram).collect(),
            boot: text("boot.txt").lines().filter_map(boot).collect(),
            scaling: text("scaling.txt").lines().filter_map(pair).collect(),
            cpus: text("cpus.txt").lines().filter_map(of_cpus).collect(),
            churn: text("churn.txt")
                .lines()
                .filter_map(|line| collector.take(line.get(line.find("top: ")?..)?))
                .collect(),
        }
    }

    /// What Linux needed for a benchmark.
    pub(crate) fn linux(&self, name: &str) -> Option<&Linux> {
        self.linux.iter().find(|row| row.name == name)
    }

    /// What we needed for it.
    pub(crate) fn ours(&self, name: &str) -> Option<f64> {
        self.target.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// A figure of an allocator of `make bench-host`.
    pub(crate) fn host(&self, kind: &str, peer: &str, name: &str, unit: &str) -> Option<&HostFigure> {
        self.host
            .iter()
            .find(|figure| (&*figure.kind, &*figure.peer, &*figure.name, &*figure.unit) == (kind, peer, name, unit))
    }
}

fn figure(line: &str) -> Option<Figure> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let word = |key| Some(value.get(key)?.as_str()?.to_owned());
    Some(Figure { name: word("bench")?, value: value.get("value")?.as_f64()?, unit: word("unit")? })
}

fn host_figure(line: &str) -> Option<HostFigure> {
    let Figure { name, value, unit } = figure(line)?;
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let word = |key| Some(line.get(key)?.as_str()?.to_owned());
    Some(HostFigure { kind: word("kind")?, peer: word("peer")?, name, value, unit, is_saved: false })
}

/// The words of a line of a table that is in the tree.
fn words(line: &str) -> Option<impl Iterator<Item = &str>> {
    (!line.starts_with('#')).then(|| line.split('\t'))
}

fn saved_figure(line: &str) -> Option<HostFigure> {
    let mut words = words(line)?;
    let mut word = || Some(words.next()?.to_owned());
    let (kind, peer, name) = (word()?, word()?, word()?);
    Some(HostFigure { kind, peer, name, value: word()?.parse().ok()?, unit: "instr-a64".to_owned(), is_saved: true })
}

fn linux(line: &str) -> Option<Linux> {
    let mut words = words(line)?;
    let name = words.next()?.to_owned();
    let mut number = || words.next().and_then(|word| word.parse().ok());
    Some(Linux { name, lean: number(), debian: number() })
}

fn percentiles(line: &str) -> Option<Percentiles> {
    let mut words = words(line)?;
    let (operation, kernel) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Percentiles { operation, kernel, instructions: words.map_while(|word| word.parse().ok()).collect() })
}

/// `km_cross64 was not measured: this needs two CPUs`
fn is_missed(note: &&str) -> bool {
    note.contains(" was not measured: ")
}

/// `# pg_trace alloc: from 32:100 40:7`
fn histogram(line: &str) -> Option<(String, Vec<(u32, u32)>)> {
    let (name, counts) = line.strip_prefix("# ")?.split_once(": from ")?;
    let count = |word: &str| {
        let (from, count) = word.split_once(':')?;
        Some((from.parse().ok()?, count.parse().ok()?))
    };
    Some((name.to_owned(), counts.split_whitespace().filter_map(count).collect()))
}

fn pair(line: &str) -> Option<(f64, f64)> {
    let (a, b) = line.split_once(' ')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

/// CPUs, and a line of `bench`.
fn of_cpus(line: &str) -> Option<(f64, Figure)> {
    let (cpus, rest) = line.split_once(' ')?;
    Some((cpus.parse().ok()?, figure(rest)?))
}

/// RAM as QEMU spells it, nanoseconds, and bytes.
fn boot(line: &str) -> Option<Boot> {
    let mut words = line.split(' ');
    let ram = words.next()?;
    let (number, unit) = ram.split_at_checked(ram.len().checked_sub(1)?)?;
    let mib = number.parse::<f64>().ok()? * if unit == "G" { 1024.0 } else { 1.0 };
    let mut number = || words.next()?.parse().ok();
    Some(Boot { mib, instructions: number()?, used: number()? })
}
