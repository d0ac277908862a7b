// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stage 1 descriptors of the 4 KiB granule, as bits (Arm ARM D8.3), and what they mean in words.

use core::fmt;

use crate::addr::PhysAddr;
use crate::arch::MmuFeatures;

/// `MAIR_EL1`: what the three values of AttrIndx mean. 0 = Normal write-back, read and write allocate;
/// 1 = Device-nGnRE; 2 = Normal non-cacheable (Arm ARM D24.2.106).
pub const MAIR: u64 = 0x44_04ff;

const VALID: u64 = 1 << 0;
/// Bit 1: a table at levels 0 to 2, a page at level 3; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_SHIFT: u32 = 2;
const ATTR_INDEX: u64 = 7 << ATTR_SHIFT;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
/// Where a table descriptor counts the entries of its table that are in use: bits that the hardware ignores there
/// as long as FEAT_HAFT is off (Arm ARM D8.3.1.1).
const COUNT_SHIFT: u32 = 2;
const COUNT: u64 = 0x3ff << COUNT_SHIFT;
const CONTIGUOUS: u64 = 1 << 52;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// A bit for software (Arm ARM D8.3.1.2): see [`Descriptor::broken`].
const BROKEN: u64 = 1 << 55;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The memory type of a mapping: AttrIndx.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MemoryType {
    /// Cacheable RAM, write-back.
    Normal = 0,
    /// Registers: no gathering, no reordering, early write acknowledgement.
    DeviceNGnRE = 1,
    /// RAM that is not cached.
    NormalNonCacheable = 2,
}

/// The bits of a descriptor that permissions are in, next to each other: USER, READ_ONLY, PXN, UXN.
mod permission {
    pub(super) const USER: u8 = 1;
    pub(super) const READ_ONLY: u8 = 2;
    pub(super) const PXN: u8 = 4;
    pub(super) const UXN: u8 = 8;
}

/// Who may do what. There is no writable and executable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Access {
    /// EL1 reads.
    ReadOnly = permission::READ_ONLY | permission::PXN | permission::UXN,
    /// EL1 reads and writes.
    ReadWrite = permission::PXN | permission::UXN,
    /// EL1 reads and executes.
    ReadExecute = permission::READ_ONLY | permission::UXN,
    /// EL0 reads.
    UserReadOnly = permission::USER | permission::READ_ONLY | permission::PXN | permission::UXN,
    /// EL0 reads and writes.
    UserReadWrite = permission::USER | permission::PXN | permission::UXN,
    /// EL0 reads and executes; EL1 does not execute it.
    UserReadExecute = permission::USER | permission::READ_ONLY | permission::PXN,
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
    /// Memory that a device without a view of the caches shares.
    pub const UNCACHED: Self = Self { memory: MemoryType::NormalNonCacheable, access: Access::ReadWrite };
    /// Device registers.
    pub const DEVICE: Self = Self { memory: MemoryType::DeviceNGnRE, access: Access::ReadWrite };

    /// The attribute bits of a level 3 page descriptor; or its address in, and it is whole.
    #[must_use]
    #[inline(always)]
    pub const fn page_bits(self) -> u64 {
        let (index, access) = (self.memory as u64, self.access as u64);
        let access = ((access & 3) * USER) | ((access >> 2) * PXN);
        VALID | TABLE_OR_PAGE | (index << ATTR_SHIFT) | INNER_SHAREABLE | ACCESSED | access
    }
}

/// The translation regime that a tree is for, and what its leaves belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Regime {
    /// EL1, TTBR1: addresses whose upper 16 bits are set. Global entries.
    Upper,
    /// EL1, TTBR0: addresses from 0 up. Global entries: a kernel that is mapped low.
    Lower,
    /// EL1&0, TTBR0: addresses from 0 up. Entries of one address space.
    User(Asid),
    /// EL2 without FEAT_VHE: addresses from 0 up. No user, no ASID.
    El2,
}

