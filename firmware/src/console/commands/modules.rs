// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that run tests.

use core::fmt::Write;

use super::{Command, Failure, Session, Table};
use crate::memory::NR_PATTERNS;
use crate::modules;

pub(super) const TABLE: Table = Table {
    title: "Tests",
    commands: &[
        Command {
            name: "modprobe",
            arguments: "MODULE [KEY=VALUE...]",
            help: "runs a test module, as Linux's; alone, lists them and their parameters",
            run: modprobe,
        },
        Command {
            name: "memtest",
            arguments: "[N]",
            help: "writes N patterns to all free memory but the reserves and reads them back",
            run: memtest,
        },
    ],
    files: &[],
};

/// As on Linux, a test module does not stay.
fn modprobe(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let mut words = arguments.split_whitespace();
    let Some(name) = words.next() else { return list(session) };
    let module = modules::find(name).ok_or("no such module; modprobe alone lists them")?;
    let mut values = module.defaults();
    for word in words {
        let is_set = word.split_once('=').is_some_and(|(key, value)| module.set(&mut values, key, value));
        if !is_set {
            return Err(Failure::Because("the module has no such parameter, or it is no number"));
        }
    }
    Ok((module.run)(&values, &mut || session.is_closed())?)
}

fn list(session: &mut Session) -> Result<(), Failure> {
    for module in modules::all() {
        write!(session, "{}", module.name)?;
        for (name, default) in module.parameters {
            write!(session, " {name}={default}")?;
        }
        writeln!(session)?;
    }
    Ok(())
}

fn memtest(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let passes = match arguments {
        "" => NR_PATTERNS,
        number => {
            number.parse().ok().filter(|nr| (1..=1000).contains(nr)).ok_or("takes a number of patterns, 1 to 1000")?
        }
    };
    let machine = session.machine();
    let injected = machine.options.memtest_bad;
    let (tested, kept) = machine.memory.test_free(passes, injected, &mut || session.is_closed());
    writeln!(session, "{} KiB tested with {passes} patterns, {} KiB kept from use", tested / 1024, kept / 1024)?;
    if kept == 0 { Ok(()) } else { Err(Failure::Because("there is bad memory")) }
}
