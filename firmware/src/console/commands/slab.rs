// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the slab. Formats are Linux's and procps', written by `mm::slab::report`.

use core::fmt::Write;

use arrayvec::ArrayVec;
use mm::slab::report::{self, SortKey};
use mm::slab::{CacheInfo, Debug};

use super::{Command, Failure, File, Session, Table, none};
use crate::boot::uptime_ns;
use crate::slab::{KernelSlab, slab};

pub(super) const TABLE: Table = Table {
    title: "Slab",
    commands: &[
        Command {
            name: "slabinfo",
            arguments: "[-v]",
            help: "caches, as /proc/slabinfo; -v checks objects",
            run: slabinfo,
        },
        Command {
            name: "slabtop",
            arguments: "[-o] [-d N] [-s KEY]",
            help: "caches, live, as procps' slabtop",
            run: slabtop,
        },
        Command { name: "kmem", arguments: "", help: "who allocated what is in use (slub_debug=U)", run: kmem },
    ],
    files: &[File { path: "/proc/slabinfo", show: |session| slabinfo(session, "") }],
};

/// Most caches that are shown.
const MAX_CACHES: usize = 96;
/// Rows that are no caches: procps' head and the line of keys.
const HEAD_ROWS: usize = 8;
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

fn machine_slab() -> Result<&'static KernelSlab, Failure> {
    slab().ok_or(Failure::Because("there is no slab"))
}

fn slabinfo(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    if arguments == "-v" {
        let found = machine_slab()?.validate();
        writeln!(session, "{found} objects are damaged")?;
        return if found == 0 { Ok(()) } else { Err(Failure::Because("the reports are in the log")) };
    }
    none(arguments)?;
    Ok(report::slabinfo(session, machine_slab()?.caches())?)
}

/// What `slabtop` was asked for.
struct Top {
    once: bool,
    seconds: u64,
    key: SortKey,
}

impl Top {
    fn read(arguments: &str) -> Result<Self, Failure> {
        let mut top = Self { once: false, seconds: 3, key: SortKey::default() };
        let mut words = arguments.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "-o" => top.once = true,
                "-d" => {
                    let seconds = words.next().and_then(|word| word.parse().ok()).filter(|nr| (1..=3600).contains(nr));
                    top.seconds = seconds.ok_or("-d takes seconds, 1 to 3600")?;
                }
                "-s" => {
                    let letter = words.next().and_then(|word| word.chars().next());
                    top.key = letter.and_then(SortKey::from_letter).ok_or("-s takes one of a b c l n o p s u v")?;
                }
                _ => return Err(Failure::Because("takes -o, -d SECONDS and -s KEY")),
            }
        }
        Ok(top)
    }
}

fn slabtop(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    let mut top = Top::read(arguments)?;
    loop {
        let start = uptime_ns();
        let mut caches: ArrayVec<CacheInfo, MAX_CACHES> = machine_slab()?.caches().take(MAX_CACHES).collect();
        top.key.sort(&mut caches);
        let Some(size) = session.terminal().filter(|_| !top.once) else {
            // Without a terminal once is enough.
            return Ok(report::slabtop(session, &caches, caches.len())?);
        };
        session.show(CLEAR_SCREEN);
        report::slabtop(session, &caches, usize::from(size.rows).saturating_sub(HEAD_ROWS))?;
        let until = start.saturating_add(top.seconds.saturating_mul(1_000_000_000));
        match session.key_until(until).map(char::from) {
            Some('q' | 'Q' | '\x03' | '\x1b') => return Ok(()),
            Some(letter) => top.key = SortKey::from_letter(letter).unwrap_or(top.key),
            None => {}
        }
    }
}

fn kmem(session: &mut Session, arguments: &str) -> Result<(), Failure> {
    none(arguments)?;
    let slab = machine_slab()?;
    if !slab.settings().debug.of("kmalloc-64").contains(Debug::OWNER) {
        return Err(Failure::Because("owners are tracked with slub_debug=U on the command line"));
    }
    let mut sites = [None; 64];
    let (_, left_out) = slab.call_sites(&mut sites);
    let sites: ArrayVec<_, 64> = sites.into_iter().flatten().collect();
    Ok(report::kmem(session, &sites, left_out)?)
}
