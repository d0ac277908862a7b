// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a CPU may keep of the tables: leaves, and pointers to tables; which of them a TLB must never hold together.

use crate::addr::PAGE_SIZE;
use crate::arch::MmuFeatures;

/// The translation regime and ASID that a root is installed for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Installed {
    /// EL1&0, TTBR1: addresses whose upper bits are set.
    Upper,
    /// EL1&0, TTBR0, global entries.
    Lower,
    /// EL1&0, TTBR0, entries of this ASID.
    Asid(u16),
    /// EL2.
    El2,
}

impl Installed {
    pub(super) const fn is_el2(self) -> bool {
        matches!(self, Self::El2)
    }

    pub(super) const fn base(self) -> u64 {
        match self {
            Self::Upper => 0xffff << 48,
            _ => 0,
        }
    }
}

pub(super) const fn level_size(level: u8) -> u64 {
    PAGE_SIZE << (9 * (3 - level))
}

pub(super) const VALID: u64 = 1;
pub(super) const TABLE: u64 = 2;
pub(super) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
pub(super) const CONTIGUOUS: u64 = 1 << 52;
const NOT_GLOBAL: u64 = 1 << 11;
/// AP, AF, PXN, UXN: may be changed without a break.
pub(super) const PERMISSIONS: u64 = 3 << 6 | 1 << 10 | 3 << 53;
/// AttrIndx, SH, nG.
pub(super) const ATTRIBUTES: u64 = 7 << 2 | 3 << 8 | NOT_GLOBAL;

/// A cached leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    pub(super) space: Installed,
    pub(super) virt: u64,
    pub(super) size: u64,
    pub(super) level: u8,
    /// The descriptor's meaning: output address of `virt`, attributes, permissions, contiguous hint.
    pub(super) descriptor: u64,
    /// Which CPUs have an incomplete invalidate that hits this, a bit each.
    pub(super) dying: u64,
}

impl Leaf {
    pub(super) const fn is_global(&self) -> bool {
        self.descriptor & NOT_GLOBAL == 0
    }

    pub(super) const fn covers(&self, virt: u64) -> bool {
        virt.wrapping_sub(self.virt) < self.size
    }

    pub(super) const fn output(&self, virt: u64) -> u64 {
        (self.descriptor & ADDRESS) + (virt - self.virt)
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        Self { dying: 0, ..*self } == Self { dying: 0, ..*other }
    }

    /// Whether a TLB must never hold both.
    pub(super) fn conflicts(&self, other: &Self, features: MmuFeatures) -> bool {
        let apart = !self.covers(other.virt) && !other.covers(self.virt);
        let strangers = self.space.is_el2() != other.space.is_el2()
            || !(self.is_global() || other.is_global() || self.space == other.space);
        if apart || strangers {
            return false;
        }
        let at = self.virt.max(other.virt);
        let size = self.level != other.level || (self.descriptor ^ other.descriptor) & CONTIGUOUS != 0;
        self.output(at) != other.output(at)
            || (self.descriptor ^ other.descriptor) & ATTRIBUTES != 0
            || size && !features.bbm_level_2
    }
}

/// A cached pointer to a table of `level` that translates addresses from `virt` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Walk {
    pub(super) space: Installed,
    pub(super) virt: u64,
    pub(super) level: u8,
    pub(super) table: u64,
    /// TTBR itself: no invalidate touches it.
    pub(super) is_root: bool,
    pub(super) dying: u64,
}

impl Walk {
    pub(super) const fn covers(&self, virt: u64) -> bool {
        virt.wrapping_sub(self.virt) < level_size(self.level) * 512
    }
}
