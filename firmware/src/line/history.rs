// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines that were entered, in a buffer of fixed size: the oldest go when there is no room.

use super::CAPACITY;

/// Bytes of lines that are remembered, a line end each included.
const SIZE: usize = 2048;

const _: () = assert!(SIZE > CAPACITY);

/// Earlier lines. *Invariant:* the text is ASCII, a line end behind each line, and no line is empty.
#[derive(Debug)]
pub struct History {
    bytes: [u8; SIZE],
    length: usize,
    /// Lines that are forgotten already.
    nr_forgotten: usize,
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// Nothing entered yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; SIZE], length: 0, nr_forgotten: 0 }
    }

    /// Remembers a line, unless it is blank, the same as the last one, longer than a line can be, or no line.
    pub fn push(&mut self, line: &str) {
        let is_line = line.len() <= CAPACITY && line.is_ascii() && !line.contains('\n');
        if !is_line || line.trim().is_empty() || self.back(1) == Some(line) {
            return;
        }
        while self.length + line.len() + 1 > SIZE {
            self.forget_oldest();
        }
        for byte in line.bytes().chain([b'\n']) {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
    }

    /// The line `count` lines back; 1 is the last one.
    #[must_use]
    pub fn back(&self, count: usize) -> Option<&str> {
        self.text().lines().rev().nth(count.checked_sub(1)?)
    }

    /// All lines that are left, the oldest first, with their numbers from 1 on.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        (self.nr_forgotten + 1..).zip(self.text().lines())
    }

    fn text(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("")
    }

    fn forget_oldest(&mut self) {
        let end = self.text().find('\n').map_or(self.length, |end| end + 1);
        self.bytes.copy_within(end..self.length, 0);
        self.length -= end;
        self.nr_forgotten += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blanks_and_repetitions_are_not_remembered() {
        let mut history = History::new();
        ["", "free", "free", "  ", "help", "free"].iter().for_each(|line| history.push(line));
        assert_eq!(history.iter().collect::<Vec<_>>(), [(1, "free"), (2, "help"), (3, "free")]);
        assert_eq!((history.back(0), history.back(2), history.back(4)), (None, Some("help"), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_newest_lines_are_kept(lines in prop::collection::vec("[ a-c]{0,5}|[ -~]{0,300}|\u{e4}", 0..60)) {
            let mut history = History::new();
            let mut model: Vec<String> = Vec::new();
            for line in lines {
                history.push(&line);
                let is_line = line.len() <= CAPACITY && line.is_ascii() && !line.trim().is_empty();
                if is_line && model.last() != Some(&line) {
                    model.push(line);
                }
                let kept: Vec<_> = history.iter().map(|(_, line)| line.to_owned()).collect();
                prop_assert!(model.ends_with(&kept));
                prop_assert!(history.iter().map(|(number, _)| number).eq(model.len() - kept.len() + 1..=model.len()));
                let bytes: usize = kept.iter().map(|line| line.len() + 1).sum();
                prop_assert!(kept.len() == model.len() || bytes > SIZE - 2 * (CAPACITY + 1));
            }
        }
    }
}
