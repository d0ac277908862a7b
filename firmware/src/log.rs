// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log: what `dmesg` shows, and which of it the console shows as it comes.
//!
//! [`pr_info!`](crate::pr_info) and its sisters are Linux's: a line, a level. The line is kept in the ring
//! from the very first one on, and shown on the console if its level is below the threshold of `loglevel=`,
//! `quiet`, `debug` or `dmesg -n`. `println!` is kept too, and always shown: for what must be
//! read, such as the report of a fault, and for tests. What the console's commands write is not kept.
//!
//! Events that programs should understand are recorded besides, by `record!`; see `log/records.rs`.
//!
//! *Lock:* the console's (see `output.rs`), which the ring shares.

mod level;
#[cfg(target_os = "none")]
pub(crate) mod records;
pub mod ring;
pub mod wire;

pub use level::{Level, Threshold};

#[cfg(target_os = "none")]
pub use self::on_target::{clear, ignore_threshold, read, set_threshold, shows, threshold, write};
#[cfg(target_os = "none")]
pub(crate) use self::records::record;

/// Logs a line at a level: `log!(Level::Warn, "{} is odd", x)`.
#[macro_export]
macro_rules! log {
    ($level:expr, $($arg:tt)*) => { $crate::log::write($level, format_args!("{}\n", format_args!($($arg)*))) };
}

/// Logs that the machine is unusable.
#[macro_export]
macro_rules! pr_emerg {
    ($($arg:tt)*) => { $crate::log!($crate::log::Level::Emerg, $($arg)*) };
}

/// Logs an error.
#[macro_export]
macro_rules! pr_err {
    ($($arg:tt)*) => { $crate::log!($crate::log::Level::Err, $($arg)*) };
}

/// Logs a warning.
#[macro_export]
macro_rules! pr_warn {
    ($($arg:tt)*) => { $crate::log!($crate::log::Level::Warn, $($arg)*) };
}

/// Logs what is normal but worth a notice.
#[macro_export]
macro_rules! pr_notice {
    ($($arg:tt)*) => { $crate::log!($crate::log::Level::Notice, $($arg)*) };
}

/// Logs for information.
#[macro_export]
macro_rules! pr_info {
    ($($arg:tt)*) => { $crate::log!($crate::log::Level::Info, $($arg)*) };
}

/// Logs for whoever looks for a bug; by default the console does not show it.
#[macro_export]
macro_rules! pr_debug {
    ($($arg:tt)*) => { $crate::log!($crate::log::Level::Debug, $($arg)*) };
}

#[cfg(target_os = "none")]
mod on_target {
    use core::fmt;
    use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

    use super::ring::{Cursor, MAX_TEXT, Record};
    use super::{Level, Threshold};
    use crate::output;

    static THRESHOLD: AtomicU8 = AtomicU8::new(Threshold::DEFAULT.number());
    static IGNORE_THRESHOLD: AtomicBool = AtomicBool::new(false);

    /// Logs text, a line or several; see [`log!`](crate::log!).
    pub fn write(level: Level, text: fmt::Arguments<'_>) {
        output::log(level, text);
    }

    /// What the console shows.
    #[must_use]
    pub fn threshold() -> Threshold {
        Threshold::new(THRESHOLD.load(Ordering::Relaxed))
    }

    /// Sets what the console shows.
    pub fn set_threshold(threshold: Threshold) {
        THRESHOLD.store(threshold.number(), Ordering::Relaxed);
    }

    /// The console shows everything from now on: `ignore_loglevel`.
    pub fn ignore_threshold() {
        IGNORE_THRESHOLD.store(true, Ordering::Relaxed);
    }

    /// Whether the console shows messages of `level`.
    #[must_use]
    pub fn shows(level: Level) -> bool {
        threshold().shows(level) || IGNORE_THRESHOLD.load(Ordering::Relaxed)
    }

    /// The message at `cursor`, which then moves on; `None` behind the last one.
    pub fn read<'b>(cursor: &mut Cursor, buffer: &'b mut [u8; MAX_TEXT]) -> Option<Record<'b>> {
        output::with_log(|ring| ring.read(cursor, buffer))?
    }

    /// Forgets all messages.
    pub fn clear() {
        output::with_log(super::ring::Ring::clear);
    }
}
