// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs every allocator in a process of its own, or in QEMU, and gathers the figures.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::table;

/// Figures of one allocator and benchmark, by what they were measured as.
#[derive(Default)]
struct Figures {
    nanoseconds: Vec<f64>,
    millions: Vec<f64>,
    value: Option<f64>,
    x86: Option<f64>,
    aarch64: Option<f64>,
}

#[derive(Default)]
struct All(BTreeMap<(String, String, String), Figures>);

impl All {
    fn of(&mut self, kind: &str, peer: &str, bench: &str) -> &mut Figures {
        let kind = kind.strip_prefix("mt-").unwrap_or(kind);
        self.0.entry((kind.to_owned(), peer.to_owned(), bench.to_owned())).or_default()
    }

    /// Takes what a process has printed.
    fn take(&mut self, kind: &str, output: &str) {
        for line in output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let (Some(peer), Some(bench)) = (line["peer"].as_str(), line["bench"].as_str()) else { continue };
            let figures = self.of(kind, peer, bench);
            let values: Vec<f64> = line["values"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            let latest = values.last().copied();
            match line["unit"].as_str() {
                Some("ns") => figures.nanoseconds.extend(values),
                Some("Mops/s") => figures.millions.extend(values),
                Some("instr-a64") => figures.aarch64 = latest,
                Some("callgrind") => {}
                _ => figures.value = latest.or(figures.value),
            }
        }
    }

    /// A line for each figure.
    fn lines(&self) -> Vec<Value> {
        let mut lines = Vec::new();
        for ((kind, peer, bench), figures) in &self.0 {
            let mut put = |unit: &str, value: f64, samples: usize| {
                lines.push(json!({
                    "bench": bench, "peer": peer, "kind": kind, "value": (value * 1000.0).round() / 1000.0,
                    "unit": unit, "samples": samples,
                }));
            };
            let samples = figures.nanoseconds.len();
            if let Some((least, median)) = spread(&figures.nanoseconds) {
                put("ns-least", least, samples);
                put("ns-median", median, samples);
            }
            if let Some((_, median)) = spread(&figures.millions) {
                put("Mops/s", median, figures.millions.len());
            }
            let counts = [("", figures.value), ("instr-x86", figures.x86), ("instr-a64", figures.aarch64)];
            for (unit, value) in counts {
                value.into_iter().for_each(|value| put(unit, value, 1));
            }
        }
        lines
    }
}

/// Least and median.
fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some((*sorted.first()?, sorted[sorted.len() / 2]))
}

/// Runs a program for at most so many seconds and returns what it prints. Says how long it took.
fn output_of(what: &str, seconds: u32, program: &str, arguments: &[&str], repetitions: usize) -> String {
    let start = Instant::now();
    let output = Command::new("timeout")
        .arg(seconds.to_string())
        .arg(program)
        .args(arguments)
        .env("BENCH_REPETITIONS", repetitions.to_string())
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            eprintln!("{what}: {program}: {error}");
            return String::new();
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    match output.status.success() {
        true => eprintln!("{what}: {seconds:.1} s"),
        false => eprintln!("{what}: {}; {}", output.status, String::from_utf8_lossy(&output.stderr)),
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a program can be started.
fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Everything; `quick` with fewer passes and without the counts of this host.
pub(crate) fn run(bare: &str, out: &str, options: &[&str]) {
    let quick = options.contains(&"quick");
    let names: Vec<&str> = options.iter().copied().filter(|option| *option != "quick").collect();
    let wanted = |name: &str| names.is_empty() || name == "null" || names.iter().any(|part| name.contains(part));
    let this = std::env::current_exe().expect("the program knows where it is");
    let this = this.to_string_lossy();
    let mut all = All::default();
    let runners: Vec<_> = crate::runners().into_iter().filter(|(_, name, _)| wanted(name)).collect();
    let (passes, repetitions) = if quick { (1, 2) } else { (2, 3) };
    for pass in 0..passes {
        for (kind, name, _) in &runners {
            let what = format!("time {pass} {kind} {name}");
            all.take(kind, &output_of(&what, 300, &this, &[kind, name, "time"], repetitions));
        }
    }
    for (kind, name, _) in runners.iter().filter(|(kind, ..)| !kind.starts_with("mt-")) {
        all.take(kind, &output_of(&format!("memory {kind} {name}"), 300, &this, &[kind, name, "memory"], 1));
    }
    if is_there("qemu-system-aarch64") {
        for (kind, name, _) in runners.iter().filter(|(kind, ..)| !kind.starts_with("mt-")) {
            count_aarch64(&mut all, bare, kind, name);
        }
    } else {
        eprintln!("no qemu-system-aarch64: no AArch64 instructions");
    }
    if !quick && cfg!(target_arch = "x86_64") && is_there("valgrind") {
        for (kind, name, _) in runners.iter().filter(|(kind, ..)| !kind.starts_with("mt-")) {
            count_x86(&mut all, &this, kind, name);
        }
    }
    let text: String = all.lines().iter().map(|line| format!("{line}\n")).collect();
    if let Some(folder) = std::path::Path::new(out).parent() {
        let _ = fs::create_dir_all(folder);
    }
    fs::write(out, text).expect("the results can be written");
    table::print(out);
}

/// Instructions on bare metal, where the virtual clock goes on by one nanosecond with each.
fn count_aarch64(all: &mut All, bare: &str, kind: &str, name: &str) {
    if matches!(name, "mimalloc" | "glibc") {
        return;
    }
    let append = format!("run={kind} {name}");
    let machine = [
        "-M",
        "virt",
        "-cpu",
        "cortex-a72,cntfrq=1000000000",
        "-m",
        "3G",
        "-icount",
        "shift=0,sleep=off",
        "-nic",
        "none",
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "stdio",
        "-kernel",
        bare,
        "-append",
        &append,
    ];
    let output = output_of(&format!("count-a64 {kind} {name}"), 300, "qemu-system-aarch64", &machine, 1);
    output.lines().filter(|line| line.starts_with('#')).for_each(|line| eprintln!("  {line}"));
    all.take(kind, &output);
}

/// Instructions of this host, by Callgrind. It dumps its count at each end of a workload, to a file of its own.
fn count_x86(all: &mut All, this: &str, kind: &str, name: &str) {
    let folder = std::env::temp_dir().join(format!("bench-{}", std::process::id()));
    let _ = fs::create_dir_all(&folder);
    let file = format!("--callgrind-out-file={}", folder.join("out").to_string_lossy());
    // What takes minutes for the linear ones is left out for all.
    let groups = if kind == "frames" { "ppair,ppairhalf,pbatch,pbulk" } else { "pair,batch,mixed" };
    let arguments = ["-q", "--tool=callgrind", "--instr-atstart=no", &file, this, kind, name, "count", groups];
    let output = output_of(&format!("count-x86 {kind} {name}"), 300, "valgrind", &arguments, 1);
    let operations: BTreeMap<String, u64> = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| Some((line["bench"].as_str()?.to_owned(), line["operations"].as_u64()?)))
        .collect();
    for dump in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let text = fs::read_to_string(dump.path()).unwrap_or_default();
        let field = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
        let label = field("desc: Trigger: Client Request: ").map(str::trim);
        let total =
            field("totals: ").or(field("summary: ")).and_then(|total| total.split(' ').next()?.parse::<f64>().ok());
        if let (Some(label), Some(total)) = (label, total)
            && let Some(count) = operations.get(label)
        {
            all.of(kind, name, label).x86 = Some(total / *count as f64);
        }
    }
    let _ = fs::remove_dir_all(&folder);
}
