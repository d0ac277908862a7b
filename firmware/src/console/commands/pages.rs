// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the page allocator. Where Linux has the report, `mm::report` writes it.

use core::fmt::Write;

use bsp::cmdline;
use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::MAX_CPUS;
use mm::report::{self, CELLS_PER_LINE, Cell};

use super::{Command, Failure, File, Session, Table, none};
use crate::memory::LateError;
use crate::{bench, memory};

pub(super) const TABLE: Table = Table {
    title: "Pages",
    commands: &[
        Command { name: "pagetypeinfo", arguments: "", help: "free blocks by mobility and order", run: pagetypeinfo },
        Command { name: "zoneinfo", arguments: "", help: "watermarks and per-CPU pages", run: zoneinfo },
        Command { name: "vmstat", arguments: "", help: "counters, as /proc/vmstat", run: vmstat },
        Command { name: "extfrag", arguments: "", help: "fragmentation indices by order", run: extfrag },
        Command { name: "fragmap", arguments: "", help: "a picture of what is free where", run: fragmap },
        Command { name: "drain", arguments: "", help: "per-CPU pages go back to their zones", run: drain },
        Command { name: "memadd", arguments: "[[START] SIZE]", help: "adds memory that mem= held back", run: memadd },
        Command {
            name: "bench",
            arguments: "[NAME [seed=N..]]",
            help: "instructions per operation; alone, the list",
            run: bench::run,
        },
    ],
    files: &[
        File { path: "/proc/pagetypeinfo", show: |session| pagetypeinfo(session, "") },
        File { path: "/proc/zoneinfo", show: |session| zoneinfo(session, "") },
        File { path: "/proc/vmstat", show: |session| vmstat(session, "") },
        File { path: "/sys/kernel/debug/extfrag/extfrag_index", show: |session| extfrag(session, "") },
    ],
};

fn pagetypeinfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let pages = session.machine().memory.pages;
    Ok(report::pagetypeinfo(session, pages.zone_reports())?)
}

fn zoneinfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let pages = session.machine().memory.pages;
    let cpus = (0..MAX_CPUS).filter_map(|cpu| pages.cpu_pages(cpu));
    Ok(report::zoneinfo(session, pages.zone_reports(), cpus)?)
}

fn vmstat(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let pages = session.machine().memory.pages;
    report::vmstat(session, pages.zone_reports())?;
    Ok(memory::tlb().counters().write(session)?)
}

fn extfrag(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let pages = session.machine().memory.pages;
    Ok(report::extfrag(session, pages.zone_reports())?)
}

fn fragmap(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let pages = session.machine().memory.pages;
    let mut cells = [Cell::default(); 4 * CELLS_PER_LINE];
    for (index, zone) in pages.zone_reports().enumerate() {
        let count = pages.survey(index, &mut cells).unwrap_or(0);
        report::fragmap(session, &zone, cells.get(..count).unwrap_or_default())?;
    }
    writeln!(session, "green: blocks of the largest order; yellow: of four pages and more; red: less, or none")?;
    Ok(())
}

fn drain(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let pages = session.machine().memory.pages;
    let hoarded = pages.hoarded_pages();
    pages.drain();
    writeln!(session, "{} pages went back", hoarded.saturating_sub(pages.hoarded_pages()))?;
    Ok(())
}

/// All that is held back, or so much of the lowest, or so much from an address on.
fn memadd(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    const USAGE: &str = "takes a size, or an address and a size, as mem= does";
    let size = |word: &str| cmdline::parse_size(word).ok_or(USAGE);
    let mut words = arguments.split_whitespace();
    let (first, second) = (words.next().map(size).transpose()?, words.next().map(size).transpose()?);
    let (within, mut bytes) = match (first, second) {
        _ if words.next().is_some() => return Err(USAGE.into()),
        (None, _) => (PhysRange::EVERYTHING, u64::MAX),
        (Some(bytes), None) => (PhysRange::EVERYTHING, bytes),
        (Some(start), Some(bytes)) => (PhysRange::clipped(start, bytes, PhysAddr::new_saturating(u64::MAX)).0, bytes),
    };
    let memory = &session.machine().memory;
    let mut added = false;
    while bytes >= PAGE_SIZE {
        match memory.add_late(within, bytes) {
            Ok((range, pages)) => {
                writeln!(session, "{range}: {} pages, {pages} of them free", range.size() / PAGE_SIZE)?;
                bytes -= range.size();
                added = true;
            }
            Err(LateError::Nothing) => break,
            Err(error) => {
                writeln!(session, "{error}")?;
                return Err(Failure::Because("not all was added"));
            }
        }
    }
    writeln!(session, "{} kB are held back", memory.late_bytes() / 1024)?;
    if added { Ok(()) } else { Err(Failure::Because("nothing is held back there")) }
}
