// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one serial line: where text goes and where keys come from; and the log, which keeps what is said there.
//!
//! *Lock:* port and log have one, held for one message. A CPU that holds it already (a fault or a `Display` that
//! prints while a message is printed) does not wait for itself: that message is lost, and the loss is
//! logged. What must be read all the same, a panic or the report of a fault, breaks the lock open by
//! [`steal`]; nothing returns from there.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bsp::uart::{Port, Receiver};
use mm::arch::Arch;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::boot::uptime_ns;
use crate::cpu::hardware;
use crate::log::records;
use crate::log::ring::{Cursor, MAX_TEXT, Ring};
use crate::log::wire::MARK;
use crate::log::{self, Level};
use crate::sync::{self, Lock};
use crate::{keys, thread, tick};

/// Bytes of log that are kept.
const LOG_BYTES: usize = 32 * 1024;

/// What [`print!`](crate::print) is kept as.
const PRINT_LEVEL: Level = Level::Info;

struct Output {
    port: Option<Port>,
    /// Where records go, if not between the text.
    record_port: Option<Port>,
    /// There from the first message on.
    log: Option<Ring<'static, LOG_BYTES>>,
    /// Whether the cursor of the terminal stands behind text.
    in_line: bool,
}

/// Apart, so that it is not in the file of the image.
static LOG: SpinMutex<[u8; LOG_BYTES]> = SpinMutex::new([0; LOG_BYTES]);
static OUTPUT: Lock<Output> =
    Lock::new(sync::CONSOLE, Output { port: None, record_port: None, log: None, in_line: false });
/// The number of the CPU that holds the lock, plus 1; 0 while it is open.
static OWNER: AtomicUsize = AtomicUsize::new(0);
/// Messages that came while their own CPU held the lock.
static LOST: AtomicU32 = AtomicU32::new(0);
/// Messages shown on the console.
static SHOWN: AtomicU32 = AtomicU32::new(0);

/// Prints to the console and the log.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::output::write_fmt(format_args!($($arg)*)) };
}

/// Prints a line to the console and the log.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::output::write_fmt(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Runs `action` under the lock; `None` if this CPU is inside already.
fn with<R>(action: impl FnOnce(&mut Output) -> R) -> Option<R> {
    // Masked before the number is read: a thread could go on elsewhere, and take another CPU for itself.
    let state = hardware().mask_interrupts();
    let me = hardware().cpu() + 1;
    let result = (OWNER.load(Ordering::Relaxed) != me).then(|| {
        let mut output = OUTPUT.lock();
        OWNER.store(me, Ordering::Relaxed);
        let result = action(&mut output);
        OWNER.store(0, Ordering::Relaxed);
        result
    });
    // SAFETY: the state is that of the mask above, on this CPU, and the lock's own is undone.
    unsafe { hardware().restore_interrupts(state) };
    result
}

