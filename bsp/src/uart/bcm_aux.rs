// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Raspberry Pi's mini UART (UART1 of the BCM2835 auxiliary block; BCM2835 ARM Peripherals, section 2.2).
//!
//! Its clock is the VPU core clock, which only the firmware knows and holds still (`enable_uart=1`): the
//! speed is set here only if the tree names the clock.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use super::Patience;

register_bitfields! {u32,
    Enables [
        MINI_UART OFFSET(0) NUMBITS(1) []
    ],
    Interrupts [
        /// The manual swaps this with the next bit; its errata, and every driver, do not.
        RECEIVE OFFSET(0) NUMBITS(1) [],
        /// Must be set for any interrupt, by the errata.
        ALWAYS OFFSET(2) NUMBITS(2) [Set = 3]
    ],
    LineStatus [
        TX_IDLE OFFSET(6) NUMBITS(1) [],
        TX_EMPTY OFFSET(5) NUMBITS(1) [],
        DATA_READY OFFSET(0) NUMBITS(1) []
    ],
    Control [
        TX_ENABLE OFFSET(1) NUMBITS(1) [],
        RX_ENABLE OFFSET(0) NUMBITS(1) []
    ]
}

register_structs! {
    /// The auxiliary block. The tree's node names the UART's part, 0x40 bytes in.
    Registers {
        (0x00 => _irq: ReadWrite<u32>),
        (0x04 => enables: ReadWrite<u32, Enables::Register>),
        (0x08 => _reserved0),
        (0x40 => io: ReadWrite<u32>),
        (0x44 => interrupt_enable: WriteOnly<u32, Interrupts::Register>),
        (0x48 => interrupt_id: WriteOnly<u32>),
        (0x4c => line_control: ReadWrite<u32>),
        (0x50 => modem_control: WriteOnly<u32>),
        (0x54 => line_status: ReadWrite<u32, LineStatus::Register>),
        (0x58 => _reserved1),
        (0x60 => control: ReadWrite<u32, Control::Register>),
        (0x64 => _reserved2),
        (0x68 => baud: ReadWrite<u32>),
        (0x6c => @END),
    }
}

/// Offset of the UART's registers in the auxiliary block.
const UART_OFFSET: usize = 0x40;
/// Line control: eight bits. The manual's erratum: both low bits must be set.
const EIGHT_BITS: u32 = 3;
/// Interrupt identification, as written: both FIFOs cleared.
const CLEAR_FIFOS: u32 = 0xc6;

/// The mini UART.
#[derive(Debug)]
pub struct BcmAux {
    base: usize,
    patience: Patience,
}

impl BcmAux {
    /// The port whose registers are mapped at `base`.
    ///
    /// # Safety
    ///
    /// As [`Port::new`](super::Port::new).
    #[must_use]
    pub const unsafe fn new(base: usize) -> Self {
        Self { base: base.wrapping_sub(UART_OFFSET), patience: Patience::new() }
    }

    pub(super) const fn base(&self) -> usize {
        self.base.wrapping_add(UART_OFFSET)
    }

    /// Interrupts while the FIFO has bytes.
    pub(super) fn set_receive_interrupt(&mut self, on: bool) {
        let enable = &self.registers().interrupt_enable;
        if on {
            enable.write(Interrupts::RECEIVE::SET + Interrupts::ALWAYS::Set);
        } else {
            enable.set(0);
        }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new` was promised that the UART is mapped for as long as `self` lives, with the rest of
        // its page, where the block begins; the registers are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.base) }
    }

    /// Whether the port is on. While its block is off, its other registers cannot be read.
    #[must_use]
    pub fn is_started(&self) -> bool {
        let registers = self.registers();
        registers.enables.is_set(Enables::MINI_UART)
            && registers.control.matches_all(Control::TX_ENABLE::SET + Control::RX_ENABLE::SET)
    }

    /// Starts the port if it is off. Without a known clock the divisor stays as it is.
    pub fn start(&mut self, clock_hz: Option<u32>, baud: u32) {
        let registers = self.registers();
        if self.is_started() {
            return;
        }
        registers.enables.modify(Enables::MINI_UART::SET);
        registers.interrupt_enable.set(0);
        registers.control.set(0);
        registers.line_control.set(EIGHT_BITS);
        registers.modem_control.set(0);
        registers.interrupt_id.set(CLEAR_FIFOS);
        if let Some(divisor) = clock_hz.and_then(|clock| divisor(clock, baud)) {
            registers.baud.set(divisor);
        }
        registers.control.write(Control::TX_ENABLE::SET + Control::RX_ENABLE::SET);
    }

    /// Sends one byte; waits while the FIFO is full. A port that stays full for too long loses it.
    pub fn send(&mut self, byte: u8) {
        let registers = self.registers();
        if self.patience.wait(|| registers.line_status.is_set(LineStatus::TX_EMPTY)) {
            registers.io.set(u32::from(byte));
        }
    }

    /// The next received byte, if there is one.
    pub fn receive(&mut self) -> Option<u8> {
        self.can_receive().then(|| self.registers().io.get() as u8)
    }

    /// Whether a byte waits.
    #[must_use]
    pub fn can_receive(&self) -> bool {
        self.registers().line_status.is_set(LineStatus::DATA_READY)
    }

    /// Waits until the last bit has left, but not for too long.
    pub fn drain(&mut self) {
        let registers = self.registers();
        self.patience.wait(|| registers.line_status.is_set(LineStatus::TX_IDLE));
    }
}

/// The divisor `clock / (8 * baud) - 1`; `None` if it does not fit into 16 bits.
fn divisor(clock_hz: u32, baud: u32) -> Option<u32> {
    let divisor = clock_hz.checked_div(baud.checked_mul(8)?)?.checked_sub(1)?;
    (divisor <= 0xffff).then_some(divisor)
}

#[cfg(test)]
mod tests {
    use super::divisor;

    #[test]
    fn divisors_are_those_of_the_manual() {
        assert_eq!(divisor(250_000_000, 115_200), Some(270));
        assert_eq!(divisor(500_000_000, 115_200), Some(541));
        assert_eq!(divisor(500_000_000, 0), None);
        assert_eq!(divisor(100, 115_200), None);
    }
}
