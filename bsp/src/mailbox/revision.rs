// SPDX-License-Identifier: MIT OR Apache-2.0
//! The revision code of a Raspberry Pi, in words (Raspberry Pi documentation, "New-style revision codes").
//!
//! ```text
//!   23  22-20   19-16    15-12       11-4    3-0
//!   1   memory  factory  processor   board   revision
//! ```

use core::fmt;

/// A board's revision code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revision(
    /// As the firmware tells it.
    pub u32,
);

impl Revision {
    const fn field(self, offset: u32, bits: u32) -> u32 {
        self.0 >> offset & ((1 << bits) - 1)
    }

    /// Whether the code has fields at all; the first boards only had numbers.
    #[must_use]
    pub const fn is_new_style(self) -> bool {
        self.field(23, 1) == 1
    }

    /// RAM in MiB.
    #[must_use]
    pub const fn memory_mib(self) -> Option<u32> {
        if self.is_new_style() { Some(256 << self.field(20, 3)) } else { None }
    }

    /// The processor.
    #[must_use]
    pub const fn processor(self) -> Option<&'static str> {
        if !self.is_new_style() {
            return None;
        }
        match self.field(12, 4) {
            0 => Some("BCM2835"),
            1 => Some("BCM2836"),
            2 => Some("BCM2837"),
            3 => Some("BCM2711"),
            4 => Some("BCM2712"),
            _ => None,
        }
    }

    /// What the board is called.
    #[must_use]
    pub const fn board(self) -> Option<&'static str> {
        if !self.is_new_style() {
            return None;
        }
        Some(match self.field(4, 8) {
            0x04 => "2B",
            0x08 => "3B",
            0x09 => "Zero",
            0x0a => "CM3",
            0x0c => "Zero W",
            0x0d => "3B+",
            0x0e => "3A+",
            0x10 => "CM3+",
            0x11 => "4B",
            0x12 => "Zero 2 W",
            0x13 => "400",
            0x14 => "CM4",
            0x15 => "CM4S",
            0x17 => "5",
            0x18 => "CM5",
            0x19 => "500",
            0x1a => "CM5 Lite",
            _ => return None,
        })
    }
}

/// `Raspberry Pi 4B rev 1.5, 2 GiB, BCM2711 (revision code 0x00b03115)`.
impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mib) = self.memory_mib() {
            let (memory, unit) = if mib >= 1024 { (mib / 1024, "GiB") } else { (mib, "MiB") };
            let board = self.board().unwrap_or("of a kind that is not known");
            let processor = self.processor().unwrap_or("unknown processor");
            write!(f, "Raspberry Pi {board} rev 1.{}, {memory} {unit}, {processor} ", self.field(0, 4))?;
        }
        write!(f, "(revision code {:#010x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Revision;

    #[test]
    fn codes_are_those_of_the_documentation() {
        for (code, text) in [
            (0x00b0_3115, "Raspberry Pi 4B rev 1.5, 2 GiB, BCM2711 (revision code 0x00b03115)"),
            (0x00d0_3114, "Raspberry Pi 4B rev 1.4, 8 GiB, BCM2711 (revision code 0x00d03114)"),
            (0x00a0_2082, "Raspberry Pi 3B rev 1.2, 1 GiB, BCM2837 (revision code 0x00a02082)"),
            (0x0090_2120, "Raspberry Pi Zero 2 W rev 1.0, 512 MiB, BCM2837 (revision code 0x00902120)"),
            (0x0000_0010, "(revision code 0x00000010)"),
        ] {
            assert_eq!(Revision(code).to_string(), text);
        }
    }

    #[test]
    fn unknown_boards_are_told_as_such() {
        assert!(Revision(0x00f0_fff0).to_string().contains("not known rev 1.0, 32 GiB, unknown processor"));
        // Flags above the fields (overvoltage, warranty) change nothing.
        assert_eq!(Revision(0xc2b0_3115).board(), Some("4B"));
    }
}
