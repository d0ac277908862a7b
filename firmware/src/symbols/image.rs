// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of this very image.

use core::fmt;

use super::{Symbol, Table};
use crate::layout;

/// The function that `address` lies in. `None` if it lies in none, or the image has no table.
///
/// Complexity: logarithmic in the number of functions. Takes no lock.
#[must_use]
pub fn lookup(address: u64) -> Option<Symbol<'static>> {
    Table::parse(layout::symbols())?.lookup(address)
}

/// A code address, for printing: `function+0xoffset/0xsize`, or the bare address if it lies in no function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    address: u64,
    /// Bytes before the address that decide which function it is.
    back: u64,
}

impl Code {
    /// The instruction at `address`.
    #[must_use]
    pub const fn at(address: u64) -> Self {
        Self { address, back: 0 }
    }

    /// The caller that `address` returns to: where a call that never returns is a function's last
    /// instruction, the address behind it belongs to the next function already.
    #[must_use]
    pub const fn returning_to(address: u64) -> Self {
        Self { address, back: 4 }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match lookup(self.address.wrapping_sub(self.back)) {
            Some(symbol) => Symbol { offset: symbol.offset + self.back, ..symbol }.fmt(f),
            None => write!(f, "{:#018x}", self.address),
        }
    }
}
