// SPDX-License-Identifier: MIT OR Apache-2.0
//! A walk of the translation tables, entry by entry, as the hardware would do it: for reports.
//!
//! It takes no lock, since the holder may be what failed: the tables may change underneath, so each entry
//! is told as it was when it was read, and nothing is concluded from two of them.

use core::fmt;

use mm::addr::{PhysAddr, VirtAddr};
use mm::pgtable::{Descriptor, ENTRIES, level_size};

/// The last level.
const PAGE_LEVEL: usize = 3;

/// One entry on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// 0 to 3.
    pub level: usize,
    /// The table that the entry is in.
    pub table: PhysAddr,
    /// Its number.
    pub index: usize,
    /// The entry; `None` if the table could not be read.
    pub descriptor: Option<Descriptor>,
}

/// The entries that translate `virt`, from `root` (level 0, 4 KiB granule) down to the first that is no table.
///
/// `load` reads an entry of a table, or tells that it cannot.
pub fn walk(
    root: PhysAddr,
    virt: VirtAddr,
    mut load: impl FnMut(PhysAddr, usize) -> Option<u64>,
) -> impl Iterator<Item = Step> {
    let mut next = Some((root, 0));
    core::iter::from_fn(move || {
        let (table, level) = next?;
        let index = (virt.as_raw() / level_size(level)) as usize % ENTRIES;
        let descriptor = load(table, index).map(Descriptor::from_raw);
        let below = descriptor.filter(|descriptor| descriptor.is_table(level)).map(Descriptor::address);
        next = below.map(|table| (table, level + 1));
        Some(Step { level, table, index, descriptor })
    })
}

impl Step {
    /// Whether the walk ends here with an address.
    #[must_use]
    pub fn is_leaf(self) -> bool {
        self.descriptor.is_some_and(|descriptor| {
            let page = descriptor.as_raw() & 2 != 0;
            // At level 0 there are no blocks, and at level 3 a block's encoding is reserved.
            descriptor.is_valid() && if self.level == PAGE_LEVEL { page } else { self.level > 0 && !page }
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {} entry {:>3} of the table at {:?}: ", self.level, self.index, self.table)?;
        let Some(descriptor) = self.descriptor else { return f.write_str("not readable") };
        let raw = descriptor.as_raw();
        write!(f, "{raw:#018x} ")?;
        if descriptor.is_table(self.level) {
            // Bits that a table passes on to all below it.
            let limits = [(1 << 59, "PXNTable"), (1 << 60, "UXNTable"), (1 << 62, "RO"), (1 << 63, "NS")];
            write!(f, "table at {:?}", descriptor.address())?;
            return limits.iter().filter(|limit| raw & limit.0 != 0).try_for_each(|limit| write!(f, " {}", limit.1));
        }
        if !self.is_leaf() {
            return f.write_str(if descriptor.is_valid() { "reserved, as if invalid" } else { "invalid" });
        }
        let kind = if self.level == PAGE_LEVEL { "page" } else { "block" };
        write!(f, "{kind} at {:?}: {descriptor}", descriptor.address())?;
        let sharing = match raw >> 8 & 3 {
            0 => " non-shareable",
            2 => " outer shareable",
            3 => " inner shareable",
            _ => "",
        };
        f.write_str(sharing)?;
        let flags = [(1 << 6, "EL0"), (1 << 11, "nG"), (1 << 51, "DBM"), (1 << 52, "contiguous")];
        flags.iter().filter(|flag| raw & flag.0 != 0).try_for_each(|flag| write!(f, " {}", flag.1))?;
        f.write_str(if raw >> 10 & 1 == 0 { " not accessed" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use mm::pgtable::Attributes;

    use super::*;

    fn at(raw: u64) -> PhysAddr {
        PhysAddr::new(raw).unwrap()
    }

    /// One table a level, at 0x1000, 0x2000, 0x3000, 0x4000, all with the same entry everywhere.
    fn tables(entries: [u64; 4]) -> impl FnMut(PhysAddr, usize) -> Option<u64> {
        move |table, _| entries.get(usize::try_from(table.as_raw() >> 12).ok()?.checked_sub(1)?).copied()
    }

    #[test]
    fn a_walk_goes_down_to_the_page() {
        let page = Descriptor::leaf(3, at(0x8000_5000), Attributes::DATA, true).as_raw();
        let virt = VirtAddr::new(0xffff_ffff_8040_3123);
        let steps: Vec<_> = walk(at(0x1000), virt, tables([0x2003, 0x3003, 0x4003, page])).collect();
        assert_eq!(steps.iter().map(|step| step.index).collect::<Vec<_>>(), [511, 510, 2, 3]);
        assert_eq!(steps.iter().map(|step| step.level).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(steps[3].is_leaf() && !steps[2].is_leaf());
        let text = steps[3].to_string();
        assert!(text.contains("RW NX Normal inner shareable contiguous"), "{text}");
        assert!(steps[0].to_string().contains("0x0000000000002003 table at"));
    }

    #[test]
    fn a_walk_ends_at_a_block_and_at_nothing() {
        let block = Descriptor::leaf(2, at(0x4020_0000), Attributes::RODATA, false).as_raw();
        let virt = VirtAddr::new(0);
        let steps: Vec<_> = walk(at(0x1000), virt, tables([0x2003, 0x3003, block, 0])).collect();
        assert_eq!(steps.len(), 3);
        assert!(steps[2].to_string().contains("block at") && steps[2].to_string().contains("RO NX Normal"));
        let steps: Vec<_> = walk(at(0x1000), virt, tables([0x2003, 0, 0, 0])).collect();
        assert_eq!(steps.len(), 2);
        assert!(steps[1].to_string().ends_with("0x0000000000000000 invalid"));
    }

    #[test]
    fn what_is_reserved_or_unreadable_ends_a_walk() {
        let virt = VirtAddr::new(0);
        // A block at level 0, and one at level 3.
        for (entries, length) in [([0x8001, 0, 0, 0], 1), ([0x2003, 0x3003, 0x4003, 0x8401], 4)] {
            let steps: Vec<_> = walk(at(0x1000), virt, tables(entries)).collect();
            assert_eq!(steps.len(), length);
            assert!(steps[length - 1].to_string().ends_with("reserved, as if invalid"));
        }
        let steps: Vec<_> = walk(at(0x9000), virt, tables([0; 4])).collect();
        assert_eq!(steps.len(), 1);
        assert!(steps[0].to_string().ends_with("not readable"));
        // A tree that leads back to itself ends all the same.
        assert_eq!(walk(at(0x1000), virt, |_, _| Some(0x1003)).count(), 4);
    }
}
