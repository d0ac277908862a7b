// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the machine as a whole: how long it has been up, and how it ends.

use core::fmt::Write;

use super::{Command, Failure, File, Session, Table, none};
use crate::boot::uptime_ns;
use crate::exception::provoke;
use crate::power;

pub(super) const TABLE: Table = Table {
    title: "Machine",
    commands: &[
        Command { name: "uptime", arguments: "", help: "how long the machine has been up", run: uptime },
        Command { name: "reboot", arguments: "", help: "start the machine anew", run: reboot },
        Command { name: "poweroff", arguments: "", help: "switch the machine off", run: poweroff },
        Command { name: "crash", arguments: "[FAILURE]", help: "fail, to see the report; alone, the list", run: crash },
        Command { name: "exit", arguments: "[N]", help: "end QEMU with status N, or switch off", run: exit },
    ],
    files: &[File { path: "/proc/uptime", show: proc_uptime }],
};

/// As `uptime -p` of procps, and to the second.
fn uptime(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let seconds = uptime_ns() / 1_000_000_000;
    write!(session, "up")?;
    let units = [(seconds / 86_400, "day"), (seconds / 3600 % 24, "hour"), (seconds / 60 % 60, "minute")];
    for (count, unit) in units.into_iter().filter(|(count, _)| *count > 0) {
        write!(session, " {count} {unit}{},", if count == 1 { "" } else { "s" })?;
    }
    let count = seconds % 60;
    writeln!(session, " {count} second{}", if count == 1 { "" } else { "s" })?;
    Ok(())
}

/// Seconds since the start, and seconds of idling, of which nobody keeps count.
fn proc_uptime(session: &mut Session) -> Result<(), Failure> {
    let hundredths = uptime_ns() / 10_000_000;
    writeln!(session, "{}.{:02} 0.00", hundredths / 100, hundredths % 100)?;
    Ok(())
}

fn reboot(_: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    power::reboot()
}

/// As Linux's LKDTM.
fn crash(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    if arguments.is_empty() {
        for (name, _) in provoke::FAILURES {
            writeln!(session, "{name}")?;
        }
        return Ok(());
    }
    let failure = provoke::FAILURES.iter().find(|failure| failure.0 == arguments);
    let (_, fail) = failure.ok_or("no such failure; crash alone lists them")?;
    fail();
    Err(Failure::Because("nothing happened"))
}

fn poweroff(_: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    power::off()
}

fn exit(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    if arguments.is_empty() {
        power::exit(session.status());
    }
    match arguments.parse::<u8>() {
        Ok(status) => power::exit(u32::from(status)),
        Err(_) => Err(Failure::Because("the status is a number from 0 to 255")),
    }
}
