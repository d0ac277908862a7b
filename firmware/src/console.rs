// SPDX-License-Identifier: MIT OR Apache-2.0
//! The console: commands from `run=` first, then from the serial line.

mod commands;
mod session;

pub use self::session::{Failure, Session};
use crate::boot::Machine;
use crate::line::{Event, Line};
use crate::output;

/// Shown before each command.
const PROMPT: &str = "quire> ";

/// Runs the commands of `run=`, then those that are typed, until `exit`.
pub fn run(machine: &'static Machine) -> ! {
    let mut session = Session::new(machine);
    if let Some(commands) = machine.options.run {
        for command in commands.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            output::show(format_args!("{PROMPT}{command}\n"));
            session.execute(command);
        }
    } else {
        output::show(format_args!("Type help for a list of commands.\n"));
    }
    let mut line = Line::new();
    loop {
        output::show(format_args!("{PROMPT}"));
        read(&mut line);
        output::show(format_args!("\n"));
        let command = line.take();
        if !command.trim().is_empty() {
            session.execute(command.trim());
        }
    }
}

/// Reads a line, showing it back.
fn read(line: &mut Line) {
    loop {
        let Some(key) = output::key() else {
            core::hint::spin_loop();
            continue;
        };
        match line.feed(key) {
            Event::Nothing => {}
            Event::Echo(byte) => output::show(format_args!("{}", char::from(byte))),
            Event::Erase(count) => (0..count).for_each(|_| output::show(format_args!("\x08 \x08"))),
            Event::Full => output::show(format_args!("\x07")),
            Event::Cancelled => output::show(format_args!("^C\n{PROMPT}")),
            Event::Done => return,
        }
    }
}
