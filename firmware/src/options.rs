// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line, understood: parameters as Linux spells them where Linux has them.

use bsp::cmdline::{self, Param};

use crate::{print, println};

/// What the command line asks for.
#[derive(Debug, Default)]
pub struct Options<'a> {
    text: &'a str,
    /// `mem=SIZE`: use no more than this many bytes of RAM.
    pub mem: Option<u64>,
    /// `memblock=debug`: list the boot-time memory regions.
    pub memblock_debug: bool,
    /// `run="command; command"`: console commands to run first.
    pub run: Option<&'a str>,
}

impl<'a> Options<'a> {
    /// Reads `text`. What is not understood is left for [`Options::report`].
    #[must_use]
    pub fn read(text: &'a str) -> Self {
        let mut options = Self { text, ..Self::default() };
        for param in cmdline::params(text) {
            // The last one wins, as in Linux.
            match param.value {
                Some(value) if param.is("mem") => options.mem = cmdline::parse_size(value).or(options.mem),
                Some("debug") if param.is("memblock") => options.memblock_debug = true,
                Some(value) if param.is("run") => options.run = Some(value),
                _ => {}
            }
        }
        options
    }

    /// The whole line.
    #[must_use]
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// Lists, once, what the command line has and this firmware does not know.
    pub fn report(&self) {
        println!("command line: {}", if self.text.is_empty() { "(empty)" } else { self.text });
        let mut unknown = cmdline::params(self.text).filter(|param| !is_known(param)).peekable();
        if unknown.peek().is_some() {
            print!("command line: unknown or without sense:");
            for param in unknown {
                match param.value {
                    Some(value) => print!(" {}={value}", param.key),
                    None => print!(" {}", param.key),
                }
            }
            println!();
        }
    }
}

/// Whether somebody reads this parameter; `console=` is read where the console is chosen.
fn is_known(param: &Param<'_>) -> bool {
    match param.value {
        Some(value) if param.is("mem") => cmdline::parse_size(value).is_some(),
        Some(value) => param.is("run") || param.is("console") || (param.is("memblock") && value == "debug"),
        None => false,
    }
}
