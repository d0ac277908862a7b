// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stage 1 descriptors of the 4 KiB granule, as bits (Arm ARM D8.3), and what they mean in words.

use core::fmt;

use crate::addr::PhysAddr;

/// `MAIR_EL1`: what the three values of AttrIndx mean. 0 = Normal write-back, read and write allocate;
/// 1 = Device-nGnRE; 2 = Normal non-cacheable (Arm ARM D24.2.106).
pub const MAIR: u64 = 0x44_04ff;

const VALID: u64 = 1 << 0;
/// Bit 1: a table at levels 0 to 2, a page at level 3; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_SHIFT: u32 = 2;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const CONTIGUOUS: u64 = 1 << 52;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The memory type of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryType {
    /// Cacheable RAM, write-back.
    Normal,
    /// Registers: no gathering, no reordering, early write acknowledgement.
    DeviceNGnRE,
    /// RAM that is not cached.
    NormalNonCacheable,
}

/// Who may do what. There is no writable and executable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// EL1 reads.
    ReadOnly,
    /// EL1 reads and writes.
    ReadWrite,
    /// EL1 reads and executes.
    ReadExecute,
}

/// Everything a leaf descriptor says besides its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Memory type.
    pub memory: MemoryType,
    /// Permissions.
    pub access: Access,
}

impl Attributes {
    /// Kernel text.
    pub const TEXT: Self = Self { memory: MemoryType::Normal, access: Access::ReadExecute };
    /// Constants.
    pub const RODATA: Self = Self { memory: MemoryType::Normal, access: Access::ReadOnly };
    /// Data, stacks, the direct map.
    pub const DATA: Self = Self { memory: MemoryType::Normal, access: Access::ReadWrite };
    /// Device registers.
    pub const DEVICE: Self = Self { memory: MemoryType::DeviceNGnRE, access: Access::ReadWrite };

    /// The attribute bits of a level 3 page descriptor; or its address in, and it is whole.
    #[must_use]
    pub const fn page_bits(self) -> u64 {
        let index = match self.memory {
            MemoryType::Normal => 0,
            MemoryType::DeviceNGnRE => 1,
            MemoryType::NormalNonCacheable => 2,
        };
        let access = match self.access {
            Access::ReadOnly => READ_ONLY | PXN,
            Access::ReadWrite => PXN,
            Access::ReadExecute => READ_ONLY,
        };
        VALID | TABLE_OR_PAGE | (index << ATTR_SHIFT) | INNER_SHAREABLE | ACCESSED | UXN | access
    }
}

/// One entry of a translation table.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Descriptor(u64);

impl Descriptor {
    /// An entry as it stands in memory.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Points to the next level's table.
    #[must_use]
    pub const fn table(table: PhysAddr) -> Self {
        Self(table.as_raw() & ADDRESS | VALID | TABLE_OR_PAGE)
    }

    /// A page (level 3) or a block (level 1, 2) at `phys`.
    #[must_use]
    pub const fn leaf(level: usize, phys: PhysAddr, attributes: Attributes, contiguous: bool) -> Self {
        let mut bits = phys.as_raw() & ADDRESS | attributes.page_bits();
        if level != 3 {
            bits &= !TABLE_OR_PAGE;
        }
        if contiguous {
            bits |= CONTIGUOUS;
        }
        Self(bits)
    }

    /// Whether a walker would use this entry.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether this valid entry of `level` points to another table.
    #[must_use]
    pub const fn is_table(self, level: usize) -> bool {
        level < 3 && self.0 & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
    }

    /// Whether the entry is one of an aligned group of 16 that may share a TLB entry.
    #[must_use]
    pub const fn is_contiguous(self) -> bool {
        self.0 & CONTIGUOUS != 0
    }

    /// The output address, or the next table's.
    #[must_use]
    pub const fn address(self) -> PhysAddr {
        PhysAddr::new_saturating(self.0 & ADDRESS)
    }

    /// The same leaf with another output address: what two neighbours of one mapping have in common.
    #[must_use]
    pub const fn attribute_bits(self) -> u64 {
        self.0 & !ADDRESS
    }

    /// Whether EL1 may write through this leaf.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & READ_ONLY == 0
    }

    /// Whether EL1 may execute through this leaf (leaving SCTLR_EL1.WXN aside).
    #[must_use]
    pub const fn is_executable(self) -> bool {
        self.0 & PXN == 0
    }

    /// The name of the memory type.
    #[must_use]
    pub const fn memory_name(self) -> &'static str {
        match (self.0 >> ATTR_SHIFT) & 7 {
            0 => "Normal",
            1 => "Device-nGnRE",
            2 => "Normal-NC",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = if self.is_writable() { "RW" } else { "RO" };
        let execute = if self.is_executable() { "X " } else { "NX" };
        write!(f, "{write} {execute} {}", self.memory_name())
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "desc:{:#018x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_attributes_are_both_writable_and_executable() {
        for access in [Access::ReadOnly, Access::ReadWrite, Access::ReadExecute] {
            let attributes = Attributes { memory: MemoryType::Normal, access };
            let leaf = Descriptor::leaf(3, PhysAddr::ZERO, attributes, false);
            assert!(!(leaf.is_writable() && leaf.is_executable()), "{access:?}");
        }
    }

    #[test]
    fn bits_are_those_of_the_architecture() {
        assert_eq!(Attributes::DATA.page_bits(), 0x0060_0000_0000_0703);
        assert_eq!(Attributes::TEXT.page_bits(), 0x0040_0000_0000_0783);
        assert_eq!(Attributes::DEVICE.page_bits(), 0x0060_0000_0000_0707);
        let block = Descriptor::leaf(2, PhysAddr::new(0x4020_0000).unwrap(), Attributes::RODATA, true);
        assert_eq!(block.as_raw(), 0x0070_0000_4020_0781);
        assert!(!block.is_table(2));
        assert!(Descriptor::table(PhysAddr::new(0x1000).unwrap()).is_table(0));
    }
}
