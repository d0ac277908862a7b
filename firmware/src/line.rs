// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of input: bytes from the terminal go in, an edited line comes out, and the terminal shows it meanwhile.
//!
//! ```text
//!   byte --[keys]--> key --[text]--> line and cursor --[screen]--> what to send to the terminal
//!                      |--[history]--^
//!                      '--[complete]-^
//! ```
//!
//! Keys and what they do are readline's. No I/O, no allocation and no waiting here, so that host tests and a
//! fuzzer run it: a console must survive any noise on the wire.

mod complete;
mod history;
mod keys;
mod screen;
mod text;

use core::fmt;

pub use self::complete::Candidates;
use self::complete::Completion;
pub use self::history::History;
pub use self::keys::{ASK_SIZE, Decoder, Key, Size};
use self::screen::Screen;
pub use self::text::Text;

/// Longest line, in bytes.
pub const CAPACITY: usize = 256;

/// Rings the terminal's bell.
const BELL: &str = "\x07";
/// Cursor to the upper left corner, then all from there on erased (ECMA-48 8.3.21, 8.3.39).
pub const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

/// What a byte did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing that anybody else must know.
    Nothing,
    /// The line was given up (Ctrl-C) and is empty; the terminal's cursor is at the start of a line.
    Cancelled,
    /// Enter: take the line with [`Line::take`]. The terminal's cursor is at the start of a line.
    Done,
    /// The terminal has told its size.
    Size(Size),
}

/// The line being typed, those before it, and the terminal that shows it.
#[derive(Debug)]
pub struct Line {
    decoder: Decoder,
    text: Text,
    screen: Screen,
    history: History,
    /// How many lines back in the history we are, and the line that was being typed when we went there.
    back: usize,
    aside: Text,
    candidates: Candidates,
    /// Whether the key before was a Tab that found several words.
    after_tab: bool,
}

impl Line {
    /// An empty line behind `prompt`, printable ASCII, on a terminal of unknown size.
    #[must_use]
    pub const fn new(prompt: &'static str, candidates: Candidates) -> Self {
        Self {
            decoder: Decoder::new(),
            text: Text::new(),
            screen: Screen::new(prompt),
            history: History::new(),
            back: 0,
            aside: Text::new(),
            candidates,
            after_tab: false,
        }
    }

    /// The lines before.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The line as it stands.
    #[must_use]
    pub const fn text(&self) -> &Text {
        &self.text
    }

    /// Shows prompt and line on a terminal whose cursor is at the start of an empty line.
    ///
    /// # Errors
    ///
    /// Those of `w`.
    #[inline(never)]
    pub fn show(&mut self, w: &mut impl fmt::Write) -> fmt::Result {
        self.screen.begin(w)?;
        self.update(w)
    }

    /// The next byte of input; `w` is the terminal.
    ///
    /// # Errors
    ///
    /// Those of `w`; the line is edited all the same.
    pub fn feed(&mut self, byte: u8, w: &mut impl fmt::Write) -> Result<Event, fmt::Error> {
        let Some(key) = self.decoder.feed(byte) else { return Ok(Event::Nothing) };
        let after_tab = core::mem::take(&mut self.after_tab);
        match key {
            Key::Enter => {
                self.end(w)?;
                return Ok(Event::Done);
            }
            Key::Cancel => {
                self.text.move_to(CAPACITY);
                self.update(w)?;
                w.write_str("^C\n")?;
                self.text.set("");
                self.back = 0;
                return Ok(Event::Cancelled);
            }
            Key::Size(size) => {
                self.screen.set_columns(size.columns);
                self.update(w)?;
                return Ok(Event::Size(size));
            }
            Key::Clear => {
                w.write_str(CLEAR_SCREEN)?;
                w.write_str(ASK_SIZE)?;
                self.screen.begin(w)?;
            }
            Key::Tab => self.complete(after_tab, w)?,
            Key::Up | Key::Down => self.recall(key == Key::Up, w)?,
            _ => self.edit(key, w)?,
        }
        self.update(w)?;
        Ok(Event::Nothing)
    }

