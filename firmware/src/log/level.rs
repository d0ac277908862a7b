// SPDX-License-Identifier: MIT OR Apache-2.0
//! How urgent a message is: the eight levels of syslog (RFC 5424, table 2), which are Linux's too.

/// How urgent a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// The machine is unusable.
    Emerg,
    /// Somebody must act at once.
    Alert,
    /// Critical.
    Crit,
    /// An error.
    Err,
    /// A warning.
    Warn,
    /// Normal, but worth a notice.
    Notice,
    /// For information.
    Info,
    /// For whoever looks for a bug.
    Debug,
}

impl Level {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 8] =
        [Self::Emerg, Self::Alert, Self::Crit, Self::Err, Self::Warn, Self::Notice, Self::Info, Self::Debug];

    /// The name, as `dmesg` of util-linux knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emerg => "emerg",
            Self::Alert => "alert",
            Self::Crit => "crit",
            Self::Err => "err",
            Self::Warn => "warn",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// The level of this number, 0 to 7.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// What the console shows: messages whose level number is below this. 1 shows only emergencies, 8 and more
/// everything. Linux's `console_loglevel`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Threshold(u8);

impl Threshold {
    /// Everything but debug messages, as in Linux.
    pub const DEFAULT: Self = Self(7);
    /// Warnings are not shown, errors are: what `quiet` sets.
    pub const QUIET: Self = Self(4);
    /// What `debug` sets.
    pub const DEBUG: Self = Self(10);
    /// As little as can be had.
    pub const MINIMUM: Self = Self(1);

    /// From a number; below the minimum it is the minimum, as in Linux.
    #[must_use]
    pub const fn new(number: u8) -> Self {
        if number < Self::MINIMUM.0 { Self::MINIMUM } else { Self(number) }
    }

    /// As `dmesg -n` takes it: the number, 1 to 8, or the name of the last level that is shown.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match Level::from_name(text) {
            Some(level) => Some(Self(level as u8 + 1)),
            None => text.parse().ok().filter(|number| (1..=8).contains(number)).map(Self),
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether messages of `level` are shown.
    #[must_use]
    pub const fn shows(self, level: Level) -> bool {
        (level as u8) < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_util_linux() {
        for (number, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(Level::from_name(level.name()), Some(level));
            assert_eq!(Level::from_number(number as u8), Some(level));
        }
        assert_eq!(Level::from_name("loud"), None);
        assert_eq!(Level::from_number(8), None);
    }

    #[test]
    fn a_threshold_shows_what_lies_below_it() {
        assert!(Threshold::DEFAULT.shows(Level::Info) && !Threshold::DEFAULT.shows(Level::Debug));
        assert!(Threshold::QUIET.shows(Level::Err) && !Threshold::QUIET.shows(Level::Warn));
        assert!(Threshold::DEBUG.shows(Level::Debug));
        assert!(Threshold::new(0).shows(Level::Emerg));
        assert_eq!(Threshold::parse("warn"), Threshold::parse("5"));
        for bad in ["0", "9", "-1", "", "+5x", "Warn"] {
            assert_eq!(Threshold::parse(bad), None, "{bad}");
        }
    }
}
