// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Raspberry Pi's firmware, which runs on the VideoCore, and answers questions by mailbox.
//!
//! ```text
//!   a message in RAM        its address --> mailbox 1 --> the firmware
//!   the answer in its place its address <-- mailbox 0 <--
//! ```
//!
//! The firmware sees RAM at an address of its own and past the CPU's caches: a message is cleaned to memory before it
//! is sent, and invalidated before the answer is read. Every wait is bounded.
//!
//! - [`message`]: what a message looks like
//! - [`revision`]: what the board's revision code says
//!
//! Source: the firmware's mailbox property interface, as its documentation (github.com/raspberrypi/firmware/wiki) has it.

pub mod message;
pub mod revision;

use core::fmt;

use embedded_hal::delay::DelayNs;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use self::message::{MessageError, WORDS};
use crate::cache;

register_bitfields! {u32,
    Status [
        FULL OFFSET(31) NUMBITS(1) [],
        EMPTY OFFSET(30) NUMBITS(1) []
    ]
}

register_structs! {
    Registers {
        (0x00 => read: ReadOnly<u32>),
        (0x04 => _reserved0),
        (0x18 => read_status: ReadOnly<u32, Status::Register>),
        (0x1c => _reserved1),
        (0x20 => write: WriteOnly<u32>),
        (0x24 => _reserved2),
        (0x38 => write_status: ReadOnly<u32, Status::Register>),
        (0x3c => @END),
    }
}

/// The two mailboxes, one each way.
pub trait Boxes {
    /// Puts a word in, if there is room.
    fn send(&mut self, word: u32) -> bool;

    /// Takes a word out, if there is one.
    fn receive(&mut self) -> Option<u32>;
}

/// The mailboxes of the machine.
#[derive(Debug)]
pub struct MailboxRegisters {
    base: usize,
}

impl MailboxRegisters {
    /// The mailboxes whose registers are mapped at `base`.
    ///
    /// # Safety
    ///
    /// They are mapped there as Device memory for as long as the value lives, and nobody else uses them.
    #[must_use]
    pub const unsafe fn new(base: usize) -> Self {
        Self { base }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new` was promised the mapping, and the registers are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.base) }
    }
}

impl Boxes for MailboxRegisters {
    fn send(&mut self, word: u32) -> bool {
        let has_room = !self.registers().write_status.is_set(Status::FULL);
        if has_room {
            self.registers().write.set(word);
        }
        has_room
    }

    fn receive(&mut self) -> Option<u32> {
        (!self.registers().read_status.is_set(Status::EMPTY)).then(|| self.registers().read.get())
    }
}

/// Room for a message: whole granules of cache, so that no neighbour's line can overwrite an answer.
#[derive(Debug)]
#[repr(C, align(2048))]
pub struct Buffer([u32; WORDS]);

const _: () = assert!(align_of::<Buffer>() == cache::MAX_GRANULE && size_of::<Buffer>() == cache::MAX_GRANULE);

impl Buffer {
    /// Room that holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; WORDS])
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// The channel of questions and answers. The low four bits of an address.
const CHANNEL: u32 = 8;
/// How long the firmware may take: it answers within a millisecond, if it is there.
const TIMEOUT_US: u32 = 200_000;
const POLL_US: u32 = 10;

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailboxError {
    /// The mailbox stayed full.
    Full,
    /// No answer came.
    Silent,
    /// The question is too long, or the answer is none.
    Message(MessageError),
}

impl fmt::Display for MailboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the firmware's mailbox stays full"),
            Self::Silent => f.write_str("the firmware does not answer"),
            Self::Message(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MailboxError {}

/// The firmware.
#[derive(Debug)]
pub struct Firmware<B> {
    boxes: B,
    buffer: *mut [u32; WORDS],
    bus: u32,
}

// SAFETY: the buffer was given by `&'static mut`, so it is this value's alone wherever that goes.
unsafe impl<B: Send> Send for Firmware<B> {}

impl<B: Boxes> Firmware<B> {
    /// The firmware behind `boxes`, which sees `buffer` at `bus`. `None` if that is misaligned.
    ///
    /// # Safety
    ///
    /// `bus` is the firmware's address of `buffer`, which is mapped as Normal memory.
    pub unsafe fn new(boxes: B, buffer: &'static mut Buffer, bus: u32) -> Option<Self> {
        let buffer = &raw mut buffer.0;
        // The firmware reaches it by its address alone.
        buffer.expose_provenance();
        bus.is_multiple_of(16).then_some(Self { boxes, buffer, bus })
    }

    /// From now on messages are in `buffer`, which the firmware sees at `bus`. `false` if that is misaligned; nothing has
    /// changed then.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    pub unsafe fn move_to(&mut self, buffer: &'static mut Buffer, bus: u32) -> bool {
        let is_aligned = bus.is_multiple_of(16);
        if is_aligned {
            let buffer = &raw mut buffer.0;
            buffer.expose_provenance();
            (self.buffer, self.bus) = (buffer, bus);
        }
        is_aligned
    }

    /// Asks `tag` with `values`; tells the answer's values, at most as many as `answer` has room for.
    ///
    /// # Errors
    ///
    /// See [`MailboxError`]. After [`Silent`](MailboxError::Silent) an answer may still come; it is dropped before the
    /// next question.
    pub fn ask<'a>(
        &mut self,
        tag: u32,
        values: &[u32],
        answer: &'a mut [u32],
        delay: &mut impl DelayNs,
    ) -> Result<&'a [u32], MailboxError> {
        let question = message::question(tag, values, answer.len()).map_err(MailboxError::Message)?;
        // SAFETY: the buffer is ours alone; volatile, since the firmware reads it behind the compiler's back.
        unsafe { self.buffer.write_volatile(question) };
        cache::clean(self.buffer.addr(), size_of::<Buffer>());
        self.exchange(self.bus | CHANNEL, delay)?;
        // SAFETY: the buffer is whole granules of ours, and the question in it has been answered.
        unsafe { cache::invalidate(self.buffer.addr(), size_of::<Buffer>()) };
        // SAFETY: as above; the firmware has written it.
        let words = unsafe { self.buffer.read_volatile() };
        message::answer(&words, tag, answer).map_err(MailboxError::Message)
    }

    /// Sends a word and waits until the same comes back.
    fn exchange(&mut self, word: u32, delay: &mut impl DelayNs) -> Result<(), MailboxError> {
        // What came too late for whoever asked.
        while self.boxes.receive().is_some() {}
        let mut polls = TIMEOUT_US / POLL_US;
        let mut wait = |error| {
            polls = polls.checked_sub(1).ok_or(error)?;
            delay.delay_us(POLL_US);
            Ok(())
        };
        while !self.boxes.send(word) {
            wait(MailboxError::Full)?;
        }
        // Other channels' words are nobody's: this is the only user.
        while self.boxes.receive() != Some(word) {
            wait(MailboxError::Silent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
