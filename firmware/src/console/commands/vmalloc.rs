// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about vmalloc.

use core::fmt::Display;

use mm::report;

use super::{Command, Failure, File, Session, Table, none};
use crate::symbols::Code;
use crate::vmalloc;

pub(super) const TABLE: Table = Table {
    title: "vmalloc",
    commands: &[
        Command { name: "vmallocinfo", arguments: "", help: "areas, as /proc/vmallocinfo", run: vmallocinfo },
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

fn vpurge(_: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    vmalloc::get().into_iter().for_each(|vmalloc| vmalloc.purge());
    Ok(())
}
