// SPDX-License-Identifier: MIT OR Apache-2.0
//! Somebody at the console, and where the output of their commands goes.

use core::fmt;

use super::commands;
use crate::boot::Machine;
use crate::output;

/// Why a command failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// To be told, behind the command's name.
    Because(&'static str),
    /// The output was not wanted any more: nothing to tell, and no failure of the command.
    Closed,
}

impl From<&'static str> for Failure {
    fn from(why: &'static str) -> Self {
        Self::Because(why)
    }
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Self::Closed
    }
}

/// Somebody at the console. Commands write to it.
#[derive(Debug)]
pub struct Session {
    machine: &'static Machine,
    /// What a bare `exit` returns: 1 once a command has failed.
    status: u32,
}

impl Session {
    pub(super) const fn new(machine: &'static Machine) -> Self {
        Self { machine, status: 0 }
    }

    /// The machine that the commands are about.
    #[must_use]
    pub const fn machine(&self) -> &'static Machine {
        self.machine
    }

    /// What a bare `exit` returns.
    #[must_use]
    pub const fn status(&self) -> u32 {
        self.status
    }

    /// Runs a line. A failure is told, and remembered for `exit`.
    pub fn execute(&mut self, line: &str) {
        let (name, arguments) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let result = match commands::find(name) {
            Some(command) => (command.run)(self, arguments.trim()),
            None => Err(Failure::Because("unknown command; try help")),
        };
        if let Err(Failure::Because(why)) = result {
            output::show(format_args!("{name}: {why}\n"));
            self.status = 1;
        }
    }
}

impl fmt::Write for Session {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        output::show(format_args!("{text}"));
        Ok(())
    }
}
