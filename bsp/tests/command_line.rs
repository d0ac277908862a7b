// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties of the command line that hold for any text.

use bsp::cmdline::{params, parse_size};
use proptest::prelude::*;

/// A parameter as somebody may type it, and what must come out.
fn param() -> impl Strategy<Value = (String, String, Option<String>)> {
    let key = "[a-z][a-z0-9_.-]{0,11}";
    prop_oneof![
        key.prop_map(|key| (key.clone(), key, None)),
        (key, "[a-z0-9;:,=/.-]{0,16}").prop_map(|(key, value)| (format!("{key}={value}"), key, Some(value))),
        (key, "[a-z0-9;:,=/. -]{0,16}").prop_map(|(key, value)| (format!("{key}=\"{value}\""), key, Some(value))),
        (key, "[a-z0-9;:,=/. -]{0,16}").prop_map(|(key, value)| (format!("\"{key}={value}\""), key, Some(value))),
    ]
}

proptest! {
    /// What is put together comes apart again, whatever stands between the words.
    #[test]
    fn well_formed_lines_are_taken_apart(
        params_in in prop::collection::vec((param(), "[ \t\n]{1,3}"), 0..12),
        lead in "[ \t]{0,2}",
    ) {
        let line = params_in.iter().fold(lead, |line, ((word, ..), space)| line + word + space);
        let found: Vec<_> = params(&line).map(|param| (param.key, param.value)).collect();
        let expected: Vec<_> =
            params_in.iter().map(|((_, key, value), _)| (key.as_str(), value.as_deref())).collect();
        prop_assert_eq!(found, expected);
    }

    /// Anything at all: names and values are pieces of the line, in order, and end.
    #[test]
    fn garbage_gives_pieces_of_itself(line in "\\PC{0,64}|[\" =\\-a\t]{0,64}") {
        let mut rest = line.as_str();
        for param in params(&line) {
            for piece in [Some(param.key), param.value].into_iter().flatten() {
                let at = rest.find(piece);
                prop_assert!(at.is_some(), "{piece:?} is not in {rest:?}");
                rest = &rest[at.unwrap_or(0) + piece.len()..];
            }
        }
    }

    /// Sizes are what their digits and suffix say, or nothing.
    #[test]
    fn sizes_are_exact_or_refused(number: u64, suffix in 0usize..7) {
        let (letter, shift) = [("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50), ("E", 60)][suffix];
        let expected = u64::try_from(u128::from(number) << shift).ok();
        prop_assert_eq!(parse_size(&format!("{number}{letter}")), expected);
        prop_assert_eq!(parse_size(&format!("{number}{}", letter.to_lowercase())), expected);
        if letter != "E" {
            prop_assert_eq!(parse_size(&format!("{number:#x}{letter}")), expected);
        }
        prop_assert_eq!(parse_size(&format!("{number}{letter}x")), None);
        prop_assert_eq!(parse_size(&format!(" {number}{letter}")), None);
    }

    #[test]
    fn any_text_may_be_asked_for_its_size(text in "\\PC{0,24}") {
        // A size never comes from text that begins with something else than a digit.
        let starts_well = text.starts_with(|char: char| char.is_ascii_digit());
        prop_assert!(parse_size(&text).is_none() || starts_well);
    }
}
