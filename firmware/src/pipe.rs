// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands between a command and the terminal: the words of its line, `| grep`, and the pager.
//!
//! ```text
//!   command --[Filter: whole lines that every grep wants]--> [Pager: a page at a time] --> terminal
//! ```
//!
//! No I/O and no allocation here, so that it runs in host tests.

mod grep;
mod pager;
mod pattern;
mod words;

pub use self::grep::{Filter, Grep, MAX_GREPS, MAX_LINE};
pub use self::pager::Pager;
pub use self::pattern::{MAX_PATTERN, Pattern};
pub use self::words::{split, unquote, words};
