// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of every byte, and the listing of `memblock=debug`.

use core::fmt;

use super::{Memblock, ReserveFlags, Tag};
use crate::addr::PhysRange;

/// Every byte of memory: `total_bytes == free_bytes + reserved_bytes + rounding_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ledger {
    /// Bytes of memory.
    pub total_bytes: u64,
    /// Bytes in whole free frames.
    pub free_bytes: u64,
    /// Bytes of memory with an owner; [`Memblock::reserved_bytes`] tells them by owner.
    pub reserved_bytes: u64,
    /// Bytes that nobody owns but that share their frame with something reserved or absent.
    pub rounding_bytes: u64,
}

impl Memblock {
    /// Adds it all up.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger {
            total_bytes: self.memory().iter().map(|region| region.range.size()).sum(),
            reserved_bytes: self.reserved_memory().map(|region| region.range.size()).sum(),
            ..Ledger::default()
        };
        for region in self.free_bytes() {
            let in_frames = region.range.frames_inside().size();
            ledger.free_bytes += in_frames;
            ledger.rounding_bytes += region.range.size() - in_frames;
        }
        ledger
    }

    /// Bytes of memory that `tag` owns. O(regions).
    #[must_use]
    pub fn reserved_bytes(&self, tag: Tag) -> u64 {
        self.reserved_memory().filter(|region| region.tag == tag).map(|region| region.range.size()).sum()
    }

    /// Lists both arrays, a region a line, last addresses inclusive as in Linux's `memblock=debug`;
    /// `name` writes what a tag stands for.
    ///
    /// # Errors
    ///
    /// Those of `w`.
    pub fn dump<W: fmt::Write>(&self, w: &mut W, mut name: impl FnMut(Tag, &mut W) -> fmt::Result) -> fmt::Result {
        let ledger = self.ledger();
        writeln!(
            w,
            "memblock: memory {:#x} bytes, free {:#x}, reserved {:#x}, lost to rounding {:#x}",
            ledger.total_bytes, ledger.free_bytes, ledger.reserved_bytes, ledger.rounding_bytes
        )?;
        for (index, region) in self.memory().iter().enumerate() {
            write_range(w, "memory", index, region.range)?;
            writeln!(w, " node {}", region.node)?;
        }
        for (index, region) in self.reserved().iter().enumerate() {
            write_range(w, "reserved", index, region.range)?;
            w.write_char(' ')?;
            name(region.tag, w)?;
            for (flag, word) in [(ReserveFlags::NOMAP, " no-map"), (ReserveFlags::REUSABLE, " reusable")] {
                if region.flags.contains(flag) {
                    w.write_str(word)?;
                }
            }
            w.write_char('\n')?;
        }
        Ok(())
    }
}

fn write_range<W: fmt::Write>(w: &mut W, list: &str, index: usize, range: PhysRange) -> fmt::Result {
    let (start, end) = (range.start().as_raw(), range.end().as_raw());
    write!(w, " {list:>8}[{index}]\t[{start:#018x}-{:#018x}], {:#x} bytes", end.saturating_sub(1), range.size())
}
