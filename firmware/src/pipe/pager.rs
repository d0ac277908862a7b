// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much text fits on the screen before somebody must be asked to go on.

use crate::line::Size;

/// Counts the lines of a terminal, those included that the terminal makes of one that is too long.
#[derive(Clone, Copy, Debug)]
pub struct Pager {
    size: Size,
    /// Lines that may still begin.
    left: u16,
    column: u16,
}

impl Pager {
    /// A whole page is free. The last line of the screen is left for the question.
    #[must_use]
    pub const fn new(size: Size) -> Self {
        Self { size, left: size.rows.saturating_sub(1), column: 0 }
    }

    /// Cuts `text` into what still fits on the page and the rest, before which to ask.
    pub fn fit<'t>(&mut self, text: &'t str) -> (&'t str, &'t str) {
        for (at, char) in text.char_indices() {
            if self.column >= self.size.columns && char != '\n' {
                // The terminal goes to the next line by itself.
                self.left = self.left.saturating_sub(1);
                self.column = 0;
            }
            if self.left == 0 {
                return text.split_at_checked(at).unwrap_or((text, ""));
            }
            match char {
                '\n' => {
                    self.left -= 1;
                    self.column = 0;
                }
                '\t' => self.column = (self.column / 8 + 1) * 8,
                char if char.is_control() => {}
                _ => self.column += 1,
            }
        }
        (text, "")
    }

    /// The question was answered: one more page.
    pub const fn next_page(&mut self) {
        self.left = self.size.rows.saturating_sub(1);
    }

    /// The question was answered: one more line.
    pub const fn next_line(&mut self) {
        self.left = 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: Size = Size { rows: 4, columns: 20 };

    #[test]
    fn a_page_is_a_line_less_than_the_screen() {
        let mut pager = Pager::new(SIZE);
        assert_eq!(pager.fit("1\n2\n"), ("1\n2\n", ""));
        assert_eq!(pager.fit("3\n4\n5\n"), ("3\n", "4\n5\n"));
        assert_eq!(pager.fit("4\n5\n"), ("", "4\n5\n"));
        pager.next_line();
        assert_eq!(pager.fit("4\n5\n"), ("4\n", "5\n"));
        pager.next_page();
        assert_eq!(pager.fit("5\n6\n7\n"), ("5\n6\n7\n", ""));
    }

    #[test]
    fn a_long_line_counts_as_often_as_the_terminal_breaks_it() {
        let mut pager = Pager::new(SIZE);
        let text = "x".repeat(61);
        let (fits, rest) = pager.fit(&text);
        assert_eq!((fits.len(), rest.len()), (60, 1));
        let mut pager = Pager::new(SIZE);
        let text = "x".repeat(20) + "\n";
        assert_eq!(pager.fit(&text.repeat(4)).0.len(), 63);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Nothing is lost, every page but the last is full, and none is longer than the screen.
        #[test]
        fn pages_are_full_and_complete(text in "[a\u{e4}\n]{0,200}|[a\n]{0,30}") {
            let mut pager = Pager::new(SIZE);
            let (mut rest, mut all) = (text.as_str(), String::new());
            loop {
                let (fits, behind) = pager.fit(rest);
                all.push_str(fits);
                let lines = fits.split_inclusive('\n').map(|line| line.trim_end_matches('\n').chars().count());
                let rows: usize = lines.map(|length| length.div_ceil(20).max(1)).sum();
                prop_assert!(rows <= 3);
                if behind.is_empty() {
                    break;
                }
                prop_assert_eq!(rows, 3);
                rest = behind;
                pager.next_page();
            }
            prop_assert_eq!(all, text);
        }
    }
}
