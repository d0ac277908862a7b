// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last messages, in a buffer of fixed size: new ones push out the oldest, whole lines at a time.
//!
//! ```text
//!   position   head                                  tail
//!                |  [header|text][header|text][header|te..   each record: length, level, time, text
//! ```
//!
//! Positions only grow; a byte lies at its position modulo the size. A line may come in pieces: its record
//! stays open, and cannot be read yet, until the line ends.
//!
//! *Lock:* the caller's. *Invariant:* records follow each other without gaps from head to tail, and
//! `tail - head` is at most the size.

use super::level::Level;

/// Longest text of a record in bytes; what is longer goes on in the next record.
pub const MAX_TEXT: usize = 1000;

/// Length (2 bytes), level (1) and time (8) in front of the text.
const HEADER: usize = 11;

/// A message as it is read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Nanoseconds since the counter started.
    pub time_ns: u64,
    /// How urgent it is.
    pub level: Level,
    /// The text, without a line end.
    pub text: &'a str,
}

/// Where a reader stands. The default is the oldest message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cursor(u64);

/// A log of `N` bytes, a power of two that holds at least a few records of full length.
#[derive(Debug)]
pub struct Ring<'a, const N: usize> {
    bytes: &'a mut [u8; N],
    head: u64,
    tail: u64,
    /// The record that is being written, and how much text it has.
    open: Option<(u64, usize)>,
}

impl<'a, const N: usize> Ring<'a, N> {
    const SIZE_IS_GOOD: () = assert!(N.is_power_of_two() && N >= 2 * (MAX_TEXT + HEADER));

