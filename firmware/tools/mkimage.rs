// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mkimage ELF OUTPUT`: the flat Image of an ELF file, with the names of its functions in it.
//!
//! Loaders start flat images: an ELF file would be entered at the wrong exception level and without a device tree.
//! The room for the names is between the linker symbols `__symbols_start` and `__symbols_end`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind, elf};

type Elf<'a> = ElfFile64<'a, LittleEndian>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [input, output] = arguments.as_slice() else {
        eprintln!("usage: mkimage ELF OUTPUT");
        return ExitCode::from(2);
    };
    let image = std::fs::read(input).map_err(|error| error.to_string()).and_then(|bytes| image(&bytes));
    match image.and_then(|image| std::fs::write(output, image).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimage: {}: {error}", input.display());
            ExitCode::FAILURE
        }
    }
}

fn image(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let file = Elf::parse(bytes).map_err(|error| error.to_string())?;
    let start = address_of(&file, "__image_start")?;
    let mut image = flat(&file, start)?;
    let (room, end) = (address_of(&file, "__symbols_start")?, address_of(&file, "__symbols_end")?);
    let symbols = functions(&file);
    let list: Vec<_> = symbols.iter().map(|(address, (size, name))| (*address, *size, name.as_str())).collect();
    let table = firmware::symbols::encode(start, &list).ok_or("a function is more than 4 GiB away")?;
    if table.len() as u64 > end - room {
        let (needed, kept) = (table.len(), end - room);
        return Err(format!(
            "the names need {needed} bytes, but the image keeps {kept}: lower TEXT_PER_SYMBOLS in build.rs"
        ));
    }
    let at = (room - start) as usize;
    let slot = image.get_mut(at..at + table.len()).ok_or("the room for names is not in the file")?;
    slot.copy_from_slice(&table);
    Ok(image)
}

fn address_of(file: &Elf<'_>, name: &str) -> Result<u64, String> {
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
    symbol.map(|symbol| symbol.address()).ok_or(format!("no symbol {name}: not linked by linker/image.ld"))
}

/// What is loaded, from `start` on, without the zeros at the end.
fn flat(file: &Elf<'_>, start: u64) -> Result<Vec<u8>, String> {
    let mut image = Vec::new();
    let endian = file.endian();
    for header in file.elf_program_headers().iter().filter(|header| header.p_type(endian) == elf::PT_LOAD) {
        let data = header.data(endian, file.data()).map_err(|()| "a segment lies outside the file")?;
        if data.is_empty() {
            continue;
        }
        let at = header.p_vaddr(endian).checked_sub(start).ok_or("a segment lies before the image")?;
        let end = usize::try_from(at).ok().and_then(|at| at.checked_add(data.len()));
        // No image is that large; a wrong address must not fill the disk.
        let end = end.filter(|end| *end <= 64 << 20).ok_or("a segment lies far from the image")?;
        image.resize(image.len().max(end), 0);
        if let Some(slot) = image.get_mut(at as usize..end) {
            slot.copy_from_slice(data);
        }
    }
    Ok(image)
}

/// All functions by address: their size, and their name without the hash. Labels of assembly code reach to the next.
fn functions(file: &Elf<'_>) -> BTreeMap<u64, (u64, String)> {
    let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
    let code: Vec<_> = code.map(|section| section.address()..section.address() + section.size()).collect();
    let mut found: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    for symbol in file.symbols() {
        let Ok(name) = symbol.name() else { continue };
        let size = if symbol.kind() == SymbolKind::Text { symbol.size() } else { 0 };
        // Mapping symbols and the linker script's marks are no functions.
        let is_mark = name.is_empty() || name.starts_with('$') || name.starts_with("__") && size == 0;
        if is_mark || !code.iter().any(|range| range.contains(&symbol.address())) {
            continue;
        }
        let name = format!("{:#}", rustc_demangle::demangle(name));
        // Of several names for one place, that of the larger, then the last by alphabet: any, but always the same.
        let entry = found.entry(symbol.address()).or_default();
        *entry = (size, name).max(std::mem::take(entry));
    }
    let mut ends: Vec<u64> = found.keys().copied().chain(code.iter().map(|range| range.end)).collect();
    ends.sort_unstable();
    for (address, (size, _)) in found.iter_mut().filter(|entry| entry.1.0 == 0) {
        *size = ends.iter().find(|end| *end > address).map_or(0, |end| end - address);
    }
    found
}
