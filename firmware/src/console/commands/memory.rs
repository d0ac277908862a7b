// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about memory. Where Linux has the report, `mm::report` writes it.

use core::fmt::{self, Write};

use arrayvec::ArrayVec;
use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::pgtable::Leaf;
use mm::report;

use super::{Command, Failure, File, Session, Table, none};
use crate::memory::KernelMap;

pub(super) const TABLE: Table = Table {
    title: "Memory",
    commands: &[
        Command { name: "meminfo", arguments: "", help: "totals, as /proc/meminfo", run: meminfo },
        Command { name: "buddyinfo", arguments: "", help: "free blocks by order, as /proc/buddyinfo", run: buddyinfo },
        Command { name: "free", arguments: "[-b|-k|-m|-g|-h]", help: "totals, as procps' free", run: free },
        Command { name: "iomem", arguments: "", help: "physical addresses, as /proc/iomem", run: iomem },
        Command { name: "pgtables", arguments: "", help: "the kernel's map", run: pgtables },
    ],
    files: &[
        File { path: "/proc/meminfo", show: |session| meminfo(session, "") },
        File { path: "/proc/buddyinfo", show: |session| buddyinfo(session, "") },
        File { path: "/proc/iomem", show: |session| iomem(session, "") },
    ],
};

fn meminfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let info = session.machine().memory.mem_info();
    Ok(report::meminfo(session, &info)?)
}

fn buddyinfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let zones = session.machine().memory.zone_info();
    Ok(report::buddyinfo(session, zones)?)
}

fn free(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let unit = match arguments {
        "" => report::Unit::default(),
        option => report::Unit::from_option(option).ok_or("takes -b, -k, -m, -g or -h")?,
    };
    let info = session.machine().memory.mem_info();
    Ok(report::free(session, &info, unit)?)
}

fn iomem(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let machine = session.machine();
    Ok(machine.memory.write_iomem(machine.info, session)?)
}

/// A run of leaves that go on from each other.
struct Run {
    first: Leaf,
    last: Leaf,
    count: u64,
}

impl Run {
    fn write(&self, w: &mut impl Write) -> fmt::Result {
        let size = self.first.size() * self.count;
        let end = VirtAddr::new(self.first.virt.as_raw().wrapping_add(size));
        let unit = match self.first.level {
            1 => "1G",
            2 => "2M",
            _ => "4K",
        };
        writeln!(
            w,
            "{:#018x}-{:#018x} {:>#14x} {:>11}K {:>6} x {unit} {} {}",
            self.first.virt.as_raw(),
            end.as_raw(),
            self.first.descriptor.address().as_raw(),
            size / 1024,
            self.count,
            if self.first.descriptor.is_contiguous() { "CONT" } else { "    " },
            self.first.descriptor
        )
    }
}

fn pgtables(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let memory = &session.machine().memory;
    writeln!(session, "{:<37} {:>14} {:>12} {:>6}", "virtual addresses", "physical", "size", "pages")?;
    let mut start = Some(VirtAddr::new(0));
    while let Some(virt) = start {
        // A few at a time: nothing is written under the lock.
        let runs;
        (runs, start) = runs_from(&memory.map.lock(), virt);
        for run in runs {
            run.write(session)?;
        }
    }
    let bytes = memory.map.lock().table_bytes();
    writeln!(session, "{} KiB in {} tables", bytes / 1024, bytes / PAGE_SIZE)?;
    Ok(())
}

/// The first runs from `virt` on, and where the one behind them starts.
fn runs_from(map: &KernelMap, virt: VirtAddr) -> (ArrayVec<Run, 16>, Option<VirtAddr>) {
    let mut runs: ArrayVec<Run, 16> = ArrayVec::new();
    for leaf in map.tree().leaves().skip_while(|leaf| leaf.virt < virt) {
        match runs.last_mut() {
            Some(run) if run.last.continues_with(leaf) => {
                run.last = leaf;
                run.count += 1;
            }
            _ => {
                if runs.try_push(Run { first: leaf, last: leaf, count: 1 }).is_err() {
                    return (runs, Some(leaf.virt));
                }
            }
        }
    }
    (runs, None)
}
