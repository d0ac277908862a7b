// SPDX-License-Identifier: MIT OR Apache-2.0
//! `report DATA PAGE`: what `report.sh` measured, as one self-contained page.

#[path = "report/canvas.rs"]
mod canvas;
#[path = "report/data.rs"]
mod data;
#[path = "report/plots.rs"]
mod plots;
#[path = "top/samples.rs"]
mod samples;
#[path = "report/tables.rs"]
mod tables;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use data::Data;

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

const STYLE: &str = "body{font:16px/1.55 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}\
h1{margin-bottom:.2em}h2{margin:2em 0 .3em;border-bottom:2px solid #1f6fb4}nav a{margin-right:1em}svg{max-width:100%;height:auto;\
vertical-align:top}table{border-collapse:collapse;font-size:14px;margin:1em 0}td,th{padding:2px 12px;text-align:right;\
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}code,.figures td:first-child{font-family:\
ui-monospace,monospace;font-size:13px}.ours{color:#1f6fb4;font-weight:600}.missing{color:#a00}summary{cursor:pointer}";

const INTRODUCTION: &str = "<p>Quire is memory management for bare-metal AArch64, after Linux. This page is what <code>make report</code> has \
measured on this machine. <b>Instructions</b> are what an emulated Cortex-A72 executes (QEMU, <code>-icount shift=0</code>): exact and \
repeatable, but they say nothing of caches and pipelines. Linux 6.12 ran the same loops on the same emulated machine: a lean build \
(<code>allnoconfig</code> and what the allocators need) and Debian's kernel as it comes.</p>";

/// A part: its anchor, its title, what it shows, and that.
type Part<'a> = (&'a str, &'a str, &'a str, Result<String, String>);

/// The whole page. A part whose figures are not there says so.
fn page(data: &Data) -> Result<String, String> {
    let parts: [Part<'_>; 9] = [
        ("glance", "At a glance", "Instructions of an operation, if nothing else is said.", tables::glance(data)),
        (
            "linux",
            "Beside Linux",
            "How many times as many instructions Linux needs for the same operation. Right of 1x, blue: Quire needs fewer. Left of it, \
             red: more. <code>pg</code> pages by order, <code>km</code> kmalloc by bytes, <code>kmc</code> caches, <code>vm</code> \
             vmalloc, <code>pt</code> translation tables. <code>hot</code>: a pair of allocate and free; <code>batch</code>: so \
             many are allocated, then freed in that order (fifo), or any (shuf); <code>trace</code>: a million operations at random; \
             <code>p999</code>: 99.9 % of them need no more.",
            plots::ratios(data),
        ),
        (
            "peers",
            "Beside Rust's other allocators",
            "The shorter the better. Blue: Quire, with its locks and checks, as it is in a kernel. Grey: others, most of them for one \
             thread alone; paler: not measured now but once before, on the same machine. <code>bsa</code> is \
             <code>buddy_system_allocator</code>. The cost of the loop, about 15 instructions, is in all.",
            plots::peers(data).map(|plots| plots + &tables::host(data)),
        ),
        (
            "latencies",
            "How long single operations take",
            "The share of operations of a mixed trace that need more than so many instructions: the lower and the further left, the \
             better. Solid: Quire. Dashed: Linux's lean build, by its median, 99 %, 99.9 % and longest.",
            plots::latencies(data),
        ),
        (
            "churn",
            "Physical memory over a long churn",
            "A machine with 128 MiB under <code>torture</code>: all allocators at random, from two CPUs and interrupts, while memory is \
             short again and again. Each line is the whole zone at one moment. At the end everything is freed.",
            plots::churn(data),
        ),
        (
            "cpus",
            "More CPUs",
            "Left: what an operation needs on one CPU when more are there. Right: what all CPUs do together in <code>torture</code>, \
             emulated without counting; the host's own CPUs are the limit, and more emulated ones wait for each other. Below: two \
             threads of the host beside one; others are behind a spin lock if they are not made for threads.",
            plots::scaling(data),
        ),
        (
            "memory",
            "Memory beside the objects",
            "What a MiB of objects of one size takes over their own bytes. Linux's line is computed from its size classes, with whole \
             slabs. The table is of the mixed sizes of the trace, in per cent over what was asked for: in its middle, while all of \
             10,000 objects live, and when one of ten is left.",
            plots::overhead(data).map(|plot| plot + &tables::footprints(data)),
        ),
        (
            "boot",
            "Booting",
            "From the first instruction to the console, by RAM. What is in use then is the image, its stacks and tables, and what the \
             allocators keep about each frame.",
            plots::boot(data),
        ),
        ("all", "All figures", "", tables::target(data)),
    ];
    let mut page = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Quire: the report</title><style>{STYLE}</style></head><body><h1>Quire, measured</h1>{INTRODUCTION}<nav>"
    );
    for (anchor, title, ..) in &parts {
        let _ = write!(page, "<a href=\"#{anchor}\">{title}</a> ");
    }
    page.push_str("</nav>");
    for (anchor, title, words, shown) in parts {
        let _ = write!(page, "<h2 id=\"{anchor}\">{title}</h2><p>{words}</p>");
        match shown {
            Ok(shown) => page.push_str(&shown),
            Err(why) => drop(write!(page, "<p class=\"missing\">Not measured: {why}</p>")),
        }
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_figures_make_a_page_with_every_plot() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/report");
        let page = page(&Data::read(&data)).unwrap();
        assert!(!page.contains("Not measured"));
        // Two families beside Linux, four workloads of peers, a trace, the churn twice, three of CPUs, overhead, boot twice.
        assert_eq!(page.matches("<svg").count(), 15);
        assert!(page.contains("<td>pg_hot_0</td>") && page.contains("<li>vm_batch100_4M_fifo was not measured"));
        assert!(!page.contains("NaN") && !page.contains("src=\"") && !page.contains("<script"));
    }

    #[test]
    fn nothing_measured_is_said() {
        let page = page(&Data::read(Path::new("/nonexistent"))).unwrap();
        assert_eq!(page.matches("Not measured").count(), 9);
    }
}
