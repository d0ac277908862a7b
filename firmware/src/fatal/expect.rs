// SPDX-License-Identifier: MIT OR Apache-2.0
//! Failures that a test has announced, and whether their report says what it must.

use core::fmt::{self, Write};
use core::ops::Range;

use spin::Once;

use super::{Cause, Turn, passed};
use crate::{output, power, println};

/// A failure that is to come.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What it is.
    pub cause: Cause,
    /// Where its address lies: FAR_EL1, or the instruction where there is none. Of a panic it is 0.
    pub addresses: Range<u64>,
    /// Which failure in a row.
    pub turn: Turn,
    /// What its report must say, each within a line; at most 64.
    pub words: &'static [&'static str],
}

static EXPECTED: Once<Expected> = Once::new();

/// Announces a failure: when it comes, and its report says what it must, the machine ends with status 0. Only the
/// first announcement counts.
pub fn expect(expected: Expected) {
    EXPECTED.call_once(|| expected);
}

/// Ends a test that expects that not even the line about the report's failure can be written.
pub(super) fn end_well_without_a_word() {
    if EXPECTED.get().is_some_and(|expected| expected.turn == Turn::Hopeless) {
        power::exit_silently(0);
    }
}

/// A line longer than this is looked at in pieces.
const MAX_LINE: usize = 512;

/// Passes a report on to the console, and looks for the words that it must have.
pub(super) struct Watch {
    expected: Option<&'static Expected>,
    /// A bit for each word that was seen.
    seen: u64,
    line: [u8; MAX_LINE],
    length: usize,
}

impl Watch {
    /// Watches the report of this failure, if it was announced.
    pub(super) fn new(cause: Cause, address: u64, turn: Turn) -> Self {
        let expected = EXPECTED.get().filter(|expected| {
            expected.cause == cause && expected.addresses.contains(&address) && expected.turn == turn
        });
        Self { expected, seen: 0, line: [0; MAX_LINE], length: 0 }
    }

    /// Ends the machine if this failure was announced: well, if its report has all the words.
    pub(super) fn end_if_expected(&self) {
        let Some(expected) = self.expected else { return };
        let missing = expected.words.iter().enumerate().filter(|(index, _)| self.seen >> index & 1 == 0);
        let mut all = true;
        for (_, word) in missing {
            println!("test report ... FAILED: it does not say \"{word}\"");
            all = false;
        }
        if all {
            passed();
        }
        println!("0 passed, 1 failed");
        power::exit(1);
    }

    fn look(&mut self) {
        let line = self.line.get(..self.length).unwrap_or_default();
        let line = core::str::from_utf8(line).unwrap_or("");
        let words = self.expected.map_or(&[][..], |expected| expected.words);
        for (index, word) in words.iter().enumerate() {
            self.seen |= u64::from(line.contains(word)) << index;
        }
        self.length = 0;
    }
}

impl Write for Watch {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.expected.is_some() {
            for byte in text.bytes() {
                if byte == b'\n' || self.length == MAX_LINE {
                    self.look();
                }
                if let Some(slot) = self.line.get_mut(self.length) {
                    *slot = byte;
                    self.length += 1;
                }
            }
        }
        output::Sink.write_str(text)
    }
}
