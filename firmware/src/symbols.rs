// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of the image's functions, in the image: what a backtrace, or the owner of some memory, is called.
//!
//! After linking, `mkimage` (`firmware/tools`) writes a table of all functions into room that the linker script
//! keeps for it among the constants. An image without the table works too; addresses stay numbers then, and
//! `firmware/tools/symbolise` finds names and lines on the host.
//!
//! ```text
//!   "QSYM"   symbols   text bytes   name bytes    32-bit words, little endian as all that follows
//!   base                                          64 bits: what offsets count from
//!   offset, size, name                            32 bits each, for each symbol, by ascending offset
//!   ends of 128 tokens                            16 bits each, in
//!   texts                                         of the tokens, one behind the other
//!   names                                         one behind the other; a byte from 0x80 up is a token
//! ```
//!
//! Names repeat themselves a lot, so a token stands for a piece of text that many have (as in Linux's kallsyms): about
//! 30 bytes a symbol, all told. A lookup is a binary search; nothing is unpacked until it is printed.

#[cfg(not(target_os = "none"))]
mod encode;
#[cfg(target_os = "none")]
mod image;

use core::fmt::{self, Write};

#[cfg(not(target_os = "none"))]
pub use self::encode::encode;
#[cfg(target_os = "none")]
pub use self::image::{Code, lookup};

const MAGIC: &[u8; 4] = b"QSYM";
/// Tokens there are; their numbers begin here.
const TOKENS: usize = 128;
const FIRST_TOKEN: u8 = 0x80;

/// A symbol table, as `mkimage` writes it.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    base: u64,
    symbols: &'a [[u8; 12]],
    ends: &'a [[u8; 2]],
    texts: &'a [u8],
    names: &'a [u8],
}

/// A function, and a place in it.
#[derive(Clone, Copy, Debug)]
pub struct Symbol<'a> {
    /// What it is called.
    pub name: Name<'a>,
    /// Bytes from its beginning to the place that was looked up.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// A name that is still packed: it can be printed and compared.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    table: Table<'a>,
    packed: &'a [u8],
}

impl<'a> Table<'a> {
    /// The table at the beginning of `bytes`; `None` if there is none.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (texts, rest) = rest.split_first_chunk()?;
        let (names, rest) = rest.split_first_chunk()?;
        let (base, rest) = rest.split_first_chunk()?;
        if magic != MAGIC {
            return None;
        }
        let size = |word: &[u8; 4]| u32::from_le_bytes(*word) as usize;
        let (symbols, rest) = rest.split_at_checked(size(count).checked_mul(12)?)?;
        let (ends, rest) = rest.split_at_checked(TOKENS * 2)?;
        let (texts, rest) = rest.split_at_checked(size(texts))?;
        let names = rest.get(..size(names))?;
        Some(Self {
            base: u64::from_le_bytes(*base),
            symbols: symbols.as_chunks().0,
            ends: ends.as_chunks().0,
            texts,
            names,
        })
    }

    /// The function that `address` lies in. Complexity: logarithmic.
    #[must_use]
    pub fn lookup(&self, address: u64) -> Option<Symbol<'a>> {
        let offset = address.checked_sub(self.base)?;
        let behind = self.symbols.partition_point(|symbol| u64::from(words(symbol)[0]) <= offset);
        let symbol = words(self.symbols.get(behind.checked_sub(1)?)?);
        let [start, size, name] = symbol;
        let offset = offset - u64::from(start);
        if offset >= u64::from(size) {
            return None;
        }
        let end = self.symbols.get(behind).map_or(self.names.len(), |next| words(next)[2] as usize);
        let packed = self.names.get(name as usize..end)?;
        Some(Symbol { name: Name { table: *self, packed }, offset, size: u64::from(size) })
    }

    /// The text of a token; empty for one that does not exist.
    fn text(&self, token: u8) -> &'a str {
        let index = usize::from(token - FIRST_TOKEN);
        let end = |index: usize| self.ends.get(index).map(|end| usize::from(u16::from_le_bytes(*end)));
        let start = index.checked_sub(1).map_or(Some(0), end);
        let text = start.zip(end(index)).and_then(|(start, end)| self.texts.get(start..end));
        text.and_then(|text| core::str::from_utf8(text).ok()).unwrap_or("")
    }
}

