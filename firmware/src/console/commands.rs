// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which commands there are. Each subsystem has a file under `commands/` with a [`Table`] of its own, named once
//! in [`TABLES`].
//!
//! A command writes to its [`Session`], a `fmt::Write`, and never straight to the console: that is what makes
//! `| grep`, the pager and `watch` work on it. Where Linux has the report, its format is Linux's.
//!
//! ```ignore
//! pub(super) const TABLE: Table = Table {
//!     title: "Timers",
//!     commands: &[Command { name: "ticks", arguments: "", help: "ticks so far", run: ticks }],
//!     files: &[File { path: "/proc/ticks", show: |session| ticks(session, "") }],
//! };
//!
//! fn ticks(session: &mut Session, arguments: &str) -> Result<(), Failure> {
//!     none(arguments)?;
//!     writeln!(session, "{}", crate::timer::ticks())?;
//!     Ok(())
//! }
//! ```

mod cpus;
mod dma;
mod log;
mod memory;
mod modules;
mod pages;
mod pgtable;
mod shell;
mod slab;
mod system;
mod vmalloc;

use super::{Failure, Session};

/// The subsystems, in the order of `help`.
static TABLES: [Table; 11] = [
    shell::TABLE,
    system::TABLE,
    cpus::TABLE,
    memory::TABLE,
    pages::TABLE,
    slab::TABLE,
    vmalloc::TABLE,
    pgtable::TABLE,
    modules::TABLE,
    dma::TABLE,
    log::TABLE,
];

/// What a subsystem adds to the console.
pub(super) struct Table {
    /// Heading in `help`.
    title: &'static str,
    commands: &'static [Command],
    /// What `cat` prints.
    files: &'static [File],
}

/// A command of the console.
pub(super) struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    /// Runs with what was typed behind the name, without white space around it.
    pub(super) run: fn(&mut Session, &str) -> Result<(), Failure>,
}

/// A report that has a path, mostly Linux's under `/proc`.
pub(super) struct File {
    path: &'static str,
    show: fn(&mut Session) -> Result<(), Failure>,
}

/// All commands.
fn all() -> impl Iterator<Item = &'static Command> {
    TABLES.iter().flat_map(|table| table.commands)
}

/// All paths.
fn files() -> impl Iterator<Item = &'static File> {
    TABLES.iter().flat_map(|table| table.files)
}

/// The command of this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    all().find(|command| command.name == name)
}

/// What could be typed behind `before`, for completion.
pub(super) fn candidates(before: &str, visit: &mut dyn FnMut(&str)) {
    let (earlier, part) = before.rsplit_once(['|', ';']).map_or(("", before), |(earlier, part)| (earlier, part));
    let is_behind_pipe = before.get(earlier.len()..).is_some_and(|rest| rest.starts_with('|'));
    let mut words = part.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (None, _) if is_behind_pipe => visit("grep"),
        (None, _) | (Some("help"), None) => all().for_each(|command| visit(command.name)),
        // A number came before; to parse it as one would add 30 KiB to the image.
        (Some("watch"), Some(seconds))
            if seconds.starts_with(|c: char| c.is_ascii_digit()) && words.next().is_none() =>
        {
            all().for_each(|command| visit(command.name));
        }
        (Some("modprobe"), None) => crate::modules::all().for_each(|module| visit(module.name)),
        (Some("modprobe"), Some(name)) => {
            let module = crate::modules::find(name);
            module.into_iter().flat_map(|module| module.parameters).for_each(|(name, _)| visit(name));
        }
        (Some("cat"), None) => files().for_each(|file| visit(file.path)),
        (Some(name), None) => {
            // Options, as the list of commands shows them.
            let arguments = find(name).map_or("", |command| command.arguments);
            let options = arguments.split(['[', ']', '|', ' ']).filter(|word| word.starts_with('-'));
            options.for_each(visit);
        }
        _ => {}
    }
}

/// For commands that take no argument.
fn none(arguments: &str) -> Result<(), Failure> {
    if arguments.is_empty() { Ok(()) } else { Err(Failure::Because("takes no argument")) }
}
