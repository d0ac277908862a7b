// SPDX-License-Identifier: MIT OR Apache-2.0
//! A copy of a tree without the room that loaders leave in it for more: QEMU's is 1 MiB with 8 KiB used.

use super::header::{self, Layout, PREFIX};
use super::{DtError, header::word};

/// Bytes of the compact copy of `blob`.
///
/// # Errors
///
/// Those of [`header::check`].
pub fn compact_size(blob: &[u8]) -> Result<usize, DtError> {
    Ok(size(&header::check(blob)?))
}

fn size(layout: &Layout) -> usize {
    PREFIX + layout.reserve_map.len() + layout.structure.len() + layout.strings.len()
}

/// Writes a compact copy of `blob` into `out` and returns its size in bytes: header, reserve map, structure and
/// strings, one behind the other.
///
/// # Errors
///
/// Those of [`header::check`], and [`DtError::NoRoom`].
pub fn compact(blob: &[u8], out: &mut [u8]) -> Result<usize, DtError> {
    let layout = header::check(blob)?;
    let needed = size(&layout);
    let out = out.get_mut(..needed).ok_or(DtError::NoRoom { needed })?;
    let structure_at = PREFIX + layout.reserve_map.len();
    let strings_at = structure_at + layout.structure.len();
    let boot_cpu = word(blob, 28).unwrap_or(0);
    let fields = [
        0xd00d_feed,
        needed as u32,
        structure_at as u32,
        strings_at as u32,
        PREFIX as u32,
        17,
        16,
        boot_cpu,
        layout.strings.len() as u32,
        layout.structure.len() as u32,
    ];
    let (header, body) = out.split_at_mut_checked(PREFIX).ok_or(DtError::NoRoom { needed })?;
    for (slot, field) in header.as_chunks_mut().0.iter_mut().zip(fields) {
        *slot = u32::to_be_bytes(field);
    }
    let mut rest = body;
    for part in [layout.reserve_map, layout.structure, layout.strings] {
        let part = blob.get(part).unwrap_or_default();
        let (slot, behind) = rest.split_at_mut_checked(part.len()).ok_or(DtError::NoRoom { needed })?;
        slot.copy_from_slice(part);
        rest = behind;
    }
    Ok(needed)
}
