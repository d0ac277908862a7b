// SPDX-License-Identifier: MIT OR Apache-2.0
//! ID registers in words (Arm ARM D24.2): which part it is, and what of the architecture it has that matters to a
//! memory manager.

use core::fmt;

/// The ID registers of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[expect(missing_docs, reason = "they are named as in the Arm ARM, without ID_AA64 and _EL1")]
pub struct Registers {
    pub midr: u64,
    pub mmfr0: u64,
    pub mmfr1: u64,
    pub mmfr2: u64,
    pub isar0: u64,
    pub pfr0: u64,
    pub pfr1: u64,
    pub dfr0: u64,
    pub ctr: u64,
    pub cntfrq: u64,
}

impl Registers {
    /// Number of registers.
    pub const COUNT: usize = 10;

    /// All of them.
    #[must_use]
    pub const fn to_array(self) -> [u64; Self::COUNT] {
        let Self { midr, mmfr0, mmfr1, mmfr2, isar0, pfr0, pfr1, dfr0, ctr, cntfrq } = self;
        [midr, mmfr0, mmfr1, mmfr2, isar0, pfr0, pfr1, dfr0, ctr, cntfrq]
    }

    /// What [`to_array`](Self::to_array) gave.
    #[must_use]
    pub const fn from_array(array: [u64; Self::COUNT]) -> Self {
        let [midr, mmfr0, mmfr1, mmfr2, isar0, pfr0, pfr1, dfr0, ctr, cntfrq] = array;
        Self { midr, mmfr0, mmfr1, mmfr2, isar0, pfr0, pfr1, dfr0, ctr, cntfrq }
    }

    /// The part's name, as its maker writes it.
    #[must_use]
    pub fn part(self) -> Option<&'static str> {
        let implementer = self.midr >> 24 & 0xff;
        let part = self.midr >> 4 & 0xfff;
        PARTS.iter().find(|entry| (entry.0, entry.1) == (implementer, part)).map(|entry| entry.2)
    }

    /// Major and minor revision: rNpM.
    #[must_use]
    pub const fn revision(self) -> (u64, u64) {
        (self.midr >> 20 & 0xf, self.midr & 0xf)
    }

    /// Atomic instructions (FEAT_LSE).
    #[must_use]
    pub const fn has_lse(self) -> bool {
        field(self.isar0, 20) >= 2
    }

    /// Invalidates of a range (FEAT_TLBIRANGE).
    #[must_use]
    pub const fn has_tlbi_range(self) -> bool {
        field(self.isar0, 56) >= 2
    }

    /// Privileged access never (FEAT_PAN).
    #[must_use]
    pub const fn has_pan(self) -> bool {
        field(self.mmfr1, 20) >= 1
    }

    /// What hardware does to descriptors (FEAT_HAFDBS): nothing, the access flag, or the dirty state too.
    #[must_use]
    pub const fn hafdbs(self) -> u64 {
        field(self.mmfr1, 0)
    }

    /// Bits of an ASID.
    #[must_use]
    pub const fn asid_bits(self) -> u32 {
        if field(self.mmfr0, 4) == 2 { 16 } else { 8 }
    }

    /// Bits of a physical address.
    #[must_use]
    pub const fn pa_bits(self) -> u32 {
        match field(self.mmfr0, 0) {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            6 => 52,
            _ => 56,
        }
    }

    /// Which granules stage 1 knows: 4, 16, 64 KiB.
    #[must_use]
    pub const fn granules(self) -> [bool; 3] {
        // A signed field, 0 or more if there; one that is 0 if not; one that is 0xf if not.
        [field(self.mmfr0, 28) < 8, field(self.mmfr0, 20) != 0, field(self.mmfr0, 24) != 0xf]
    }

    /// Level of support for changing the size of a live translation (FEAT_BBM): 0, 1 or 2.
    #[must_use]
    pub const fn bbm_level(self) -> u64 {
        field(self.mmfr2, 52)
    }

    /// Memory tagging (FEAT_MTE): 0 none, 1 instructions only, 2 with checks, 3 with asymmetric checks.
    #[must_use]
    pub const fn mte(self) -> u64 {
        field(self.pfr1, 8)
    }

    /// Version of the performance monitors; `None` if there are none of Arm's.
    #[must_use]
    pub const fn pmu(self) -> Option<u64> {
        match field(self.dfr0, 8) {
            0 | 0xf => None,
            version => Some(version),
        }
    }

    /// Whether the GIC's CPU interface has system registers.
    #[must_use]
    pub const fn has_gic_registers(self) -> bool {
        field(self.pfr0, 24) != 0
    }

    /// Bytes of the smallest line of all data caches.
    #[must_use]
    pub const fn data_line(self) -> u64 {
        4 << field(self.ctr, 16)
    }

    /// Bytes of the smallest line of all instruction caches.
    #[must_use]
    pub const fn instruction_line(self) -> u64 {
        4 << field(self.ctr, 0)
    }

    /// Bytes that a cache may write back at once (CTR_EL0.CWG); 2048 if it does not say.
    #[must_use]
    pub const fn writeback_granule(self) -> u64 {
        match field(self.ctr, 24) {
            0 => 2048,
            log2_words => 4 << log2_words,
        }
    }
}

/// The four bits from `shift` up.
const fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

