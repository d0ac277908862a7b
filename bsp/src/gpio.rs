// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pins of the Raspberry Pis (BCM2835 ARM Peripherals, chapter 6; BCM2711 ARM Peripherals, chapter 5).
//!
//! Each pin has a function: input, output, or a device's. Setting one is read, change, write, so [`Gpio`] has one
//! owner; driving a pin that is an output is a single write, so an [`Output`] goes its own way.

use core::convert::Infallible;

use embedded_hal::delay::DelayNs;
use embedded_hal::digital::{ErrorType, OutputPin};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};

use crate::info::{GpioKind, PinSetting, Pull};

register_structs! {
    Registers {
        /// Ten pins each, three bits a pin.
        (0x00 => function: [ReadWrite<u32>; 6]),
        (0x18 => _reserved0),
        /// A pin is a bit; zeros have no effect.
        (0x1c => set: [WriteOnly<u32>; 2]),
        (0x24 => _reserved1),
        (0x28 => clear: [WriteOnly<u32>; 2]),
        (0x30 => _reserved2),
        (0x34 => level: [ReadOnly<u32>; 2]),
        (0x3c => _reserved3),
        /// BCM2835: which pull, and for which pins.
        (0x94 => pull: WriteOnly<u32>),
        (0x98 => pull_clock: [WriteOnly<u32>; 2]),
        (0xa0 => _reserved4),
        /// BCM2711: sixteen pins each, two bits a pin.
        (0xe4 => pulls: [ReadWrite<u32>; 4]),
        (0xf4 => @END),
    }
}

/// The function of an output.
const OUTPUT: u8 = 1;
/// How long the pull must be there before it is clocked, and after: 150 cycles of a clock of at least 1 MHz.
const PULL_NS: u32 = 150_000;

/// There is no such pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSuchPin(
    /// Its number.
    pub u8,
);

/// The pin controller.
#[derive(Debug)]
pub struct Gpio {
    kind: GpioKind,
    base: usize,
}

