// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion of the word before the cursor from the words that could stand there.

/// Longest word that is completed, in bytes.
const LONGEST: usize = 64;

/// Says which words could stand behind `before`, the line up to the word: calls `visit` with each.
pub type Candidates = fn(before: &str, visit: &mut dyn FnMut(&str));

/// The word before the cursor and the words that begin as it does.
pub(super) struct Completion<'a> {
    before: &'a str,
    word: &'a str,
    candidates: Candidates,
}

impl<'a> Completion<'a> {
    /// For a line that ends where the cursor is.
    pub(super) fn new(line: &'a str, candidates: Candidates) -> Self {
        let start = line.rfind(|char: char| char.is_whitespace() || char == '|' || char == ';').map_or(0, |at| at + 1);
        let (before, word) = line.split_at(start);
        Self { before, word, candidates }
    }

    /// Calls `visit` with each word that begins as the one that is there.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&str)) {
        (self.candidates)(self.before, &mut |candidate| {
            if candidate.starts_with(self.word) && candidate.len() <= LONGEST {
                visit(candidate);
            }
        });
    }

    /// What all of them go on with, and how many there are.
    pub(super) fn common(&self) -> Common {
        let mut common = Common { bytes: [0; LONGEST], length: 0, count: 0 };
        self.for_each(|candidate| common.add(candidate.get(self.word.len()..).unwrap_or("")));
        common
    }
}

/// The beginning that several texts share.
#[derive(Debug)]
pub(super) struct Common {
    bytes: [u8; LONGEST],
    length: usize,
    pub(super) count: usize,
}

impl Common {
    fn add(&mut self, text: &str) {
        if self.count == 0 {
            self.length = text.len().min(LONGEST);
            for (slot, byte) in self.bytes.iter_mut().zip(text.bytes()) {
                *slot = byte;
            }
        } else {
            self.length = self.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        }
        self.count += 1;
    }

    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.bytes.iter().take(self.length).copied()
    }
}
