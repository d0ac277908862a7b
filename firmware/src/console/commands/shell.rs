// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands of the console itself.

use core::fmt::Write;

use super::{Command, Failure, File, Session, TABLES, Table, files, find, none};
use crate::boot::uptime_ns;
use crate::line::CLEAR_SCREEN;
use crate::pipe::{unquote, words};

pub(super) const TABLE: Table = Table {
    title: "Console",
    commands: &[
        Command { name: "help", arguments: "[COMMAND]", help: "this list, or a line of it", run: help },
        Command { name: "cat", arguments: "FILE", help: "a report by its path; without one, the paths", run: cat },
        Command { name: "echo", arguments: "TEXT", help: "the text", run: echo },
        Command { name: "watch", arguments: "N COMMAND", help: "COMMAND every N seconds, until a key", run: watch },
        Command { name: "history", arguments: "", help: "the lines typed before", run: history },
        Command { name: "clear", arguments: "", help: "a clean screen", run: clear },
    ],
    files: &[File { path: "/proc/cmdline", show: cmdline }],
};

fn help(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    if !arguments.is_empty() {
        let command = find(arguments).ok_or("no such command")?;
        let space = if command.arguments.is_empty() { "" } else { " " };
        return Ok(writeln!(session, "{}{space}{}: {}", command.name, command.arguments, command.help)?);
    }
    for table in &TABLES {
        writeln!(session, "{}", table.title)?;
        for command in table.commands {
            writeln!(session, "  {:<10} {:<20} {}", command.name, command.arguments, command.help)?;
        }
    }
    writeln!(session, "COMMAND | grep [-v] [-i] PATTERN shows some lines of it; COMMAND; COMMAND runs both.")?;
    Ok(())
}

fn cat(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    if arguments.is_empty() {
        for file in files() {
            writeln!(session, "{}", file.path)?;
        }
        return Ok(());
    }
    for path in words(arguments) {
        let file = files().find(|file| file.path == path).ok_or("no such file; cat alone lists them")?;
        (file.show)(session)?;
    }
    Ok(())
}

fn echo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    for (n, word) in words(arguments).enumerate() {
        let space = if n == 0 { "" } else { " " };
        write!(session, "{space}{word}")?;
    }
    writeln!(session)?;
    Ok(())
}

/// As procps' `watch`, on whose screen the output stays the same height.
fn watch(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let arguments = arguments.strip_prefix("-n").map_or(arguments, str::trim_start);
    let (seconds, command) =
        arguments.split_once(char::is_whitespace).ok_or("takes a number of seconds and a command")?;
    let tenths = tenths(seconds).ok_or("the seconds are a number from 0.1 to 86400")?;
    let command = unquote(command.trim());
    loop {
        let start = uptime_ns();
        if session.terminal().is_some() {
            session.show(CLEAR_SCREEN);
        }
        writeln!(session, "Every {}.{}s: {command}\n", tenths / 10, tenths % 10)?;
        session.execute_inner(command)?;
        if session.key_until(start.saturating_add(tenths * 100_000_000)).is_some() {
            return Ok(());
        }
    }
}

/// `2` or `0.5`, in tenths.
fn tenths(seconds: &str) -> Option<u64> {
    let (whole, tenth) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let tenth: u64 = tenth.parse().ok().filter(|tenth| *tenth < 10)?;
    let whole: u64 = whole.parse().ok().filter(|whole| *whole <= 86_400)?;
    Some(whole * 10 + tenth).filter(|tenths| *tenths > 0)
}

fn history(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    // The writer may come to read keys, so it cannot borrow the lines meanwhile.
    let mut next = 1;
    loop {
        let Some((number, line)) = session.history().iter().find(|(number, _)| *number >= next) else { return Ok(()) };
        let line = crate::line::Text::from(line);
        writeln!(session, "{number:>5}  {}", line.as_str())?;
        next = number + 1;
    }
}

fn clear(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    session.show(CLEAR_SCREEN);
    Ok(())
}

fn cmdline(session: &mut Session) -> Result<(), Failure> {
    let machine = session.machine();
    writeln!(session, "{}", machine.options.text())?;
    Ok(())
}
