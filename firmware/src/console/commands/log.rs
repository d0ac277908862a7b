// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the log.

use core::fmt::Write;

use super::{Command, Failure, File, Session, Table};
use crate::boot::uptime_ns;
use crate::log::ring::{Cursor, MAX_TEXT};
use crate::log::{self, Level, Threshold};

pub(super) const TABLE: Table = Table {
    title: "Log",
    commands: &[Command {
        name: "dmesg",
        arguments: "[-C|-n N|-l LEVELS]",
        help: "the log; clear it; what the console shows; only these levels",
        run: dmesg,
    }],
    files: &[File { path: "/proc/sys/kernel/printk", show: printk }],
};

/// As `dmesg` of util-linux, as far as it goes.
fn dmesg(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let (option, value) = arguments.split_once(char::is_whitespace).unwrap_or((arguments, ""));
    match (option, value.trim()) {
        ("", "") => list(session, |_| true),
        ("-C", "") => {
            log::clear();
            Ok(())
        }
        ("-n", number) => {
            log::set_threshold(Threshold::parse(number).ok_or("-n takes 1 to 8, or emerg to debug")?);
            Ok(())
        }
        ("-l", levels) => {
            let wanted = |level: Level| levels.split(',').any(|name| name == level.name());
            let known = |name: &str| Level::from_name(name).is_some();
            if !levels.split(',').all(known) {
                return Err(Failure::Because("-l takes a list of emerg, alert, crit, err, warn, notice, info, debug"));
            }
            list(session, wanted)
        }
        _ => Err(Failure::Because("takes -C, -n N or -l LEVEL,..")),
    }
}

fn list(session: &mut Session, wanted: impl Fn(Level) -> bool) -> Result<(), Failure> {
    let (mut cursor, mut buffer) = (Cursor::default(), [0; MAX_TEXT]);
    // Whoever logs faster than we write must not keep us here.
    let now = uptime_ns();
    while let Some(record) = log::read(&mut cursor, &mut buffer).filter(|record| record.time_ns <= now) {
        if wanted(record.level) {
            let microseconds = record.time_ns / 1000;
            writeln!(session, "[{:>5}.{:06}] {}", microseconds / 1_000_000, microseconds % 1_000_000, record.text)?;
        }
    }
    Ok(())
}

/// Four numbers, as Linux has them: what the console shows, the level of messages that have none, and the
/// least and the default of the first.
fn printk(session: &mut Session) -> Result<(), Failure> {
    let (now, message) = (log::threshold().number(), Level::Info as u8);
    let (least, default) = (Threshold::MINIMUM.number(), Threshold::DEFAULT.number());
    writeln!(session, "{now}\t{message}\t{least}\t{default}")?;
    Ok(())
}
