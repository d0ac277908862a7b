// SPDX-License-Identifier: MIT OR Apache-2.0
//! `report DATA PAGE`: what `report.sh` measured, as one self-contained page.

#[path = "report/data.rs"]
mod data;
#[path = "report/plots.rs"]
mod plots;
#[path = "top/samples.rs"]
mod samples;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use data::{Data, Figure};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: report DATA PAGE");
        return ExitCode::from(2);
    };
    let written = page(&Data::read(Path::new(&from)))
        .and_then(|page| std::fs::write(&to, page).map_err(|error| error.to_string()));
    match written {
        Ok(()) => println!("{}", to.display()),
        Err(error) => {
            eprintln!("report: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}\
svg{max-width:100%;height:auto}table{border-collapse:collapse;font-size:13px}td,th{padding:1px 10px;text-align:right;\
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left;font-family:monospace}.missing{color:#a00}";

/// The whole page. A part whose figures are not there says so.
fn page(data: &Data) -> Result<String, String> {
    let mut page = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Quire: the report</title>\
         <style>{STYLE}</style></head><body><h1>Quire, measured</h1><p>Instructions are counted by QEMU (<code>-icount \
         shift=0</code>, cortex-a72); Linux 6.12 ran the same loops on the same machine.</p>"
    );
    let parts: [(&str, &str, Result<String, String>); 7] = [
        (
            "Beside Linux",
            "Instructions of an operation, Linux's lean build divided by ours: beyond 1 we need fewer.",
            plots::ratios(data),
        ),
        (
            "How long an operation takes",
            "How many operations of the mixed traces need how many instructions.",
            plots::latencies(data),
        ),
        (
            "Physical memory over a long churn",
            "Each line is the zone at one moment, from the first frame to the last. Green: a block of the largest order is free there. Yellow: of four pages and more. Red: less. Paler: less is free.",
            plots::churn(data),
        ),
        (
            "More CPUs",
            "Operations a second of all allocators together (torture), emulated: the host's own CPUs are the limit.",
            plots::scaling(data),
        ),
        ("Memory beside the objects", "What a slab needs above its objects' bytes.", plots::overhead(data)),
        ("Booting", "Instructions until the console, by RAM.", plots::boot(data)),
        ("Beside Rust's other allocators", "On this host, by <code>make bench-host</code>.", host_table(data)),
    ];
    for (title, words, plot) in parts {
        let _ = write!(page, "<h2>{title}</h2><p>{words}</p>");
        match plot {
            Ok(plot) => page.push_str(&plot),
            Err(why) => drop(write!(page, "<p class=\"missing\">Not measured: {why}</p>")),
        }
    }
    let _ = writeln!(page, "<h2>All figures</h2>{}</body></html>", target_table(data));
    Ok(page)
}

/// All benchmarks with Linux's figures.
fn target_table(data: &Data) -> String {
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    table(&data.target, ["benchmark", "Quire", "unit", "Linux, lean", "Debian"], |figure| {
        let linux = data.linux(&figure.name);
        [cell(linux.and_then(|row| row.lean)), cell(linux.and_then(|row| row.debian))]
    })
}

fn host_table(data: &Data) -> Result<String, String> {
    if data.host.is_empty() {
        return Err("make bench-host QUICK=1, then make report".to_owned());
    }
    Ok(table(&data.host, ["benchmark", "value", "unit"], |_| []))
}

/// Figures, a row each, and `more` behind them.
fn table<const HEADS: usize, const MORE: usize>(
    figures: &[Figure],
    heads: [&str; HEADS],
    more: impl Fn(&Figure) -> [String; MORE],
) -> String {
    let mut table = format!("<table><tr><th>{}</th></tr>", heads.join("</th><th>"));
    for figure in figures {
        let Figure { name, value, unit } = figure;
        let _ = write!(table, "<tr><td>{name}</td><td>{value:.2}</td><td>{unit}</td>");
        for cell in more(figure) {
            let _ = write!(table, "<td>{cell}</td>");
        }
        table.push_str("</tr>");
    }
    table + "</table>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_figures_make_a_page_with_every_plot() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/report");
        let page = page(&Data::read(&data)).unwrap();
        assert_eq!(page.matches("<svg").count(), 6, "{}", page.matches("Not measured").count());
        assert_eq!(page.matches("Not measured").count(), 1, "only the host's figures are not saved");
        assert!(page.contains("<td>pg_hot_0</td>") && !page.contains("NaN") && !page.contains("http://localhost"));
    }

    #[test]
    fn nothing_measured_is_said() {
        let page = page(&Data::read(Path::new("/nonexistent"))).unwrap();
        assert_eq!(page.matches("Not measured").count(), 7);
    }
}
