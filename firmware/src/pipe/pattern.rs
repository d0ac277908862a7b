// SPDX-License-Identifier: MIT OR Apache-2.0
//! The patterns of `grep`: the part of POSIX basic regular expressions that one types at a console.
//!
//! `^` at the start and `$` at the end anchor, `.` is any character, `*` behind a character repeats it, `\` takes the
//! next one as it is. The pattern is run as an automaton whose states are the bits of a word: time is the length of
//! the text times that of the pattern, whatever the pattern.

/// Most characters of a pattern, each with its `*`.
pub const MAX_PATTERN: usize = 63;

/// What a place in the pattern matches, and whether it repeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Item {
    /// Any byte if there is none here.
    byte: Option<u8>,
    repeats: bool,
}

/// A pattern, ready to be looked for.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    items: [Item; MAX_PATTERN],
    length: usize,
    at_start: bool,
    at_end: bool,
    ignores_case: bool,
}

impl Pattern {
    /// Reads a pattern; `None` if it is too long.
    #[must_use]
    pub fn new(text: &str, ignores_case: bool) -> Option<Self> {
        let mut pattern = Self {
            items: [Item { byte: None, repeats: false }; MAX_PATTERN],
            length: 0,
            at_start: text.starts_with('^'),
            at_end: false,
            ignores_case,
        };
        let mut rest = text.strip_prefix('^').unwrap_or(text).as_bytes();
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            let byte = match (first, behind) {
                (b'$', []) => {
                    pattern.at_end = true;
                    break;
                }
                (b'.', _) => None,
                (b'\\', [next, behind @ ..]) => {
                    rest = behind;
                    Some(*next)
                }
                // A `*` that follows nothing is one to look for.
                (byte, _) => Some(*byte),
            };
            let repeats = rest.first() == Some(&b'*');
            rest = rest.get(usize::from(repeats)..)?;
            *pattern.items.get_mut(pattern.length)? = Item { byte, repeats };
            pattern.length += 1;
        }
        Some(pattern)
    }

    /// Whether `line` has the pattern in it. Time O(length of the line x length of the pattern).
    #[must_use]
    pub fn is_in(&self, line: &str) -> bool {
        let start = self.skipping(1);
        let found = |states: u64| states >> self.length & 1 != 0;
        let mut states = start;
        for byte in line.bytes() {
            if found(states) && !self.at_end {
                return true;
            }
            states = self.skipping(self.step(states, byte));
            if !self.at_start {
                states |= start;
            }
        }
        found(states)
    }

    /// The states after one byte; bit `n` stands for "the first `n` items have matched".
    fn step(&self, states: u64, byte: u8) -> u64 {
        let matches = |item: &Item| match item.byte {
            None => true,
            Some(wanted) if self.ignores_case => wanted.eq_ignore_ascii_case(&byte),
            Some(wanted) => wanted == byte,
        };
        let items = self.items.iter().take(self.length).enumerate();
        items.filter(|(n, item)| states >> n & 1 != 0 && matches(item)).fold(0, |next, (n, item)| {
            // A repeated item may match again.
            next | 1 << (n + usize::from(!item.repeats))
        })
    }

    /// Adds the states that are reached by matching repeated items not at all.
    fn skipping(&self, states: u64) -> u64 {
        let items = self.items.iter().take(self.length).enumerate();
        items.filter(|(_, item)| item.repeats).fold(states, |states, (n, _)| states | (states >> n & 1) << (n + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, line: &str) -> bool {
        Pattern::new(pattern, false).unwrap().is_in(line)
    }

    /// By trying everything.
    fn naive(pattern: &[u8], line: &[u8]) -> bool {
        fn here(pattern: &[u8], line: &[u8]) -> bool {
            let (wanted, behind): (Option<u8>, &[u8]) = match pattern {
                [] => return true,
                [b'$'] => return line.is_empty(),
                [b'\\', byte, behind @ ..] => (Some(*byte), behind),
                [b'.', behind @ ..] => (None, behind),
                [byte, behind @ ..] => (Some(*byte), behind),
            };
            let one = |line: &[u8]| line.first().is_some_and(|byte| wanted.is_none_or(|wanted| wanted == *byte));
            match behind {
                [b'*', behind @ ..] => here(behind, line) || (one(line) && here(pattern, &line[1..])),
                _ => one(line) && here(behind, &line[1..]),
            }
        }
        match pattern {
            [b'^', pattern @ ..] => here(pattern, line),
            _ => (0..=line.len()).any(|start| here(pattern, &line[start..])),
        }
    }

    #[test]
    fn patterns_mean_what_grep_means_by_them() {
        for (pattern, line) in [
            ("", ""),
            ("", "x"),
            ("Free", "MemFree: 12 kB"),
            ("^Mem", "MemFree"),
            ("kB$", "MemFree: 12 kB"),
            ("^$", ""),
            ("M.*:", "MemFree: 12 kB"),
            ("fo*x", "fx"),
            ("fo*x$", "foooox"),
            ("a\\.b", "a.b"),
            ("a$b", "a$b"),
            ("*", "*"),
            ("a\\", "a\\"),
            (".*.*", ""),
        ] {
            assert!(matches(pattern, line), "{pattern} {line}");
        }
        for (pattern, line) in [("^em", "MemFree"), ("k$", "kB"), ("a\\.b", "axb"), ("^$", "x"), ("x.", "x")] {
            assert!(!matches(pattern, line), "{pattern} {line}");
        }
        assert!(!matches("free", "Free") && Pattern::new("fREE", true).unwrap().is_in("MemFree"));
    }

    #[test]
    fn a_pattern_has_a_longest_length() {
        assert!(Pattern::new(&"a*".repeat(MAX_PATTERN), false).unwrap().is_in("b"));
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN), false).unwrap().is_in(&"a".repeat(MAX_PATTERN)));
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN + 1), false).is_none());
    }

    #[test]
    fn patterns_that_backtracking_would_never_finish_are_quick() {
        let pattern = Pattern::new(&("a*".repeat(40) + "b"), false).unwrap();
        assert!(!pattern.is_in(&"a".repeat(10_000)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn the_automaton_agrees_with_trying_everything(pattern in "\\^?[ab.*$\\\\]{0,8}", line in "[ab*$\\\\.]{0,10}") {
            prop_assert_eq!(matches(&pattern, &line), naive(pattern.as_bytes(), line.as_bytes()));
        }
    }
}
