// SPDX-License-Identifier: MIT OR Apache-2.0
//! The console: commands from `run=` first, then from the serial line.

mod commands;

use crate::boot::Machine;
use crate::line::{Event, Line};
use crate::{output, print, println};

/// Shown before each command.
const PROMPT: &str = "quire> ";

/// Why a command failed.
pub type Failure = &'static str;

/// Somebody at the console.
#[derive(Debug)]
pub struct Session {
    machine: &'static Machine,
    /// What a bare `exit` returns: 1 once a command has failed.
    status: u32,
}

/// Runs the commands of `run=`, then those that are typed, until `exit`.
pub fn run(machine: &'static Machine) -> ! {
    let mut session = Session { machine, status: 0 };
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

impl Session {
    fn execute(&mut self, line: &str) {
        let (name, arguments) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let result = match commands::find(name) {
            Some(command) => (command.run)(self, arguments.trim()),
            None => Err("unknown command; try help"),
        };
        if let Err(failure) = result {
            println!("{name}: {failure}");
            self.status = 1;
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
