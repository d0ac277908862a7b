// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which serial port is the console.

use crate::cmdline;
use crate::info::{BootInfo, Uart, UartKind};

/// The port that the last `console=` on the command line names, if it is there; else what the tree says
/// ([`BootInfo::console`]).
#[must_use]
pub fn choose_console<'a>(info: &'a BootInfo, command_line: &str) -> Option<&'a Uart> {
    let named = cmdline::params(command_line)
        .filter(|param| param.is("console"))
        .filter_map(|param| port_named(info, param.value?))
        .last();
    named.or_else(|| info.console())
}

/// The port that `value`, a name as Linux has them, means: `ttyAMA<N>` is a PL011, `ttyS<N>` the mini UART; the one
/// with the alias `serial<N>`, or the Nth of its kind. Line settings behind a comma are left as the firmware made them.
#[must_use]
pub fn port_named<'a>(info: &'a BootInfo, value: &str) -> Option<&'a Uart> {
    let name = value.split(',').next()?;
    let (kind, number) = match name.strip_prefix("ttyAMA") {
        Some(number) => (UartKind::Pl011, number),
        None => (UartKind::BcmAux, name.strip_prefix("ttyS")?),
    };
    let number: u32 = number.parse().ok()?;
    let mut of_kind = info.uarts.iter().filter(|uart| uart.kind == kind);
    let by_alias = of_kind.clone().find(|uart| uart.serial_index == Some(number));
    by_alias.or_else(|| of_kind.nth(number as usize))
}
