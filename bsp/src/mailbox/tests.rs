// SPDX-License-Identifier: MIT OR Apache-2.0
//! A firmware that answers, and ones that do not.

use std::collections::VecDeque;

use super::message::{clock, tag};
use super::*;

/// What the fake firmware does with a question.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mood {
    /// Answers after so many looks.
    Answers(u32),
    /// Takes the question and says nothing.
    Silent,
    /// Never takes a question.
    Full,
    /// Knows no tag.
    Ignorant,
}

struct Fake {
    mood: Mood,
    /// Where the buffer is.
    buffer: usize,
    queue: VecDeque<u32>,
    looks: u32,
}

const BUS: u32 = 0xc010_0000;

impl Boxes for Fake {
    fn send(&mut self, word: u32) -> bool {
        assert_eq!(word, BUS | 8);
        if self.mood == Mood::Full {
            return false;
        }
        let message: *mut [u32; WORDS] = core::ptr::with_exposed_provenance_mut(self.buffer);
        // SAFETY: the test's own buffer, which nobody looks at between question and answer.
        let message = unsafe { &mut *message };
        message[1] = 0x8000_0000;
        if self.mood != Mood::Ignorant {
            match message[2] {
                tag::BOARD_REVISION => message[5] = 0x00b0_3115,
                tag::CLOCK_RATE => message[6] = 1_000_000 * message[5],
                other => panic!("tag {other:#x}"),
            }
            message[4] = 0x8000_0000 | message[3];
        }
        if self.mood != Mood::Silent {
            // Another channel's word comes first.
            self.queue.extend([0x1230_0009, word]);
        }
        true
    }

    fn receive(&mut self) -> Option<u32> {
        self.looks += 1;
        match self.mood {
            Mood::Answers(after) if self.looks < after => None,
            _ => self.queue.pop_front(),
        }
    }
}

/// Counts the time that is waited.
struct Clock(u64);

impl DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        self.0 += u64::from(ns);
    }
}

fn ask(mood: Mood, tag: u32, values: &[u32]) -> (Result<Vec<u32>, MailboxError>, u64) {
    let buffer = Box::leak(Box::new(Buffer::new()));
    let address = (&raw mut buffer.0).addr();
    // A late answer to an earlier question lies in the box.
    let fake = Fake { mood, buffer: address, queue: VecDeque::from([BUS | 8]), looks: 0 };
    // SAFETY: the fake firmware sees the buffer by its own pointer.
    let mut firmware = unsafe { Firmware::new(fake, buffer, BUS) }.unwrap();
    let (mut answer, mut clock) = ([0; 2], Clock(0));
    let result = firmware.ask(tag, values, &mut answer, &mut clock).map(<[u32]>::to_vec);
    (result, clock.0)
}

#[test]
fn questions_are_answered() {
    assert_eq!(ask(Mood::Answers(0), tag::BOARD_REVISION, &[]).0.unwrap()[0], 0x00b0_3115);
    assert_eq!(ask(Mood::Answers(40), tag::CLOCK_RATE, &[clock::UART]).0, Ok(vec![2, 2_000_000]));
}

#[test]
fn waits_are_bounded() {
    for (mood, error) in [(Mood::Silent, MailboxError::Silent), (Mood::Full, MailboxError::Full)] {
        let (result, waited) = ask(mood, tag::BOARD_REVISION, &[]);
        assert_eq!(result, Err(error));
        assert_eq!(waited, u64::from(TIMEOUT_US) * 1000, "{mood:?}");
    }
}

#[test]
fn errors_of_the_message_are_told() {
    let error = |tag| MailboxError::Message(MessageError::UnknownTag { tag });
    assert_eq!(ask(Mood::Ignorant, tag::ARM_MEMORY, &[]).0, Err(error(tag::ARM_MEMORY)));
    let values = vec![0; WORDS];
    let too_long = MailboxError::Message(MessageError::TooLong { values: WORDS });
    assert_eq!(ask(Mood::Answers(0), 1, &values).0, Err(too_long));
}

#[test]
fn a_buffer_the_firmware_cannot_name_is_refused() {
    let fake = Fake { mood: Mood::Silent, buffer: 0, queue: VecDeque::new(), looks: 0 };
    // SAFETY: nothing is asked.
    assert!(unsafe { Firmware::new(fake, Box::leak(Box::new(Buffer::new())), BUS + 8) }.is_none());
}
