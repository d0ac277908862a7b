// SPDX-License-Identifier: MIT OR Apache-2.0
//! The editor against a naive one, on a small terminal that shows what was sent to it.

use proptest::prelude::*;

use super::*;

const PROMPT: &str = "quire> ";

/// A terminal of one line: what is above it has scrolled away.
#[derive(Default)]
struct Terminal {
    row: Vec<char>,
    column: usize,
    bells: usize,
    above: Vec<String>,
}

impl fmt::Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The only escape sequences that an editor sends.
        let text = text.replace(CLEAR_SCREEN, "\x0c").replace(ASK_SIZE, "");
        for char in text.chars() {
            match char {
                '\x07' => self.bells += 1,
                '\x08' => self.column = self.column.checked_sub(1).expect("no way back over the start of the line"),
                '\n' => {
                    self.above.push(std::mem::take(&mut self.row).into_iter().collect());
                    self.column = 0;
                }
                '\x0c' => (self.row, self.column) = (Vec::new(), 0),
                ' '..='~' => {
                    self.row.resize(self.row.len().max(self.column + 1), ' ');
                    self.row[self.column] = char;
                    self.column += 1;
                }
                other => panic!("{other:?} was sent"),
            }
        }
        Ok(())
    }
}

impl Terminal {
    fn line(&self) -> String {
        self.row.iter().collect::<String>().trim_end().to_owned()
    }
}

fn candidates(before: &str, visit: &mut dyn FnMut(&str)) {
    let words: &[&str] =
        if before.is_empty() { &["meminfo", "memory", "free", "frost"] } else { &["/proc/meminfo", "/proc/iomem"] };
    words.iter().for_each(|word| visit(word));
}

fn new() -> (Line, Terminal) {
    let (mut line, mut terminal) = (Line::new(PROMPT, candidates), Terminal::default());
    line.show(&mut terminal).unwrap();
    (line, terminal)
}

fn feed(line: &mut Line, terminal: &mut Terminal, bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    for byte in bytes {
        let event = line.feed(*byte, terminal).unwrap();
        if event == Event::Done {
            lines.push(line.take().as_str().to_owned());
        }
        if matches!(event, Event::Done | Event::Cancelled) {
            assert!(terminal.row.is_empty());
            line.show(terminal).unwrap();
        }
    }
    lines
}

fn type_in(bytes: &[u8]) -> Vec<String> {
    let (mut line, mut terminal) = new();
    feed(&mut line, &mut terminal, bytes)
}

#[test]
fn typing_is_echoed_and_nothing_else_is_sent() {
    let (mut line, mut sent) = (Line::new(PROMPT, candidates), String::new());
    line.show(&mut sent).unwrap();
    for byte in b"free -h\x7fk\r" {
        line.feed(*byte, &mut sent).unwrap();
    }
    assert_eq!(sent, "quire> free -h\x08 \x08k\n");
    assert_eq!(line.take().as_str(), "free -k");
}

#[test]
fn every_kind_of_line_end_is_one_enter() {
    assert_eq!(type_in(b"a\rb\nc\r\nd\n\ne\r"), ["a", "b", "c", "d", "", "e"]);
}

#[test]
fn editing_keys_do_what_readline_does() {
    for (keys, line) in [
        (b"ac\x1b[Db\r".as_slice(), "abc"),
        (b"bc\x01a\x05d\r", "abcd"),
        (b"xabcd\x1b[H\x1b[3~\r", "abcd"),
        (b"abxx\x02\x02\x0b\r", "ab"),
        (b"xxab\x02\x02\x15\r", "ab"),
        (b"free -h /x\x17\x17/y\r", "free /y"),
        (b"cat /proc/meminfo\x1b\x7fiomem\r", "cat /proc/iomem"),
        (b"one two three\x1bb\x1bb\x1bd\r", "one  three"),
        (b"one two\x01\x1bfs\r", "ones two"),
        (b"ab\x04\x02\x04\r", "a"),
        (b"gone\x03kept\r", "kept"),
        (b"wrong\x15right\r", "right"),
    ] {
        assert_eq!(type_in(keys), [line], "{keys:?}");
    }
}

#[test]
fn the_history_is_walked_and_the_line_in_work_is_found_again() {
    assert_eq!(type_in(b"one\rtwo\r\x1b[A\x1b[A\r"), ["one", "two", "one"]);
    assert_eq!(type_in(b"one\rtwo\rthree\x10\x10\x10\x0e\x0e\x0e!\r"), ["one", "two", "three!"]);
    assert_eq!(type_in(b"\x1b[A\x1b[Bx\r"), ["x"]);
    assert_eq!(type_in(b"one\r\x1b[A\x03\x1b[A\r"), ["one", "one"]);
}

