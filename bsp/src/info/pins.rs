// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tree says of a Raspberry Pi's pins, its LED and its firmware.

/// The pin controllers that there is a driver for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GpioKind {
    /// Of the Raspberry Pi 1 to 3: pulls are clocked in.
    Bcm2835,
    /// Of the Raspberry Pi 4: pulls have registers.
    Bcm2711,
}

/// A pin controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gpio {
    /// Which driver.
    pub kind: GpioKind,
    /// CPU address of its registers.
    pub base: u64,
}

/// The resistor at a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pull {
    /// None.
    Off,
    /// To ground.
    Down,
    /// To the supply.
    Up,
}

/// How a pin is to be set for the device that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinSetting {
    /// The pin's number.
    pub pin: u8,
    /// What it carries, as the function select registers encode it (BCM2835 ARM Peripherals 6.1).
    pub function: u8,
    /// Its resistor; `None` leaves it.
    pub pull: Option<Pull>,
}

/// Who drives an LED.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedLine {
    /// A pin of the processor.
    Pin(u8),
    /// A line of an expander that only the VideoCore firmware reaches.
    Firmware(u8),
}

/// The activity LED.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Led {
    /// Who drives it.
    pub line: LedLine,
    /// Whether it lights when the line is low.
    pub active_low: bool,
}

/// RAM as a device sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaWindow {
    /// The device's address for
    pub bus: u64,
    /// this CPU address
    pub cpu: u64,
    /// and so many bytes from there on.
    pub size: u64,
}

impl DmaWindow {
    /// A device that sees what the CPU sees.
    pub const IDENTITY: Self = Self { bus: 0, cpu: 0, size: u64::MAX };

    /// What the device calls the `size` bytes at CPU address `cpu`; `None` if it cannot reach them all.
    #[must_use]
    pub const fn bus_address(self, cpu: u64, size: u64) -> Option<u64> {
        match cpu.checked_sub(self.cpu) {
            Some(offset) if offset <= self.size && size <= self.size - offset => self.bus.checked_add(offset),
            _ => None,
        }
    }
}

/// The mailbox by which the VideoCore firmware answers questions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mailbox {
    /// CPU address of its registers.
    pub base: u64,
    /// How the firmware sees messages in RAM.
    pub dma: DmaWindow,
}

#[cfg(test)]
mod tests {
    use super::DmaWindow;

    #[test]
    fn a_device_reaches_what_lies_in_its_window() {
        let window = DmaWindow { bus: 0xc000_0000, cpu: 0x1000, size: 0x4000_0000 };
        assert_eq!(window.bus_address(0x1000, 0x4000_0000), Some(0xc000_0000));
        assert_eq!(window.bus_address(0x3000, 8), Some(0xc000_2000));
        assert_eq!(window.bus_address(0x4000_0ff8, 8), Some(0xffff_fff8));
        assert_eq!(window.bus_address(0x4000_0ff9, 8), None);
        assert_eq!(window.bus_address(0xfff, 8), None);
        assert_eq!(window.bus_address(u64::MAX, u64::MAX), None);
        assert_eq!(DmaWindow::IDENTITY.bus_address(0x1234, 8), Some(0x1234));
    }
}
