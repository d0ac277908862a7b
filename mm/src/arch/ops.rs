// SPDX-License-Identifier: MIT OR Apache-2.0
//! Barriers, TLB invalidates and cache maintenance as the instruction set encodes them.
//!
//! A value here *is* the field of the instruction: the AArch64 back end puts it there, the MMU model reads it as
//! a core would. So what the model finds right or wrong is what runs.

/// The CRm field of a `DSB`: domain in bits 3:2, accesses that are waited for in bits 1:0 (Arm ARM C6.2.110).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Dsb {
    /// Stores, this CPU only.
    NonShareableStores = 0b0110,
    /// Everything, this CPU only.
    NonShareable = 0b0111,
    /// Stores, all CPUs that share the kernel: what table walkers must see before anything goes on.
    InnerShareableStores = 0b1010,
    /// Everything, all CPUs that share the kernel: broadcast invalidates are complete.
    InnerShareable = 0b1011,
    /// Everything, devices too.
    FullSystem = 0b1111,
}

/// A TLB invalidate: a `SYS` instruction of CRn = 8 (Arm ARM C5.5). All but [`AllLocal`](Tlbi::AllLocal) are
/// broadcast in the Inner Shareable domain.
///
/// The value holds op1 in bits 10:8, CRm in bits 7:4 and op2 in bits 3:0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Tlbi {
    /// `VMALLE1`: everything of EL1&0, on this CPU only.
    AllLocal = 0x070,
    /// `VMALLE1IS`: everything of EL1&0.
    All = 0x030,
    /// `ASIDE1IS`: everything that belongs to an ASID.
    Asid = 0x032,
    /// `VAE1IS`: a page of an ASID, and the walk-cache entries on the way to it.
    Page = 0x031,
    /// `VALE1IS`: a page of an ASID, last level only.
    LastLevelPage = 0x035,
    /// `VAAE1IS`: a page of any ASID or global, and the walk-cache entries on the way to it.
    PageAnyAsid = 0x033,
    /// `VAALE1IS`: a page of any ASID or global, last level only.
    LastLevelPageAnyAsid = 0x037,
    /// `RVAE1IS` (FEAT_TLBIRANGE).
    Range = 0x021,
    /// `RVALE1IS` (FEAT_TLBIRANGE).
    LastLevelRange = 0x025,
    /// `RVAAE1IS` (FEAT_TLBIRANGE).
    RangeAnyAsid = 0x023,
    /// `RVAALE1IS` (FEAT_TLBIRANGE).
    LastLevelRangeAnyAsid = 0x027,
    /// `ALLE2IS`: everything of EL2.
    AllEl2 = 0x430,
    /// `VAE2IS`: a page of EL2, and the walk-cache entries on the way to it.
    PageEl2 = 0x431,
    /// `VALE2IS`: a page of EL2, last level only.
    LastLevelPageEl2 = 0x435,
    /// `RVAE2IS` (FEAT_TLBIRANGE).
    RangeEl2 = 0x421,
    /// `RVALE2IS` (FEAT_TLBIRANGE).
    LastLevelRangeEl2 = 0x425,
}

impl Tlbi {
    /// The op1 field: 0 for EL1&0, 4 for EL2.
    #[must_use]
    pub const fn op1(self) -> u16 {
        self as u16 >> 8
    }

    /// The CRm field: 7 local, 3 Inner Shareable, 2 Inner Shareable by range.
    #[must_use]
    pub const fn crm(self) -> u16 {
        self as u16 >> 4 & 0xf
    }

    /// The op2 field: what is invalidated.
    #[must_use]
    pub const fn op2(self) -> u16 {
        self as u16 & 0xf
    }
}

/// What is done to the cache lines of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheOp {
    /// Written back, so that a device sees them (`DC CVAC`).
    Clean,
    /// Thrown away, so that what a device wrote is seen (`DC IVAC`). Whole lines belong to the caller.
    Invalidate,
    /// Written back, then thrown away (`DC CIVAC`).
    CleanInvalidate,
    /// Written back to where instructions are fetched, and forgotten by the instruction caches of all CPUs
    /// (`DC CVAU`, `IC IVAU`): new code can run.
    SyncInstructions,
}

/// What this CPU's MMU can do beyond ARMv8.0. On a machine with different cores: what all of them can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MmuFeatures {
    /// FEAT_TLBIRANGE: invalidates by range.
    pub tlb_range: bool,
    /// FEAT_BBM level 2: a block or contiguous group may be split in place, without break-before-make.
    pub bbm_level_2: bool,
    /// ASIDs have 16 bits, not 8.
    pub asid_16_bits: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names as the Arm ARM has them, C5.5 and C6.2.110.
    #[test]
    fn encodings_are_those_of_the_architecture() {
        let sys = |op: Tlbi| (op.op1(), op.crm(), op.op2());
        let expected = [
            (Tlbi::AllLocal, (0, 7, 0)),
            (Tlbi::All, (0, 3, 0)),
            (Tlbi::Page, (0, 3, 1)),
            (Tlbi::Asid, (0, 3, 2)),
            (Tlbi::PageAnyAsid, (0, 3, 3)),
            (Tlbi::LastLevelPage, (0, 3, 5)),
            (Tlbi::LastLevelPageAnyAsid, (0, 3, 7)),
            (Tlbi::Range, (0, 2, 1)),
            (Tlbi::RangeAnyAsid, (0, 2, 3)),
            (Tlbi::LastLevelRange, (0, 2, 5)),
            (Tlbi::LastLevelRangeAnyAsid, (0, 2, 7)),
            (Tlbi::AllEl2, (4, 3, 0)),
            (Tlbi::PageEl2, (4, 3, 1)),
            (Tlbi::LastLevelPageEl2, (4, 3, 5)),
            (Tlbi::RangeEl2, (4, 2, 1)),
            (Tlbi::LastLevelRangeEl2, (4, 2, 5)),
        ];
        for (op, fields) in expected {
            assert_eq!(sys(op), fields, "{op:?}");
        }
        let dsb = [Dsb::NonShareableStores, Dsb::NonShareable, Dsb::InnerShareableStores, Dsb::InnerShareable];
        assert_eq!(dsb.map(|kind| kind as u8), [6, 7, 10, 11]);
    }
}
