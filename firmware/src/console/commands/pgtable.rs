// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about translation tables and TLBs.

use core::fmt::Write;

use arrayvec::ArrayVec;
use mm::addr::VirtAddr;
use mm::pgtable::dump::{Marker, Region, write_markers};

use super::{Command, Failure, File, Session, Table, none};
use crate::layout::{DIRECT_MAP, IMAGE, VMALLOC_END, VMALLOC_START, WINDOWS};
use crate::memory;

pub(super) const TABLE: Table = Table {
    title: "Translation",
    commands: &[
        Command { name: "ptdump", arguments: "", help: "regions and attributes, as kernel_page_tables", run: ptdump },
        Command { name: "wx_check", arguments: "", help: "fails if a page is writable and executable", run: wx_check },
        Command { name: "tlbstat", arguments: "", help: "TLB flushes, as in /proc/vmstat", run: tlbstat },
    ],
    files: &[File { path: "/sys/kernel/debug/kernel_page_tables", show: |session| ptdump(session, "") }],
};

/// The names that Linux gives these regions.
const MARKERS: [Marker<'_>; 6] = {
    const fn marker(start: u64, name: &str) -> Marker<'_> {
        Marker { start: VirtAddr::new(start), name }
    }
    [
        marker(DIRECT_MAP, "Linear Mapping start"),
        marker(VMALLOC_START, "Linear Mapping end"),
        marker(VMALLOC_START, "vmalloc() area"),
        marker(VMALLOC_END, "vmalloc() end"),
        marker(IMAGE, "Kernel image"),
        marker(WINDOWS, "Windows"),
    ]
};

fn ptdump(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let memory = &session.machine().memory;
    let (mut last, mut from) = (None, Some(VirtAddr::new(0)));
    while let Some(start) = from {
        // A few at a time: nothing is written under the lock.
        let regions: ArrayVec<Region, 16> = memory.map.lock().tree().regions_from(start, &MARKERS).take(16).collect();
        from = regions.last().filter(|_| regions.is_full()).and_then(|region| region.end());
        for region in regions {
            write_markers(session, &MARKERS, last, Some(region.start()))?;
            writeln!(session, "{region}")?;
            last = Some(region.start());
        }
    }
    Ok(write_markers(session, &MARKERS, last, None)?)
}

fn wx_check(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let report = session.machine().memory.map.lock().tree().check_wx();
    writeln!(session, "{report}")?;
    if report.pages == 0 { Ok(()) } else { Err(Failure::Because("the kernel's map breaks W^X")) }
}

fn tlbstat(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    Ok(memory::tlb().counters().write(session)?)
}
