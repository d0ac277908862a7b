// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serial ports, polled, behind the traits of `embedded-io`; receiving can be left to an interrupt handler.
//!
//! A port that firmware or a loader has already set up keeps its line settings: they know the clocks and
//! the wiring. One that is off is started at 115200 8N1, if its clock is known.

mod bcm_aux;
mod pl011;

use core::cell::Cell;
use core::convert::Infallible;

pub use bcm_aux::BcmAux;
pub use pl011::Pl011;

use crate::info::UartKind;

/// Line speed when nobody names one.
pub const DEFAULT_BAUD: u32 = 115_200;

/// How often a port that is not ready is asked: for at least 50 ms, as a register of a device is not read in less than
/// 50 ns. Even at 300 baud a byte has left by then.
const MOST_POLLS: u32 = 1 << 20;

/// Waits for a port, but not for ever: one that never gets ready (the tree names a wrong address, or the other side
/// holds the line) must not stop the machine.
#[derive(Debug)]
struct Patience {
    is_lost: Cell<bool>,
}

impl Patience {
    const fn new() -> Self {
        Self { is_lost: Cell::new(false) }
    }

    /// Waits until `ready`, and tells whether it came to that. A port that has once let us down is asked only once,
    /// until it is ready again.
    fn wait(&self, mut ready: impl FnMut() -> bool) -> bool {
        let polls = if self.is_lost.get() { 1 } else { MOST_POLLS };
        let is_ready = (0..polls).any(|_| {
            core::hint::spin_loop();
            ready()
        });
        self.is_lost.set(!is_ready);
        is_ready
    }
}

/// A serial port of any supported kind.
#[derive(Debug)]
pub enum Port {
    /// Arm PrimeCell PL011.
    Pl011(Pl011),
    /// The Raspberry Pi's mini UART.
    BcmAux(BcmAux),
}

impl Port {
    /// The port whose registers are mapped at `base`.
    ///
    /// # Safety
    ///
    /// 1. `base` is where the register block of a `kind` UART is mapped as Device memory, together with the
    ///    rest of its 4 KiB page.
    /// 2. The mapping lasts as long as the value, and nobody else drives the port.
    #[must_use]
    pub unsafe fn new(kind: UartKind, base: usize) -> Self {
        match kind {
            // SAFETY: the caller's promise, passed on.
            UartKind::Pl011 => Self::Pl011(unsafe { Pl011::new(base) }),
            // SAFETY: the caller's promise, passed on.
            UartKind::BcmAux => Self::BcmAux(unsafe { BcmAux::new(base) }),
        }
    }

    /// Whether the port is on: whoever came before us has set it up.
    #[must_use]
    pub fn is_started(&self) -> bool {
        match self {
            Self::Pl011(port) => port.is_started(),
            Self::BcmAux(port) => port.is_started(),
        }
    }

    /// Starts the port if it is off.
    pub fn start(&mut self, clock_hz: Option<u32>, baud: Option<u32>) {
        match self {
            Self::Pl011(port) => port.start(clock_hz, baud.unwrap_or(DEFAULT_BAUD)),
            Self::BcmAux(port) => port.start(clock_hz, baud.unwrap_or(DEFAULT_BAUD)),
        }
    }

    /// Sends one byte; waits while the FIFO is full. A port that stays full for too long loses it.
    pub fn send(&mut self, byte: u8) {
        match self {
            Self::Pl011(port) => port.send(byte),
            Self::BcmAux(port) => port.send(byte),
        }
    }

    /// The next received byte, if there is one.
    pub fn receive(&mut self) -> Option<u8> {
        match self {
            Self::Pl011(port) => port.receive(),
            Self::BcmAux(port) => port.receive(),
        }
    }

    /// Waits until the last bit has left.
    pub fn drain(&mut self) {
        match self {
            Self::Pl011(port) => port.drain(),
            Self::BcmAux(port) => port.drain(),
        }
    }

    /// The receiving half, for an interrupt handler.
    ///
    /// # Safety
    ///
    /// As [`Port::new`]; and this value does not receive any more: it only sends.
    #[must_use]
    pub const unsafe fn receiver(&self) -> Receiver {
        match self {
            Self::Pl011(port) => Receiver { kind: UartKind::Pl011, base: port.base() },
            Self::BcmAux(port) => Receiver { kind: UartKind::BcmAux, base: port.base() },
        }
    }

    fn can_receive(&self) -> bool {
        match self {
            Self::Pl011(port) => port.can_receive(),
            Self::BcmAux(port) => port.can_receive(),
        }
    }
}

/// The receiving half of a port: it touches no register that sending does, but for reading flags.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    kind: UartKind,
    base: usize,
}

impl Receiver {
    /// The next received byte, if there is one.
    #[must_use]
    pub fn receive(&self) -> Option<u8> {
        match self.kind {
            // SAFETY: `Port::receiver` was promised that the port is there and receives only by this half.
            UartKind::Pl011 => unsafe { Pl011::new(self.base) }.receive(),
            // SAFETY: as above.
            UartKind::BcmAux => unsafe { BcmAux::new(self.base) }.receive(),
        }
    }

    /// Has the port interrupt when bytes wait to be received, or not.
    pub fn set_interrupt(&self, on: bool) {
        match self.kind {
            // SAFETY: as above.
            UartKind::Pl011 => unsafe { Pl011::new(self.base) }.set_receive_interrupt(on),
            // SAFETY: as above.
            UartKind::BcmAux => unsafe { BcmAux::new(self.base) }.set_receive_interrupt(on),
        }
    }
}

impl embedded_io::ErrorType for Port {
    type Error = Infallible;
}

impl embedded_io::Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        for byte in bytes {
            self.send(*byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        self.drain();
        Ok(())
    }
}

impl embedded_io::ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.can_receive())
    }
}

impl embedded_io::Read for Port {
    /// Waits for the first byte, then takes what is there.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some((first, rest)) = buffer.split_first_mut() else { return Ok(0) };
        *first = loop {
            if let Some(byte) = self.receive() {
                break byte;
            }
            core::hint::spin_loop();
        };
        let more = rest.iter_mut().map_while(|slot| self.receive().map(|byte| *slot = byte)).count();
        Ok(1 + more)
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_POLLS, Patience};

    #[test]
    fn a_port_that_never_gets_ready_is_waited_for_once() {
        let patience = Patience::new();
        let mut polls = 0;
        let mut never = || {
            polls += 1;
            false
        };
        assert!(!patience.wait(&mut never));
        assert!((0..1000).all(|_| !patience.wait(&mut never)));
        assert_eq!(polls, MOST_POLLS + 1000);
    }

    #[test]
    fn a_port_that_comes_back_is_trusted_again() {
        let patience = Patience::new();
        assert!(!patience.wait(|| false));
        assert!(patience.wait(|| true));
        let mut left = 1000;
        assert!(patience.wait(|| {
            left -= 1;
            left == 0
        }));
    }
}