#[test]
fn a_tab_completes_what_is_certain_and_a_second_one_lists_the_rest() {
    assert_eq!(type_in(b"mem\tinf\tx\r"), ["meminfo x"]);
    assert_eq!(type_in(b"fre\t-h\r"), ["free -h"]);
    assert_eq!(type_in(b"cat /p\tm\t\r"), ["cat /proc/meminfo "]);
    let (mut line, mut terminal) = new();
    feed(&mut line, &mut terminal, b"x\x02f\t");
    assert_eq!((terminal.line().as_str(), terminal.bells), ("quire> frx", 0));
    feed(&mut line, &mut terminal, b"\t");
    assert_eq!((terminal.above.len(), terminal.bells), (0, 1));
    feed(&mut line, &mut terminal, b"\t");
    assert_eq!(terminal.above.iter().map(|row| row.trim_end()).collect::<Vec<_>>(), ["quire> frx", "free   frost"]);
    assert_eq!((terminal.line().as_str(), terminal.column), ("quire> frx", PROMPT.len() + 2));
    feed(&mut line, &mut terminal, b"\x15nothing\t");
    assert_eq!((terminal.above.len(), terminal.bells), (2, 2));
}

#[test]
fn a_line_too_long_is_cut_and_still_works() {
    let mut input = vec![b'x'; CAPACITY + 10];
    input.push(b'\r');
    assert_eq!(type_in(&[input.as_slice(), b"y\r"].concat()), ["x".repeat(CAPACITY), "y".to_owned()]);
}

#[test]
fn a_long_line_scrolls_sideways_on_a_narrow_terminal() {
    let (mut line, mut terminal) = new();
    feed(&mut line, &mut terminal, b"\x1b[24;20R0123456789abcdefghij");
    assert!(terminal.line().ends_with("hij") && terminal.line().len() <= 19, "{}", terminal.line());
    feed(&mut line, &mut terminal, b"\x01");
    assert_eq!((terminal.line().as_str(), terminal.column), ("quire> 0123456789ab", PROMPT.len()));
}

/// The naive editor: a vector and a cursor.
#[derive(Default)]
struct Model {
    text: Vec<u8>,
    cursor: usize,
    history: Vec<Vec<u8>>,
    back: usize,
    aside: (Vec<u8>, usize),
}

impl Model {
    /// Tells the line if one was entered.
    fn key(&mut self, key: Key) -> Option<Vec<u8>> {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric();
        let (left, right) = self.text.split_at(self.cursor);
        let (left, right) = (left.to_vec(), right.to_vec());
        // How many characters of `text` it takes to pass a word, and what is before it.
        let passed = |text: &mut dyn Iterator<Item = u8>, is_word: &dyn Fn(&u8) -> bool| {
            let mut seen = false;
            text.take_while(|byte| {
                seen |= is_word(byte);
                is_word(byte) || !seen
            })
            .count()
        };
        let word_left = self.cursor - passed(&mut left.iter().rev().copied(), &is_word);
        let word_right = self.cursor + passed(&mut right.iter().copied(), &is_word);
        match key {
            Key::Char(byte) if self.text.len() < CAPACITY => {
                self.text.insert(self.cursor, byte);
                self.cursor += 1;
            }
            Key::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.text.remove(self.cursor);
            }
            Key::Delete if !right.is_empty() => drop(self.text.remove(self.cursor)),
            Key::KillToEnd => self.text = left,
            Key::KillToStart => (self.text, self.cursor) = (right, 0),
            Key::KillWord => {
                self.cursor -= passed(&mut left.iter().rev().copied(), &|byte| *byte != b' ');
                self.text = [&left[..self.cursor], &right].concat();
            }
            Key::KillWordLeft => (self.text, self.cursor) = ([&left[..word_left], &right].concat(), word_left),
            Key::KillWordRight => self.text = [&left, &self.text[word_right..]].concat(),
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = self.text.len().min(self.cursor + 1),
            Key::WordLeft => self.cursor = word_left,
            Key::WordRight => self.cursor = word_right,
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.text.len(),
            Key::Up if self.back < self.history.len() => {
                if self.back == 0 {
                    self.aside = (self.text.clone(), self.cursor);
                }
                self.back += 1;
                self.text = self.history[self.history.len() - self.back].clone();
                self.cursor = self.text.len();
            }
            Key::Down if self.back > 0 => {
                self.back -= 1;
                (self.text, self.cursor) = match self.back {
                    0 => self.aside.clone(),
                    back => (self.history[self.history.len() - back].clone(), usize::MAX),
                };
                self.cursor = self.cursor.min(self.text.len());
            }
            Key::Enter | Key::Cancel => {
                (self.cursor, self.back) = (0, 0);
                let line = std::mem::take(&mut self.text);
                if key == Key::Cancel {
                    return None;
                }
                if line.iter().any(|byte| *byte != b' ') && self.history.last() != Some(&line) {
                    self.history.push(line.clone());
                }
                return Some(line);
            }
            _ => {}
        }
        None
    }
}

