// SPDX-License-Identifier: MIT OR Apache-2.0
//! SPSR_EL1 in words (Arm ARM D24.2.154), in the manner of Linux: an upper-case letter is a bit that is set.

use core::fmt;

/// SPSR_EL1: the processor state that an exception interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pstate(u64);

impl Pstate {
    /// What SPSR_EL1 holds.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Whether the interrupted code ran on SP_EL1, as exception handlers do, and not on SP_EL0.
    #[must_use]
    pub const fn is_handler(self) -> bool {
        self.0 & 0x1f == 0b0_0101
    }

    const fn is_set(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }
}

impl fmt::Display for Pstate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |bit, set: &'static str, clear| if self.is_set(bit) { set } else { clear };
        write!(f, "{:08x} (", self.0)?;
        for (bit, set, clear) in [(31, "N", "n"), (30, "Z", "z"), (29, "C", "c"), (28, "V", "v")] {
            f.write_str(letter(bit, set, clear))?;
        }
        f.write_str(" ")?;
        for (bit, set, clear) in [(9, "D", "d"), (8, "A", "a"), (7, "I", "i"), (6, "F", "f")] {
            f.write_str(letter(bit, set, clear))?;
        }
        for (bit, name) in [(22, "PAN"), (23, "UAO"), (25, "TCO"), (24, "DIT"), (12, "SSBS"), (21, "SS"), (20, "IL")] {
            // What most processors lack is told only where it is set.
            if self.is_set(bit) || matches!(bit, 20 | 22) {
                write!(f, " {}{name}", letter(bit, "+", "-"))?;
            }
        }
        match self.0 & 0x1f {
            mode @ (0b0_0000 | 0b0_0100 | 0b0_0101 | 0b0_1000 | 0b0_1001) => {
                write!(f, " EL{}{})", mode >> 2, if mode & 1 == 1 { "h" } else { "t" })
            }
            mode if mode & 0x10 != 0 => write!(f, " AArch32 mode {mode:#04x})"),
            mode => write!(f, " reserved mode {mode:#04x})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pstate;

    #[test]
    fn states_are_told_as_linux_tells_them() {
        for (raw, text) in [
            (0x6000_03c4, "600003c4 (nZCv DAIF -PAN -IL EL1t)"),
            (0x8040_0105, "80400105 (Nzcv dAif +PAN -IL EL1h)"),
            (0x0010_0000, "00100000 (nzcv daif -PAN +IL EL0t)"),
            (0x0000_0010, "00000010 (nzcv daif -PAN -IL AArch32 mode 0x10)"),
            (0x0000_000d, "0000000d (nzcv daif -PAN -IL reserved mode 0x0d)"),
        ] {
            assert_eq!(Pstate::new(raw).to_string(), text);
        }
    }

    #[test]
    fn handlers_are_told_by_their_stack_pointer() {
        assert!(Pstate::new(0x3c5).is_handler());
        assert!(!Pstate::new(0x3c4).is_handler() && !Pstate::new(0).is_handler());
    }
}
