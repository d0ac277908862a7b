// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about memory for devices.

use core::fmt::Write;

use mm::dma::{Held, Kind};

use super::{Command, Failure, Session, Table};
use crate::dma;

pub(super) const TABLE: Table = Table {
    title: "Memory for devices",
    commands: &[Command {
        name: "dmainfo",
        arguments: "[-v|shrink]",
        help: "pools, bounce buffers, devices; -v what they have; shrink gives back what is unused",
        run: dmainfo,
    }],
    files: &[],
};

fn dmainfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let Some(mapper) = dma::mapper() else { return Ok(()) };
    let is_verbose = match arguments {
        "" => false,
        "-v" => true,
        "shrink" => {
            writeln!(session, "{} pages went back", mapper.shrink())?;
            return Ok(());
        }
        _ => return Err(Failure::Because("takes -v or shrink")),
    };
    let usage = mapper.usage();
    let kb = |bytes: u64| bytes / 1024;
    writeln!(session, "granule:   {:>8} bytes", mapper.granule())?;
    writeln!(
        session,
        "coherent:  {:>8} kB, {} kB free, {} kB taken after boot",
        kb(usage.pool_bytes),
        kb(usage.pool_free_bytes),
        kb(usage.grown_bytes)
    )?;
    writeln!(
        session,
        "bounce:    {:>8} kB, {} kB in use, at most {} kB",
        kb(usage.bounce_bytes),
        kb(usage.bounce_used_bytes),
        kb(usage.bounce_most_bytes)
    )?;
    writeln!(session, "mappings:  {:>8}, {} kB to remember all", usage.mappings, kb(usage.metadata_bytes))?;
    for device in mapper.devices() {
        writeln!(
            session,
            "{:<20} coherent {} ({} kB), mapped {} ({} kB), {} bounced",
            device.name,
            device.coherent.0,
            kb(device.coherent.1),
            device.streaming.0,
            kb(device.streaming.1),
            device.bounced
        )?;
    }
    if is_verbose {
        let mut result = Ok(());
        mapper.for_each_held(|held| result = result.and_then(|()| line(session, held)));
        result?;
    }
    Ok(())
}

fn line(session: &mut Session, held: &Held) -> core::fmt::Result {
    let Held { device, phys, bytes, direction, kind, is_bounced, caller } = *held;
    let kind = if kind == Kind::Coherent { "coherent" } else { direction.name() };
    let bounced = if is_bounced { " bounced" } else { "" };
    writeln!(session, "  {device:<18} {:#012x} {bytes:>8} {kind}{bounced} {caller}", phys.as_raw())
}
