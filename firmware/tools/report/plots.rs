// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pictures of the report.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::canvas::{
    Bar, Bars, COLOURS, Lines, OTHER, OURS, Series, WORSE, bars, bounds, legend, lines, number, picture, power, share,
    text,
};
use crate::data::Data;
use crate::samples::{Pieces, Sample};

const SIZE: (u32, u32) = (980, 400);
const HALF: (u32, u32) = (486, 360);

fn some(what: bool, needs: &str) -> Result<(), String> {
    if what { Ok(()) } else { Err(format!("{needs} is not there")) }
}

/// A line that is ours.
fn ours(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.to_owned(), points, colour: OURS, is_dashed: false }
}

/// Linux's figure divided by ours, a bar each, a picture for each part of the allocator.
pub(crate) fn ratios(data: &Data) -> Result<String, String> {
    let parts: [(&str, &[&str]); 4] = [
        ("Pages", &["pg_"]),
        ("Slab: kmalloc and caches", &["km_", "kmc_"]),
        ("Virtual memory: vmalloc, vmap, vrealloc", &["vm_", "vmap_", "vrealloc_"]),
        ("Translation tables, and memory for devices", &["pt_", "dma_"]),
    ];
    let mut pictures = String::new();
    for (title, beginnings) in parts {
        let mut rows = Vec::new();
        for figure in data.target.iter().filter(|figure| figure.unit == "instructions" && figure.value > 0.0) {
            let is_here = beginnings.iter().any(|beginning| figure.name.starts_with(beginning));
            // Ten thousand are as one thousand; the table has them.
            let is_shown = is_here && !figure.name.starts_with("km_batch10000");
            if let Some(linux) = data.linux(&figure.name).filter(|_| is_shown)
                && let Some(lean) = linux.lean
            {
                let value = lean / figure.value;
                let colour = if value >= 1.0 { OURS } else { WORSE }.to_rgba();
                let mark = linux.debian.map(|debian| debian / figure.value);
                rows.push(Bar { name: figure.name.clone(), value, mark, colour });
            }
        }
        if !rows.is_empty() {
            let axis = "times as many instructions as Quire: bar, Linux's lean build; dot, Debian's kernel";
            let all = Bars { title, axis, from: Some(1.0), width: 980, names: 220, unit: "x", bars: rows };
            pictures.push_str(&bars(&all)?);
        }
    }
    some(!pictures.is_empty(), "target.jsonl")?;
    Ok(pictures)
}

/// What the host's allocators do, side by side: kind, name, title.
const WORKLOADS: [(&str, &str, &str); 4] = [
    ("objects", "mixed", "Objects of 8 to 4095 bytes, in any order"),
    ("objects", "pair.64", "Objects: 64 bytes, allocated and freed"),
    ("frames", "pmixed.1g", "Frames: blocks of 1 to 1024, half of 1 GiB in use"),
    ("frames", "ppairhalf.1g.0", "Frames: one, allocated and freed, half in use"),
];

pub(crate) fn is_ours(peer: &str) -> bool {
    peer == "quire-slab" || peer == "quire-pages"
}

/// Instructions of each allocator, a picture for each workload.
pub(crate) fn peers(data: &Data) -> Result<String, String> {
    some(data.host.iter().any(|figure| !figure.is_saved), "host.jsonl")?;
    let mut pictures = String::new();
    for (kind, name, title) in WORKLOADS {
        let is_meant = |peer: &str| !matches!(peer, "null" | "quire-buddy");
        let mut figures: Vec<_> = data
            .host
            .iter()
            .filter(|figure| figure.kind == kind && figure.name == name && figure.unit == "instr-a64")
            .filter(|figure| is_meant(&figure.peer))
            .collect();
        figures.sort_by(|a, b| a.value.total_cmp(&b.value));
        let bar = |figure: &&crate::data::HostFigure| {
            let colour = if is_ours(&figure.peer) {
                OURS.to_rgba()
            } else {
                OTHER.mix(if figure.is_saved { 0.45 } else { 1.0 })
            };
            let name = figure
                .peer
                .replace("buddy_system_allocator::", "bsa::")
                .replace("good_memory_allocator", "good_memory_alloc.");
            Bar { name, value: figure.value, mark: None, colour }
        };
        let rows = figures.iter().map(bar).collect();
        let axis = "AArch64 instructions an operation";
        pictures.push_str(&bars(&Bars { title, axis, from: None, width: 486, names: 150, unit: "", bars: rows })?);
    }
    Ok(pictures)
}

