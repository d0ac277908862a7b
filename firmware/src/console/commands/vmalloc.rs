// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about vmalloc.

use core::fmt::Display;

use mm::report;

use super::{Command, Failure, File, Session, Table, none};
use crate::symbols::Code;
use crate::test_vmalloc::{self, Parameters, TestError};
use crate::vmalloc;

pub(super) const TABLE: Table = Table {
    title: "vmalloc",
    commands: &[
        Command { name: "vmallocinfo", arguments: "", help: "areas, as /proc/vmallocinfo", run: vmallocinfo },
        Command {
            name: "modprobe",
            arguments: "test_vmalloc [KEY=VALUE...]",
            help: "Linux's tests of vmalloc: run_test_mask= test_loop_count= nr_threads= ...",
            run: modprobe,
        },
        Command { name: "vpurge", arguments: "", help: "flushes what was freed and waits", run: vpurge },
    ],
    files: &[File { path: "/proc/vmallocinfo", show: |session| vmallocinfo(session, "") }],
};

fn vmallocinfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let Some(vmalloc) = vmalloc::get() else { return Ok(()) };
    for area in vmalloc.areas() {
        let code = Code::returning_to(area.caller);
        let caller = (area.caller != 0).then_some(&code as &dyn Display);
        report::vmallocinfo(session, &area, caller)?;
    }
    for (start, bytes) in vmalloc.lazy_areas() {
        report::vmallocinfo_lazy(session, start, bytes)?;
    }
    Ok(())
}

/// There is one module, and as on Linux it does not stay.
fn modprobe(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let mut words = arguments.split_whitespace();
    if words.next() != Some("test_vmalloc") {
        return Err(Failure::Because("the only module is test_vmalloc"));
    }
    let mut parameters = Parameters::DEFAULT;
    for word in words {
        let is_set = word.split_once('=').is_some_and(|(key, value)| parameters.set(key, value));
        if !is_set {
            return Err(Failure::Because("test_vmalloc has no such parameter, or it is no number"));
        }
    }
    match test_vmalloc::run(&parameters, || session.is_closed()) {
        Ok(()) => Ok(()),
        Err(TestError::NoThread) => Err(Failure::Because("no memory for the workers")),
        Err(TestError::Failed(_)) => Err(Failure::Because("a test failed, or was ended")),
    }
}

fn vpurge(_: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    vmalloc::get().into_iter().for_each(|vmalloc| vmalloc.purge());
    Ok(())
}
