// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages to the firmware, and their answers, as words.
//!
//! ```text
//!   question   size | 0           | tag | room | 0                  | values ... | 0
//!   answer     size | 0x8000_0000 | tag | room | 0x8000_0000 + size | values ... | 0
//! ```
//!
//! All sizes are in bytes. A message may have several tags; ours have one.

use core::fmt;

/// Words of a message at most.
pub const WORDS: usize = 512;
/// Words before the values.
const HEADER: usize = 5;
/// Words of a question's or answer's values at most: what is left, but for the end mark.
pub const MAX_VALUES: usize = WORDS - HEADER - 1;

/// The message has been answered.
const ANSWERED: u32 = 0x8000_0000;

/// The questions that this firmware asks: the tag's number.
pub mod tag {
    /// No values; answers the board's revision code.
    pub const BOARD_REVISION: u32 = 0x0001_0002;
    /// No values; answers base and size of the RAM that the firmware gives to the ARM, below 1 GiB.
    pub const ARM_MEMORY: u32 = 0x0001_0005;
    /// A clock's number; answers the number and the rate in Hz, 0 if there is no such clock.
    pub const CLOCK_RATE: u32 = 0x0003_0002;
    /// A line of the expander and its level.
    pub const SET_LINE: u32 = 0x0003_8041;
}

/// Clocks, as [`tag::CLOCK_RATE`] numbers them.
pub mod clock {
    /// Of the PL011.
    pub const UART: u32 = 2;
    /// Of the VideoCore, and of the mini UART.
    pub const CORE: u32 = 4;
}

/// What is wrong with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageError {
    /// More values than a message has room for.
    TooLong {
        /// So many.
        values: usize,
    },
    /// The firmware could not read the message.
    Refused {
        /// The second word.
        code: u32,
    },
    /// The firmware does not know the tag.
    UnknownTag {
        /// Which.
        tag: u32,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { values } => write!(f, "{values} values are more than a message has room for"),
            Self::Refused { code } => write!(f, "the firmware refuses the message with code {code:#010x}"),
            Self::UnknownTag { tag } => write!(f, "the firmware does not know the tag {tag:#010x}"),
        }
    }
}

impl core::error::Error for MessageError {}

/// A message that asks `tag` with `values` and has room for `room` values of an answer.
///
/// # Errors
///
/// [`MessageError::TooLong`].
pub fn question(tag: u32, values: &[u32], room: usize) -> Result<[u32; WORDS], MessageError> {
    let room = room.max(values.len());
    if room > MAX_VALUES {
        return Err(MessageError::TooLong { values: room });
    }
    let mut message = [0; WORDS];
    let size = (HEADER + room + 1) * 4;
    let header = [size as u32, 0, tag, room as u32 * 4, 0];
    for (slot, word) in message.iter_mut().zip(header.iter().chain(values)) {
        *slot = *word;
    }
    Ok(message)
}

/// The values with which `message` answers `tag`, as many as there is room for.
///
/// # Errors
///
/// [`MessageError::Refused`], [`MessageError::UnknownTag`].
pub fn answer<'a>(message: &[u32; WORDS], tag: u32, values: &'a mut [u32]) -> Result<&'a [u32], MessageError> {
    let [_, code, found, room, answered, rest @ ..] = message;
    if *code != ANSWERED {
        return Err(MessageError::Refused { code: *code });
    }
    if *found != tag || answered & ANSWERED == 0 {
        return Err(MessageError::UnknownTag { tag });
    }
    // The firmware tells how much there would be, even if the room was less.
    let bytes = (answered & !ANSWERED).min(*room);
    let rest = rest.get(..bytes as usize / 4).unwrap_or(rest);
    let count = rest.len().min(values.len());
    let (values, rest) = (values.get_mut(..count).unwrap_or_default(), rest.get(..count).unwrap_or_default());
    values.copy_from_slice(rest);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_laid_out_as_documented() {
        let message = question(tag::CLOCK_RATE, &[clock::UART], 2).unwrap();
        assert_eq!(message[..8], [32, 0, 0x0003_0002, 8, 0, 2, 0, 0]);
        let message = question(tag::BOARD_REVISION, &[], 1).unwrap();
        assert_eq!(message[..7], [28, 0, 0x0001_0002, 4, 0, 0, 0]);
        // Room for what is said, if not for an answer.
        assert_eq!(question(tag::SET_LINE, &[130, 1], 0).unwrap()[3], 8);
    }

    #[test]
    fn the_longest_message_fits_and_a_longer_one_does_not() {
        let message = question(1, &[7; MAX_VALUES], 0).unwrap();
        assert_eq!((message[0], message[WORDS - 2], message[WORDS - 1]), (WORDS as u32 * 4, 7, 0));
        let values = MAX_VALUES + 1;
        assert_eq!(question(1, &[], values), Err(MessageError::TooLong { values }));
    }

    fn answered(code: u32, tag: u32, room: u32, length: u32, first: u32) -> [u32; WORDS] {
        let mut message = [0xdead_beef; WORDS];
        message[..7].copy_from_slice(&[32, code, tag, room, length, first, first + 1]);
        message
    }

    #[test]
    fn an_answer_has_as_many_values_as_both_have_room_for() {
        let mut values = [0; 4];
        let message = answered(ANSWERED, 5, 8, ANSWERED | 8, 10);
        assert_eq!(answer(&message, 5, &mut values), Ok(&[10, 11][..]));
        assert_eq!(answer(&message, 5, &mut values[..1]), Ok(&[10][..]));
        assert_eq!(answer(&answered(ANSWERED, 5, 8, ANSWERED | 4, 10), 5, &mut values), Ok(&[10][..]));
        // More than was asked for was cut.
        assert_eq!(answer(&answered(ANSWERED, 5, 4, ANSWERED | 400, 10), 5, &mut values), Ok(&[10][..]));
        // Absurd sizes read no further than the message.
        let message = answered(ANSWERED, 5, u32::MAX, u32::MAX, 10);
        assert_eq!(answer(&message, 5, &mut values).unwrap().len(), 4);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let mut values = [0; 4];
        for (message, error) in [
            (answered(0x8000_0001, 5, 8, ANSWERED | 8, 0), MessageError::Refused { code: 0x8000_0001 }),
            (answered(0, 5, 8, ANSWERED | 8, 0), MessageError::Refused { code: 0 }),
            (answered(ANSWERED, 5, 8, 0, 0), MessageError::UnknownTag { tag: 5 }),
            (answered(ANSWERED, 6, 8, ANSWERED | 8, 0), MessageError::UnknownTag { tag: 5 }),
        ] {
            assert_eq!(answer(&message, 5, &mut values), Err(error));
        }
    }
}