fn words(symbol: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *symbol;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes)
}

/// `name+0xoffset/0xsize`, as Linux prints it.
impl fmt::Display for Symbol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}/{:#x}", self.name, self.offset, self.size)
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.packed {
            match *byte {
                FIRST_TOKEN.. => f.write_str(self.table.text(*byte))?,
                character => f.write_char(char::from(character))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl PartialEq<str> for Name<'_> {
    fn eq(&self, text: &str) -> bool {
        /// Takes what is printed off the front of the text, as long as it is the same.
        struct Rest<'a>(&'a str);
        impl Write for Rest<'_> {
            fn write_str(&mut self, piece: &str) -> fmt::Result {
                self.0 = self.0.strip_prefix(piece).ok_or(fmt::Error)?;
                Ok(())
            }
        }
        let mut rest = Rest(text);
        write!(rest, "{self}").is_ok() && rest.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn table() -> Vec<u8> {
        let many: Vec<_> = (0..300).map(|n| format!("<mm::buddy::Buddy<{n}> as core::fmt::Debug>::fmt")).collect();
        let mut symbols = vec![(BASE, 0x40, "_start"), (BASE + 0x800, 0x800, "exception_vectors")];
        symbols.extend((0..300).map(|n| (BASE + 0x1000 + n * 0x20, 0x1c, many[n as usize].as_str())));
        encode(BASE, &symbols).unwrap()
    }

    #[test]
    fn an_address_finds_its_function() {
        let bytes = table();
        let table = Table::parse(&bytes).unwrap();
        for (address, text) in [
            (BASE, "_start+0x0/0x40"),
            (BASE + 0x3f, "_start+0x3f/0x40"),
            (BASE + 0x900, "exception_vectors+0x100/0x800"),
            (BASE + 0x1000 + 299 * 0x20 + 4, "<mm::buddy::Buddy<299> as core::fmt::Debug>::fmt+0x4/0x1c"),
        ] {
            assert_eq!(table.lookup(address).unwrap().to_string(), text);
        }
        let symbol = table.lookup(BASE + 0x20).unwrap();
        assert!(symbol.name == *"_start" && symbol.name != *"_star" && symbol.name != *"_start_");
    }

    #[test]
    fn gaps_and_the_outside_belong_to_no_function() {
        let bytes = table();
        let table = Table::parse(&bytes).unwrap();
        for address in [0, BASE - 1, BASE + 0x40, BASE + 0x101c, BASE + 0x1000 + 300 * 0x20, u64::MAX] {
            assert!(table.lookup(address).is_none(), "{address:#x}");
        }
    }

    #[test]
    fn names_are_packed_tightly() {
        let bytes = table();
        // 49 characters a name, and 12 bytes of an entry.
        assert!(bytes.len() < 302 * 25, "{} bytes", bytes.len());
    }

    #[test]
    fn what_is_no_whole_table_is_none() {
        let bytes = table();
        for end in 0..bytes.len() {
            assert!(Table::parse(&bytes[..end]).is_none(), "{end}");
        }
        assert!(Table::parse(&[0; 4096]).is_none());
        assert!(Table::parse(&encode(BASE, &[]).unwrap()).unwrap().lookup(BASE).is_none());
    }

    #[test]
    fn a_table_of_garbage_is_harmless() {
        let good = table();
        let mut seed = 1_u32;
        for _ in 0..2000 {
            let mut bad = good.clone();
            for _ in 0..8 {
                seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let at = (seed >> 8) as usize % bad.len();
                bad[at] = seed as u8;
            }
            let Some(table) = Table::parse(&bad) else { continue };
            for symbol in (0..40).filter_map(|n| table.lookup(BASE + n * 0x101)) {
                assert!(symbol.offset < symbol.size);
                // Each byte of a name stands for no more than all texts.
                assert!(symbol.to_string().len() <= table.names.len() * table.texts.len() + 64);
            }
        }
    }

    #[test]
    fn more_than_32_bits_cannot_be_said() {
        assert!(encode(BASE, &[(BASE - 1, 1, "below")]).is_none());
        assert!(encode(0, &[(1 << 32, 1, "far")]).is_none());
        assert!(encode(0, &[(0, 1 << 32, "large")]).is_none());
    }
}
