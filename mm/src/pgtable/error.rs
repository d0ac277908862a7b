// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a change of the tables was refused.

use core::fmt;

use crate::addr::VirtAddr;

/// Why a change of the tables was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Virtual address, physical address or size is not a multiple of the page size.
    Misaligned(VirtAddr),
    /// The range leaves this regime's addresses, or physical memory.
    OutOfRange(VirtAddr),
    /// Something is mapped at this address already.
    AlreadyMapped(VirtAddr),
    /// Nothing is mapped at this address.
    NotMapped(VirtAddr),
    /// The page would be writable and executable.
    WritableAndExecutable(VirtAddr),
    /// A block that is in use would have to be split here, and the caller has not said how.
    WouldSplit(VirtAddr),
    /// No frame could be had for a table.
    NoTable,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(virt) => write!(f, "mapping at {virt:?} is not page-aligned"),
            Self::OutOfRange(virt) => write!(f, "mapping at {virt:?} leaves the address space"),
            Self::AlreadyMapped(virt) => write!(f, "{virt:?} is mapped already"),
            Self::NotMapped(virt) => write!(f, "{virt:?} is not mapped"),
            Self::WritableAndExecutable(virt) => write!(f, "{virt:?} would be writable and executable"),
            Self::WouldSplit(virt) => write!(f, "{virt:?} lies inside a block that is in use"),
            Self::NoTable => write!(f, "no frame for a translation table"),
        }
    }
}

impl core::error::Error for MapError {}
