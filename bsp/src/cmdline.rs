// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's command line: `key`, `key=value`, `key="a value"` (Linux `Documentation/admin-guide/kernel-parameters`).

/// One parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Param<'a> {
    /// The name.
    pub key: &'a str,
    /// What stands behind the `=`, without the quotes around it.
    pub value: Option<&'a str>,
}

impl Param<'_> {
    /// Whether this is the parameter `name`; `-` and `_` are the same, as in Linux.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let folded = |text: &str| text.len() == name.len();
        let same = |(a, b): (u8, u8)| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_'));
        folded(self.key) && self.key.bytes().zip(name.bytes()).all(same)
    }
}

/// The parameters in order. White space stands between them, unless it is inside double quotes, which may
/// surround the value or the whole parameter. A quote without its partner holds to the end. What follows a bare
/// `--` is not for the kernel.
pub fn params(text: &str) -> impl Iterator<Item = Param<'_>> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let word;
        (word, rest) = next_word(rest)?;
        (word != "--").then(|| param(word))
    })
}

/// The first word, quotes and all, and what follows it.
fn next_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let mut quoted = false;
    let end = text.find(|char: char| {
        quoted ^= char == '"';
        char.is_whitespace() && !quoted
    });
    let (word, rest) = text.split_at_checked(end.unwrap_or(text.len()))?;
    (!word.is_empty()).then_some((word, rest))
}

fn param(word: &str) -> Param<'_> {
    // `"key=a b"`: the quotes belong to neither side.
    let word = word.strip_prefix('"').map_or(word, |inner| inner.strip_suffix('"').unwrap_or(inner));
    match word.split_once('=') {
        Some((key, value)) => {
            let value = value.strip_prefix('"').map_or(value, |inner| inner.strip_suffix('"').unwrap_or(inner));
            Param { key, value: Some(value) }
        }
        None => Param { key: word, value: None },
    }
}

/// A number of bytes: decimal, `0x` hexadecimal or `0` octal, with a suffix K, M, G, T, P or E (powers of 1024).
///
/// `None` if it is no number, too large, or followed by something else.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let suffix = text.bytes().last()?.to_ascii_uppercase();
    // In hexadecimal E is a digit, and the digit wins, as in Linux.
    let is_hex = text.starts_with("0x") || text.starts_with("0X");
    let shift = match suffix {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        b'P' => 50,
        b'E' if !is_hex => 60,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { text.get(..text.len() - 1)? };
    let (digits, radix) = match digits.get(..2) {
        Some("0x" | "0X") => (digits.get(2..)?, 16),
        Some(_) if digits.starts_with('0') => (digits, 8),
        _ => (digits, 10),
    };
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()?.checked_mul(1 << shift)
}

/// A number of the command line or the console, decimal or with `0x`.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(&str, Option<&str>)> {
        params(text).map(|param| (param.key, param.value)).collect()
    }

    #[test]
    fn words_are_split_at_white_space_outside_quotes() {
        assert_eq!(all("  a b=1\tc= \n"), [("a", None), ("b", Some("1")), ("c", Some(""))]);
        assert_eq!(all(r#"run="meminfo; exit 3" x"#), [("run", Some("meminfo; exit 3")), ("x", None)]);
        assert_eq!(all(r#""key=a b" y=z=w"#), [("key", Some("a b")), ("y", Some("z=w"))]);
        assert_eq!(all("quiet -- init=1"), [("quiet", None)]);
        assert_eq!(all(""), []);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(["12", "0xff", "0"].map(parse_number), [Some(12), Some(255), Some(0)]);
        assert_eq!(["", "0x", "x", "12k", "-1", "0x1_0"].map(parse_number), [None; 6]);
    }

    #[test]
    fn garbage_is_harmless() {
        assert_eq!(all(r#"run="never closed x"#), [("run", Some("never closed x"))]);
        assert_eq!(all(r#"" "#), [("", None)].map(|_: (&str, Option<&str>)| (" ", None)));
        assert_eq!(all("= =="), [("", Some("")), ("", Some("="))]);
        assert_eq!(all(r#"a"b c"d"#), [(r#"a"b c"d"#, None)]);
    }

    #[test]
    fn dashes_and_underscores_are_the_same_in_names() {
        let param = params("init-on_alloc=1").next().unwrap();
        assert!(param.is("init_on_alloc") && param.is("init-on-alloc"));
        assert!(!param.is("init_on_free") && !param.is("init_on_allo"));
    }

    #[test]
    fn sizes_are_read_as_linux_reads_them() {
        for (text, size) in [
            ("0", Some(0)),
            ("512M", Some(512 << 20)),
            ("8g", Some(8 << 30)),
            ("0x100000", Some(1 << 20)),
            ("0x10k", Some(16 << 10)),
            ("0x1E", Some(0x1e)),
            ("010", Some(8)),
            ("1E", Some(1 << 60)),
            ("16E", None),
            ("18446744073709551616", None),
            ("", None),
            ("M", None),
            ("12Q", None),
            ("-1", None),
            ("+1", None),
            ("08", None),
            ("1 M", None),
            ("0x", None),
            ("\u{fffd}M", None),
        ] {
            assert_eq!(parse_size(text), size, "{text:?}");
        }
    }
}
