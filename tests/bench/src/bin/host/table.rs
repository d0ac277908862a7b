// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures as tables: ours beside the best peer and the goal first, then everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

/// A figure for each benchmark and unit, of each allocator.
struct Results(BTreeMap<(String, String), BTreeMap<(String, String), f64>>);

/// Which end of the scale is the good one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

use Better::{Higher, Lower};

/// One line of the first table.
struct Row {
    what: &'static str,
    kind: &'static str,
    /// Our own, as shipped.
    ours: &'static str,
    /// The geometric mean of these, or for two threads the ratio of two.
    benches: &'static [&'static str],
    unit: &'static str,
    better: Better,
    goal: Option<f64>,
}

const HALF: &[&str] = &[
    "ppairhalf.1g.0",
    "ppairhalf.1g.1",
    "ppairhalf.1g.2",
    "ppairhalf.1g.3",
    "ppairhalf.1g.4",
    "ppairhalf.1g.5",
    "ppairhalf.1g.6",
    "ppairhalf.1g.7",
    "ppairhalf.1g.8",
    "ppairhalf.1g.9",
    "ppairhalf.1g.10",
];
const PAIRS: &[&str] = &["pair.8", "pair.16", "pair.32", "pair.64", "pair.128", "pair.256", "pair.512", "pair.1024"];
const LARGE: &[&str] = &["pair.4096", "pair.8192"];
const BATCH_ALLOC: &[&str] =
    &["batch.16.shuffled.alloc", "batch.64.shuffled.alloc", "batch.256.shuffled.alloc", "batch.1024.shuffled.alloc"];
const BATCH_FREE: &[&str] =
    &["batch.16.shuffled.free", "batch.64.shuffled.free", "batch.256.shuffled.free", "batch.1024.shuffled.free"];

const fn frames(
    what: &'static str,
    benches: &'static [&'static str],
    unit: &'static str,
    better: Better,
    goal: Option<f64>,
) -> Row {
    Row { what, kind: "frames", ours: "quire-pages", benches, unit, better, goal }
}

const fn objects(
    what: &'static str,
    benches: &'static [&'static str],
    unit: &'static str,
    better: Better,
    goal: Option<f64>,
) -> Row {
    Row { what, kind: "objects", ours: "quire-slab", benches, unit, better, goal }
}

const ROWS: &[Row] = &[
    frames("mixed orders, 1 GiB", &["pmixed.1g"], "instr-a64", Lower, Some(70.0)),
    frames("mixed orders, 1 GiB", &["pmixed.1g"], "ns-least", Lower, None),
    frames("pair of order 0, half full", &["ppairhalf.1g.0"], "instr-a64", Lower, Some(60.0)),
    frames("pair of orders 0 to 10, half full, mean", HALF, "instr-a64", Lower, Some(90.0)),
    frames("pair of orders 0 to 10, half full, mean", HALF, "ns-least", Lower, None),
    frames("single frames over all of 1 GiB, alloc", &["pbatch.fill.shuffled.alloc"], "instr-a64", Lower, Some(50.0)),
    frames("single frames over all of 1 GiB, free", &["pbatch.fill.shuffled.free"], "instr-a64", Lower, Some(45.0)),
    frames("single frames over all of 1 GiB, alloc", &["pbatch.fill.shuffled.alloc"], "ns-least", Lower, None),
    frames("single frames over all of 1 GiB, free", &["pbatch.fill.shuffled.free"], "ns-least", Lower, None),
    frames("single frames by 64, half full, alloc", &["pbulk.half.alloc"], "instr-a64", Lower, None),
    frames("single frames by 64, half full, free", &["pbulk.half.free"], "instr-a64", Lower, None),
    frames("first page of 1 GiB", &["pinit.1g"], "ns-least", Lower, None),
    frames("first page of 64 GiB", &["pinit.64g"], "ns-least", Lower, Some(50_000.0)),
    frames("first page of 1 GiB", &["pinit.1g"], "instr-a64", Lower, None),
    frames("metadata bytes a frame", &["pmem.bytes_per_frame"], "", Lower, Some(0.5)),
    frames("metadata bytes a frame, at worst", &["pmem.worst_bytes_per_frame"], "", Lower, Some(0.5)),
    frames("order 9 left: mixed, half full (at most 274)", &["pmixed.1g.order9_left"], "", Higher, Some(266.0)),
    frames("order 9 left: order-0 churn (at most 461)", &["pfrag.churn10.order9"], "", Higher, Some(435.0)),
    frames("1 to 2 threads: pair of order 0", &["mt.ppair0.t2", "mt.ppair0.t1"], "Mops/s", Higher, Some(1.8)),
    frames("1 to 2 threads: mixed orders", &["mt.pmixed.t2", "mt.pmixed.t1"], "Mops/s", Higher, Some(1.6)),
    objects("mixed sizes", &["mixed"], "instr-a64", Lower, Some(40.0)),
    objects("mixed sizes", &["mixed"], "ns-least", Lower, None),
    objects("pair of 8 to 1024 bytes, mean", PAIRS, "instr-a64", Lower, Some(45.0)),
    objects("pair of 8 to 1024 bytes, mean", PAIRS, "ns-least", Lower, None),
    objects("pair of 4096 and 8192 bytes, mean", LARGE, "instr-a64", Lower, None),
    objects("10,000 objects, alloc, mean", BATCH_ALLOC, "instr-a64", Lower, Some(30.0)),
    objects("10,000 objects, free in any order, mean", BATCH_FREE, "instr-a64", Lower, Some(25.0)),
    objects("10,000 objects, alloc, mean", BATCH_ALLOC, "ns-least", Lower, None),
    objects("10,000 objects, free in any order, mean", BATCH_FREE, "ns-least", Lower, None),
    objects("efficiency: small board", &["mem.tiny.efficiency"], "", Higher, Some(0.88)),
    objects("efficiency: mixed sizes", &["mem.mixed.efficiency"], "", Higher, Some(0.92)),
    objects("efficiency: after a spike", &["mem.spike.efficiency"], "", Higher, Some(0.96)),
    objects("1 to 2 threads: pair of 64 bytes", &["mt.pair64.t2", "mt.pair64.t1"], "Mops/s", Higher, None),
    objects("1 to 2 threads: mixed sizes", &["mt.mixed.t2", "mt.mixed.t1"], "Mops/s", Higher, None),
];

