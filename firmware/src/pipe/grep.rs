// SPDX-License-Identifier: MIT OR Apache-2.0
//! `| grep [-v] [-i] PATTERN`, as often as one likes: a line goes through if every one of them wants it.

use core::fmt;

use super::pattern::Pattern;
use super::words::words;

/// Most greps behind one command.
pub const MAX_GREPS: usize = 4;
/// Longest line, in bytes; what is longer is looked at, and let through or not, in pieces.
pub const MAX_LINE: usize = 1100;

/// One `grep`.
#[derive(Clone, Copy, Debug)]
pub struct Grep {
    pattern: Pattern,
    is_inverted: bool,
}

impl Grep {
    /// Reads `grep [-v] [-i] PATTERN`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut words = words(text);
        if words.next() != Some("grep") {
            return Err("only grep can stand behind |");
        }
        let (mut is_inverted, mut ignores_case) = (false, false);
        let mut word = words.next();
        while let Some(options) = word.and_then(|word| word.strip_prefix('-')) {
            match options {
                "v" => is_inverted = true,
                "i" => ignores_case = true,
                "vi" | "iv" => (is_inverted, ignores_case) = (true, true),
                // What follows is the pattern, even if it begins with a dash.
                "e" => {
                    word = words.next();
                    break;
                }
                _ => return Err("grep takes -v, -i and -e PATTERN"),
            }
            word = words.next();
        }
        let pattern = word.ok_or("grep needs a pattern")?;
        if words.next().is_some() {
            return Err("grep takes one pattern; one with a space goes in quotes");
        }
        let pattern = Pattern::new(pattern, ignores_case).ok_or("the pattern of grep is too long")?;
        Ok(Self { pattern, is_inverted })
    }

    fn wants(&self, line: &str) -> bool {
        self.pattern.is_in(line) != self.is_inverted
    }
}

/// The greps behind a command. Text comes in as it is written and goes out in whole lines.
#[derive(Debug)]
pub struct Filter {
    greps: [Option<Grep>; MAX_GREPS],
    line: [u8; MAX_LINE],
    length: usize,
    nr_passed: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    /// Lets everything through.
    #[must_use]
    pub const fn new() -> Self {
        Self { greps: [None; MAX_GREPS], line: [0; MAX_LINE], length: 0, nr_passed: 0 }
    }

    /// How many greps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.greps.iter().flatten().count()
    }

    /// Whether there is none, and everything goes through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a grep, and counts lines anew.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn push(&mut self, grep: Grep) -> Result<(), &'static str> {
        let free = self.greps.iter_mut().find(|slot| slot.is_none());
        *free.ok_or("too many greps")? = Some(grep);
        self.nr_passed = 0;
        Ok(())
    }

    /// Takes away all greps but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.greps.iter_mut().skip(count).for_each(|slot| *slot = None);
    }

    /// How many lines went through since the last grep was added.
    #[must_use]
    pub const fn nr_passed(&self) -> usize {
        self.nr_passed
    }

    /// Text from the command.
    ///
    /// # Errors
    ///
    /// Those of `w`.
    pub fn write(&mut self, text: &str, w: &mut impl fmt::Write) -> fmt::Result {
        let mut buffer = [0; 4];
        for char in text.chars() {
            let bytes = char.encode_utf8(&mut buffer).as_bytes();
            if self.length + bytes.len() > MAX_LINE {
                self.flush(w)?;
            }
            for (slot, byte) in self.line.iter_mut().skip(self.length).zip(bytes) {
                *slot = *byte;
            }
            self.length += bytes.len();
            if char == '\n' {
                self.flush(w)?;
            }
        }
        Ok(())
    }

    /// The command has ended: what it wrote last counts as a line.
    ///
    /// # Errors
    ///
    /// Those of `w`.
    pub fn flush(&mut self, w: &mut impl fmt::Write) -> fmt::Result {
        let length = core::mem::take(&mut self.length);
        // Only whole characters ever get in.
        let line = self.line.get(..length).and_then(|line| core::str::from_utf8(line).ok()).unwrap_or("");
        let text = line.strip_suffix('\n').unwrap_or(line);
        if !line.is_empty() && self.greps.iter().flatten().all(|grep| grep.wants(text)) {
            self.nr_passed += 1;
            w.write_str(line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(greps: &[&str], pieces: &[&str]) -> (String, usize) {
        let (mut filter, mut out) = (Filter::new(), String::new());
        greps.iter().for_each(|grep| filter.push(Grep::parse(grep).unwrap()).unwrap());
        pieces.iter().for_each(|piece| filter.write(piece, &mut out).unwrap());
        filter.flush(&mut out).unwrap();
        (out, filter.nr_passed())
    }

    #[test]
    fn lines_go_through_whole() {
        let pieces = ["Mem", "Total: 1\nMemFree: 2\nSw", "apFree: ", "3\nMemFree without an end"];
        assert_eq!(
            filtered(&[" grep Free"], &pieces),
            ("MemFree: 2\nSwapFree: 3\nMemFree without an end".to_owned(), 3)
        );
        assert_eq!(filtered(&["grep -v -i free "], &pieces), ("MemTotal: 1\n".to_owned(), 1));
        assert_eq!(filtered(&["grep Free", "grep -v Swap", "grep 2"], &pieces), ("MemFree: 2\n".to_owned(), 1));
        assert_eq!(filtered(&["grep ^$"], &["\n\nx\n"]), ("\n\n".to_owned(), 2));
        assert_eq!(filtered(&["grep 'x y'"], &["x y\nxy\n"]), ("x y\n".to_owned(), 1));
        assert_eq!(filtered(&["grep -e -v"], &["-v\nv\n"]), ("-v\n".to_owned(), 1));
    }

    #[test]
    fn what_is_no_grep_is_refused_in_words() {
        for (text, why) in [
            ("", "only grep"),
            ("more", "only grep"),
            ("grep", "needs a pattern"),
            ("grep -i", "needs a pattern"),
            ("grep -e", "needs a pattern"),
            ("grep -x y", "takes -v"),
            ("grep a b", "one pattern"),
        ] {
            assert!(Grep::parse(text).unwrap_err().contains(why), "{text}");
        }
        assert!(Grep::parse(&("grep ".to_owned() + &"x".repeat(64))).is_err());
        let mut filter = Filter::new();
        (0..MAX_GREPS).for_each(|_| filter.push(Grep::parse("grep x").unwrap()).unwrap());
        assert!(filter.push(Grep::parse("grep x").unwrap()).is_err());
        filter.truncate(0);
        assert!(filter.is_empty());
    }

    #[test]
    fn a_line_that_never_ends_goes_through_in_pieces() {
        let text = "\u{e4}b".repeat(MAX_LINE);
        assert_eq!(filtered(&["grep b"], &[&text]).0, text);
        assert_eq!(filtered(&["grep -v b"], &[&text]).0, "");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn how_the_text_is_cut_into_pieces_does_not_matter(pieces in prop::collection::vec("[ab\n\u{e4}]{0,9}", 0..30)) {
            let text = pieces.concat();
            let expected: String = text.split_inclusive('\n').filter(|line| line.contains('a')).collect();
            let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(filtered(&["grep a"], &pieces).0, expected);
        }
    }
}
