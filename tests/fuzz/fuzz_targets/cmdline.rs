// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any text as a command line: parameters, sizes, the choice of the console.
#![no_main]

use bsp::cmdline::{params, parse_size};
use bsp::console::choose_console;
use bsp::info::{BootInfo, Text, Uart, UartKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut end = text.as_ptr() as usize;
    let mut count = 0;
    for param in params(text) {
        // Pieces of the line, in order: it cannot go on for ever.
        for piece in [Some(param.key), param.value].into_iter().flatten() {
            assert!(piece.as_ptr() as usize >= end);
            end = piece.as_ptr() as usize + piece.len();
        }
        count += 1;
        if let Some(size) = param.value.and_then(parse_size) {
            assert!(param.value.is_some_and(|value| value.starts_with(|char: char| char.is_ascii_digit())), "{size}");
        }
        assert!(param.is(param.key));
    }
    assert!(count <= text.len().div_ceil(2));

    let uart = |kind, serial_index| Uart {
        kind,
        compatible: "",
        base: 0,
        size: 0,
        clock_hz: None,
        serial_index,
        interrupt: None,
        pins: [None; 4],
        name: Text::new(),
    };
    let mut info = BootInfo::new();
    assert!(choose_console(&info, text).is_none());
    info.uarts.extend([uart(UartKind::Pl011, Some(0)), uart(UartKind::BcmAux, None)]);
    assert!(choose_console(&info, text).is_some());
});
