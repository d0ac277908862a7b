// SPDX-License-Identifier: MIT OR Apache-2.0
//! How structured records show addresses and ranges: as their `Debug` does, without the digit groups.

use defmt::{Format, Formatter, write};

use crate::addr::{Order, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};

impl Format for PhysAddr {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "pa:{=u64:#x}", self.as_raw());
    }
}

impl Format for VirtAddr {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "va:{=u64:#x}", self.as_raw());
    }
}

impl Format for Pfn {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "pfn:{=u64:#x}", self.as_raw());
    }
}

impl Format for Order {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "order {=u8}", self.as_usize() as u8);
    }
}

impl Format for PhysRange {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "{}..{}", self.start(), self.end());
    }
}

impl Format for VirtRange {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "{}..{}", self.start(), self.end());
    }
}
