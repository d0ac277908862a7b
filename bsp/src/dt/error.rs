// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes a blob no device tree.

use core::fmt;

/// Why a blob was refused. Offsets are in bytes from its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtError {
    /// The first word is not 0xd00dfeed.
    BadMagic {
        /// What it is.
        found: u32,
    },
    /// Not version 17, nor compatible with it.
    BadVersion {
        /// The blob's version.
        found: u32,
    },
    /// The blob says that it is smaller than its header, or larger than 2 MiB.
    BadSize {
        /// What it says, in bytes.
        total: u32,
    },
    /// There are fewer bytes than the blob says it has.
    Truncated {
        /// What it says, in bytes.
        total: u32,
        /// What there is, in bytes.
        present: usize,
    },
    /// A block lies outside the blob or is misaligned.
    BadBlock {
        /// "reserve map", "structure block" or "strings block".
        block: &'static str,
        /// Where the header puts it.
        offset: u32,
    },
    /// A token that does not exist or may not stand there.
    BadToken {
        /// Where it is.
        offset: usize,
        /// What it is.
        token: u32,
    },
    /// A node's or property's name is no printable, terminated text, or a property runs out of the block.
    BadName {
        /// Where it is.
        offset: usize,
    },
    /// The structure block ends in the middle of something.
    UnexpectedEnd {
        /// Where.
        offset: usize,
    },
    /// Nodes are nested deeper than any board's.
    TooDeep {
        /// Where.
        offset: usize,
    },
    /// The parser gave up on a blob that passed the checks.
    Parser,
    /// There is less room for the compact copy than it needs.
    NoRoom {
        /// Bytes needed.
        needed: usize,
    },
}

impl fmt::Display for DtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadMagic { found } => write!(f, "magic is {found:#010x}, not 0xd00dfeed"),
            Self::BadVersion { found } => write!(f, "version {found} is not compatible with 17"),
            Self::BadSize { total } => write!(f, "size {total:#x} is less than a header or more than 2 MiB"),
            Self::Truncated { total, present } => {
                write!(f, "truncated: {present:#x} bytes of {total:#x}")
            }
            Self::BadBlock { block, offset } => write!(f, "{block} at {offset:#x} is outside the blob or misaligned"),
            Self::BadToken { offset, token } => write!(f, "token {token:#x} at {offset:#x} does not belong there"),
            Self::BadName { offset } => write!(f, "name or value at {offset:#x} is broken"),
            Self::UnexpectedEnd { offset } => write!(f, "structure block ends at {offset:#x} in the middle"),
            Self::TooDeep { offset } => write!(f, "nodes at {offset:#x} are nested too deep"),
            Self::Parser => f.write_str("parser gave up"),
            Self::NoRoom { needed } => write!(f, "copy needs {needed:#x} bytes"),
        }
    }
}

impl core::error::Error for DtError {}