/// Implementer, part number, name.
const PARTS: [(u64, u64, &str); 20] = [
    (0x00, 0x051, "QEMU max"),
    (0x41, 0xd02, "Cortex-A34"),
    (0x41, 0xd03, "Cortex-A53"),
    (0x41, 0xd04, "Cortex-A35"),
    (0x41, 0xd05, "Cortex-A55"),
    (0x41, 0xd07, "Cortex-A57"),
    (0x41, 0xd08, "Cortex-A72"),
    (0x41, 0xd09, "Cortex-A73"),
    (0x41, 0xd0a, "Cortex-A75"),
    (0x41, 0xd0b, "Cortex-A76"),
    (0x41, 0xd0c, "Neoverse N1"),
    (0x41, 0xd0d, "Cortex-A77"),
    (0x41, 0xd40, "Neoverse V1"),
    (0x41, 0xd41, "Cortex-A78"),
    (0x41, 0xd46, "Cortex-A510"),
    (0x41, 0xd47, "Cortex-A710"),
    (0x41, 0xd48, "Cortex-X2"),
    (0x41, 0xd49, "Neoverse N2"),
    (0x46, 0x001, "A64FX"),
    (0x61, 0x022, "Icestorm"),
];

/// Two lines: the part, and what it has.
impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |has: bool| if has { "yes" } else { "no" };
        let (major, minor) = self.revision();
        match self.part() {
            Some(part) => write!(f, "{part}")?,
            None => write!(f, "unknown part")?,
        }
        write!(
            f,
            " r{major}p{minor} (MIDR {:#010x}), {} address bits, ASIDs of {} bits",
            self.midr,
            self.pa_bits(),
            self.asid_bits()
        )?;
        write!(f, ", granules")?;
        for (size, is_there) in ["4K", "16K", "64K"].into_iter().zip(self.granules()) {
            if is_there {
                write!(f, " {size}")?;
            }
        }
        write!(f, ", contiguous hint")?;
        writeln!(f)?;
        let dirty = match self.hafdbs() {
            0 => "no",
            1 => "access flag",
            _ => "access flag and dirty state",
        };
        let mte = match self.mte() {
            0 => "no",
            1 => "instructions only",
            2 => "yes",
            _ => "yes, asymmetric too",
        };
        write!(f, "LSE {}, PAN {}, HAFDBS {dirty}", yes(self.has_lse()), yes(self.has_pan()))?;
        write!(f, ", TLBIRANGE {}, BBM level {}, MTE {mte}", yes(self.has_tlbi_range()), self.bbm_level())?;
        writeln!(f)?;
        write!(f, "cache lines: data {}, instructions {}", self.data_line(), self.instruction_line())?;
        write!(f, ", write-back granule {} bytes; PMU ", self.writeback_granule())?;
        match self.pmu() {
            Some(version) => write!(f, "version {version}")?,
            None => write!(f, "none")?,
        }
        write!(f, "; counter {} Hz", self.cntfrq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As read on QEMU's model of it.
    const A72: Registers = Registers {
        midr: 0x410f_d083,
        mmfr0: 0x1124,
        mmfr1: 0,
        mmfr2: 0,
        isar0: 0x1_1120,
        pfr0: 0x2222,
        pfr1: 0,
        dfr0: 0x1030_5106,
        ctr: 0x8444_c004,
        cntfrq: 62_500_000,
    };

    #[test]
    fn a_cortex_a72_has_little_of_what_came_later() {
        assert_eq!(A72.part(), Some("Cortex-A72"));
        assert_eq!(A72.revision(), (0, 3));
        assert_eq!((A72.pa_bits(), A72.asid_bits()), (44, 16));
        assert_eq!(A72.granules(), [true, false, true]);
        assert!(!A72.has_lse() && !A72.has_pan() && !A72.has_tlbi_range() && !A72.has_gic_registers());
        assert_eq!((A72.hafdbs(), A72.bbm_level(), A72.mte(), A72.pmu()), (0, 0, 0, Some(1)));
        assert_eq!((A72.data_line(), A72.instruction_line(), A72.writeback_granule()), (64, 64, 64));
    }

    #[test]
    fn later_features_are_told() {
        let registers = Registers {
            mmfr0: 0xf << 28 | 1 << 20 | 0xf << 24 | 6,
            mmfr1: 3 << 20 | 2,
            mmfr2: 2 << 52,
            isar0: 2 << 56 | 2 << 20,
            pfr1: 3 << 8,
            dfr0: 0xf << 8,
            ctr: 0,
            ..A72
        };
        assert!(registers.has_lse() && registers.has_pan() && registers.has_tlbi_range());
        assert_eq!((registers.hafdbs(), registers.bbm_level(), registers.mte(), registers.pmu()), (2, 2, 3, None));
        assert_eq!(registers.granules(), [false, true, false]);
        assert_eq!((registers.pa_bits(), registers.writeback_granule()), (52, 2048));
    }

    #[test]
    fn registers_survive_the_array() {
        assert_eq!(Registers::from_array(A72.to_array()), A72);
        assert_eq!(A72.to_array().len(), Registers::COUNT);
    }

    #[test]
    fn an_unknown_part_is_said_to_be_one() {
        let text = Registers { midr: 0x410f_fff0, ..A72 }.to_string();
        assert!(text.starts_with("unknown part r0p0 (MIDR 0x410ffff0), 44 address bits"), "{text}");
        assert!(text.contains("granules 4K 64K,") && text.ends_with("counter 62500000 Hz"), "{text}");
    }
}