/// How many operations need more than so many instructions, a picture for each trace.
pub(crate) fn latencies(data: &Data) -> Result<String, String> {
    let traces = [("pg", "alloc_pages, __free_pages"), ("km", "kmalloc, kfree"), ("vm", "vmalloc, vfree")];
    let mut pictures = String::new();
    for (trace, calls) in traces {
        let mut series = Vec::new();
        for (operation, colour) in [("alloc", OURS), ("free", COLOURS[2])] {
            let name = format!("{trace}_trace {operation}");
            let Some((_, counts)) = data.histograms.iter().find(|(histogram, _)| *histogram == name) else { continue };
            series.push(Series { name: format!("Quire, {operation}"), points: tail(counts), colour, is_dashed: false });
        }
        if series.is_empty() {
            continue;
        }
        let begun = [("alloc", "lean", COLOURS[1]), ("free", "lean", COLOURS[3])];
        for (operation, kernel, colour) in begun {
            let linux = data
                .latencies
                .iter()
                .find(|row| row.operation == format!("{trace} {operation}") && row.kernel == kernel);
            let Some(linux) = linux else { continue };
            let share = [0.5, 0.01, 0.001, 1e-5];
            let points = linux.instructions.iter().copied().zip(share).collect();
            series.push(Series { name: format!("Linux {kernel}, {operation}"), points, colour, is_dashed: true });
        }
        let x = bounds(series.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x)));
        let all = Lines {
            x: "instructions",
            y: "operations that need more",
            x_label: power,
            y_label: share,
            legend: SeriesLabelPosition::UpperRight,
            series,
        };
        pictures.push_str(&picture(SIZE, |area| {
            text(area, &format!("{calls}: the mixed trace"), (490, 12), 16, HPos::Center)?;
            let below = area.margin(16, 0, 0, 0);
            lines(&below, &all, x.log_scale(), (5e-7..1.3).log_scale())
        })?);
    }
    some(!pictures.is_empty(), "a histogram in target.log")?;
    Ok(pictures)
}

/// A histogram as the share of operations that need a bucket's instructions or more: stairs.
fn tail(counts: &[(u32, u32)]) -> Vec<(f64, f64)> {
    let all: f64 = counts.iter().map(|(_, count)| f64::from(*count)).sum();
    let (mut left, mut points) = (all, Vec::new());
    for (from, count) in counts {
        let here = f64::from((*from).max(1));
        points.push((here, left / all));
        left -= f64::from(*count);
        if left > 0.0 {
            points.push((here, left / all));
        }
    }
    points
}

