// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands. Where Linux has the report, its format is Linux's; `mm::report` writes it.

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::pgtable::Leaf;
use mm::report;

use super::{Failure, Session};
use crate::{output, power, println};

/// A command of the console.
pub(super) struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    /// Runs with what was typed behind the name.
    pub(super) run: fn(&mut Session, &str) -> Result<(), Failure>,
}

static COMMANDS: [Command; 8] = [
    Command { name: "help", arguments: "", help: "this list", run: help },
    Command { name: "meminfo", arguments: "", help: "totals, as /proc/meminfo", run: meminfo },
    Command { name: "buddyinfo", arguments: "", help: "free blocks by order, as /proc/buddyinfo", run: buddyinfo },
    Command { name: "free", arguments: "[-b|-k|-m|-g|-h]", help: "totals, as procps' free", run: free },
    Command { name: "iomem", arguments: "", help: "physical addresses, as /proc/iomem", run: iomem },
    Command { name: "pgtables", arguments: "", help: "the kernel's map", run: pgtables },
    Command { name: "cat", arguments: "/proc/FILE", help: "meminfo, buddyinfo, iomem, cmdline by path", run: cat },
    Command { name: "exit", arguments: "[N]", help: "end with status N", run: exit },
];

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// For commands that take no argument.
fn none(arguments: &str) -> Result<(), Failure> {
    if arguments.is_empty() { Ok(()) } else { Err("takes no argument") }
}

/// The console never fails, so neither does a report.
fn written(result: core::fmt::Result) -> Result<(), Failure> {
    result.map_err(|_| "cannot be written")
}

fn help(_: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    for command in &COMMANDS {
        println!("{:<10} {:<17} {}", command.name, command.arguments, command.help);
    }
    Ok(())
}

fn meminfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    written(report::meminfo(&mut output::Sink, &session.machine.memory.mem_info()))
}

fn buddyinfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    written(report::buddyinfo(&mut output::Sink, session.machine.memory.zone_info()))
}

fn free(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let unit = match arguments {
        "" => report::Unit::default(),
        option => report::Unit::from_option(option).ok_or("takes -b, -k, -m, -g or -h")?,
    };
    written(report::free(&mut output::Sink, &session.machine.memory.mem_info(), unit))
}

fn iomem(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    written(session.machine.memory.write_iomem(session.machine.info, &mut output::Sink))
}

/// A run of leaves that go on from each other.
struct Run {
    first: Leaf,
    last: Leaf,
    count: u64,
}

impl Run {
    fn print(&self) {
        let size = self.first.size() * self.count;
        let end = VirtAddr::new(self.first.virt.as_raw().wrapping_add(size));
        let unit = match self.first.level {
            1 => "1G",
            2 => "2M",
            _ => "4K",
        };
        println!(
            "{:#018x}-{:#018x} {:>#14x} {:>11}K {:>6} x {unit} {} {}",
            self.first.virt.as_raw(),
            end.as_raw(),
            self.first.descriptor.address().as_raw(),
            size / 1024,
            self.count,
            if self.first.descriptor.is_contiguous() { "CONT" } else { "    " },
            self.first.descriptor
        );
    }
}

fn pgtables(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let map = session.machine.memory.map.lock();
    println!("{:<37} {:>14} {:>12} {:>6}", "virtual addresses", "physical", "size", "pages");
    let mut run: Option<Run> = None;
    for leaf in map.tree().leaves() {
        match &mut run {
            Some(run) if run.last.continues_with(leaf) => {
                run.last = leaf;
                run.count += 1;
            }
            _ => {
                let next = Run { first: leaf, last: leaf, count: 1 };
                if let Some(done) = run.replace(next) {
                    done.print();
                }
            }
        }
    }
    if let Some(done) = run {
        done.print();
    }
    println!("{} KiB in {} tables", map.table_bytes() / 1024, map.table_bytes() / PAGE_SIZE);
    Ok(())
}

fn cat(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    match arguments {
        "/proc/meminfo" => meminfo(session, ""),
        "/proc/buddyinfo" => buddyinfo(session, ""),
        "/proc/iomem" => iomem(session, ""),
        "/proc/cmdline" => {
            println!("{}", session.machine.options.text());
            Ok(())
        }
        "" => Err("which file?"),
        _ => Err("no such file; there are /proc/meminfo, buddyinfo, iomem, cmdline"),
    }
}

fn exit(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    if arguments.is_empty() {
        power::exit(session.status);
    }
    match arguments.parse::<u8>() {
        Ok(status) => power::exit(u32::from(status)),
        Err(_) => Err("the status is a number from 0 to 255"),
    }
}
