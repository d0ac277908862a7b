// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the CPUs: what they are, what interrupts them and for how long nothing could.

use core::fmt::Write;

use super::{Command, Failure, File, Session, Table, none};
use crate::sync::{self, watch};
use crate::{irq, smp, soak};

pub(super) const TABLE: Table = Table {
    title: "CPUs",
    commands: &[
        Command { name: "cpuinfo", arguments: "", help: "each CPU's ID registers in words", run: cpuinfo },
        Command { name: "interrupts", arguments: "", help: "how often which CPU was interrupted", run: interrupts },
        Command {
            name: "irqsoff",
            arguments: "[on|off|reset]",
            help: "how long locks were held and ticks came late; watch over locks",
            run: irqsoff,
        },
        Command {
            name: "soak",
            arguments: "[SECONDS]",
            help: "calls, parking, threads and timers on all CPUs at once, counted; 10 s",
            run: soak,
        },
    ],
    files: &[
        File { path: "/proc/cpuinfo", show: |session| cpuinfo(session, "") },
        File { path: "/proc/interrupts", show: |session| interrupts(session, "") },
    ],
};

fn cpuinfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    for cpu in smp::online() {
        let (number, mpidr, node, method) = (cpu.number(), cpu.mpidr(), cpu.node(), cpu.method());
        writeln!(session, "CPU {number}: MPIDR {mpidr:#x}, node {node}, {method}")?;
        writeln!(session, "{}", cpu.id.registers())?;
    }
    let (online, named) = (smp::nr_online(), session.machine().info.nr_cpus);
    if online < named {
        writeln!(session, "{} more in the device tree did not come up", named - online)?;
    }
    Ok(())
}

fn interrupts(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    irq::write_counts(session)?;
    Ok(())
}

fn irqsoff(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    match arguments {
        "" => show_longest(session),
        "on" => {
            watch::start();
            Ok(())
        }
        "off" => {
            watch::stop();
            Ok(())
        }
        "reset" => {
            smp::online().for_each(|cpu| {
                cpu.watch.reset();
                cpu.clock.reset();
            });
            Ok(())
        }
        _ => Err(Failure::Because("takes on, off, reset or nothing")),
    }
}

fn show_longest(session: &mut Session) -> Result<(), Failure> {
    if !watch::is_on() {
        writeln!(session, "locks are not watched; irqsoff on starts that")?;
    }
    writeln!(session, "longest, in microseconds, while they were watched")?;
    writeln!(session, "CPU rank {:<22} {:>12}", "lock", "us")?;
    for cpu in smp::online() {
        for (rank, ns) in cpu.watch.longest() {
            let (number, us, part) = (cpu.number(), ns / 1000, ns % 1000);
            writeln!(session, "{number:>3} {:>4} {:<22} {us:>8}.{part:03}", rank.as_u8(), sync::name(rank))?;
        }
        let (number, late) = (cpu.number(), cpu.clock.latest_ns());
        writeln!(session, "{number:>3} {:>4} {:<22} {:>8}.{:03}", "-", "tick was late", late / 1000, late % 1000)?;
    }
    Ok(())
}

fn soak(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let seconds = match arguments {
        "" => 10,
        number => number.parse().ok().filter(|seconds| *seconds <= 1_000_000).ok_or("takes a number of seconds")?,
    };
    let report =
        soak::run(session.machine(), seconds, || session.is_closed()).map_err(|_| "no memory for the threads")?;
    writeln!(session, "{report}")?;
    report.wrong().map_or(Ok(()), |wrong| Err(Failure::Because(wrong)))
}