impl Gpio {
    /// The controller whose registers are mapped at `base`.
    ///
    /// # Safety
    ///
    /// 1. The registers of a `kind` controller are mapped there as Device memory, with the rest of their page, for
    ///    good.
    /// 2. Nobody else changes functions or pulls.
    #[must_use]
    pub const unsafe fn new(kind: GpioKind, base: usize) -> Self {
        Self { kind, base }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new` was promised the mapping, and the registers are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.base) }
    }

    fn check(&self, pin: u8) -> Result<usize, NoSuchPin> {
        let pins = match self.kind {
            GpioKind::Bcm2835 => 54,
            GpioKind::Bcm2711 => 58,
        };
        if pin < pins { Ok(pin.into()) } else { Err(NoSuchPin(pin)) }
    }

    /// The function of `pin`, as the registers encode it.
    ///
    /// # Errors
    ///
    /// [`NoSuchPin`].
    pub fn function(&self, pin: u8) -> Result<u8, NoSuchPin> {
        let index = self.check(pin)?;
        let register = self.registers().function.get(index / 10).ok_or(NoSuchPin(pin))?;
        Ok((register.get() >> (index % 10 * 3)) as u8 & 7)
    }

    /// Sets the function of `pin`: 0 input, 1 output, 4, 5, 6, 7, 3, 2 the alternatives 0 to 5.
    ///
    /// # Errors
    ///
    /// [`NoSuchPin`].
    pub fn set_function(&mut self, pin: u8, function: u8) -> Result<(), NoSuchPin> {
        let index = self.check(pin)?;
        let register = self.registers().function.get(index / 10).ok_or(NoSuchPin(pin))?;
        let shift = index % 10 * 3;
        register.set(register.get() & !(7 << shift) | u32::from(function & 7) << shift);
        Ok(())
    }

    /// Sets the resistor at `pin`. Takes 0.3 ms on the older controller.
    ///
    /// # Errors
    ///
    /// [`NoSuchPin`].
    pub fn set_pull(&mut self, pin: u8, pull: Pull, delay: &mut impl DelayNs) -> Result<(), NoSuchPin> {
        let index = self.check(pin)?;
        let registers = self.registers();
        match self.kind {
            GpioKind::Bcm2835 => {
                let clock = registers.pull_clock.get(index / 32).ok_or(NoSuchPin(pin))?;
                registers.pull.set(match pull {
                    Pull::Off => 0,
                    Pull::Down => 1,
                    Pull::Up => 2,
                });
                delay.delay_ns(PULL_NS);
                clock.set(1 << (index % 32));
                delay.delay_ns(PULL_NS);
                registers.pull.set(0);
                clock.set(0);
            }
            GpioKind::Bcm2711 => {
                let register = registers.pulls.get(index / 16).ok_or(NoSuchPin(pin))?;
                let shift = index % 16 * 2;
                let bits = match pull {
                    Pull::Off => 0,
                    Pull::Up => 1,
                    Pull::Down => 2,
                };
                register.set(register.get() & !(3 << shift) | bits << shift);
            }
        }
        Ok(())
    }

    /// Gives a pin to the device that wants it so.
    ///
    /// # Errors
    ///
    /// [`NoSuchPin`].
    pub fn apply(&mut self, setting: PinSetting, delay: &mut impl DelayNs) -> Result<(), NoSuchPin> {
        // The pull first: an input must not float while it is connected already.
        if let Some(pull) = setting.pull {
            self.set_pull(setting.pin, pull, delay)?;
        }
        self.set_function(setting.pin, setting.function)
    }

    /// Makes `pin` an output.
    ///
    /// # Errors
    ///
    /// [`NoSuchPin`].
    pub fn output(&mut self, pin: u8) -> Result<Output, NoSuchPin> {
        self.set_function(pin, OUTPUT)?;
        Ok(Output { base: self.base, pin })
    }
}

/// A pin that is an output.
#[derive(Debug)]
pub struct Output {
    base: usize,
    pin: u8,
}

impl Output {
    fn registers(&self) -> &Registers {
        // SAFETY: the controller, which made this, was promised the mapping for good; the registers are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.base) }
    }

    /// Whether the pin is high now.
    #[must_use]
    pub fn is_high(&self) -> bool {
        let level = self.registers().level.get(usize::from(self.pin / 32));
        level.is_some_and(|level| level.get() >> (self.pin % 32) & 1 == 1)
    }
}

impl ErrorType for Output {
    type Error = Infallible;
}

impl OutputPin for Output {
    fn set_low(&mut self) -> Result<(), Infallible> {
        if let Some(clear) = self.registers().clear.get(usize::from(self.pin / 32)) {
            clear.set(1 << (self.pin % 32));
        }
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        if let Some(set) = self.registers().set.get(usize::from(self.pin / 32)) {
            set.set(1 << (self.pin % 32));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoDelay;

    impl DelayNs for NoDelay {
        fn delay_ns(&mut self, _: u32) {}
    }

    /// Runs `action` on registers of ordinary memory, all `fill` at first, and tells what they are then.
    fn after(kind: GpioKind, fill: u32, action: impl FnOnce(&mut Gpio)) -> [u32; 61] {
        let mut block = [fill; 61];
        let base = (&raw mut block).expose_provenance();
        // SAFETY: the block is as large as the registers, aligned, and lives until the end of this function.
        let mut gpio = unsafe { Gpio::new(kind, base) };
        action(&mut gpio);
        // SAFETY: the array above; volatile, since it was written behind the compiler's back.
        unsafe { (&raw const block).read_volatile() }
    }

    #[test]
    fn a_function_is_three_bits_of_its_own() {
        let block = after(GpioKind::Bcm2711, u32::MAX, |gpio| {
            gpio.set_function(14, 4).unwrap();
            assert_eq!(gpio.function(14), Ok(4));
            assert_eq!(gpio.function(15), Ok(7));
        });
        assert_eq!(block[1], 0xffff_cfff);
        assert!(block.iter().enumerate().all(|(index, word)| index == 1 || *word == u32::MAX));
    }

    #[test]
    fn an_output_sets_and_clears_its_bit() {
        let block = after(GpioKind::Bcm2711, 0, |gpio| {
            let mut led = gpio.output(42).unwrap();
            led.set_high().unwrap();
            led.set_low().unwrap();
            assert!(!led.is_high());
        });
        assert_eq!((block[4], block[8], block[11]), (1 << 6, 1 << 10, 1 << 10));
        after(GpioKind::Bcm2711, u32::MAX, |gpio| assert!(gpio.output(57).unwrap().is_high()));
    }

    #[test]
    fn pulls_are_set_as_each_controller_wants_it() {
        let setting = PinSetting { pin: 15, function: 2, pull: Some(Pull::Up) };
        let block = after(GpioKind::Bcm2711, u32::MAX, |gpio| gpio.apply(setting, &mut NoDelay).unwrap());
        assert_eq!((block[1], block[57]), (0xfffd_7fff, 0x7fff_ffff));
        let block = after(GpioKind::Bcm2835, u32::MAX, |gpio| gpio.apply(setting, &mut NoDelay).unwrap());
        // Clocked in, and both registers left alone afterwards.
        assert_eq!((block[0x94 / 4], block[0x98 / 4], block[0x9c / 4]), (0, 0, u32::MAX));
        let setting = PinSetting { pin: 15, function: 2, pull: None };
        let block = after(GpioKind::Bcm2711, u32::MAX, |gpio| gpio.apply(setting, &mut NoDelay).unwrap());
        assert_eq!(block[57], u32::MAX);
    }

    #[test]
    fn pins_that_do_not_exist_are_refused() {
        after(GpioKind::Bcm2835, 0, |gpio| assert_eq!(gpio.set_function(54, 1), Err(NoSuchPin(54))));
        let block = after(GpioKind::Bcm2711, 0, |gpio| {
            assert_eq!(gpio.output(58).map(|_| ()), Err(NoSuchPin(58)));
            assert_eq!(gpio.set_pull(u8::MAX, Pull::Up, &mut NoDelay), Err(NoSuchPin(u8::MAX)));
        });
        assert_eq!(block, [0; 61]);
    }
}
