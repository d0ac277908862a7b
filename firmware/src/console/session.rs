// SPDX-License-Identifier: MIT OR Apache-2.0
//! Somebody at the console: what they type, and where the output of their commands goes.

use core::fmt;

use super::PROMPT;
use super::commands;
use super::screen::Screen;
use crate::boot::Machine;
use crate::line::{ASK_SIZE, Event, History, Line, Size};
use crate::log::record;
use crate::output;
use crate::pipe::{Filter, Grep, split};

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

/// Somebody at the console. Commands write to it, and hold no lock while they do: the pager may wait for a key.
#[derive(Debug)]
pub struct Session {
    machine: &'static Machine,
    /// What a bare `exit` returns: 1 once a command has failed.
    status: u32,
    line: Line,
    filter: Filter,
    screen: Screen,
    /// Commands that run commands, and how deep.
    depth: u8,
    /// Whether a person may be asked to go on, rather than `run=`.
    is_served: bool,
}

impl Session {
    pub(super) const fn new(machine: &'static Machine) -> Self {
        Self {
            machine,
            status: 0,
            line: Line::new(PROMPT, commands::candidates),
            filter: Filter::new(),
            screen: Screen::new(),
            depth: 0,
            is_served: false,
        }
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

    /// A bare `exit` returns 1 from now on.
    pub(super) const fn note_failure(&mut self) {
        self.status = 1;
    }

    /// The lines typed before.
    #[must_use]
    pub const fn history(&self) -> &History {
        self.line.history()
    }

    /// The size of the terminal, if there is one.
    #[must_use]
    pub const fn terminal(&self) -> Option<Size> {
        self.screen.size
    }

    /// Whether the command that runs should stop: for those that work for long without writing.
    pub fn is_closed(&mut self) -> bool {
        self.screen.is_closed()
    }

    /// A key, if one is pressed before the machine has been up for so many nanoseconds.
    pub fn key_until(&mut self, until_ns: u64) -> Option<u8> {
        self.screen.keyboard.key_until(until_ns)
    }

    /// Sends text to the terminal that no grep and no pager should see: escape sequences.
    pub fn show(&self, text: &str) {
        output::show(format_args!("{text}"));
    }

    /// Runs what is typed, for ever.
    pub(super) fn serve(&mut self) -> ! {
        self.is_served = true;
        let mut is_asked = false;
        loop {
            // The console's writer never fails, here and below.
            let _ = self.line.show(&mut Terminal);
            let mut nr_shown = output::nr_shown();
            loop {
                let now = crate::boot::uptime_ns();
                let Some(byte) = self.screen.keyboard.key_until(now.saturating_add(POLL_NS)) else {
                    if nr_shown != output::nr_shown() {
                        // Somebody has logged over our prompt.
                        nr_shown = output::nr_shown();
                        let _ = self.line.show(&mut Terminal);
                    }
                    continue;
                };
                if !core::mem::replace(&mut is_asked, true) {
                    output::show(format_args!("{ASK_SIZE}"));
                }
                match self.line.feed(byte, &mut Terminal) {
                    Ok(Event::Size(size)) => self.screen.size = Some(size),
                    Ok(Event::Cancelled) => break,
                    Ok(Event::Done) => {
                        let line = self.line.take();
                        self.execute_all(line.as_str());
                        break;
                    }
                    Ok(Event::Nothing) | Err(_) => {}
                }
            }
        }
    }

    /// Runs the commands of a line, with `;` between them.
    fn execute_all(&mut self, line: &str) {
        for command in split(line, b';').map(str::trim).filter(|command| !command.is_empty()) {
            self.execute(command);
        }
    }

    /// Runs a command with the greps behind it. A failure is told, and remembered for `exit`.
    pub fn execute(&mut self, line: &str) {
        if self.depth == 0 {
            self.screen.open(self.is_served);
        }
        let nr_greps = self.filter.len();
        let result = self.pipe(line);
        record!(debug, "console: {=str}: {=bool}", line, result.is_ok());
        if let Err((name, failure)) = result {
            if let Failure::Because(why) = failure {
                output::show(format_args!("{name}: {why}\n"));
                self.status = 1;
            }
        } else if self.filter.len() > nr_greps && self.filter.nr_passed() == 0 {
            // As grep: nothing found is a failure, and says so by its status alone.
            self.status = 1;
        }
        self.filter.truncate(nr_greps);
    }

    /// Runs a command that another one was given, unpaged.
    ///
    /// # Errors
    ///
    /// It is a command inside a command inside a command, or its output is not wanted any more.
    pub fn execute_inner(&mut self, line: &str) -> Result<(), Failure> {
        if self.depth > 0 {
            return Err(Failure::Because("cannot stand inside a command"));
        }
        self.screen.open(false);
        self.depth += 1;
        self.execute_all(line);
        self.depth -= 1;
        if self.screen.is_closed() { Err(Failure::Closed) } else { Ok(()) }
    }

    fn pipe<'l>(&mut self, line: &'l str) -> Result<(), (&'l str, Failure)> {
        let mut parts = split(line, b'|').map(str::trim);
        let line = parts.next().unwrap_or("");
        let (name, arguments) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let command = commands::find(name).ok_or((name, Failure::Because("unknown command; try help")))?;
        for part in parts {
            let pushed = Grep::parse(part).and_then(|grep| self.filter.push(grep));
            pushed.map_err(|why| (name, Failure::Because(why)))?;
        }
        let result = (command.run)(self, arguments.trim());
        // What it wrote before it failed is shown all the same.
        let flushed = self.filter.flush(&mut self.screen);
        result.and(flushed.map_err(Failure::from)).map_err(|failure| (name, failure))
    }
}

/// How often the prompt looks whether it is still there.
const POLL_NS: u64 = 50_000_000;

impl fmt::Write for Session {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.filter.is_empty() { self.screen.write_str(text) } else { self.filter.write(text, &mut self.screen) }
    }
}

/// Straight to the terminal.
struct Terminal;

impl fmt::Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        output::show(format_args!("{text}"));
        Ok(())
    }
}
