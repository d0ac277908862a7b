// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arm PrimeCell UART PL011 (Arm DDI 0183): QEMU virt's console, and UART0 of the Raspberry Pis.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use super::Patience;

register_bitfields! {u32,
    Flags [
        TXFF OFFSET(5) NUMBITS(1) [],
        RXFE OFFSET(4) NUMBITS(1) [],
        BUSY OFFSET(3) NUMBITS(1) []
    ],
    LineControl [
        WLEN OFFSET(5) NUMBITS(2) [EightBits = 3],
        FEN OFFSET(4) NUMBITS(1) []
    ],
    Interrupts [
        RECEIVE_TIMEOUT OFFSET(6) NUMBITS(1) [],
        RECEIVE OFFSET(4) NUMBITS(1) []
    ],
    Control [
        RXE OFFSET(9) NUMBITS(1) [],
        TXE OFFSET(8) NUMBITS(1) [],
        UARTEN OFFSET(0) NUMBITS(1) []
    ]
}

register_structs! {
    Registers {
        (0x00 => data: ReadWrite<u32>),
        (0x04 => _reserved0),
        (0x18 => flags: ReadOnly<u32, Flags::Register>),
        (0x1c => _reserved1),
        (0x24 => integer_baud: WriteOnly<u32>),
        (0x28 => fractional_baud: WriteOnly<u32>),
        (0x2c => line_control: ReadWrite<u32, LineControl::Register>),
        (0x30 => control: ReadWrite<u32, Control::Register>),
        (0x34 => _reserved2),
        (0x38 => interrupt_mask: WriteOnly<u32, Interrupts::Register>),
        (0x3c => _reserved3),
        (0x44 => interrupt_clear: WriteOnly<u32>),
        (0x48 => @END),
    }
}

/// One PL011.
#[derive(Debug)]
pub struct Pl011 {
    base: usize,
    patience: Patience,
}

impl Pl011 {
    /// The port whose registers are mapped at `base`.
    ///
    /// # Safety
    ///
    /// As [`Port::new`](super::Port::new).
    #[must_use]
    pub const unsafe fn new(base: usize) -> Self {
        Self { base, patience: Patience::new() }
    }

    pub(super) const fn base(&self) -> usize {
        self.base
    }

    /// Interrupts when the FIFO fills up, and when bytes have waited in it for the time of four.
    pub(super) fn set_receive_interrupt(&mut self, on: bool) {
        let mask = &self.registers().interrupt_mask;
        if on {
            mask.write(Interrupts::RECEIVE::SET + Interrupts::RECEIVE_TIMEOUT::SET);
        } else {
            mask.set(0);
        }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new` was promised that a PL011 is mapped here for as long as `self` lives, and the
        // registers are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.base) }
    }

    /// Whether the port is on.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.registers().control.matches_all(Control::UARTEN::SET + Control::TXE::SET)
    }

    /// Starts the port if it is off. Without a known clock the divisor stays as it is.
    pub fn start(&mut self, clock_hz: Option<u32>, baud: u32) {
        let registers = self.registers();
        if self.is_started() {
            return;
        }
        registers.control.set(0);
        registers.interrupt_mask.set(0);
        registers.interrupt_clear.set(0x7ff);
        if let Some((integer, fraction)) = clock_hz.and_then(|clock| divisor(clock, baud)) {
            registers.integer_baud.set(integer);
            registers.fractional_baud.set(fraction);
        }
        // Writing the line control register is also what makes a new divisor count (DDI 0183, 3.3.6).
        registers.line_control.write(LineControl::WLEN::EightBits + LineControl::FEN::SET);
        registers.control.write(Control::UARTEN::SET + Control::TXE::SET + Control::RXE::SET);
    }

    /// Sends one byte; waits while the FIFO is full. A port that stays full for too long loses it.
    pub fn send(&mut self, byte: u8) {
        let registers = self.registers();
        if self.patience.wait(|| !registers.flags.is_set(Flags::TXFF)) {
            registers.data.set(u32::from(byte));
        }
    }

    /// The next received byte, if there is one.
    pub fn receive(&mut self) -> Option<u8> {
        // Bits 8 to 11 are error flags; a broken byte is still the best there is.
        self.can_receive().then(|| self.registers().data.get() as u8)
    }

    /// Whether a byte waits.
    #[must_use]
    pub fn can_receive(&self) -> bool {
        !self.registers().flags.is_set(Flags::RXFE)
    }

    /// Waits until the last bit has left, but not for too long.
    pub fn drain(&mut self) {
        let registers = self.registers();
        self.patience.wait(|| !registers.flags.is_set(Flags::BUSY));
    }
}

/// The divisor `clock / (16 * baud)` as a 16-bit integer and 64ths; `None` if it does not fit.
fn divisor(clock_hz: u32, baud: u32) -> Option<(u32, u32)> {
    let sixty_fourths = (u64::from(clock_hz) * 4 + u64::from(baud) / 2).checked_div(u64::from(baud))?;
    let integer = u32::try_from(sixty_fourths / 64).ok()?;
    (1..=0xffff).contains(&integer).then_some((integer, (sixty_fourths % 64) as u32))
}

#[cfg(test)]
mod tests {
    use super::divisor;

    #[test]
    fn divisors_are_those_of_the_manual() {
        assert_eq!(divisor(48_000_000, 115_200), Some((26, 3)));
        assert_eq!(divisor(24_000_000, 115_200), Some((13, 1)));
        assert_eq!(divisor(4_000_000, 230_400), Some((1, 5)));
    }

    #[test]
    fn impossible_speeds_are_refused() {
        assert_eq!(divisor(48_000_000, 0), None);
        assert_eq!(divisor(1_000, 115_200), None);
        assert_eq!(divisor(u32::MAX, 1), None);
    }
}
