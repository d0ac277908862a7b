// SPDX-License-Identifier: MIT OR Apache-2.0
//! `decode-log ELF < CAPTURE`: what came over the wire with `log=defmt`, as text: text as it is, each record as a
//! line with its time and level. What the records say is in the ELF file of the image that sent them.

#[path = "records.rs"]
mod records;

use std::io::{Read, Write};
use std::process::ExitCode;

use defmt_decoder::Table;
use firmware::log::wire::{Listener, Splitter};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(elf), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: decode-log ELF < CAPTURE");
        return ExitCode::from(2);
    };
    match records::table(&elf).and_then(|table| decode(&table)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("decode-log: {}: {error}", elf.display());
            ExitCode::FAILURE
        }
    }
}

/// Until the input ends. Whatever has come is printed at once: somebody may be watching.
fn decode(table: &Table) -> Result<(), String> {
    let (mut splitter, mut printer) = (Splitter::default(), Printer { table, in_line: false, out: Vec::new() });
    let mut buffer = [0; 4096];
    loop {
        let count = std::io::stdin().read(&mut buffer).map_err(|error| error.to_string())?;
        splitter.feed(buffer.get(..count).unwrap_or_default(), &mut printer);
        if count == 0 {
            splitter.end(&mut printer);
        }
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(&printer.out).and_then(|()| stdout.flush());
        printer.out.clear();
        match written {
            // Whoever reads us has had enough, as `head` does.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.to_string()),
            Ok(()) if count == 0 => return Ok(()),
            Ok(()) => {}
        }
    }
}

struct Printer<'t> {
    table: &'t Table,
    /// Whether text stands in front of us in the line.
    in_line: bool,
    out: Vec<u8>,
}

impl Listener for Printer<'_> {
    fn text(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
        self.in_line = text.last() != Some(&b'\n');
    }

    fn frame(&mut self, frame: &[u8]) -> bool {
        records::decode(self.table, frame, |record| {
            if std::mem::take(&mut self.in_line) {
                self.out.push(b'\n');
            }
            let time = record.display_timestamp().map(|time| time.to_string()).unwrap_or_default();
            let level = record.level().map_or("", |level| level.as_str());
            // Writing to memory does not fail.
            let _ = writeln!(self.out, "[{time:>12}] {level:<5} {}", record.display_message());
        })
    }
}
