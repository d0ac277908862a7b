// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records as they come over the wire (`firmware/src/log`), by the texts that the image's ELF file has of them.

use std::ffi::OsStr;

use defmt_decoder::{Frame, Table};
use firmware::log::wire::MARK;

/// The texts of an image's records.
pub(crate) fn table(elf: &OsStr) -> Result<Table, String> {
    let bytes = std::fs::read(elf).map_err(|error| error.to_string())?;
    let table = Table::parse(&bytes).map_err(|error| error.to_string())?;
    table.ok_or("it has no records: no .defmt section".to_owned())
}

/// Calls `act` with the record that a frame of the wire is; `false` if it is none.
pub(crate) fn decode(table: &Table, frame: &[u8], act: impl FnOnce(&Frame<'_>)) -> bool {
    let mut decoder = table.new_stream_decoder();
    decoder.received(frame);
    decoder.received(&[MARK]);
    decoder.decode().map(|record| act(&record)).is_ok()
}
