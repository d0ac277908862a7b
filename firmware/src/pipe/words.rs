// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words and parts of a command line. Single and double quotes hold a part together; a quote without its partner
//! holds to the end of the line. There is no escape character.

/// The parts of `text` between `separator`s, an ASCII character, that stand outside quotes.
pub fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    core::iter::from_fn(move || {
        let text = rest?;
        let end = outside_quotes(text).find(|(_, byte)| *byte == separator).map(|(at, _)| at);
        let (part, next) = match end.and_then(|at| text.split_at_checked(at)) {
            Some((part, behind)) => (part, behind.get(1..)),
            None => (text, None),
        };
        rest = next;
        Some(part)
    })
}

/// The words of `text`, without the quotes around them.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let text = rest.trim_ascii_start();
        let end = outside_quotes(text).find(|(_, byte)| byte.is_ascii_whitespace()).map_or(text.len(), |(at, _)| at);
        let (word, behind) = text.split_at_checked(end)?;
        rest = behind;
        (!word.is_empty()).then(|| unquote(word))
    })
}

/// `text` without the quotes around it, if there are any.
#[must_use]
pub fn unquote(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote).map(|inner: &str| inner.strip_suffix(quote).unwrap_or(inner));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// The bytes that no quote encloses, and where they are.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, u8)> {
    let mut quote = None;
    text.bytes().enumerate().filter(move |(_, byte)| {
        match quote {
            None if matches!(byte, b'"' | b'\'') => quote = Some(*byte),
            None => return true,
            Some(open) if open == *byte => quote = None,
            Some(_) => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_at_separators_outside_quotes() {
        let parts = |text| split(text, b'|').collect::<Vec<_>>();
        assert_eq!(parts("a | b|c"), ["a ", " b", "c"]);
        assert_eq!(parts(r#"a "x|y" '|"|' | b"#), [r#"a "x|y" '|"|' "#, " b"]);
        assert_eq!(parts("'a | b"), ["'a | b"]);
        assert_eq!(parts("|"), ["", ""]);
        assert_eq!(parts("\u{e4}|"), ["\u{e4}", ""]);
        assert_eq!(parts(""), [""]);
    }

    #[test]
    fn words_lose_their_quotes() {
        let all = |text| words(text).collect::<Vec<_>>();
        assert_eq!(all(r#"  -v "a b"  'c "d' e"#), ["-v", "a b", "c \"d", "e"]);
        assert_eq!(all("\"never closed x"), ["never closed x"]);
        assert_eq!(all("a '' b"), ["a", "", "b"]);
        assert_eq!(all(" \t "), [""; 0]);
        assert_eq!((unquote("'"), unquote("a'")), ("", "a'"));
    }
}
