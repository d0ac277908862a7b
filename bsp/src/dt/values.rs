// SPDX-License-Identifier: MIT OR Apache-2.0
//! Property values: words, cells, string lists (Devicetree Specification 2.2.4).

/// A number of 0, 4 or 8 bytes; of a longer one (a PCI address) the last 8, as the first word holds flags.
///
/// `None` if it has more than three cells.
pub(super) fn number(cells: &[u8]) -> Option<u64> {
    if cells.len() > 12 {
        return None;
    }
    let tail = cells.get(cells.len().saturating_sub(8)..)?;
    Some(tail.as_chunks::<4>().0.iter().fold(0, |value, word| value << 32 | u64::from(u32::from_be_bytes(*word))))
}

/// A property of one cell.
pub(super) fn word(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// A property of one or two cells, as its length says.
pub(super) fn one_or_two(value: &[u8]) -> Option<u64> {
    matches!(value.len(), 4 | 8).then(|| number(value)).flatten()
}

/// The strings of a list.
pub(super) fn strings(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == 0).filter(|text| !text.is_empty())
}

/// Whether a list has this string.
pub(super) fn has(value: &[u8], text: &str) -> bool {
    strings(value).any(|entry| entry == text.as_bytes())
}

/// Entries of `cells` words each; the flag says whether a piece of one is left over. Of no words there are none.
pub(super) fn entries(value: &[u8], cells: usize) -> (impl Iterator<Item = &[u8]>, bool) {
    let bytes = cells.saturating_mul(4);
    let whole = value.len().checked_div(bytes).map_or(0, |count| count * bytes);
    let (entries, rest) = value.split_at(whole);
    (entries.chunks_exact(bytes.max(1)), !rest.is_empty())
}

/// Cuts the first `cells` words off.
pub(super) fn split(entry: &[u8], cells: usize) -> Option<(&[u8], &[u8])> {
    entry.split_at_checked(cells * 4)
}
