// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device tree to plain data (Devicetree Specification 0.4).
//!
//! ```text
//!   blob --> header    is it a tree, and is it whole? every offset, token and name
//!        --> walk      the `fdt` crate, in this one file: nodes in order, once
//!        --> place     where a node stands: cells, buses on the way to the CPU, enabled or not
//!        --> reader    what the node is: memory, reservation, processor, device, ...
//!        --> BootInfo
//! ```
//!
//! A blob that is not whole is an error with the offset of the fault. A tree that is whole but odd is read as
//! far as it makes sense, and what is odd is listed. Nothing in a blob can make this panic or loop: it takes two
//! passes, whatever is in it.

mod compact;
mod error;
pub mod header;
mod place;
mod reader;
mod values;
mod walk;

pub use compact::{compact, compact_size};
pub use error::DtError;

use crate::info::BootInfo;

/// Reads the tree in `blob` into `info`, which forgets what it knew.
///
/// Complexity: linear in the size of the blob.
///
/// # Errors
///
/// [`DtError`] if the blob is no whole tree; `info` is then of no use.
pub fn read(blob: &[u8], info: &mut BootInfo) -> Result<(), DtError> {
    info.clear();
    let layout = header::check(blob)?;
    let mut reader = reader::Reader::new(info);
    walk::walk(blob, &mut reader)?;
    reader.finish(blob.get(layout.reserve_map).unwrap_or_default());
    Ok(())
}
