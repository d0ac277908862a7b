// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pin controllers, the settings that devices want of their pins, and the LED (Linux's bindings `gpio/gpio.txt`,
//! `pinctrl/brcm,bcm2835-gpio`, `leds/leds-gpio`).
//!
//! Whoever uses a line names its controller, which may come later in the blob: uses are noted, and connected at
//! the end.

use arrayvec::ArrayVec;

use super::super::values::{has, number, word};
use super::super::walk::Node;
use super::Reader;
use super::props::Props;
use crate::info::{BootInfo, Gpio, GpioKind, Led, LedLine, Mailbox, PinSetting, Pull};

const GPIOS: [(&str, GpioKind); 2] =
    [("brcm,bcm2711-gpio", GpioKind::Bcm2711), ("brcm,bcm2835-gpio", GpioKind::Bcm2835)];

/// The pins of one `pinctrl` state.
type Settings = [Option<PinSetting>; 4];

/// What was found, by the phandles that others know it by.
#[derive(Debug, Default)]
pub(super) struct Pins<'a> {
    /// Of the processor's pin controller, and of the firmware's.
    controllers: [Option<u32>; 2],
    /// Groups of at most four pins: no serial port has more.
    groups: ArrayVec<(u32, Settings), 64>,
    /// As [`BootInfo::uarts`]: `pinctrl-0`.
    pub(super) uarts: ArrayVec<&'a [u8], 16>,
    /// How deep a node of LEDs is that the walk is in.
    leds: Option<usize>,
    /// The LED: its controller, line and flags.
    led: Option<[u32; 3]>,
    /// Whether there is a firmware that answers by mailbox.
    has_firmware: bool,
}

impl<'a> Reader<'a, '_> {
    /// A node that is enabled, `depth` levels below the root.
    pub(super) fn pins(&mut self, node: &Node<'a>, props: &Props<'a>, depth: usize) {
        if self.pins.leds.is_some_and(|leds| depth <= leds) {
            self.pins.leds = None;
        }
        if let Some((_, kind)) = GPIOS.into_iter().find(|entry| props.is_compatible(entry.0)) {
            let range = props.reg.and_then(|reg| self.place.cpu_range(reg, 0));
            if self.info.gpio.is_none()
                && let Some(range) = range
            {
                self.info.gpio = Some(Gpio { kind, base: range.base });
                self.pins.controllers[0] = props.phandle;
            }
        } else if props.is_compatible("raspberrypi,firmware-gpio") {
            self.pins.controllers[1] = props.phandle;
        } else if props.is_compatible("raspberrypi,bcm2835-firmware") {
            self.pins.has_firmware = true;
        } else if props.is_compatible("brcm,bcm2835-mbox") && self.info.mailbox.is_none() {
            let range = props.reg.and_then(|reg| self.place.cpu_range(reg, 0));
            let dma = self.place.parent().map(|parent| parent.dma_window);
            self.info.mailbox = range.zip(dma).map(|(range, dma)| Mailbox { base: range.base, dma });
        } else if props.is_compatible("gpio-leds") {
            self.pins.leds = Some(depth);
        } else if self.pins.leds.is_some() {
            self.led(node, props);
        } else if let Some(settings) = settings(props)
            && let Some(phandle) = props.phandle
        {
            // Groups that do not fit, and larger ones, leave their pins as they are.
            let _ = self.pins.groups.try_push((phandle, settings));
        }
    }

    /// The activity LED is the first that is called so, by label or by name.
    fn led(&mut self, node: &Node<'a>, props: &Props<'a>) {
        let is_activity = match props.label {
            Some(label) => has(label, "ACT") || has(label, "led0"),
            None => matches!(node.name.base, "led-act" | "act"),
        };
        let cells = props.gpios.and_then(|gpios| gpios.first_chunk::<12>());
        if is_activity && self.pins.led.is_none() {
            self.pins.led = cells.map(|cells| {
                let [a, b, c, d, e, f, g, h, i, j, k, l] = *cells;
                [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_be_bytes)
            });
        }
    }
}

/// The pins of a group of `brcm,bcm2835-gpio`; `None` if the node is none, or has too many pins.
fn settings(props: &Props<'_>) -> Option<Settings> {
    let pins = props.pins?.as_chunks::<4>().0;
    let function = u8::try_from(word(props.pin_function?)?).ok().filter(|function| *function < 8)?;
    let pulls = props.pin_pulls.unwrap_or_default().as_chunks::<4>().0;
    let mut settings = Settings::default();
    if pins.len() > settings.len() {
        return None;
    }
    for (index, (slot, pin)) in settings.iter_mut().zip(pins).enumerate() {
        // One for all, or one for each.
        let pull = if pulls.len() == 1 { pulls.first() } else { pulls.get(index) };
        let pull = match pull.map(|pull| u32::from_be_bytes(*pull)) {
            Some(0) => Some(Pull::Off),
            Some(1) => Some(Pull::Down),
            Some(2) => Some(Pull::Up),
            _ => None,
        };
        *slot = Some(PinSetting { pin: u8::try_from(number(pin)?).ok()?, function, pull });
    }
    Some(settings)
}

impl Pins<'_> {
    /// Fills in what refers to each other.
    pub(super) fn connect(&self, info: &mut BootInfo) {
        if !self.has_firmware {
            info.mailbox = None;
        }
        let line = |[controller, line, flags]: [u32; 3]| {
            let line = u8::try_from(line).ok()?;
            let line = match self.controllers.iter().position(|phandle| *phandle == Some(controller))? {
                0 => LedLine::Pin(line),
                _ => LedLine::Firmware(line),
            };
            Some(Led { line, active_low: flags & 1 != 0 })
        };
        info.act_led = self.led.and_then(line);
        for (uart, groups) in info.uarts.iter_mut().zip(&self.uarts) {
            let groups = groups.as_chunks::<4>().0.iter().map(|phandle| u32::from_be_bytes(*phandle));
            let found = groups.filter_map(|phandle| self.groups.iter().find(|group| group.0 == phandle));
            let settings = found.flat_map(|group| group.1.into_iter().flatten());
            for (slot, setting) in uart.pins.iter_mut().zip(settings) {
                *slot = Some(setting);
            }
        }
    }
}