/// As [`with`], for a message.
fn message(action: impl FnOnce(&mut Output)) {
    let done = with(|output| {
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost != 0 {
            output.log(Level::Warn, format_args!("log: {lost} messages from inside a message were lost\n"));
        }
        action(output);
    });
    if done.is_none() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes `port` the console; the one before it, if any, is dropped. The first one shows what was logged so far.
pub fn set_port(port: Port) {
    with(|output| {
        if output.port.replace(port).is_none() {
            output.replay();
        }
    });
}

/// Gives records a port of their own.
pub fn set_record_port(port: Port) {
    with(|output| output.record_port = Some(port));
}

/// Sends a frame, which ends in a mark; see `log/wire.rs`.
pub(crate) fn send_frame(frame: &[u8]) {
    message(|output| {
        if let Some(port) = output.record_port.as_mut().or(output.port.as_mut()) {
            port.send(MARK);
            frame.iter().for_each(|byte| port.send(*byte));
        }
    });
}

/// Whether there is a console.
#[must_use]
pub fn has_port() -> bool {
    with(|output| output.port.is_some()).unwrap_or(true)
}

/// Prints; see [`print!`](crate::print).
pub fn write_fmt(arguments: fmt::Arguments<'_>) {
    SHOWN.fetch_add(1, Ordering::Relaxed);
    message(|output| output.write(true, Some(PRINT_LEVEL), arguments));
}

/// Shows text on the console and does not keep it: what a command writes, and what the terminal needs.
pub fn show(arguments: fmt::Arguments<'_>) {
    message(|output| output.write(true, None, arguments));
}

/// Logs a line, and shows it if its level is of interest. It begins a line of its own.
pub(crate) fn log(level: Level, arguments: fmt::Arguments<'_>) {
    if log::shows(level) {
        SHOWN.fetch_add(1, Ordering::Relaxed);
    }
    message(|output| output.log(level, arguments));
}

/// How many messages the console has shown that nobody at it asked for; wraps around. A prompt that was on the
/// screen before the last one is not there any more.
#[must_use]
pub fn nr_shown() -> u32 {
    SHOWN.load(Ordering::Relaxed)
}

/// Lets `action` look into the log.
pub(crate) fn with_log<R>(action: impl FnOnce(&mut Ring<'static, LOG_BYTES>) -> R) -> Option<R> {
    with(|output| action(output.ring()))
}

/// The next key, if one was pressed: from the ring that the port's interrupt fills, or from the port itself as long as
/// there is no interrupt.
#[must_use]
pub fn key() -> Option<u8> {
    if keys::is_running() { keys::take() } else { with(|output| output.port.as_mut()?.receive())? }
}

/// Lets other threads run, or waits for an interrupt if there are none that can; no longer than to the next tick, and
/// not if a key is there. For whoever looks for keys again and again.
pub fn wait_for_key() {
    if keys::is_running() && tick::is_running() {
        thread::rest_unless(keys::is_there);
    } else {
        thread::yield_now();
        core::hint::spin_loop();
    }
}

/// What receives for the console from now on.
pub(crate) fn receiver() -> Option<Receiver> {
    // SAFETY: nobody receives by the port itself once the ring is filled; see `key`.
    with(|output| output.port.as_ref().map(|port| unsafe { port.receiver() }))?
}

/// Waits until everything printed has left the wire.
pub fn drain() {
    with(|output| output.port.iter_mut().chain(&mut output.record_port).for_each(Port::drain));
}

/// Whether another CPU is in the middle of a message.
#[must_use]
pub fn is_held_elsewhere() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != hardware().cpu() + 1
}

/// Frees the console, and the record that is being made, from whoever held it when the machine failed.
///
/// # Safety
///
/// The holder never runs again: the caller is about to end the machine, and no other CPU prints.
pub unsafe fn steal() {
    // SAFETY: the caller's promise is the one that `force_unlock` asks for.
    unsafe { OUTPUT.force_unlock() };
    OWNER.store(0, Ordering::Relaxed);
    // SAFETY: the caller's promise holds for those who record as well.
    unsafe { records::steal() };
}

impl Output {
    fn ring(&mut self) -> &mut Ring<'static, LOG_BYTES> {
        self.log.get_or_insert_with(|| Ring::new(SpinMutexGuard::leak(LOG.lock())))
    }

    fn write(&mut self, shown: bool, kept: Option<Level>, arguments: fmt::Arguments<'_>) {
        let kept = kept.map(|level| (level, uptime_ns()));
        // The writer never fails.
        let _ = Writer { output: self, shown, kept }.write_fmt(arguments);
    }

    fn log(&mut self, level: Level, arguments: fmt::Arguments<'_>) {
        let shown = log::shows(level);
        self.ring().end_line();
        if shown && self.in_line {
            self.send("\n");
        }
        self.write(shown, Some(level), arguments);
    }

    /// Shows what was logged before there was a console.
    fn replay(&mut self) {
        let (mut cursor, mut buffer) = (Cursor::default(), [0; MAX_TEXT]);
        while let Some(record) = self.ring().read(&mut cursor, &mut buffer) {
            if log::shows(record.level) {
                self.send(record.text);
                self.send("\n");
            }
        }
    }

    fn send(&mut self, text: &str) {
        let Some(port) = &mut self.port else { return };
        for byte in text.bytes().filter(|byte| *byte != MARK) {
            if byte == b'\n' {
                // Terminals want a carriage return before each line feed.
                port.send(b'\r');
            }
            port.send(byte);
            self.in_line = byte != b'\n';
        }
    }
}

/// A sink for report writers that are no commands: to the console and the log.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sink;

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_fmt(format_args!("{text}"));
        Ok(())
    }
}

/// Where the pieces of one message go.
struct Writer<'a> {
    output: &'a mut Output,
    shown: bool,
    /// With this level and time.
    kept: Option<(Level, u64)>,
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some((level, time_ns)) = self.kept {
            self.output.ring().write(time_ns, level, text);
        }
        if self.shown {
            self.output.send(text);
        }
        Ok(())
    }
}
