// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/chosen` and `/aliases`: what the loader has to say, and which serial port is meant (3.3, 3.6).

use super::super::values::strings;
use super::Reader;
use super::props::Props;
use crate::info::{Oddity, RawRange, Text, set_text};

impl<'a> Reader<'a, '_> {
    /// The node `/chosen`.
    pub(super) fn chosen(&mut self, props: &Props<'a>) {
        let mut changed = set_text(&mut self.info.bootargs, props.bootargs.unwrap_or_default());
        if let Some(path) = props.stdout_path.or(props.old_stdout_path) {
            changed |= set_text(self.info.stdout.insert(Text::new()), path);
        }
        if changed {
            self.info.note(Oddity::BadText, "chosen");
        }
        if let (Some(base), Some(end)) = (props.initrd_start, props.initrd_end) {
            match end.checked_sub(base) {
                Some(size) => self.info.initrd = Some(RawRange { base, size }),
                None => self.info.note(Oddity::InvertedInitrd, "chosen"),
            }
        }
    }

    /// Finds each port's alias and clock, and the port that `stdout-path` names.
    pub(super) fn connect_uarts(&mut self) {
        for (uart, (path, clock)) in self.info.uarts.iter_mut().zip(&self.uarts) {
            uart.clock_hz = uart.clock_hz.or(clock.and_then(|phandle| self.clocks.find(phandle)));
            let names = self.aliases.iter().filter(|alias| first(alias.1) == path.as_bytes());
            uart.serial_index = names.filter_map(|alias| alias.0.strip_prefix("serial")?.parse().ok()).next();
        }
        let Some(stdout) = &self.info.stdout else { return };
        let (name, options) = stdout.split_once(':').map_or((&**stdout, None), |(name, options)| (name, Some(options)));
        let path = match name.starts_with('/') {
            true => name.as_bytes(),
            false => self.aliases.iter().find(|alias| alias.0 == name).map_or(&b""[..], |alias| first(alias.1)),
        };
        self.info.stdout_uart = self.uarts.iter().position(|uart| uart.0.as_bytes() == path);
        // `115200n8`: the speed, then parity and bits.
        self.info.stdout_baud = options.and_then(|options| {
            let end = options.find(|char: char| !char.is_ascii_digit()).unwrap_or(options.len());
            options.get(..end)?.parse().ok().filter(|baud| *baud != 0)
        });
        if self.info.stdout_uart.is_none() {
            self.info.note(Oddity::UnknownStdout, "chosen");
        }
    }

    /// The path of the node at hand.
    pub(super) fn current_path(&self) -> Text<96> {
        let mut text = Text::new();
        for name in &self.path {
            let parts = ["/", name.base, name.unit.map_or("", |_| "@"), name.unit.unwrap_or("")];
            for part in parts {
                if text.try_push_str(part).is_err() {
                    // A path cut short must not name another node.
                    return Text::new();
                }
            }
        }
        text
    }
}

fn first(list: &[u8]) -> &[u8] {
    strings(list).next().unwrap_or_default()
}
