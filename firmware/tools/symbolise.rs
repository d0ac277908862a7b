// SPDX-License-Identifier: MIT OR Apache-2.0
//! `symbolise ELF < LOG`: passes a console log on and adds, below each line of a call trace, what it is in the
//! source: function, file and line, inlined calls included.
//!
//! It works with and without names in the image: all it needs is the ELF file that the image was made of.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use addr2line::Loader;

/// Where the image is linked: `linker/image.ld`.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// Nothing of it is higher.
const IMAGE_END: u64 = IMAGE + (8 << 20);

fn main() -> ExitCode {
    let Some(elf) = std::env::args_os().nth(1) else {
        eprintln!("usage: symbolise ELF < LOG");
        return ExitCode::from(2);
    };
    let result = match Loader::new(&elf) {
        Ok(loader) => run(&loader).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("symbolise: {}: {error}", elf.display());
            ExitCode::FAILURE
        }
    }
}

fn run(loader: &Loader) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{}", line.trim_end_matches('\r'))?;
        for (address, is_return) in addresses(&line) {
            // The call is the instruction before the one that it returns to.
            let probe = if is_return { address - 4 } else { address };
            let Ok(mut frames) = loader.find_frames(probe) else { continue };
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
                let place = frame.location.map(|at| (at.file.unwrap_or("?"), at.line.unwrap_or(0)));
                let (file, line) = place.unwrap_or(("?", 0));
                writeln!(out, "        {} at {}:{line}", name.as_deref().unwrap_or("?"), short(file))?;
            }
        }
    }
    Ok(())
}

/// A file's name as seen from the top of this source tree, if it is in there.
fn short(file: &str) -> &str {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let inside = root.and_then(|root| Path::new(file).strip_prefix(root).ok());
    inside.and_then(Path::to_str).unwrap_or(file)
}

/// The addresses of a line that lie in the image, and whether each is a return address. They stand as Linux writes
/// them: `<ADDRESS>`, and `[<ADDRESS>]` if it is where a call returns to.
fn addresses(line: &str) -> impl Iterator<Item = (u64, bool)> {
    line.match_indices('<').filter_map(|(at, _)| {
        let (digits, rest) = line.get(at + 1..)?.split_at_checked(16)?;
        let address = u64::from_str_radix(digits, 16).ok().filter(|_| rest.starts_with('>'))?;
        let is_return = line.get(..at).is_some_and(|before| before.ends_with('['));
        (IMAGE..IMAGE_END).contains(&address).then_some((address, is_return))
    })
}
