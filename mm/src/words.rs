// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filling metadata, which on large machines is much of what booting does: sixteen words a round, where `memset` of a
//! bare-metal target may store one.
#![forbid(unsafe_code)]

/// Sets all words.
#[inline]
pub(crate) fn fill(words: &mut [u64], value: u64) {
    // Of a value that the compiler knows it would make a call of `memset`.
    let value = core::hint::black_box(value);
    let (rounds, rest) = words.as_chunks_mut::<16>();
    for round in rounds {
        *round = [value; 16];
    }
    rest.iter_mut().for_each(|word| *word = value);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_word_is_set_and_no_other() {
        for count in 0..70 {
            let mut words = [1; 72];
            super::fill(&mut words[1..=count], 7);
            assert!(words.iter().enumerate().all(|(at, word)| *word == if (1..=count).contains(&at) { 7 } else { 1 }));
        }
    }
}
