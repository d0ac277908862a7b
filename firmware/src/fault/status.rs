// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault status codes (Arm ARM D24.2.40, "DFSC" and "IFSC").

use core::fmt;

/// Six bits that tell what became of a memory access or a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(u8);

impl Status {
    /// Bits above the sixth are ignored.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw as u8 & 0x3f)
    }

    /// The code.
    #[must_use]
    pub const fn as_raw(self) -> u8 {
        self.0
    }

    /// Whether an entry of the tables was invalid.
    #[must_use]
    pub const fn is_translation(self) -> bool {
        matches!(self.0, 0x04..=0x07 | 0x2a | 0x2b)
    }

    /// Whether the tables forbid the access.
    #[must_use]
    pub const fn is_permission(self) -> bool {
        matches!(self.0, 0x0c..=0x0f)
    }

    /// Whether the system, and not the tables, refused a direct access: then the address may not be known.
    #[must_use]
    pub const fn is_external(self) -> bool {
        self.0 == 0x10
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.0 & 3;
        let (what, level) = match self.0 {
            0x00..=0x03 => ("address size fault", Some(level)),
            0x04..=0x07 => ("translation fault", Some(level)),
            0x08..=0x0b => ("access flag fault", Some(level)),
            0x0c..=0x0f => ("permission fault", Some(level)),
            0x10 => ("synchronous external abort", None),
            0x11 => ("synchronous tag check fault", None),
            0x12 => return f.write_str("synchronous external abort on the table walk at level -2"),
            0x13 => return f.write_str("synchronous external abort on the table walk at level -1"),
            0x14..=0x17 => ("synchronous external abort on the table walk", Some(level)),
            0x18 => ("synchronous parity or ECC error", None),
            0x1b => return f.write_str("synchronous parity or ECC error on the table walk at level -1"),
            0x1c..=0x1f => ("synchronous parity or ECC error on the table walk", Some(level)),
            0x21 => ("alignment fault", None),
            0x22 => return f.write_str("granule protection fault on the table walk at level -2"),
            0x23 => return f.write_str("granule protection fault on the table walk at level -1"),
            0x24..=0x27 => ("granule protection fault on the table walk", Some(level)),
            0x28 => ("granule protection fault", None),
            0x29 => return f.write_str("address size fault at level -1"),
            0x2a => return f.write_str("translation fault at level -2"),
            0x2b => return f.write_str("translation fault at level -1"),
            0x2c => return f.write_str("address size fault at level -2"),
            0x30 => ("TLB conflict abort", None),
            0x31 => ("unsupported atomic hardware update", None),
            0x34 => ("implementation defined fault (lockdown)", None),
            0x35 => ("unsupported exclusive or atomic access", None),
            other => return write!(f, "reserved fault status {other:#04x}"),
        };
        f.write_str(what)?;
        level.map_or(Ok(()), |level| write!(f, " at level {level}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn codes_are_those_of_the_architecture() {
        for (code, text) in [
            (0x00, "address size fault at level 0"),
            (0x07, "translation fault at level 3"),
            (0x09, "access flag fault at level 1"),
            (0x0e, "permission fault at level 2"),
            (0x10, "synchronous external abort"),
            (0x15, "synchronous external abort on the table walk at level 1"),
            (0x21, "alignment fault"),
            (0x2b, "translation fault at level -1"),
            (0x30, "TLB conflict abort"),
            (0x3f, "reserved fault status 0x3f"),
        ] {
            assert_eq!(Status::new(code).to_string(), text);
        }
        assert_eq!(Status::new(0xffff_ffc7), Status::new(7));
    }

    #[test]
    fn kinds_do_not_overlap() {
        let kinds = |status: Status| [status.is_translation(), status.is_permission(), status.is_external()];
        assert!((0..64).all(|code| kinds(Status::new(code)).iter().filter(|kind| **kind).count() <= 1));
        assert_eq!((0..64).filter(|code| Status::new(*code).is_translation()).count(), 6);
    }
}
