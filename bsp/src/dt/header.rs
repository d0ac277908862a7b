// SPDX-License-Identifier: MIT OR Apache-2.0
//! Is this a device tree, and is it whole? (Devicetree Specification 5: flattened format)
//!
//! The parser behind this trusts its input more than a boot loader deserves: a wrong size makes it overflow, an
//! early end token makes it stop as if all were well, deep nesting makes it drop nodes without a word. So one
//! linear pass looks at every token first. What passes here is walked to its end.

use core::ops::Range;

use super::DtError;

/// Bytes of the header.
pub const PREFIX: usize = 40;
/// No board's tree is larger; the arm64 boot protocol allows no larger one.
pub const MAX_SIZE: usize = 2 << 20;
/// Deepest nesting below the root. The parser's own limit is 15; real trees stay below 10.
pub const MAX_DEPTH: usize = 14;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Where the parts of a whole blob are, in bytes from its beginning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The memory reservation block, its terminating entry included.
    pub reserve_map: Range<usize>,
    /// The structure block, up to and with its end token.
    pub structure: Range<usize>,
    /// The strings block.
    pub strings: Range<usize>,
}

/// The big-endian word at `offset`.
pub(super) fn word(blob: &[u8], offset: usize) -> Option<u32> {
    let bytes = blob.get(offset..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// The size that a blob says it has, from its first [`PREFIX`] bytes, so that the caller can find the rest.
///
/// # Errors
///
/// [`DtError`] if these bytes do not begin a tree.
pub fn total_size(prefix: &[u8]) -> Result<usize, DtError> {
    let present = prefix.len();
    let field = |index: usize| word(prefix, index * 4).ok_or(DtError::UnexpectedEnd { offset: present });
    let found = field(0)?;
    if found != MAGIC {
        return Err(DtError::BadMagic { found });
    }
    let total = field(1)?;
    let (version, compatible) = (field(5)?, field(6)?);
    if version < 17 || compatible > 17 {
        return Err(DtError::BadVersion { found: version });
    }
    if (total as usize) < PREFIX || total as usize > MAX_SIZE {
        return Err(DtError::BadSize { total });
    }
    Ok(total as usize)
}

/// Checks all of `blob`. Complexity: linear.
///
/// # Errors
///
/// [`DtError`], with the offset of what is wrong.
pub fn check(blob: &[u8]) -> Result<Layout, DtError> {
    let total = total_size(blob)?;
    let truncated = DtError::Truncated { total: total as u32, present: blob.len() };
    let blob = blob.get(..total).ok_or(truncated)?;
    let field = |index: usize| word(blob, index * 4).ok_or(DtError::UnexpectedEnd { offset: index * 4 });
    let block = |name, offset: u32, size: u32, align: u32| {
        let range = offset as usize..offset as usize + size as usize;
        let inside = range.start >= PREFIX && range.end <= total && offset.is_multiple_of(align);
        if inside { Ok(range) } else { Err(DtError::BadBlock { block: name, offset }) }
    };
    let structure = block("structure block", field(2)?, field(9)?, 4)?;
    let strings = block("strings block", field(3)?, field(8)?, 1)?;
    let reserve_offset = field(4)?;
    let reserve_start = block("reserve map", reserve_offset, 16, 8)?.start;
    let reserve_end = reserve_map_end(blob, reserve_start)
        .ok_or(DtError::BadBlock { block: "reserve map", offset: reserve_offset })?;
    // A map without its end goes on into what lies behind it.
    let apart = |one: &Range<usize>, other: &Range<usize>| one.end <= other.start || other.end <= one.start;
    let reserve_map = reserve_start..reserve_end;
    if !apart(&reserve_map, &structure) || !apart(&reserve_map, &strings) {
        return Err(DtError::BadBlock { block: "reserve map", offset: reserve_offset });
    }
    if !apart(&structure, &strings) {
        return Err(DtError::BadBlock { block: "strings block", offset: field(3)? });
    }
    check_structure(blob, structure.clone(), blob.get(strings.clone()).unwrap_or_default())?;
    Ok(Layout { reserve_map, structure, strings })
}

/// One past the entry of two zeros that ends the map.
fn reserve_map_end(blob: &[u8], start: usize) -> Option<usize> {
    let entries = blob.get(start..)?.as_chunks::<16>().0;
    let last = entries.iter().position(|entry| *entry == [0; 16])?;
    Some(start + (last + 1) * 16)
}

/// Walks the tokens: one root, balanced nodes, properties inside, names readable, nothing behind the end.
fn check_structure(blob: &[u8], structure: Range<usize>, strings: &[u8]) -> Result<(), DtError> {
    // Nothing is read beyond the structure block, whatever lies behind it.
    let block = blob.get(..structure.end).unwrap_or_default();
    let mut at = structure.start;
    let mut depth = 0;
    let mut roots = 0;
    // Properties come before a node's children; behind a child there are no more.
    let mut properties = false;
    loop {
        let offset = at;
        let token = word(block, at).ok_or(DtError::UnexpectedEnd { offset })?;
        let misplaced = DtError::BadToken { offset, token };
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(block, at).ok_or(DtError::BadName { offset: at })?;
                roots += usize::from(depth == 0);
                if roots > 1 || (depth == 0) != name.is_empty() {
                    return Err(DtError::BadName { offset: at });
                }
                at = (at + name.len() + 1).next_multiple_of(4);
                depth += 1;
                properties = true;
                if depth > MAX_DEPTH + 1 {
                    return Err(DtError::TooDeep { offset });
                }
            }
            END_NODE if depth > 0 => {
                depth -= 1;
                properties = false;
            }
            PROP if properties => {
                let length = word(block, at).ok_or(DtError::UnexpectedEnd { offset })? as usize;
                let name = word(block, at + 4).ok_or(DtError::UnexpectedEnd { offset })? as usize;
                at = (at + 8 + length).next_multiple_of(4);
                // There is always an end token behind a property.
                let fits = at < structure.end;
                if !fits || text(strings, name).is_none_or(<[u8]>::is_empty) {
                    return Err(DtError::BadName { offset });
                }
            }
            NOP => {}
            END if depth == 0 && roots == 1 => {
                return if at == structure.end { Ok(()) } else { Err(misplaced) };
            }
            _ => return Err(misplaced),
        }
    }
}

/// The terminated printable ASCII text at `offset`.
fn text(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let bytes = bytes.get(offset..)?;
    let end = bytes.iter().position(|byte| !matches!(byte, b' '..=b'~'))?;
    (bytes.get(end) == Some(&0)).then_some(bytes.get(..end)?)
}
