// SPDX-License-Identifier: MIT OR Apache-2.0
//! An LED at an output: for whoever has no console.

use embedded_hal::delay::DelayNs;
use embedded_hal::digital::OutputPin;

/// An LED.
#[derive(Debug)]
pub struct Led<P> {
    pin: P,
    active_low: bool,
}

/// How long a blink is on, and off.
const BLINK_MS: u32 = 200;
/// How long it stays dark between two signals.
const PAUSE_MS: u32 = 1200;

impl<P: OutputPin> Led<P> {
    /// An LED at `pin`, which lights when the pin is low if `active_low`.
    pub const fn new(pin: P, active_low: bool) -> Self {
        Self { pin, active_low }
    }

    /// Lights it, or makes it dark.
    ///
    /// # Errors
    ///
    /// The pin's.
    pub fn set(&mut self, lit: bool) -> Result<(), P::Error> {
        if lit == self.active_low { self.pin.set_low() } else { self.pin.set_high() }
    }

    /// Blinks so many times, and stays dark long enough that they can be counted.
    ///
    /// # Errors
    ///
    /// The pin's; the time passes all the same.
    pub fn signal(&mut self, blinks: u32, delay: &mut impl DelayNs) -> Result<(), P::Error> {
        let mut result = Ok(());
        for lit in (0..blinks).flat_map(|_| [true, false]) {
            result = result.and(self.set(lit));
            delay.delay_ms(BLINK_MS);
        }
        delay.delay_ms(PAUSE_MS);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;

    use super::*;

    #[derive(PartialEq, Debug)]
    enum Event {
        High,
        Low,
        Ms(u32),
    }

    struct Recorder<'a>(&'a RefCell<Vec<Event>>);

    impl embedded_hal::digital::ErrorType for Recorder<'_> {
        type Error = Infallible;
    }

    impl OutputPin for Recorder<'_> {
        fn set_low(&mut self) -> Result<(), Infallible> {
            self.0.borrow_mut().push(Event::Low);
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), Infallible> {
            self.0.borrow_mut().push(Event::High);
            Ok(())
        }
    }

    impl DelayNs for Recorder<'_> {
        fn delay_ns(&mut self, ns: u32) {
            self.0.borrow_mut().push(Event::Ms(ns / 1_000_000));
        }

        fn delay_ms(&mut self, ms: u32) {
            self.0.borrow_mut().push(Event::Ms(ms));
        }
    }

    fn signal(blinks: u32, active_low: bool) -> Vec<Event> {
        let events = RefCell::new(Vec::new());
        Led::new(Recorder(&events), active_low).signal(blinks, &mut Recorder(&events)).unwrap();
        events.into_inner()
    }

    #[test]
    fn a_signal_can_be_counted() {
        use Event::{High, Low, Ms};
        let blinks = [High, Ms(200), Low, Ms(200), High, Ms(200), Low, Ms(200), Ms(1200)];
        assert_eq!(signal(2, false), blinks);
        assert_eq!(signal(1, true), [Low, Ms(200), High, Ms(200), Ms(1200)]);
    }
}
