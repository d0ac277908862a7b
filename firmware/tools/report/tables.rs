// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of the report.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::canvas::number;
use crate::data::Data;
use crate::plots::is_ours;

/// What a newcomer would ask for first.
const GLANCE: [(&str, &str); 12] = [
    ("pg_hot_0", "a page: alloc_pages and __free_pages"),
    ("pg_hot_10", "a block of 4 MiB: the same"),
    ("pg_trace", "blocks of any order at random"),
    ("km_hot_64", "kmalloc and kfree, 64 bytes"),
    ("km_trace", "objects of 8 to 4095 bytes at random"),
    ("vm_hot_16K", "vmalloc and vfree, 16 KiB"),
    ("vm_trace", "areas of 1 to 64 pages at random"),
    ("vmap_16", "vmap and vunmap, 16 pages"),
    ("vrealloc_grow_1M_2M", "vrealloc, 1 to 2 MiB"),
    ("dma_coherent_4K_alloc", "dma_alloc_coherent, 4 KiB"),
    ("pg_metadata_512m", "page allocator: bytes kept of each frame"),
    ("boot_least_mib", "MiB of RAM that are enough to boot"),
];

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

pub(crate) fn glance(data: &Data) -> Result<String, String> {
    let least = data.boot.iter().map(|boot| boot.mib).reduce(f64::min);
    let mut rows = String::new();
    for (name, words) in GLANCE {
        let Some(ours) = data.ours(name).or(least.filter(|_| name == "boot_least_mib")) else { continue };
        let linux = data.linux(name);
        let [lean, debian] = [linux.and_then(|row| row.lean), linux.and_then(|row| row.debian)];
        let times = lean.map_or_else(|| "-".to_owned(), |lean| format!("{}x", number(lean / ours)));
        let _ = write!(
            rows,
            "<tr><td>{words}</td><td class=\"ours\">{}</td><td>{}</td><td>{}</td><td>{times}</td></tr>",
            number(ours),
            cell(lean),
            cell(debian)
        );
    }
    if rows.is_empty() {
        return Err("target.jsonl is not there".to_owned());
    }
    Ok(format!(
        "<table><tr><th></th><th>Quire</th><th>Linux, lean</th><th>Linux, Debian</th><th>lean / Quire</th></tr>{rows}</table>"
    ))
}

/// Footprints in per cent, in the modes that Linux has too.
pub(crate) fn footprints(data: &Data) -> String {
    let mut rows = String::new();
    for (state, words) in [("trace", "in its middle"), ("grow", "all live"), ("thin", "one of ten left")] {
        let names = ["default", "tiny"].map(|mode| format!("km_footprint_{state}_{mode}"));
        let cells = names.iter().flat_map(|name| [data.ours(name), data.linux(name).and_then(|row| row.lean)]);
        let cells: String = cells.map(|value| format!("<td>{}</td>", cell(value))).collect();
        let _ = write!(rows, "<tr><td>{words}</td>{cells}</tr>");
    }
    format!(
        "<table><tr><th>per cent over</th><th>Quire</th><th>Linux SLUB</th><th>Quire, slab_tiny=1</th><th>Linux SLUB_TINY</th></tr>{rows}</table>"
    )
}

/// What the table of the host's allocators has: kind, heading, benchmark, unit.
const COLUMNS: [(&str, &str, &str, &str); 12] = [
    ("objects", "mixed, instr.", "mixed", "instr-a64"),
    ("objects", "mixed, ns", "mixed", "ns-least"),
    ("objects", "pair of 64, instr.", "pair.64", "instr-a64"),
    ("objects", "pair of 64, ns", "pair.64", "ns-least"),
    ("objects", "efficiency, small board", "mem.tiny.efficiency", ""),
    ("objects", "efficiency, mixed", "mem.mixed.efficiency", ""),
    ("frames", "mixed, instr.", "pmixed.1g", "instr-a64"),
    ("frames", "mixed, ns", "pmixed.1g", "ns-least"),
    ("frames", "pair, instr.", "ppairhalf.1g.0", "instr-a64"),
    ("frames", "pair, ns", "ppairhalf.1g.0", "ns-least"),
    ("frames", "2 MiB blocks left", "pmixed.1g.order9_left", ""),
    ("frames", "bytes a frame", "pmem.bytes_per_frame", ""),
];

/// Everybody's figures on this host, objects and frames apart.
pub(crate) fn host(data: &Data) -> String {
    let mut tables = String::new();
    for kind in ["objects", "frames"] {
        let columns: Vec<_> = COLUMNS.iter().filter(|column| column.0 == kind).collect();
        let mut peers: BTreeMap<&str, String> = BTreeMap::new();
        for figure in data.host.iter().filter(|figure| figure.kind == kind) {
            peers.entry(&figure.peer).or_insert_with(|| {
                let value = |column: &&&(&str, &str, &str, &str)| {
                    let found = data.host(kind, &figure.peer, column.2, column.3).map(|found| found.value);
                    format!("<td>{}</td>", cell(found))
                };
                columns.iter().map(|column| value(&column)).collect()
            });
        }
        let heads: String = columns.iter().map(|column| format!("<th>{}</th>", column.1)).collect();
        let _ = write!(tables, "<table><tr><th>{kind}</th>{heads}</tr>");
        for (peer, cells) in peers {
            let class = if is_ours(peer) { " class=\"ours\"" } else { "" };
            let name = if peer == "null" { "(the loop alone)" } else { peer };
            let _ = write!(tables, "<tr><td{class}>{name}</td>{cells}</tr>");
        }
        tables.push_str("</table>");
    }
    format!(
        "<details open><summary>All of them, with nanoseconds on this host</summary>{tables}<p>Efficiency: bytes asked for, of the \
         least arena that is enough. 2 MiB blocks left: of 274 that could be, with half of 1 GiB in use.</p></details>"
    )
}

/// All benchmarks of the target with Linux's figures, and those that could not be measured.
pub(crate) fn target(data: &Data) -> Result<String, String> {
    if data.target.is_empty() {
        return Err("target.jsonl is not there".to_owned());
    }
    let mut rows = String::new();
    for figure in &data.target {
        let linux = data.linux(&figure.name);
        let [lean, debian] = [linux.and_then(|row| row.lean), linux.and_then(|row| row.debian)].map(cell);
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{:.2}</td><td>{}</td><td>{lean}</td><td>{debian}</td></tr>",
            figure.name, figure.value, figure.unit
        );
    }
    let missed: String = data.missed.iter().map(|missed| format!("<li>{missed}</li>")).collect();
    let missed = if missed.is_empty() { missed } else { format!("<p>Left out:</p><ul>{missed}</ul>") };
    Ok(format!(
        "{missed}<details><summary>{} benchmarks</summary><table class=\"figures\"><tr><th>benchmark</th><th>Quire</th>\
         <th>unit</th><th>Linux, lean</th><th>Debian</th></tr>{rows}</table></details>",
        data.target.len()
    ))
}
