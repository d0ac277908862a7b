// SPDX-License-Identifier: MIT OR Apache-2.0
//! The line on the terminal: what must be sent so that the screen shows it.
//!
//! Only characters and backspaces are sent, no escape sequences: that works on anything, and a line that is typed
//! from left to right is just its echo. A line longer than the terminal is wide scrolls sideways, since the cursor
//! cannot come back over a line end. How wide the terminal is may be unknown; then nothing scrolls.

use core::fmt;

use super::CAPACITY;

/// What the terminal shows in the line of the cursor.
#[derive(Debug)]
pub(super) struct Screen {
    prompt: &'static str,
    columns: Option<u16>,
    shown: [u8; CAPACITY],
    length: usize,
    /// Where the terminal's cursor is, in characters behind the prompt.
    cursor: usize,
    /// The first character of the text that is shown.
    start: usize,
}

impl Screen {
    pub(super) const fn new(prompt: &'static str) -> Self {
        Self { prompt, columns: None, shown: [0; CAPACITY], length: 0, cursor: 0, start: 0 }
    }

    pub(super) const fn columns(&self) -> Option<u16> {
        self.columns
    }

    pub(super) const fn set_columns(&mut self, columns: u16) {
        self.columns = Some(columns);
    }

    /// Shows the prompt where the cursor is: at the start of an empty line.
    pub(super) fn begin(&mut self, w: &mut impl fmt::Write) -> fmt::Result {
        (self.length, self.cursor, self.start) = (0, 0, 0);
        w.write_str(self.prompt)
    }

    /// Makes the terminal show `text`, printable ASCII, with the cursor behind its first `cursor` characters.
    pub(super) fn update(&mut self, text: &[u8], cursor: usize, w: &mut impl fmt::Write) -> fmt::Result {
        let width = self.width();
        if text.len() <= width {
            self.start = 0;
        } else if cursor < self.start || cursor > self.start + width {
            self.start = cursor.saturating_sub(width / 2);
        }
        let text = text.get(self.start..).unwrap_or_default();
        let text = text.get(..width).unwrap_or(text);
        let same = self.shown().iter().zip(text).take_while(|(a, b)| a == b).count();
        if same < text.len().max(self.length) {
            self.move_to(same, w)?;
            text.iter().skip(same).try_for_each(|byte| w.write_char(char::from(*byte)))?;
            (text.len()..self.length).try_for_each(|_| w.write_char(' '))?;
            self.cursor = text.len().max(self.length);
            self.length = text.len();
            for (slot, byte) in self.shown.iter_mut().zip(text) {
                *slot = *byte;
            }
        }
        self.move_to(cursor - self.start, w)
    }

    fn shown(&self) -> &[u8] {
        self.shown.get(..self.length).unwrap_or_default()
    }

    /// How much text has room: the last column stays free, where terminals differ in what they do.
    fn width(&self) -> usize {
        let columns = self.columns.map_or(usize::MAX, usize::from);
        columns.saturating_sub(self.prompt.len() + 1).max(1)
    }

    fn move_to(&mut self, place: usize, w: &mut impl fmt::Write) -> fmt::Result {
        for _ in place..self.cursor {
            w.write_char('\x08')?;
        }
        // What is there already moves the cursor when it is sent again.
        for byte in self.shown.get(self.cursor..place).unwrap_or_default() {
            w.write_char(char::from(*byte))?;
        }
        self.cursor = place;
        Ok(())
    }
}