/// An address space identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Asid(
    /// Up to 8 or 16 bits, see [`MmuFeatures::asid_16_bits`].
    pub u16,
);

impl Regime {
    /// The leaf bits of this regime that mean what `bits` mean at EL1: a page descriptor or an attribute part.
    #[inline(always)]
    const fn encode(self, bits: u64) -> u64 {
        match self {
            Self::Upper | Self::Lower => bits,
            Self::User(_) => bits | NOT_GLOBAL,
            Self::El2 => encode_el2(bits),
        }
    }

    /// Whether code of the regime's own exception level may run from `leaf` (leaving SCTLR.WXN aside).
    #[must_use]
    pub const fn is_executable(self, leaf: Descriptor) -> bool {
        match self {
            Self::El2 => leaf.0 & UXN == 0,
            Self::User(_) => leaf.0 & (PXN | UXN) != PXN | UXN,
            Self::Upper | Self::Lower => leaf.0 & PXN == 0,
        }
    }
}

/// XN is where UXN is; PXN is RES0 and AP[1] RES1 (Arm ARM D8.3.1.2, D8.4.2).
#[cold]
const fn encode_el2(bits: u64) -> u64 {
    if bits & PXN != 0 { bits & !PXN | UXN | USER } else { bits & !UXN | USER }
}

/// How an entry may become another one: the break-before-make rule (Arm ARM D8.16.1), in this one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// A plain write. No TLB can hold anything of the old entry, or the hardware sees no difference.
    Write,
    /// A plain write; what TLBs hold of the old entry must be invalidated before anyone relies on the new one.
    WriteThenFlush,
    /// Invalid first; then the invalidate, complete everywhere; then the new entry.
    BreakBeforeMake,
}

impl Transition {
    /// From `old` to `new` at `level`. Where one of them is a table and the other a leaf, both translate to the
    /// same.
    #[must_use]
    pub const fn between(old: Descriptor, new: Descriptor, level: usize, features: MmuFeatures) -> Self {
        if !old.is_valid() {
            return Self::Write;
        }
        if !new.is_valid() {
            return Self::WriteThenFlush;
        }
        let changed = old.0 ^ new.0;
        let size = match (old.is_table(level), new.is_table(level)) {
            (true, true) if changed & ADDRESS != 0 => return Self::BreakBeforeMake,
            (true, true) => return Self::Write,
            (true, false) | (false, true) => true,
            (false, false) if changed & (ADDRESS | ATTR_INDEX | INNER_SHAREABLE | NOT_GLOBAL) != 0 => {
                return Self::BreakBeforeMake;
            }
            (false, false) => changed & CONTIGUOUS != 0,
        };
        if size && !features.bbm_level_2 { Self::BreakBeforeMake } else { Self::WriteThenFlush }
    }
}

/// One entry of a translation table.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Descriptor(u64);

impl Descriptor {
    /// Nothing: neither a mapping nor the memory of one.
    pub const NONE: Self = Self(0);

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

    /// Points to the next level's table, which is empty.
    #[must_use]
    pub const fn table(table: PhysAddr) -> Self {
        Self(table.as_raw() & ADDRESS | VALID | TABLE_OR_PAGE)
    }

    /// A page (level 3) or a block (level 1, 2) at `phys`, for EL1 and global.
    #[must_use]
    pub const fn leaf(level: usize, phys: PhysAddr, attributes: Attributes, contiguous: bool) -> Self {
        Self::leaf_of(Regime::Upper, level, phys, attributes, contiguous)
    }

    /// A page (level 3) or a block (level 1, 2) at `phys`.
    #[must_use]
    #[inline(always)]
    pub const fn leaf_of(
        regime: Regime,
        level: usize,
        phys: PhysAddr,
        attributes: Attributes,
        contiguous: bool,
    ) -> Self {
        let page = Self(phys.as_raw() & ADDRESS | regime.encode(attributes.page_bits()));
        page.at_level(level).with_contiguous(contiguous)
    }

