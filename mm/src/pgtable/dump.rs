// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is mapped, in the format of Linux's `kernel_page_tables` on arm64; and the W^X check.
//!
//! ```text
//!   ---[ Linear Mapping start ]---
//!   0xffff000040000000-0xffff000040200000           2M PMD     RW NX SHD AF        BLK UXN MEM/NORMAL
//! ```
//!
//! A line is a run of leaves of one level with the same attributes, wherever they lead.

use core::fmt;

use super::{Descriptor, Leaf, Leaves, PageTable, Regime};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::arch::Arch;

/// A name for the addresses from here on, as in Linux's address markers.
#[derive(Clone, Copy, Debug)]
pub struct Marker<'a> {
    /// The first address.
    pub start: VirtAddr,
    /// What it is.
    pub name: &'a str,
}

/// Pages that break the rule, as Linux's `ptdump_check_wx` counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WxReport {
    /// Pages that are writable and executable.
    pub pages: u64,
    /// The first of them.
    pub first: Option<VirtAddr>,
}

impl WxReport {
    fn look_at(&mut self, leaf: Leaf, regime: Regime) {
        if leaf.descriptor.is_writable() && regime.is_executable(leaf.descriptor) {
            self.pages += leaf.size() / PAGE_SIZE;
            self.first = self.first.or(Some(leaf.virt));
        }
    }
}

impl fmt::Display for WxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            None => write!(f, "Checked W+X mappings: passed, no W+X pages found"),
            Some(first) => {
                write!(f, "Checked W+X mappings: FAILED, {} W+X pages found, the first at {first:?}", self.pages)
            }
        }
    }
}

impl<A: Arch> PageTable<A> {
    /// Looks for pages that are writable and executable. Complexity: one load per entry of every table.
    #[must_use]
    pub fn check_wx(&self) -> WxReport {
        let mut report = WxReport::default();
        self.leaves().for_each(|leaf| report.look_at(leaf, self.regime));
        report
    }

    /// Writes all regions, each under the last of `markers` (ascending) that it lies behind.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn dump(&self, out: &mut impl fmt::Write, markers: &[Marker<'_>]) -> fmt::Result {
        let mut markers = markers.iter().peekable();
        let mut leaves = Leaves::new(self).peekable();
        while let Some(first) = leaves.next() {
            while let Some(marker) = markers.next_if(|marker| marker.start <= first.virt) {
                writeln!(out, "---[ {} ]---", marker.name)?;
            }
            let (mut last, mut size) = (first, first.size());
            let next_marker = markers.peek().map(|marker| marker.start);
            while let Some(next) =
                leaves.next_if(|next| is_like(last, *next) && next_marker.is_none_or(|at| next.virt < at))
            {
                last = next;
                size += next.size();
            }
            region(out, first, size)?;
        }
        markers.try_for_each(|marker| writeln!(out, "---[ {} ]---", marker.name))
    }
}

fn is_like(last: Leaf, next: Leaf) -> bool {
    last.level == next.level
        && last.virt.checked_add(last.size()) == Some(next.virt)
        && last.descriptor.attribute_bits() == next.descriptor.attribute_bits()
}

fn region(out: &mut impl fmt::Write, first: Leaf, size: u64) -> fmt::Result {
    let start = first.virt.as_raw();
    let (count, unit) = match size {
        size if size.is_multiple_of(1 << 30) => (size >> 30, 'G'),
        size if size.is_multiple_of(1 << 20) => (size >> 20, 'M'),
        size => (size >> 10, 'K'),
    };
    let level = match first.level {
        1 => "PUD",
        2 => "PMD",
        _ => "PTE",
    };
    let end = start.wrapping_add(size);
    write!(out, "{start:#018x}-{end:#018x}   {count:>9}{unit} {level}")?;
    writeln!(out, "{}", Bits(first.level, first.descriptor))
}

/// The attribute columns.
struct Bits(usize, Descriptor);

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(level, leaf) = *self;
        let or_blank = |yes: bool, text: &'static str| if yes { text } else { "   " };
        write!(f, " {}", or_blank(leaf.is_user(), "USR"))?;
        write!(f, " {}", if leaf.is_writable() { "RW" } else { "ro" })?;
        write!(f, " {}", if leaf.is_executable() { "x " } else { "NX" })?;
        write!(f, " {}", or_blank(leaf.is_shareable(), "SHD"))?;
        write!(f, " {}", if leaf.is_accessed() { "AF" } else { "  " })?;
        write!(f, " {}", if leaf.is_not_global() { "NG" } else { "  " })?;
        write!(f, " {}", or_blank(leaf.is_contiguous(), "CON"))?;
        write!(f, " {}", or_blank(level != 3, "BLK"))?;
        write!(f, " {}", or_blank(!leaf.is_user_executable(), "UXN"))?;
        let memory = match leaf.memory_name() {
            "Normal" => "MEM/NORMAL",
            "Normal-NC" => "MEM/NORMAL-NC",
            "Device-nGnRE" => "DEVICE/nGnRE",
            other => other,
        };
        write!(f, " {memory}")
    }
}
