// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `report.sh` has written, read. What is not there is empty.

use std::path::Path;

use crate::samples::{Collector, Sample};

pub(crate) struct Linux {
    pub(crate) name: String,
    pub(crate) lean: Option<f64>,
    pub(crate) debian: Option<f64>,
}

/// A line of `bench`.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
}

#[derive(Default)]
pub(crate) struct Data {
    pub(crate) target: Vec<Figure>,
    pub(crate) host: Vec<Figure>,
    pub(crate) linux: Vec<Linux>,
    /// Name, and how many operations began at how many instructions.
    pub(crate) histograms: Vec<(String, Vec<(u32, u32)>)>,
    /// MiB and instructions.
    pub(crate) boot: Vec<(f64, f64)>,
    /// CPUs and operations a second.
    pub(crate) scaling: Vec<(f64, f64)>,
    pub(crate) churn: Vec<Sample>,
    /// Bytes of an object, and of memory for each.
    pub(crate) caches: Vec<(f64, f64)>,
}

impl Data {
    pub(crate) fn read(folder: &Path) -> Self {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let churn = text("churn.txt");
        let mut collector = Collector::default();
        Self {
            target: figures(&text("target.jsonl")),
            host: figures(&text("host.jsonl")),
            linux: text("linux-6.12.tsv").lines().filter_map(linux).collect(),
            histograms: text("target.log").lines().filter_map(histogram).collect(),
            boot: text("boot.txt").lines().filter_map(|line| pair(line, mib)).collect(),
            scaling: text("scaling.txt").lines().filter_map(|line| pair(line, |word| word.parse().ok())).collect(),
            churn: churn.lines().filter_map(|line| collector.take(line.get(line.find("top: ")?..)?)).collect(),
            caches: churn.lines().filter_map(cache).collect(),
        }
    }

    /// What Linux needed for a benchmark.
    pub(crate) fn linux(&self, name: &str) -> Option<&Linux> {
        self.linux.iter().find(|row| row.name == name)
    }
}

fn figures(text: &str) -> Vec<Figure> {
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let word = |key| Some(value.get(key)?.as_str()?.to_owned());
        Some(Figure { name: word("bench")?, value: value.get("value")?.as_f64()?, unit: word("unit")? })
    };
    text.lines().filter_map(line).collect()
}

fn linux(line: &str) -> Option<Linux> {
    let mut words = line.split('\t');
    let name = words.next().filter(|name| !name.starts_with('#'))?.to_owned();
    let mut number = || words.next().and_then(|word| word.parse().ok());
    Some(Linux { name, lean: number(), debian: number() })
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

fn pair(line: &str, first: impl Fn(&str) -> Option<f64>) -> Option<(f64, f64)> {
    let (a, b) = line.split_once(' ')?;
    Some((first(a)?, b.parse().ok()?))
}

fn mib(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    Some(number.parse::<f64>().ok()? * if unit == "G" { 1024.0 } else { 1.0 })
}

/// A line of `slabinfo` of a kmalloc cache of one size.
fn cache(line: &str) -> Option<(f64, f64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words.get(at)?.parse::<f64>().ok();
    words.first()?.strip_prefix("kmalloc-")?.parse::<u32>().ok()?;
    Some((number(3)?, number(5)? * 4096.0 / number(4)?))
}