const BYTES_OF_KEYS: [(Key, &[u8]); 24] = [
    (Key::Enter, b"\r"),
    (Key::Cancel, b"\x03"),
    (Key::Clear, b"\x0c"),
    (Key::Backspace, b"\x7f"),
    (Key::Backspace, b"\x08"),
    (Key::Delete, b"\x04"),
    (Key::KillToEnd, b"\x0b"),
    (Key::KillToStart, b"\x15"),
    (Key::KillWord, b"\x17"),
    (Key::KillWordLeft, b"\x1b\x7f"),
    (Key::KillWordRight, b"\x1bd"),
    (Key::Left, b"\x1b[D"),
    (Key::Left, b"\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D"),
    (Key::Right, b"\x1bOC"),
    (Key::WordLeft, b"\x1b[1;5D"),
    (Key::WordRight, b"\x1bf"),
    (Key::Home, b"\x01"),
    (Key::End, b"\x1b[F"),
    (Key::Up, b"\x1b[A"),
    (Key::Up, b"\x10"),
    (Key::Down, b"\x0e"),
    (Key::Size(Size { rows: 24, columns: 80 }), b"\x1b[24;80R"),
    (Key::Size(Size { rows: 24, columns: 23 }), b"\x1b[24;23R"),
    (Key::Size(Size { rows: 4, columns: 20 }), b"\x1b[1;1R"),
];

fn keystrokes() -> impl Strategy<Value = Vec<(Key, Vec<u8>)>> {
    let typed = prop_oneof![3 => 0x20_u8..0x7f, 1 => Just(b' ')].prop_map(|byte| (Key::Char(byte), vec![byte]));
    let other = prop::sample::select(&BYTES_OF_KEYS[..]).prop_map(|(key, bytes)| (key, bytes.to_vec()));
    // Enter ends the test of a line: not too often.
    let other = other.prop_filter("enter", |(key, _)| *key != Key::Enter).boxed();
    let enter = Just((Key::Enter, b"\r".to_vec()));
    prop::collection::vec(prop_oneof![12 => typed, 8 => other, 1 => enter], 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn line_and_screen_are_those_of_the_naive_editor(keystrokes in keystrokes()) {
        let (mut line, mut terminal) = new();
        let mut model = Model::default();
        let mut columns = usize::MAX;
        for (key, bytes) in keystrokes {
            let repeats = if key == Key::Left { bytes.len() / 3 } else { 1 };
            let entered = feed(&mut line, &mut terminal, &bytes);
            let expected: Vec<_> = (0..repeats).filter_map(|_| model.key(key)).collect();
            prop_assert!(entered.iter().map(|line| line.as_bytes()).eq(expected.iter().map(|line| line.as_slice())));
            prop_assert_eq!(line.text().as_bytes(), &model.text);
            prop_assert_eq!(line.text().cursor(), model.cursor);
            if let Key::Size(size) = key {
                columns = usize::from(size.columns);
            }
            let row: String = terminal.row.iter().collect();
            let shown = row.strip_prefix(PROMPT).expect("the prompt is there");
            let width = columns.saturating_sub(PROMPT.len() + 1).min(CAPACITY);
            prop_assert!(terminal.column >= PROMPT.len() && terminal.column < columns);
            let start = model.cursor - (terminal.column - PROMPT.len());
            let text = std::str::from_utf8(&model.text).unwrap();
            prop_assert!(start == 0 || text.len() > width);
            let window = &text[start..text.len().min(start + width)];
            prop_assert_eq!(shown.trim_end(), window.trim_end());
        }
    }

    #[test]
    fn any_bytes_leave_a_line_that_can_be_used(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (mut line, mut terminal) = new();
        for byte in noise {
            feed(&mut line, &mut terminal, &[byte]);
            prop_assert!(line.text().cursor() <= line.text().as_bytes().len());
        }
        prop_assert_eq!(feed(&mut line, &mut terminal, b"\x03free\r"), ["free"]);
    }
}
