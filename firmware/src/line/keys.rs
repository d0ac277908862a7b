// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys, out of the bytes that a terminal sends: control characters as readline has them, and the escape
//! sequences of VT100, xterm, rxvt and the Linux console for the keys that a line editor needs.
//!
//! Any bytes may come. What is no key is dropped, and nothing is waited for: a sequence that stops in the middle
//! ends with the next control character.

/// What the person at the terminal means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A printable ASCII character.
    Char(u8),
    /// The end of the line.
    Enter,
    /// Ctrl-C.
    Cancel,
    /// Completion.
    Tab,
    /// Ctrl-L: a clean screen.
    Clear,
    /// Delete the character before the cursor.
    Backspace,
    /// Delete the character under the cursor.
    Delete,
    /// Ctrl-K: delete all from the cursor on.
    KillToEnd,
    /// Ctrl-U: delete all before the cursor.
    KillToStart,
    /// Ctrl-W: delete back to white space.
    KillWord,
    /// Alt-Backspace: delete back to the start of a word of letters and digits.
    KillWordLeft,
    /// Alt-D: delete up to the end of a word.
    KillWordRight,
    /// Cursor one to the left.
    Left,
    /// Cursor one to the right.
    Right,
    /// Cursor to the start of a word.
    WordLeft,
    /// Cursor behind the end of a word.
    WordRight,
    /// Cursor to the start of the line.
    Home,
    /// Cursor to the end of the line.
    End,
    /// The line before in the history.
    Up,
    /// The next line in the history.
    Down,
    /// No key, but the terminal's answer to [`ASK_SIZE`].
    Size(Size),
}

/// A terminal's size in characters. Either is at least [`Size::LEAST`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

impl Size {
    /// The least number of rows and of columns that is believed.
    pub const LEAST: (u16, u16) = (4, 20);

    const fn clamped(rows: u16, columns: u16) -> Self {
        let (least_rows, least_columns) = Self::LEAST;
        Self {
            rows: if rows < least_rows { least_rows } else { rows },
            columns: if columns < least_columns { least_columns } else { columns },
        }
    }
}

/// Asks the terminal how large it is: the cursor goes to the far corner, tells where it came to, and returns.
/// Whoever is no terminal does not answer.
pub const ASK_SIZE: &str = "\x1b7\x1b[999;999H\x1b[6n\x1b8";

/// How far into an escape sequence (ECMA-48 5.4) the input is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ground,
    /// ESC has come.
    Escape,
    /// ESC O: one more byte.
    Shift3,
    /// ESC [: numbers, then a letter or `~`.
    Control,
}

/// Turns bytes into keys.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The first two numbers of the sequence; further ones go into the last.
    numbers: [u16; 2],
    /// Which of them is being read.
    number: usize,
    /// Terminals send CR, files LF, and some both: an LF right behind a CR is no second Enter.
    after_return: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the beginning of a key.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Ground, numbers: [0; 2], number: 0, after_return: false }
    }

    /// The next byte; the key that it completes, if it does.
    pub fn feed(&mut self, byte: u8) -> Option<Key> {
        const ESCAPE: u8 = 0x1b;
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        if byte == b'\n' && after_return {
            return None;
        }
        if byte == ESCAPE {
            self.state = State::Escape;
            return None;
        }
        // Alt-Backspace alone has a control character behind the ESC.
        if byte < b' ' || (byte == 0x7f && self.state != State::Escape) {
            self.state = State::Ground;
            return control(byte);
        }
        match core::mem::replace(&mut self.state, State::Ground) {
            State::Ground => (byte < 0x7f).then_some(Key::Char(byte)),
            State::Escape => self.escape(byte),
            // rxvt's arrows with Ctrl.
            State::Shift3 if byte == b'c' => Some(Key::WordRight),
            State::Shift3 if byte == b'd' => Some(Key::WordLeft),
            State::Shift3 => cursor_key(byte, 0),
            State::Control => self.sequence(byte),
        }
    }

    fn escape(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' => {
                self.numbers = [0; 2];
                self.number = 0;
                self.state = State::Control;
                None
            }
            b'O' => {
                self.state = State::Shift3;
                None
            }
            b'b' => Some(Key::WordLeft),
            b'f' => Some(Key::WordRight),
            b'd' => Some(Key::KillWordRight),
            0x7f => Some(Key::KillWordLeft),
            _ => None,
        }
    }

    fn sequence(&mut self, byte: u8) -> Option<Key> {
        let [first, second] = self.numbers;
        match byte {
            b'0'..=b'9' => {
                if let Some(number) = self.numbers.get_mut(self.number) {
                    *number = number.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                }
                self.state = State::Control;
                None
            }
            // Other bytes of this range mean nothing to us, but go on with the sequence.
            b' '..=b'?' => {
                self.number = (self.number + usize::from(byte == b';')).min(1);
                self.state = State::Control;
                None
            }
            b'~' => match first {
                1 | 7 => Some(Key::Home),
                4 | 8 => Some(Key::End),
                3 => Some(Key::Delete),
                _ => None,
            },
            b'R' if first != 0 && second != 0 => Some(Key::Size(Size::clamped(first, second))),
            other => cursor_key(other, if second == 0 { first } else { second }),
        }
    }
}

