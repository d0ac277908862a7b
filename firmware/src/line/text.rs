// SPDX-License-Identifier: MIT OR Apache-2.0
//! The text of a line and the place of the cursor in it: what each editing key does to them.

use super::CAPACITY;

/// A line and a cursor. *Invariant:* printable ASCII only, and the cursor is not behind the end.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    bytes: [u8; CAPACITY],
    length: usize,
    cursor: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&str> for Text {
    fn from(line: &str) -> Self {
        let mut text = Self::new();
        text.set(line);
        text
    }
}

impl Text {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; CAPACITY], length: 0, cursor: 0 }
    }

    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// The line, a byte a character.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// How many characters stand before the cursor.
    #[must_use]
    pub const fn cursor(&self) -> usize {
        self.cursor
    }

    /// What stands before the cursor.
    #[must_use]
    pub fn before_cursor(&self) -> &str {
        self.as_str().get(..self.cursor).unwrap_or("")
    }

    /// Replaces the line; the cursor goes to its end. What does not fit, and what is no printable ASCII, is left out.
    pub(super) fn set(&mut self, line: &str) {
        (self.length, self.cursor) = (0, 0);
        for byte in line.bytes() {
            self.insert(byte);
        }
    }

    /// Inserts a printable character; `false` if the line is full.
    pub(super) fn insert(&mut self, byte: u8) -> bool {
        if self.length == CAPACITY || !(b' '..=b'~').contains(&byte) {
            return false;
        }
        self.bytes.copy_within(self.cursor..self.length, self.cursor + 1);
        if let Some(slot) = self.bytes.get_mut(self.cursor) {
            *slot = byte;
        }
        self.length += 1;
        self.cursor += 1;
        true
    }

    /// Deletes between the cursor and `other`, a place in the line.
    pub(super) fn delete_to(&mut self, other: usize) {
        let (from, to) = (self.cursor.min(other), self.cursor.max(other).min(self.length));
        self.bytes.copy_within(to..self.length, from);
        self.length -= to - from;
        self.cursor = from;
    }

    /// Puts the cursor at `place`, or at the end if that is behind it.
    pub(super) fn move_to(&mut self, place: usize) {
        self.cursor = place.min(self.length);
    }

    /// The start of the word before the cursor, where words consist of what `in_word` says.
    pub(super) fn word_left(&self, in_word: impl Fn(&u8) -> bool) -> usize {
        let before = self.as_bytes().get(..self.cursor).unwrap_or_default();
        let end = before.iter().rposition(&in_word).map_or(0, |last| last + 1);
        let word = before.get(..end).unwrap_or_default();
        word.iter().rposition(|byte| !in_word(byte)).map_or(0, |last| last + 1)
    }

    /// The end of the word behind the cursor.
    pub(super) fn word_right(&self, in_word: impl Fn(&u8) -> bool) -> usize {
        let behind = self.as_bytes().get(self.cursor..).unwrap_or_default();
        let start = behind.iter().position(&in_word).unwrap_or(behind.len());
        let word = behind.get(start..).unwrap_or_default();
        self.cursor + start + word.iter().position(|byte| !in_word(byte)).unwrap_or(word.len())
    }
}
