// SPDX-License-Identifier: MIT OR Apache-2.0
//! The console: commands from `run=` first, then from the serial line.

mod commands;
mod session;

pub use self::session::{Failure, Session};
use crate::boot::Machine;
use crate::line::{Event, Line};
use crate::{output, print, println};

/// Shown before each command.
const PROMPT: &str = "quire> ";

/// Runs the commands of `run=`, then those that are typed, until `exit`.
pub fn run(machine: &'static Machine) -> ! {
    let mut session = Session::new(machine);
    if let Some(commands) = machine.options.run {
        for command in commands.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            println!("{PROMPT}{command}");
            session.execute(command);
        }
    } else {
        println!("Type help for a list of commands.");
    }
    let mut line = Line::new();
    loop {
        print!("{PROMPT}");
        read(&mut line);
        println!();
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
            Event::Echo(byte) => print!("{}", char::from(byte)),
            Event::Erase(count) => (0..count).for_each(|_| print!("\x08 \x08")),
            Event::Full => print!("\x07"),
            Event::Cancelled => print!("^C\n{PROMPT}"),
            Event::Done => return,
        }
    }
}
