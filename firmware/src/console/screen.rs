// SPDX-License-Identifier: MIT OR Apache-2.0
//! The terminal as commands write to it: a page at a time, and no further once Ctrl-C was pressed.

use core::fmt;

use super::keyboard::Keyboard;
use crate::line::{Decoder, Key, Size};
use crate::output;
use crate::pipe::Pager;

/// Asks whether to go on, and is taken away again.
const MORE: &str = "--more--";

/// The far end of what commands write.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) keyboard: Keyboard,
    /// Known if somebody has answered for the terminal.
    pub(super) size: Option<Size>,
    /// While a command runs whose output stops at each page.
    pager: Option<Pager>,
    /// The command's output is not wanted any more.
    is_closed: bool,
    decoder: Decoder,
}

impl Screen {
    pub(super) const fn new() -> Self {
        Self { keyboard: Keyboard::new(), size: None, pager: None, is_closed: false, decoder: Decoder::new() }
    }

    /// A command begins, and is wanted; `paged` if somebody can be asked to go on.
    pub(super) fn open(&mut self, paged: bool) {
        self.is_closed = false;
        self.pager = self.size.filter(|_| paged).map(Pager::new);
    }

    /// Whether the command that runs should stop, because of Ctrl-C or an answer to the pager.
    pub(super) fn is_closed(&mut self) -> bool {
        if !self.is_closed && self.keyboard.is_interrupted() {
            output::show(format_args!("^C\n"));
            self.is_closed = true;
        }
        self.is_closed
    }

    /// Waits for the answer to the pager. Any key that is none ends the paging and is not lost: whoever sends a
    /// list of commands does not wait for questions.
    fn ask(&mut self) {
        output::show(format_args!("{MORE}"));
        loop {
            let byte = self.keyboard.wait();
            let key = self.decoder.feed(byte);
            match key {
                Some(Key::Char(b' ')) => self.pager.iter_mut().for_each(Pager::next_page),
                Some(Key::Enter | Key::Down) => self.pager.iter_mut().for_each(Pager::next_line),
                Some(Key::Char(b'q' | b'Q') | Key::Cancel) => self.is_closed = true,
                Some(Key::Size(size)) => self.size = Some(size),
                Some(_) => {
                    self.pager = None;
                    self.keyboard.unread(byte);
                }
                None => {}
            }
            if !matches!(key, None | Some(Key::Size(_))) {
                break;
            }
        }
        output::show(format_args!("\r{:width$}\r", "", width = MORE.len()));
    }
}

impl fmt::Write for Screen {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        if text.contains('\n') {
            self.is_closed();
        }
        while !self.is_closed {
            let (fits, rest) = match &mut self.pager {
                Some(pager) => pager.fit(text),
                None => (text, ""),
            };
            output::show(format_args!("{fits}"));
            if rest.is_empty() {
                return Ok(());
            }
            text = rest;
            self.ask();
        }
        Err(fmt::Error)
    }
}
