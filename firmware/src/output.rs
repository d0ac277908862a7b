// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one serial line: where text goes and where keys come from.
//!
//! *Lock:* the port, for one call. A panic or fault while it is held must still be read, so
//! [`steal`] breaks it open; nothing returns from there.

use core::fmt::{self, Write};

use bsp::uart::Port;
use spin::mutex::SpinMutex;

static PORT: SpinMutex<Option<Port>> = SpinMutex::new(None);

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::output::write_fmt(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::output::write_fmt(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Makes `port` the console; the one before it, if any, is dropped.
pub fn set_port(port: Port) {
    *PORT.lock() = Some(port);
}

/// Whether there is a console.
#[must_use]
pub fn has_port() -> bool {
    PORT.lock().is_some()
}

/// Prints; see [`print!`](crate::print).
pub fn write_fmt(arguments: fmt::Arguments<'_>) {
    if let Some(port) = PORT.lock().as_mut() {
        // The writer below never fails.
        let _ = Text(port).write_fmt(arguments);
    }
}

/// The next key, if one was pressed.
#[must_use]
pub fn key() -> Option<u8> {
    PORT.lock().as_mut()?.receive()
}

/// Waits until everything printed has left the wire.
pub fn drain() {
    if let Some(port) = PORT.lock().as_mut() {
        port.drain();
    }
}

/// Frees the port from whoever held it when the machine failed.
///
/// # Safety
///
/// The holder never runs again: the caller is about to end the machine, and no other CPU prints.
pub unsafe fn steal() {
    // SAFETY: the caller's promise is the one that `force_unlock` asks for.
    unsafe { PORT.force_unlock() };
}

/// A sink for report writers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sink;

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_fmt(format_args!("{text}"));
        Ok(())
    }
}

/// Terminals want a carriage return before each line feed.
struct Text<'a>(&'a mut Port);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send(b'\r');
            }
            self.0.send(byte);
        }
        Ok(())
    }
}