/// A line a sample, a box a stretch; below, how much is free and in what pieces.
pub(crate) fn churn(data: &Data) -> Result<String, String> {
    some(!data.churn.is_empty(), "churn.txt")?;
    let step = data.churn.len().div_ceil(50);
    let rows: Vec<_> = data.churn.iter().step_by(step).collect();
    let (top, left, row) = (34, 78, 9);
    let bottom = top + row * rows.len() as i32;
    let colours = [
        (Pieces::Largest, RGBColor(0x2c, 0x96, 0x2c), "a block of 4 MiB is free there"),
        (Pieces::Some, RGBColor(0xe8, 0xb0, 0x10), "blocks of 16 KiB and more"),
        (Pieces::Small, RGBColor(0xc0, 0x39, 0x2b), "less, or nothing (paler: less is free)"),
    ];
    let map = picture((980, (bottom + 46) as u32), |area| {
        let mut x = left;
        for (_, colour, words) in &colours {
            x = legend(area, colour.to_rgba(), words, (x, 14))?;
        }
        for (index, sample) in (0..).zip(&rows) {
            let cells: Vec<_> = sample.zones.iter().flat_map(|zone| &zone.map).collect();
            let width = f64::from(960 - left) / cells.len().max(1) as f64;
            for (at, cell) in cells.iter().enumerate() {
                let Some(share) = cell.share() else { continue };
                let colour = colours.iter().find(|(pieces, ..)| *pieces == cell.pieces()).map_or(OURS, |found| found.1);
                let x = |at: usize| left + (at as f64 * width) as i32;
                let box_ = [(x(at), top + row * index), (x(at + 1), top + row * index + row - 1)];
                area.draw(&Rectangle::new(box_, colour.mix(0.25 + f64::from(share) / 20.0).filled()))?;
            }
            if index % 5 == 0 {
                text(
                    area,
                    &format!("{:.0} s", seconds(sample)),
                    (left - 8, top + row * index + row / 2),
                    13,
                    HPos::Right,
                )?;
            }
        }
        text(area, "time", (8, (top + bottom) / 2), 13, HPos::Left)?;
        text(area, "first frame", (left, bottom + 12), 13, HPos::Left)?;
        text(area, "physical address", ((left + 960) / 2, bottom + 12), 13, HPos::Center)?;
        text(area, "last frame", (960, bottom + 12), 13, HPos::Right)
    })?;
    let free = |sample: &Sample| sample.zones.iter().map(|zone| zone.free_pages).sum::<u64>() as f64;
    let managed = |sample: &Sample| sample.zones.iter().map(|zone| zone.managed_pages).sum::<u64>().max(1) as f64;
    let whole =
        |sample: &Sample| sample.zones.iter().map(|zone| zone.blocks.get(10).unwrap_or(&0) << 10).sum::<u64>() as f64;
    let of =
        |part: &dyn Fn(&Sample) -> f64| data.churn.iter().map(|one| (seconds(one), part(one) / managed(one))).collect();
    let last = data.churn.last().map_or(1.0, seconds).max(1.0);
    let all = Lines {
        x: "seconds",
        y: "of all memory",
        x_label: |value| number(*value),
        y_label: share,
        legend: SeriesLabelPosition::MiddleRight,
        series: vec![
            ours("free", of(&free)),
            Series { colour: COLOURS[2], ..ours("free, in blocks of 4 MiB", of(&whole)) },
        ],
    };
    // The legend stands behind the lines, which go all over the rest.
    Ok(map + &picture((980, 300), |area| lines(area, &all, 0.0..last * 1.4, 0.0..1.05))?)
}

fn seconds(sample: &Sample) -> f64 {
    sample.number as f64 / 2.0
}

/// What an operation needs when more CPUs are there, how much all of them do, and the host's threads.
pub(crate) fn scaling(data: &Data) -> Result<String, String> {
    some(!data.scaling.is_empty(), "scaling.txt")?;
    let mut series: Vec<Series> = Vec::new();
    for (cpus, figure) in &data.cpus {
        match series.iter_mut().find(|line| line.name == figure.name) {
            Some(line) => line.points.push((*cpus, figure.value)),
            None => {
                let colour = COLOURS.get(series.len()).copied().unwrap_or(OURS);
                series.push(Series { colour, ..ours(&figure.name, vec![(*cpus, figure.value)]) });
            }
        }
    }
    let mut pictures = String::new();
    let label: fn(&f64) -> String = |value| number(*value);
    let legend = SeriesLabelPosition::UpperRight;
    if !series.is_empty() {
        let y = bounds(series.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y)));
        let (x, y_words) = ("CPUs that are there", "instructions an operation");
        let all = Lines { x, y: y_words, x_label: label, y_label: power, legend: legend.clone(), series };
        pictures.push_str(&picture(HALF, |area| lines(area, &all, 0.5..8.5, (y.start..y.end * 4.0).log_scale()))?);
    }
    let most = data.scaling.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let series = vec![ours("torture", data.scaling.clone())];
    let all = Lines { x: "emulated CPUs", y: "operations a second", x_label: label, y_label: label, legend, series };
    pictures.push_str(&picture(HALF, |area| lines(area, &all, 0.5..8.5, 0.0..most * 1.15))?);
    for (kind, name, title) in [
        ("frames", "mt.ppair0", "Frames: one, two host threads"),
        ("objects", "mt.pair64", "Objects: 64 bytes, two host threads"),
    ] {
        pictures.push_str(&threads(data, kind, name, title)?);
    }
    Ok(pictures)
}