/// A key of the cursor block; `modifier` is 3 with Alt, 5 with Ctrl, as xterm counts.
const fn cursor_key(byte: u8, modifier: u16) -> Option<Key> {
    Some(match (byte, modifier) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', 3 | 5) => Key::WordRight,
        (b'D', 3 | 5) => Key::WordLeft,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) => Key::Home,
        (b'F', _) => Key::End,
        _ => return None,
    })
}

/// A control character, as readline binds it.
const fn control(byte: u8) -> Option<Key> {
    /// The control character of a letter.
    const fn ctrl(letter: u8) -> u8 {
        letter & 0x1f
    }
    const A: u8 = ctrl(b'A');
    const B: u8 = ctrl(b'B');
    const C: u8 = ctrl(b'C');
    const D: u8 = ctrl(b'D');
    const E: u8 = ctrl(b'E');
    const F: u8 = ctrl(b'F');
    const H: u8 = ctrl(b'H');
    const K: u8 = ctrl(b'K');
    const L: u8 = ctrl(b'L');
    const N: u8 = ctrl(b'N');
    const P: u8 = ctrl(b'P');
    const U: u8 = ctrl(b'U');
    const W: u8 = ctrl(b'W');
    Some(match byte {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        A => Key::Home,
        B => Key::Left,
        C => Key::Cancel,
        D => Key::Delete,
        E => Key::End,
        F => Key::Right,
        H | 0x7f => Key::Backspace,
        K => Key::KillToEnd,
        L => Key::Clear,
        N => Key::Down,
        P => Key::Up,
        U => Key::KillToStart,
        W => Key::KillWord,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::new();
        bytes.iter().filter_map(|byte| decoder.feed(*byte)).collect()
    }

    #[test]
    fn every_kind_of_line_end_is_one_enter() {
        let ends = keys(b"\r1\n2\r\n3\n\n4\r\r").iter().filter(|key| **key == Key::Enter).count();
        assert_eq!(ends, 7);
    }

    #[test]
    fn cursor_keys_of_all_terminals_are_known() {
        for (bytes, key) in [
            (b"\x1b[A".as_slice(), Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[C", Key::Right),
            (b"\x1b[1;1D", Key::Left),
            (b"\x1b[1;5C", Key::WordRight),
            (b"\x1b[5D", Key::WordLeft),
            (b"\x1b[1;3D", Key::WordLeft),
            (b"\x1bOc", Key::WordRight),
            (b"\x1bf", Key::WordRight),
            (b"\x1b[H", Key::Home),
            (b"\x1b[7~", Key::Home),
            (b"\x1bOF", Key::End),
            (b"\x1b[4~", Key::End),
            (b"\x1b[3~", Key::Delete),
            (b"\x1b\x7f", Key::KillWordLeft),
            (b"\x1b[24;80R", Key::Size(Size { rows: 24, columns: 80 })),
            (b"\x1b[1;2R", Key::Size(Size { rows: 4, columns: 20 })),
        ] {
            assert_eq!(keys(bytes), [key], "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_key_leaves_no_trace() {
        assert_eq!(keys(b"a\x1bOPb\x1b[200~c\x00\xff\x80\xc3\xa4d\x1b[?1;2;3ce"), b"abcde".map(Key::Char));
        assert_eq!(keys(b"\x1b[99999999999999999999~x"), [Key::Char(b'x')]);
        assert_eq!(keys(b"\x1b[R\x1b[7R\x1b[;7R"), []);
    }

    #[test]
    fn a_sequence_cut_short_does_not_swallow_the_next_line() {
        for cut in [b"\x1b".as_slice(), b"\x1b[", b"\x1bO", b"\x1b[1;5", b"\x1b[\x1b["] {
            assert_eq!(keys(&[cut, b"\rx"].concat()), [Key::Enter, Key::Char(b'x')], "{cut:?}");
        }
    }
}