    /// The same leaf as a page (level 3) or as a block.
    #[must_use]
    pub(super) const fn at_level(self, level: usize) -> Self {
        if level == 3 { Self(self.0 | TABLE_OR_PAGE) } else { Self(self.0 & !TABLE_OR_PAGE) }
    }

    /// The same leaf, with or without the contiguous hint.
    #[must_use]
    pub(super) const fn with_contiguous(self, contiguous: bool) -> Self {
        if contiguous { Self(self.0 | CONTIGUOUS) } else { Self(self.0 & !CONTIGUOUS) }
    }

    /// The same leaf with other attributes.
    #[must_use]
    pub(super) const fn with_attributes(self, regime: Regime, attributes: Attributes) -> Self {
        let all = ATTR_INDEX | USER | READ_ONLY | INNER_SHAREABLE | ACCESSED | NOT_GLOBAL | PXN | UXN;
        Self(self.0 & !all | regime.encode(attributes.page_bits()) & all)
    }

    /// The same leaf, read-only or not.
    #[must_use]
    pub(super) const fn with_write(self, write: bool) -> Self {
        if write { Self(self.0 & !READ_ONLY) } else { Self(self.0 | READ_ONLY) }
    }

    /// The same leaf, executable at the regime's own level (EL0 for a user's) or not at all.
    #[must_use]
    pub(super) const fn with_execute(self, regime: Regime, execute: bool) -> Self {
        let (allow, forbid) = match regime {
            Regime::Upper | Regime::Lower => (PXN, PXN | UXN),
            Regime::User(_) => (UXN, PXN | UXN),
            Regime::El2 => (UXN, UXN),
        };
        if execute { Self(self.0 & !allow) } else { Self(self.0 | forbid) }
    }

    /// The same leaf, out of use while it is changed: see [`is_broken`](Descriptor::is_broken).
    #[must_use]
    pub(super) const fn broken(self) -> Self {
        Self(self.0 & !VALID | BROKEN)
    }

    /// Whether the entry was broken to be made anew, and is not yet.
    #[must_use]
    pub(super) const fn is_broken(self) -> bool {
        self.0 & (VALID | BROKEN) == BROKEN
    }

    /// What was broken, valid again.
    #[must_use]
    pub(super) const fn mended(self) -> Self {
        Self(self.0 & !BROKEN | VALID)
    }

    /// The same entry, used by walkers or not. What is not used still says what it was.
    #[must_use]
    pub(super) const fn with_valid(self, valid: bool) -> Self {
        if valid { Self(self.0 | VALID) } else { Self(self.0 & !VALID) }
    }

    /// How many entries of the table behind this table descriptor are in use; 1023 if nobody counts.
    #[must_use]
    pub const fn entries(self) -> usize {
        ((self.0 & COUNT) >> COUNT_SHIFT) as usize
    }

    /// The same table descriptor with another count, which no walker looks at.
    #[must_use]
    pub(super) const fn with_entries(self, entries: usize) -> Self {
        Self(self.0 & !COUNT | (entries as u64) << COUNT_SHIFT & COUNT)
    }

    /// The same table descriptor with `change` more entries in use, or fewer: never below 0, nor above 512.
    #[must_use]
    #[inline(always)]
    pub(super) const fn with_more_entries(self, change: isize) -> Self {
        Self(self.0.wrapping_add_signed((change as i64) << COUNT_SHIFT))
    }

    /// Whether the entry is free.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
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

    /// Whether the leaf is Inner Shareable.
    #[must_use]
    pub const fn is_shareable(self) -> bool {
        self.0 & INNER_SHAREABLE == INNER_SHAREABLE
    }

    /// Whether the access flag is set.
    #[must_use]
    pub const fn is_accessed(self) -> bool {
        self.0 & ACCESSED != 0
    }

