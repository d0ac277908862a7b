// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes a symbol table; on the host only.

use std::collections::BTreeMap;

use super::{FIRST_TOKEN, MAGIC, TOKENS};

/// The table of `symbols` (address, size in bytes, name), which ascend by address. `None` if an address or a size is
/// more than 32 bits away from `base`.
///
/// Characters that are not ASCII become `?`. Complexity: 128 passes over all names.
#[must_use]
pub fn encode(base: u64, symbols: &[(u64, u64, &str)]) -> Option<Vec<u8>> {
    let ascii = |char: char| u8::try_from(char).ok().filter(u8::is_ascii).unwrap_or(b'?');
    let mut names: Vec<Vec<u8>> = symbols.iter().map(|symbol| symbol.2.chars().map(ascii).collect()).collect();
    let tokens = pack(&mut names);

    let name_bytes: usize = names.iter().map(Vec::len).sum();
    let text_bytes: usize = tokens.iter().map(Vec::len).sum();
    let mut table = MAGIC.to_vec();
    for size in [symbols.len(), text_bytes, name_bytes] {
        table.extend(u32::try_from(size).ok()?.to_le_bytes());
    }
    table.extend(base.to_le_bytes());
    let mut at = 0;
    for ((address, size, _), name) in symbols.iter().zip(&names) {
        for field in [address.checked_sub(base)?, *size, at] {
            table.extend(u32::try_from(field).ok()?.to_le_bytes());
        }
        at += name.len() as u64;
    }
    let mut end = 0;
    for token in 0..TOKENS {
        end += tokens.get(token).map_or(0, Vec::len);
        table.extend(u16::try_from(end).ok()?.to_le_bytes());
    }
    tokens.iter().for_each(|text| table.extend(text));
    names.iter().for_each(|name| table.extend(name));
    Some(table)
}

/// Makes a token of the commonest pair of neighbours, again and again; tells the tokens' texts.
fn pack(names: &mut [Vec<u8>]) -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for token in FIRST_TOKEN..=u8::MAX {
        let mut count: BTreeMap<[u8; 2], usize> = BTreeMap::new();
        for pair in names.iter().flat_map(|name| name.array_windows()) {
            *count.entry(*pair).or_default() += 1;
        }
        let text_of = |byte: u8| match byte.checked_sub(FIRST_TOKEN) {
            Some(token) => texts.get(usize::from(token)).cloned().unwrap_or_default(),
            None => vec![byte],
        };
        let Some((pair, times)) = count.into_iter().max_by_key(|entry| entry.1) else { break };
        let text = pair.map(text_of).concat();
        if times <= text.len() {
            break;
        }
        for name in names.iter_mut() {
            *name = replaced(name, pair, token);
        }
        texts.push(text);
    }
    texts
}

fn replaced(name: &[u8], pair: [u8; 2], token: u8) -> Vec<u8> {
    let mut short = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, behind)) = rest.split_first() {
        match rest.strip_prefix(&pair) {
            Some(behind) => {
                short.push(token);
                rest = behind;
            }
            None => {
                short.push(*first);
                rest = behind;
            }
        }
    }
    short
}
