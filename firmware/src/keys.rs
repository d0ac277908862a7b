// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys: the port's interrupt puts them in a ring, whoever reads takes them out.
//!
//! When the ring is full the port's interrupt is held back until there is room again: the bytes wait in the port, and at
//! the other end as far as that can be told to wait; nothing storms.

use bsp::uart::Receiver;
use spin::Once;

use crate::boot::Machine;
use crate::irq::{self, Handled, RegisterError};
use crate::sync::{self, Lock};
use crate::{output, pr_warn};

/// Bytes of the ring.
const CAPACITY: usize = 512;

struct Ring {
    bytes: [u8; CAPACITY],
    /// Bytes taken out and put in so far; both wrap around, and so does the place in the ring.
    taken: usize,
    put: usize,
    is_held_back: bool,
}

const _: () = assert!(CAPACITY.is_power_of_two());

static RING: Lock<Ring> = Lock::new(sync::KEYS, Ring { bytes: [0; CAPACITY], taken: 0, put: 0, is_held_back: false });
static RECEIVER: Once<Receiver> = Once::new();

impl Ring {
    const fn len(&self) -> usize {
        self.put.wrapping_sub(self.taken)
    }

    const fn is_full(&self) -> bool {
        self.len() == CAPACITY
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.put % CAPACITY) {
            *slot = byte;
            self.put = self.put.wrapping_add(1);
        }
    }

    fn pop(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.taken % CAPACITY).filter(|_| self.len() != 0)?;
        self.taken = self.taken.wrapping_add(1);
        Some(byte)
    }
}

/// Has the console's port interrupt; without that, keys are looked for when somebody reads.
pub(crate) fn start(machine: &Machine) {
    let Some(console) = machine.console else { return };
    if !irq::is_running() {
        return;
    }
    if let Err(error) = connect(machine, console) {
        pr_warn!("console: {} is asked for keys over and over: {error}", console.name);
    }
}

fn connect(machine: &Machine, console: &bsp::info::Uart) -> Result<(), RegisterError> {
    let interrupt = console.interrupt.ok_or(RegisterError::NoLine)?;
    let line = irq::line_of(machine, &interrupt).ok_or(RegisterError::NoLine)?;
    let receiver = output::receiver().ok_or(RegisterError::NoLine)?;
    irq::register(line, "console", taken)?;
    irq::enable(line)?;
    RECEIVER.call_once(|| receiver).set_interrupt(true);
    Ok(())
}

/// Whether the ring is filled by interrupts.
pub(crate) fn is_running() -> bool {
    RECEIVER.get().is_some()
}

/// Whether there is a key.
pub(crate) fn is_there() -> bool {
    RING.lock().len() != 0
}

/// The next key, if there is one.
pub(crate) fn take() -> Option<u8> {
    let mut ring = RING.lock();
    let key = ring.pop();
    if ring.is_held_back && ring.len() <= CAPACITY / 2 {
        ring.is_held_back = false;
        if let Some(receiver) = RECEIVER.get() {
            receiver.set_interrupt(true);
        }
    }
    key
}

fn taken() -> Handled {
    let Some(receiver) = RECEIVER.get() else { return Handled::No };
    let mut ring = RING.lock();
    let before = ring.put;
    while !ring.is_full() {
        let Some(byte) = receiver.receive() else { break };
        ring.push(byte);
    }
    if ring.is_full() {
        ring.is_held_back = true;
        receiver.set_interrupt(false);
    }
    if ring.put == before { Handled::No } else { Handled::Yes }
}
