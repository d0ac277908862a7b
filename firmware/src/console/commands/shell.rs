// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands of the console itself.

use core::fmt::Write;

use super::{Command, Failure, File, Session, TABLES, Table, files, none};
use crate::power;

pub(super) const TABLE: Table = Table {
    title: "Console",
    commands: &[
        Command { name: "help", arguments: "", help: "this list", run: help },
        Command { name: "cat", arguments: "FILE", help: "a report by its path; without one, the paths", run: cat },
        Command { name: "exit", arguments: "[N]", help: "end with status N", run: exit },
    ],
    files: &[File { path: "/proc/cmdline", show: cmdline }],
};

fn help(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    for table in &TABLES {
        writeln!(session, "{}", table.title)?;
        for command in table.commands {
            writeln!(session, "  {:<10} {:<17} {}", command.name, command.arguments, command.help)?;
        }
    }
    Ok(())
}

fn cat(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    if arguments.is_empty() {
        for file in files() {
            writeln!(session, "{}", file.path)?;
        }
        return Ok(());
    }
    let file = files().find(|file| file.path == arguments).ok_or("no such file; cat alone lists them")?;
    (file.show)(session)
}

fn cmdline(session: &mut Session) -> Result<(), Failure> {
    let machine = session.machine();
    writeln!(session, "{}", machine.options.text())?;
    Ok(())
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
