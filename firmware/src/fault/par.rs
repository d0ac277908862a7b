// SPDX-License-Identifier: MIT OR Apache-2.0
//! PAR_EL1 in words: what an AT instruction found (Arm ARM D24.2.118).

use core::fmt;

use mm::addr::PhysAddr;

use super::Status;

/// The result of an address translation instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Par(u64);

impl Par {
    /// What PAR_EL1 holds.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// PAR_EL1.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// Where the page is, if the access would have gone through.
    #[must_use]
    pub const fn page(self) -> Option<PhysAddr> {
        if self.0 & 1 == 0 { PhysAddr::new(self.0 & 0x0000_ffff_ffff_f000) } else { None }
    }

    /// Whether it is memory that is cached, write-back (ATTR, as in MAIR_EL1).
    #[must_use]
    pub const fn is_cached(self) -> bool {
        self.page().is_some() && self.0 >> 56 == 0xff
    }

    /// Whether reading there has no side effect: it is memory, not a device (ATTR, as in MAIR_EL1).
    #[must_use]
    pub const fn is_memory(self) -> bool {
        self.page().is_some() && self.0 >> 60 != 0
    }
}

impl fmt::Display for Par {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(page) = self.page() else {
            let stage = if self.0 >> 9 & 1 == 1 { "stage 2 " } else { "" };
            return write!(f, "{stage}{}", Status::new(self.0 >> 1));
        };
        write!(f, "page {page:?}, ")?;
        match self.0 >> 56 {
            0x00 => f.write_str("Device-nGnRnE")?,
            0x04 => f.write_str("Device-nGnRE")?,
            0x08 => f.write_str("Device-nGRE")?,
            0x0c => f.write_str("Device-GRE")?,
            0x44 => f.write_str("Normal non-cacheable")?,
            0xff => f.write_str("Normal write-back")?,
            other => write!(f, "attributes {other:#04x}")?,
        }
        f.write_str(match self.0 >> 7 & 3 {
            0 => ", non-shareable",
            2 => ", outer shareable",
            3 => ", inner shareable",
            _ => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_with_its_attributes() {
        let par = Par::new(0xff00_0000_4020_0b80);
        assert_eq!(par.page(), PhysAddr::new(0x4020_0000));
        assert!(par.is_memory());
        assert!(par.to_string().ends_with(", Normal write-back, inner shareable"), "{par}");
        let device = Par::new(0x0400_0000_0900_0b00);
        assert!(!device.is_memory() && device.page().is_some());
        assert!(device.to_string().ends_with(", Device-nGnRE, outer shareable"), "{device}");
        assert!(Par::new(0x4400_0000_0000_0b00).is_memory());
    }

    #[test]
    fn a_failure_tells_its_status() {
        let par = Par::new(0x80f);
        assert_eq!((par.page(), par.is_memory()), (None, false));
        assert_eq!(par.to_string(), "translation fault at level 3");
        assert_eq!(Par::new(0x0a0b).to_string(), "stage 2 translation fault at level 1");
    }
}
