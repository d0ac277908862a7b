// SPDX-License-Identifier: MIT OR Apache-2.0
//! The console: commands from `run=` first, then from the serial line.
//!
//! It works with a person at a terminal and with a program at the other end of a pipe. Who sits there is told by
//! one question: when the first key comes, the terminal is asked for its size. What answers is a terminal; long
//! reports then stop at each page. What does not answer is never waited for.

mod commands;
mod keyboard;
mod screen;
mod session;

pub use self::session::{Failure, Session};
use crate::boot::Machine;
use crate::{modules, output, pipe, top};

/// Shown before each command.
const PROMPT: &str = "quire> ";

/// Runs the commands of `run=`, then those that are typed, until `exit`.
pub fn run(machine: &'static Machine) -> ! {
    if let Some(ms) = machine.options.top {
        top::start(machine, ms);
    }
    let mut session = Session::new(machine);
    for (module, values) in modules::requested(machine.options.text()) {
        if let Err(why) = (module.run)(&values, &mut || session.is_closed()) {
            output::show(format_args!("{}: {why}\n", module.name));
            session.note_failure();
        }
    }
    match machine.options.run {
        Some(commands) => {
            for command in pipe::split(commands, b';').map(str::trim).filter(|command| !command.is_empty()) {
                output::show(format_args!("{PROMPT}{command}\n"));
                session.execute(command);
            }
        }
        None => output::show(format_args!("Type help for a list of commands.\n")),
    }
    session.serve()
}
