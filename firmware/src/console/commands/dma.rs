// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about memory for devices.

use core::fmt::Write;

use mm::addr::{Order, PAGE_SIZE};
use mm::dma::{Held, Kind};
use mm::gfp::Gfp;

use super::{Command, Failure, Session, Table};
use crate::dma;

pub(super) const TABLE: Table = Table {
    title: "Memory for devices",
    commands: &[
        Command {
            name: "dmainfo",
            arguments: "[-v|shrink]",
            help: "pools, bounce buffers, devices; -v what they have; shrink gives back what is unused",
            run: dmainfo,
        },
        Command {
            name: "cma",
            arguments: "[test PAGES]",
            help: "the contiguous memory area; test takes so many pages and gives them back",
            run: cma,
        },
    ],
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

fn cma(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let cma = dma::cma().ok_or("there is no contiguous memory area: cma=64M makes one")?;
    let mut words = arguments.split_whitespace();
    match (words.next(), words.next().map(str::parse::<u64>)) {
        (None, _) => {}
        (Some("test"), Some(Ok(pages))) => {
            let range = match cma.alloc(pages, Order::ZERO, Gfp::KERNEL) {
                Ok(range) => range,
                Err(error) => {
                    writeln!(session, "{error}")?;
                    return Err(Failure::Because("the pages cannot be had"));
                }
            };
            writeln!(session, "took {range}")?;
            cma.free(range).map_err(|_| Failure::Because("the pages cannot be given back"))?;
        }
        _ => return Err(Failure::Because("takes nothing, or test PAGES")),
    }
    let usage = cma.usage();
    let all = usage.range.size() / PAGE_SIZE;
    writeln!(session, "{}: {all} pages, {} taken, {} lent or hoarded", usage.range, usage.used_pages, {
        all.saturating_sub(usage.used_pages + session.machine().memory.pages.cma_free_pages())
    })?;
    writeln!(session, "{} allocations, {} failed", usage.allocated, usage.failed)?;
    if let Some(pfn) = usage.blocked_by {
        writeln!(session, "the last page in the way was {:#x}", pfn.addr().as_raw())?;
    }
    Ok(())
}

fn line(session: &mut Session, held: &Held) -> core::fmt::Result {
    let Held { device, phys, bytes, direction, kind, is_bounced, caller } = *held;
    let kind = if kind == Kind::Coherent { "coherent" } else { direction.name() };
    let bounced = if is_bounced { " bounced" } else { "" };
    writeln!(session, "  {device:<18} {:#012x} {bytes:>8} {kind}{bounced} {caller}", phys.as_raw())
}
