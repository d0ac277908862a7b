// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the trees say of pins, LED and mailbox.
#![expect(clippy::unwrap_used, reason = "a test helper fails loudly")]

mod common;

use bsp::info::{BootInfo, DmaWindow, Gpio, GpioKind, Led, LedLine, Mailbox, PinSetting, Pull, Uart};
use common::blob;

fn read(blob: &[u8]) -> Box<BootInfo> {
    let mut info = Box::new(BootInfo::new());
    bsp::dt::read(blob, &mut info).unwrap();
    info
}

fn pins(uart: &Uart) -> Vec<(u8, u8, Option<Pull>)> {
    let pins = uart.pins.iter().flatten();
    pins.map(|&PinSetting { pin, function, pull }| (pin, function, pull)).collect()
}

#[test]
fn a_pi_4_has_its_led_on_a_pin_and_its_mailbox_behind_a_window() {
    let info = read(&blob("rpi4-2gb"));
    assert_eq!(info.gpio, Some(Gpio { kind: GpioKind::Bcm2711, base: 0xfe20_0000 }));
    assert_eq!(info.act_led, Some(Led { line: LedLine::Pin(42), active_low: false }));
    let dma = DmaWindow { bus: 0xc000_0000, cpu: 0, size: 0x4000_0000 };
    assert_eq!(info.mailbox, Some(Mailbox { base: 0xfe00_b880, dma }));
    assert_eq!(pins(&info.uarts[0]), [(14, 4, Some(Pull::Off)), (15, 4, Some(Pull::Up))]);
    assert_eq!(pins(&info.uarts[1]), [(14, 2, None), (15, 2, None)]);
}

#[test]
fn a_pi_3_has_its_led_on_the_expander() {
    let info = read(&blob("rpi3"));
    assert_eq!(info.gpio, Some(Gpio { kind: GpioKind::Bcm2835, base: 0x3f20_0000 }));
    assert_eq!(info.act_led, Some(Led { line: LedLine::Firmware(2), active_low: true }));
    let dma = DmaWindow { bus: 0xc000_0000, cpu: 0, size: 0x3f00_0000 };
    assert_eq!(info.mailbox, Some(Mailbox { base: 0x3f00_b880, dma }));
    assert_eq!(pins(&info.uarts[0]), []);
    // One pull for all.
    assert_eq!(pins(&info.uarts[1]), [(14, 2, Some(Pull::Up)), (15, 2, Some(Pull::Up))]);
}

#[test]
fn a_board_without_them_has_none() {
    let info = read(&blob("numa"));
    assert_eq!((info.gpio, info.act_led, info.mailbox), (None, None, None));
    assert!(info.uarts.iter().all(|uart| pins(uart).is_empty()));
}