    /// The line as it stands, which is remembered, and then empty.
    #[inline(never)]
    pub fn take(&mut self) -> Text {
        self.back = 0;
        self.history.push(self.text.as_str());
        core::mem::take(&mut self.text)
    }

    #[inline(never)]
    fn update(&mut self, w: &mut impl fmt::Write) -> fmt::Result {
        self.screen.update(self.text.as_bytes(), self.text.cursor(), w)
    }

    /// Leaves the line on the screen.
    #[inline(never)]
    fn end(&mut self, w: &mut impl fmt::Write) -> fmt::Result {
        self.text.move_to(CAPACITY);
        self.update(w)?;
        w.write_char('\n')
    }

    #[inline(never)]
    fn edit(&mut self, key: Key, w: &mut impl fmt::Write) -> fmt::Result {
        let text = &mut self.text;
        let cursor = text.cursor();
        match key {
            Key::Char(byte) => {
                if !text.insert(byte) {
                    w.write_str(BELL)?;
                }
            }
            Key::Backspace => text.delete_to(cursor.saturating_sub(1)),
            Key::Delete => text.delete_to(cursor + 1),
            Key::KillToEnd => text.delete_to(CAPACITY),
            Key::KillToStart => text.delete_to(0),
            Key::KillWord => text.delete_to(text.word_left(|byte| !byte.is_ascii_whitespace())),
            Key::KillWordLeft => text.delete_to(text.word_left(u8::is_ascii_alphanumeric)),
            Key::KillWordRight => text.delete_to(text.word_right(u8::is_ascii_alphanumeric)),
            Key::Left => text.move_to(cursor.saturating_sub(1)),
            Key::Right => text.move_to(cursor + 1),
            Key::WordLeft => text.move_to(text.word_left(u8::is_ascii_alphanumeric)),
            Key::WordRight => text.move_to(text.word_right(u8::is_ascii_alphanumeric)),
            Key::Home => text.move_to(0),
            Key::End => text.move_to(CAPACITY),
            Key::Enter | Key::Cancel | Key::Tab | Key::Clear | Key::Up | Key::Down | Key::Size(_) => {}
        }
        Ok(())
    }

    /// Goes through the history; the line that was being typed is found again at its end.
    #[inline(never)]
    fn recall(&mut self, up: bool, w: &mut impl fmt::Write) -> fmt::Result {
        let back = if up { self.back + 1 } else { self.back.wrapping_sub(1) };
        if self.back == 0 && up {
            self.aside = self.text;
        }
        match self.history.back(back) {
            Some(line) => self.text.set(line),
            None if back == 0 => self.text = self.aside,
            None => return w.write_str(BELL),
        }
        self.back = back;
        Ok(())
    }

    /// Adds what all candidates agree on; the second time, lists them.
    #[inline(never)]
    fn complete(&mut self, again: bool, w: &mut impl fmt::Write) -> fmt::Result {
        let before = self.text;
        let completion = Completion::new(before.before_cursor(), self.candidates);
        let common = completion.common();
        let added = common.bytes().filter(|byte| self.text.insert(*byte)).count();
        match common.count {
            0 => w.write_str(BELL),
            1 => {
                self.text.insert(b' ');
                Ok(())
            }
            _ if added > 0 => Ok(()),
            _ if !again => {
                self.after_tab = true;
                w.write_str(BELL)
            }
            _ => {
                self.end(w)?;
                self.text = before;
                list(&completion, self.screen.columns(), w)?;
                self.screen.begin(w)
            }
        }
    }
}

/// Lists the candidates, as many a line as there is room for.
#[inline(never)]
fn list(completion: &Completion<'_>, columns: Option<u16>, w: &mut impl fmt::Write) -> fmt::Result {
    let columns = usize::from(columns.unwrap_or(80));
    let mut widest = 0;
    completion.for_each(|word| widest = widest.max(word.len() + 2));
    let mut column = 0;
    let mut result = Ok(());
    completion.for_each(|word| {
        if column > 0 && column + widest > columns {
            result = result.and_then(|()| w.write_char('\n'));
            column = 0;
        }
        result = result.and_then(|()| write!(w, "{word:<widest$}"));
        column += widest;
    });
    result?;
    w.write_char('\n')
}

#[cfg(test)]
mod tests;