impl Results {
    fn read(path: &str) -> Self {
        let mut results = BTreeMap::<_, BTreeMap<_, _>>::new();
        let text = fs::read_to_string(path).unwrap_or_default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            if let Some(value) = line["value"].as_f64() {
                let peer = results.entry((text("kind"), text("peer"))).or_default();
                peer.insert((text("bench"), text("unit")), value);
            }
        }
        Self(results)
    }

    fn get(&self, kind: &str, peer: &str, bench: &str, unit: &str) -> Option<f64> {
        let figures = self.0.get(&(kind.to_owned(), peer.to_owned()))?;
        figures.get(&(bench.to_owned(), unit.to_owned())).copied()
    }

    /// The figure of a row. Something that fails allocations is not measured by how fast it does.
    fn figure(&self, row: &Row, peer: &str) -> Option<f64> {
        let values: Option<Vec<f64>> =
            row.benches.iter().map(|bench| self.get(row.kind, peer, bench, row.unit)).collect();
        let values = values?;
        match values.as_slice() {
            [two, one] if row.unit == "Mops/s" => Some(two / one),
            [one] => Some(*one),
            all => Some((all.iter().map(|value| value.ln()).sum::<f64>() / all.len() as f64).exp()),
        }
    }

    fn peers(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.0.keys().filter(move |key| key.0 == kind).map(|key| key.1.as_str())
    }
}

fn is_ours(peer: &str) -> bool {
    peer.starts_with("quire")
}

/// As few digits as tell figures apart.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Prints all tables.
pub(crate) fn print(path: &str) {
    let results = Results::read(path);
    println!(
        "Ours as shipped, its core alone (the buddy allocator), the bare loop; the best of the others; ! misses the goal."
    );
    println!("{:44} {:9} {:>8} {:>8} {:>6} {:>8} {:>6}  best peer", "", "unit", "ours", "core", "loop", "peer", "goal");
    for row in ROWS {
        let candidates = results.peers(row.kind).filter(|peer| !is_ours(peer) && *peer != "null");
        let figures = candidates.filter_map(|peer| Some((results.figure(row, peer)?, peer)));
        let best = figures.min_by(|a, b| match row.better {
            Lower => a.0.total_cmp(&b.0),
            Higher => b.0.total_cmp(&a.0),
        });
        let ours = results.figure(row, row.ours);
        let met = match (ours, row.goal, row.better) {
            (Some(ours), Some(goal), Lower) => ours <= goal,
            (Some(ours), Some(goal), Higher) => ours >= goal,
            _ => true,
        };
        let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), short);
        println!(
            "{:44} {:9} {:>8} {:>8} {:>6} {:>8} {:>6}{} {}",
            row.what,
            if row.unit == "Mops/s" { "ratio" } else { row.unit },
            or_dash(ours),
            or_dash(results.figure(row, "quire-buddy")),
            or_dash(results.figure(row, "null").filter(|_| !row.unit.is_empty())),
            or_dash(best.map(|best| best.0)),
            or_dash(row.goal),
            if met { ' ' } else { '!' },
            best.map_or("", |best| best.1),
        );
    }
    for kind in ["frames", "objects"] {
        print_all(&results, kind);
    }
}

/// Everybody: least nanoseconds, instructions of this host and of AArch64, or the value.
fn print_all(results: &Results, kind: &str) {
    let benches: BTreeSet<&str> = results
        .0
        .iter()
        .filter(|(key, _)| key.0 == kind)
        .flat_map(|(_, figures)| figures.keys().map(|(bench, _)| bench.as_str()))
        .collect();
    println!(
        "\n{kind}: ns / x86-64 instructions / AArch64 instructions an operation, million operations a second, or the value"
    );
    for bench in benches {
        println!("{bench}");
        for peer in results.peers(kind) {
            let get = |unit| results.get(kind, peer, bench, unit);
            if let Some(value) = get("").or(get("Mops/s")) {
                println!("    {peer:42} {:>9}", short(value));
                continue;
            }
            let figures = ["ns-least", "instr-x86", "instr-a64"].map(get);
            if figures.iter().any(Option::is_some) {
                let [time, x86, aarch64] = figures.map(|figure| figure.map_or("-".to_owned(), short));
                println!("    {peer:42} {time:>9} / {x86:>8} / {aarch64:>8}");
            }
        }
    }
}