    /// An empty log that will be kept in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a mut [u8; N]) -> Self {
        let () = Self::SIZE_IS_GOOD;
        Self { bytes, head: 0, tail: 0, open: None }
    }

    /// Adds text: each line is a record, and the last one stays open if no line end follows. An open record is
    /// gone on with. Empty lines leave no record.
    pub fn write(&mut self, time_ns: u64, level: Level, text: &str) {
        for line in text.split_inclusive('\n') {
            let (line, ends) = line.strip_suffix('\n').map_or((line, false), |line| (line, true));
            self.append(time_ns, level, line);
            if ends {
                self.end_line();
            }
        }
    }

    /// Ends the open record, if there is one.
    pub fn end_line(&mut self) {
        self.open = None;
    }

    /// Forgets everything that can be read.
    pub fn clear(&mut self) {
        self.head = self.open.map_or(self.tail, |(start, _)| start);
    }

    /// The record at `cursor`, which then moves behind it; `None` at the end. What was pushed out since the last
    /// call is skipped.
    pub fn read<'b>(&self, cursor: &mut Cursor, buffer: &'b mut [u8; MAX_TEXT]) -> Option<Record<'b>> {
        let start = cursor.0.max(self.head);
        if start >= self.open.map_or(self.tail, |(open, _)| open) {
            return None;
        }
        let length = self.length_at(start);
        let level = Level::from_number(self.byte(start + 2)).unwrap_or(Level::Emerg);
        let time_ns = u64::from_le_bytes(core::array::from_fn(|n| self.byte(start + 3 + n as u64)));
        let text = buffer.get_mut(..length)?;
        for (slot, position) in text.iter_mut().zip(start + HEADER as u64..) {
            *slot = self.byte(position);
        }
        cursor.0 = start + (HEADER + length) as u64;
        // Only whole characters ever get in.
        Some(Record { time_ns, level, text: core::str::from_utf8(text).unwrap_or("?") })
    }

    fn append(&mut self, time_ns: u64, level: Level, mut text: &str) {
        while !text.is_empty() {
            let (start, length) = *self.open.get_or_insert((self.tail, 0));
            if length == 0 {
                self.push(&[0, 0, level as u8]);
                self.push(&time_ns.to_le_bytes());
            }
            let (now, later) = text.split_at(text.floor_char_boundary(MAX_TEXT - length));
            self.push(now.as_bytes());
            let length = length + now.len();
            self.set_length(start, length);
            self.open = Some((start, length));
            text = later;
            if !text.is_empty() {
                self.end_line();
            }
        }
    }

    /// Appends bytes; the oldest records make room.
    fn push(&mut self, bytes: &[u8]) {
        // Never the open record: it is less than half of the buffer.
        while self.tail - self.head + bytes.len() as u64 > N as u64 {
            self.head += (HEADER + self.length_at(self.head)) as u64;
        }
        for byte in bytes {
            if let Some(slot) = self.bytes.get_mut(self.tail as usize % N) {
                *slot = *byte;
            }
            self.tail += 1;
        }
    }

    fn byte(&self, position: u64) -> u8 {
        self.bytes.get(position as usize % N).copied().unwrap_or(0)
    }

    fn length_at(&self, start: u64) -> usize {
        usize::from(u16::from_le_bytes([self.byte(start), self.byte(start + 1)]))
    }

    fn set_length(&mut self, start: u64, length: usize) {
        for (position, byte) in (start..).zip((length as u16).to_le_bytes()) {
            if let Some(slot) = self.bytes.get_mut(position as usize % N) {
                *slot = byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Small<'a> = Ring<'a, 2048>;

    fn read_all(ring: &Small<'_>) -> Vec<(u64, Level, String)> {
        let mut cursor = Cursor::default();
        let mut buffer = [0; MAX_TEXT];
        let mut all = Vec::new();
        while let Some(record) = ring.read(&mut cursor, &mut buffer) {
            all.push((record.time_ns, record.level, record.text.to_owned()));
        }
        all
    }

    #[test]
    fn a_line_is_read_back_when_it_has_ended() {
        let mut bytes = [0; 2048];
        let mut ring = Small::new(&mut bytes);
        ring.write(1, Level::Info, "half a ");
        assert_eq!(read_all(&ring), []);
        ring.write(2, Level::Warn, "line\n\nand another\nopen");
        assert_eq!(
            read_all(&ring),
            [(1, Level::Info, "half a line".to_owned()), (2, Level::Warn, "and another".to_owned())]
        );
        ring.end_line();
        assert_eq!(read_all(&ring).len(), 3);
    }

    #[test]
    fn a_reader_who_was_overtaken_goes_on_at_the_oldest() {
        let mut bytes = [0; 2048];
        let mut ring = Small::new(&mut bytes);
        let (mut cursor, mut buffer) = (Cursor::default(), [0; MAX_TEXT]);
        ring.write(0, Level::Info, "first\n");
        assert_eq!(ring.read(&mut cursor, &mut buffer).map(|record| record.time_ns), Some(0));
        for time in 1..1000 {
            ring.write(time, Level::Info, "much more than fits\n");
        }
        let next = ring.read(&mut cursor, &mut buffer).unwrap();
        assert!(next.time_ns > 1 && next.text == "much more than fits");
    }

    #[test]
    fn clearing_keeps_the_line_that_is_being_written() {
        let mut bytes = [0; 2048];
        let mut ring = Small::new(&mut bytes);
        ring.write(0, Level::Info, "gone\nhalf ");
        ring.clear();
        ring.write(1, Level::Info, "kept\n");
        assert_eq!(read_all(&ring), [(0, Level::Info, "half kept".to_owned())]);
    }

    #[test]
    fn a_text_longer_than_a_record_goes_on_in_the_next() {
        let mut bytes = [0; 2048];
        let mut ring = Small::new(&mut bytes);
        let text = "\u{e4}".repeat(MAX_TEXT / 2 - 1) + "x\u{e4}y";
        ring.write(7, Level::Err, &text);
        ring.end_line();
        let all = read_all(&ring);
        assert_eq!(all.iter().map(|(_, _, part)| part.as_str()).collect::<String>(), text);
        assert!(all.len() == 2 && all.iter().all(|(time, ..)| *time == 7));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Write(String),
        EndLine,
        Clear,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let text = prop_oneof!["[a-z\u{e4}\u{1f600}\n]{0,80}", "[a-z\n]{0,1500}"];
        prop::collection::vec(
            prop_oneof![8 => text.prop_map(Op::Write), 1 => Just(Op::EndLine), 1 => Just(Op::Clear)],
            0..60,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// What is read is the end of what was written, and as much of it as fits.
        #[test]
        fn the_newest_lines_are_kept(ops in ops()) {
            let mut bytes = [0; 2048];
        let mut ring = Small::new(&mut bytes);
            let mut model: Vec<String> = vec![];
            let mut open = String::new();
            for op in ops {
                match op {
                    Op::Write(text) => {
                        ring.write(0, Level::Info, &text);
                        for char in text.chars() {
                            if char == '\n' || open.len() + char.len_utf8() > MAX_TEXT {
                                model.extend(Some(std::mem::take(&mut open)).filter(|line| !line.is_empty()));
                            }
                            if char != '\n' {
                                open.push(char);
                            }
                        }
                    }
                    Op::EndLine => {
                        ring.end_line();
                        model.extend(Some(std::mem::take(&mut open)).filter(|line| !line.is_empty()));
                    }
                    Op::Clear => {
                        ring.clear();
                        model.clear();
                    }
                }
                let got: Vec<String> = read_all(&ring).into_iter().map(|(_, _, text)| text).collect();
                prop_assert!(model.ends_with(&got));
                let bytes: usize = got.iter().map(|line| line.len() + HEADER).sum();
                let next = model.len().checked_sub(got.len() + 1).and_then(|index| model.get(index));
                if let Some(next) = next {
                    let open = if open.is_empty() { 0 } else { open.len() + HEADER };
                    prop_assert!(bytes + next.len() + HEADER + open > 2048 - (MAX_TEXT + HEADER), "pushed out too early");
                }
            }
        }
    }
}
