// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys from the serial line, and those that came while nobody was reading.

use arrayvec::ArrayVec;

use crate::boot::uptime_ns;
use crate::output;

/// Ctrl-C.
const INTERRUPT: u8 = 0x03;

/// Keys that were pressed and not read yet.
#[derive(Debug)]
pub(super) struct Keyboard {
    ahead: ArrayVec<u8, 256>,
}

impl Keyboard {
    pub(super) const fn new() -> Self {
        Self { ahead: ArrayVec::new_const() }
    }

    /// The next key, if one was pressed.
    pub(super) fn key(&mut self) -> Option<u8> {
        self.ahead.pop_at(0).or_else(output::key)
    }

    /// The next key, if one is pressed before the machine has been up for so many nanoseconds.
    pub(super) fn key_until(&mut self, until_ns: u64) -> Option<u8> {
        loop {
            if let Some(key) = self.key() {
                return Some(key);
            }
            if uptime_ns() >= until_ns {
                return None;
            }
            output::wait_for_key();
        }
    }

    /// The next key, however long it takes.
    pub(super) fn wait(&mut self) -> u8 {
        loop {
            if let Some(key) = self.key_until(u64::MAX) {
                return key;
            }
        }
    }

    /// Gives a key back: it will be the next one.
    pub(super) fn unread(&mut self, key: u8) {
        // There is room: the key came from here, or the list was empty.
        let _ = self.ahead.try_insert(0, key);
    }

    /// Whether Ctrl-C was pressed. Keys before it are forgotten; without one, they are kept for later.
    pub(super) fn is_interrupted(&mut self) -> bool {
        while !self.ahead.is_full() {
            match output::key() {
                Some(INTERRUPT) => {
                    self.ahead.clear();
                    return true;
                }
                Some(key) => self.ahead.push(key),
                None => break,
            }
        }
        false
    }
}
