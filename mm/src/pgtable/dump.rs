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

use super::{Descriptor, Leaf, PageTable, Regime};
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

    /// The regions from the one that has `virt`, or else the next one, on; none reaches over the
    /// start of one of `markers`.
    pub fn regions_from(&self, virt: VirtAddr, markers: &[Marker<'_>]) -> impl Iterator<Item = Region> {
        let mut leaves = self.leaves_from(virt).peekable();
        core::iter::from_fn(move || {
            let first = leaves.next()?;
            let (mut last, mut size) = (first, first.size());
            let border = markers.iter().map(|marker| marker.start).find(|&start| start > first.virt);
            while let Some(next) = leaves.next_if(|next| is_like(last, *next) && border.is_none_or(|at| next.virt < at))
            {
                last = next;
                size += next.size();
            }
            Some(Region { first, size })
        })
    }

    /// Writes all regions, each under the last of `markers` (ascending) that it lies behind.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn dump(&self, out: &mut impl fmt::Write, markers: &[Marker<'_>]) -> fmt::Result {
        let mut last = None;
        for region in self.regions_from(VirtAddr::new(0), markers) {
            write_markers(out, markers, last, Some(region.start()))?;
            writeln!(out, "{region}")?;
            last = Some(region.start());
        }
        write_markers(out, markers, last, None)
    }
}

/// Writes the names of what begins behind `after` and not behind `until`.
///
/// # Errors
///
/// Those of `out`.
pub fn write_markers(
    out: &mut impl fmt::Write,
    markers: &[Marker<'_>],
    after: Option<VirtAddr>,
    until: Option<VirtAddr>,
) -> fmt::Result {
    let is_due = |marker: &&Marker<'_>| {
        after.is_none_or(|after| marker.start > after) && until.is_none_or(|until| marker.start <= until)
    };
    markers.iter().filter(is_due).try_for_each(|marker| writeln!(out, "---[ {} ]---", marker.name))
}

fn is_like(last: Leaf, next: Leaf) -> bool {
    last.level == next.level
        && last.virt.checked_add(last.size()) == Some(next.virt)
        && last.descriptor.attribute_bits() == next.descriptor.attribute_bits()
}

/// A run of leaves of one level with the same attributes.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    first: Leaf,
    size: u64,
}

impl Region {
    /// The first address.
    #[must_use]
    pub const fn start(self) -> VirtAddr {
        self.first.virt
    }

    /// One past the last address; `None` if that is the end of all addresses.
    #[must_use]
    pub const fn end(self) -> Option<VirtAddr> {
        self.first.virt.checked_add(self.size)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.first.virt.as_raw();
        let (count, unit) = match self.size {
            size if size.is_multiple_of(1 << 30) => (size >> 30, 'G'),
            size if size.is_multiple_of(1 << 20) => (size >> 20, 'M'),
            size => (size >> 10, 'K'),
        };
        let level = match self.first.level {
            1 => "PUD",
            2 => "PMD",
            _ => "PTE",
        };
        let end = start.wrapping_add(self.size);
        write!(f, "{start:#018x}-{end:#018x}   {count:>9}{unit} {level}")?;
        Bits(self.first.level, self.first.descriptor).fmt(f)
    }
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
