// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of input, byte by byte: what the terminal shows back and when the line is whole.
//!
//! No I/O here, so that it runs in host tests. Bytes that are no text are ignored: a console must survive noise
//! on the wire.

/// Longest line, in bytes.
pub const CAPACITY: usize = 256;

/// What a byte did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing to show.
    Nothing,
    /// Show this character.
    Echo(u8),
    /// Take this many characters off the screen.
    Erase(usize),
    /// The line is full: ring the bell.
    Full,
    /// The line was given up (Ctrl-C).
    Cancelled,
    /// Enter: take the line with [`Line::take`].
    Done,
}

/// The line being typed.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; CAPACITY],
    length: usize,
    /// Terminals send CR, files LF, and some both: an LF right behind a CR is no second Enter.
    after_return: bool,
    /// How far into an escape sequence (an arrow key, say) the input is.
    escape: Escape,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Escape {
    None,
    Begun,
    Parameters,
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl Line {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; CAPACITY], length: 0, after_return: false, escape: Escape::None }
    }

    /// The next byte of input.
    pub fn feed(&mut self, byte: u8) -> Event {
        const CTRL_C: u8 = 0x03;
        const CTRL_U: u8 = 0x15;
        const ESCAPE: u8 = 0x1b;
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        if self.swallow_escape(byte) {
            return Event::Nothing;
        }
        match byte {
            b'\n' if after_return => Event::Nothing,
            b'\r' | b'\n' => Event::Done,
            0x08 | 0x7f if self.length > 0 => {
                self.length -= 1;
                Event::Erase(1)
            }
            CTRL_U if self.length > 0 => Event::Erase(core::mem::take(&mut self.length)),
            CTRL_C => {
                self.length = 0;
                Event::Cancelled
            }
            ESCAPE => {
                self.escape = Escape::Begun;
                Event::Nothing
            }
            b' '..=b'~' => match self.bytes.get_mut(self.length) {
                Some(slot) => {
                    *slot = byte;
                    self.length += 1;
                    Event::Echo(byte)
                }
                None => Event::Full,
            },
            _ => Event::Nothing,
        }
    }

    /// The line as it stands, which is then empty again.
    pub fn take(&mut self) -> &str {
        let length = core::mem::take(&mut self.length);
        // Only printable ASCII ever gets in.
        self.bytes.get(..length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("")
    }

    /// Whether `byte` belongs to an escape sequence (ECMA-48 5.4), which this console has no use for.
    fn swallow_escape(&mut self, byte: u8) -> bool {
        let (inside, next) = match (self.escape, byte) {
            (Escape::None, _) => (false, Escape::None),
            (Escape::Begun, b'[' | b'O') | (Escape::Parameters, b' '..=b'?') => (true, Escape::Parameters),
            (Escape::Begun | Escape::Parameters, b' '..=b'~') => (true, Escape::None),
            // A control character ends a sequence that was none.
            (Escape::Begun | Escape::Parameters, _) => (false, Escape::None),
        };
        self.escape = next;
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(line: &mut Line, input: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in input {
            if line.feed(*byte) == Event::Done {
                lines.push(line.take().to_owned());
            }
        }
        lines
    }

    #[test]
    fn every_kind_of_line_end_is_one_enter() {
        assert_eq!(type_in(&mut Line::new(), b"a\rb\nc\r\nd\n\ne\r"), ["a", "b", "c", "d", "", "e"]);
    }

    #[test]
    fn backspace_and_kill_take_back_what_was_typed() {
        let mut line = Line::new();
        assert_eq!(line.feed(0x7f), Event::Nothing);
        assert_eq!(type_in(&mut line, b"freex\x7f\r\nwrong\x15exit\r"), ["free", "exit"]);
        assert_eq!(type_in(&mut line, b"gone\x03help\r"), ["help"]);
    }

    #[test]
    fn arrow_keys_and_noise_leave_no_trace() {
        assert_eq!(type_in(&mut Line::new(), b"a\x1b[Ab\x1bOPc\x1b[1;5Cd\x00\xff\x80e\r"), ["abcde"]);
        assert_eq!(type_in(&mut Line::new(), b"\x1b\rx\r"), ["", "x"]);
    }

    #[test]
    fn a_line_too_long_is_cut_and_still_works() {
        let mut line = Line::new();
        let mut input = vec![b'x'; CAPACITY + 10];
        input.push(b'\r');
        assert_eq!(type_in(&mut line, &input), ["x".repeat(CAPACITY)]);
        assert_eq!(type_in(&mut line, b"y\r"), ["y"]);
    }
}