    /// Whether EL0 may use this leaf.
    #[must_use]
    pub const fn is_user(self) -> bool {
        self.0 & USER != 0
    }

    /// Whether the leaf belongs to one ASID.
    #[must_use]
    pub const fn is_not_global(self) -> bool {
        self.0 & NOT_GLOBAL != 0
    }

    /// Whether EL0 may execute through this leaf; at EL2, EL2.
    #[must_use]
    pub const fn is_user_executable(self) -> bool {
        self.0 & UXN == 0
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
        let kernel = [Access::ReadOnly, Access::ReadWrite, Access::ReadExecute];
        let user = [Access::UserReadOnly, Access::UserReadWrite, Access::UserReadExecute];
        for access in kernel.into_iter().chain(user) {
            for regime in [Regime::Upper, Regime::Lower, Regime::User(Asid(1)), Regime::El2] {
                let attributes = Attributes { memory: MemoryType::Normal, access };
                let leaf = Descriptor::leaf_of(regime, 3, PhysAddr::ZERO, attributes, false);
                assert!(!(leaf.is_writable() && regime.is_executable(leaf)), "{regime:?} {access:?}");
            }
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

    /// The table of changes that need a break, as Arm ARM D8.16.1 has it.
    #[test]
    fn changes_that_need_a_break_are_those_of_the_architecture() {
        let at = |phys| PhysAddr::new(phys).unwrap();
        let features = MmuFeatures::default();
        let level_2 = MmuFeatures { bbm_level_2: true, ..features };
        let page = Descriptor::leaf(3, at(0x1000), Attributes::DATA, false);
        let block = Descriptor::leaf(2, at(0x20_0000), Attributes::DATA, false);
        let table = Descriptor::table(at(0x1000));
        let between = |old, new, level| Transition::between(old, new, level, features);
        use Transition::{BreakBeforeMake, Write, WriteThenFlush};
        assert_eq!(between(Descriptor::NONE, page, 3), Write);
        assert_eq!(between(page.with_valid(false), page, 3), Write);
        assert_eq!(between(page, Descriptor::NONE, 3), WriteThenFlush);
        assert_eq!(between(page, Descriptor::leaf(3, at(0x2000), Attributes::DATA, false), 3), BreakBeforeMake);
        assert_eq!(between(page, Descriptor::leaf(3, at(0x1000), Attributes::DEVICE, false), 3), BreakBeforeMake);
        assert_eq!(between(page, Descriptor::leaf(3, at(0x1000), Attributes::RODATA, false), 3), WriteThenFlush);
        assert_eq!(between(page, page.with_contiguous(true), 3), BreakBeforeMake);
        assert_eq!(between(page, Descriptor(page.0 | NOT_GLOBAL), 3), BreakBeforeMake);
        assert_eq!(between(block, table, 2), BreakBeforeMake);
        assert_eq!(between(table, block, 2), BreakBeforeMake);
        assert_eq!(between(table, Descriptor::table(at(0x2000)), 2), BreakBeforeMake);
        assert_eq!(between(table, table.with_entries(512), 2), Write);
        assert_eq!(Transition::between(block, table, 2, level_2), WriteThenFlush);
        assert_eq!(Transition::between(page, page.with_contiguous(true), 3, level_2), WriteThenFlush);
        let moved = Descriptor::leaf(2, at(0x40_0000), Attributes::DATA, false);
        assert_eq!(Transition::between(block, moved, 2, level_2), BreakBeforeMake);
    }

    #[test]
    fn a_table_descriptor_counts_up_to_all_entries() {
        let table = Descriptor::table(PhysAddr::new(0x1234_5000).unwrap());
        for entries in [0, 1, 511, 512] {
            let counted = table.with_entries(entries);
            assert_eq!(counted.entries(), entries);
            assert_eq!(counted.address(), table.address());
            assert!(counted.is_table(2));
        }
    }
}