/// Two threads' speed beside one's.
fn threads(data: &Data, kind: &str, name: &str, title: &str) -> Result<String, String> {
    let mut rows = Vec::new();
    for two in data.host.iter().filter(|figure| figure.kind == kind && figure.name == format!("{name}.t2")) {
        let Some(one) = data.host(kind, &two.peer, &format!("{name}.t1"), &two.unit) else { continue };
        let colour = if is_ours(&two.peer) { OURS } else { OTHER }.to_rgba();
        let name = two.peer.replace("buddy_system_allocator::", "bsa::");
        rows.push(Bar { name, value: two.value / one.value, mark: None, colour });
    }
    if rows.is_empty() {
        return Ok(String::new());
    }
    rows.sort_by(|a, b| b.value.total_cmp(&a.value));
    let axis = "times as fast as one thread";
    bars(&Bars { title, axis, from: Some(1.0), width: 486, names: 150, unit: "x", bars: rows })
}

/// Linux's size classes up to 8 KiB, each in slabs without room for more than its objects.
const LINUX_CLASSES: [f64; 13] =
    [8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// What objects of one size take over their bytes.
pub(crate) fn overhead(data: &Data) -> Result<String, String> {
    let mode = |mode: &str| -> Vec<(f64, f64)> {
        let size = |name: &str| name.strip_prefix("km_overhead_")?.strip_suffix(mode)?.parse().ok();
        data.target.iter().filter_map(|figure| Some((size(&figure.name)?, figure.value))).collect()
    };
    let (default, tiny) = (mode("_default"), mode("_tiny"));
    some(!default.is_empty(), "km_overhead in target.jsonl")?;
    let linux = |size: f64| {
        let class = LINUX_CLASSES.into_iter().find(|class| *class >= size)?;
        let slab = class.max(4096.0);
        Some((size, (slab / (slab / class).floor() / size - 1.0) * 100.0))
    };
    let linux = default.iter().filter_map(|(size, _)| linux(*size)).collect();
    let series = vec![
        ours("Quire", default.clone()),
        Series { colour: COLOURS[2], ..ours("Quire, slab_tiny=1", tiny) },
        Series { colour: COLOURS[1], is_dashed: true, ..ours("Linux's size classes", linux) },
    ];
    let most = series.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(1.0, f64::max);
    let x = bounds(default.iter().map(|(size, _)| *size));
    let all = Lines {
        x: "bytes of an object",
        y: "per cent over its bytes",
        x_label: power,
        y_label: |value| format!("{value:.0} %"),
        legend: SeriesLabelPosition::UpperRight,
        series,
    };
    picture(SIZE, |area| lines(area, &all, x.log_scale(), 0.0..most * 1.5))
}

pub(crate) fn boot(data: &Data) -> Result<String, String> {
    some(!data.boot.is_empty(), "boot.txt")?;
    let x = bounds(data.boot.iter().map(|boot| boot.mib));
    let draw = |y: &str, part: &dyn Fn(&crate::data::Boot) -> f64| {
        let points: Vec<_> = data.boot.iter().map(|boot| (boot.mib, part(boot))).collect();
        let range = bounds(points.iter().map(|(_, y)| *y));
        let (series, legend) = (vec![ours("", points)], SeriesLabelPosition::UpperLeft);
        let all = Lines { x: "MiB of RAM", y, x_label: power, y_label: power, legend, series };
        picture(HALF, |area| lines(area, &all, x.clone().log_scale(), range.log_scale()))
    };
    Ok(draw("instructions until the console", &|boot| boot.instructions)?
        + &draw("KiB in use then", &|boot| boot.used / 1024.0)?)
}
