// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said of a board without a device tree: just enough to complain on its serial line.
//!
//! A loader that passes no tree, or a broken one, deserves a message, but a byte written to an address
//! that happens to be RAM or some other device is worse than silence. Where the image was loaded and which
//! core runs it tell the few boards apart that this image is meant for.

use crate::info::UartKind;

/// A serial port that the board has if it is what it seems to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlainUart {
    /// Which driver.
    pub kind: UartKind,
    /// CPU address of the registers.
    pub base: u64,
    /// The pin controller's registers where the pins decide which UART they carry, else `None`.
    pub gpio: Option<u64>,
    /// The board that this looks like.
    pub board: &'static str,
}

/// Primary part numbers of MIDR_EL1 [15:4] that set the Raspberry Pis apart.
const CORTEX_A53: u64 = 0xd03;
const CORTEX_A72: u64 = 0xd08;
/// RAM of QEMU's virt machine begins here; that of the Pis at 0.
const VIRT_RAM: u64 = 0x4000_0000;

/// The serial port of the board that was loaded at `image` and whose core has identity `midr`.
///
/// `None` where neither says enough.
#[must_use]
pub const fn plain_uart(image: u64, midr: u64) -> Option<PlainUart> {
    if image >= VIRT_RAM {
        return Some(PlainUart { kind: UartKind::Pl011, base: 0x0900_0000, gpio: None, board: "QEMU virt" });
    }
    match (midr >> 4) & 0xfff {
        CORTEX_A53 => Some(PlainUart {
            kind: UartKind::Pl011,
            base: 0x3f20_1000,
            gpio: Some(0x3f20_0000),
            board: "Raspberry Pi 3",
        }),
        CORTEX_A72 => Some(PlainUart {
            kind: UartKind::Pl011,
            base: 0xfe20_1000,
            gpio: Some(0xfe20_0000),
            board: "Raspberry Pi 4",
        }),
        _ => None,
    }
}

impl PlainUart {
    /// The port that the header's pins 14 and 15 carry, by the function select register GPFSEL1 of
    /// [`PlainUart::gpio`]: the mini UART if the firmware has put it there (ALT5), else the PL011.
    #[must_use]
    pub const fn on_the_pins(self, gpfsel1: u32) -> Self {
        const ALT5: u32 = 2;
        if (gpfsel1 >> 12) & 7 == ALT5 {
            // The auxiliary block lies 0x1_4000 above UART0 on all Pis.
            Self { kind: UartKind::BcmAux, base: self.base + 0x1_4040, ..self }
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_boards_get_a_port() {
        assert_eq!(plain_uart(0x4020_0000, 0).unwrap().base, 0x0900_0000);
        assert_eq!(plain_uart(0x20_0000, 0x410f_d083).unwrap().base, 0xfe20_1000);
        assert_eq!(plain_uart(0x8_0000, 0x410f_d034).unwrap().base, 0x3f20_1000);
        assert_eq!(plain_uart(0x8_0000, 0x410f_d070), None);
    }

    #[test]
    fn the_pins_choose_the_mini_uart() {
        let pi4 = plain_uart(0x20_0000, 0x410f_d083).unwrap();
        assert_eq!(pi4.on_the_pins(2 << 12).base, 0xfe21_5040);
        assert_eq!(pi4.on_the_pins(2 << 12).kind, UartKind::BcmAux);
        assert_eq!(pi4.on_the_pins(4 << 12), pi4);
        assert_eq!(pi4.on_the_pins(0), pi4);
    }
}
