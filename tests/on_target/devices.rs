// SPDX-License-Identifier: MIT OR Apache-2.0
//! The small devices of a board: delay, and the Raspberry Pi's firmware behind its mailbox.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use bsp::delay::{Delay, GenericTimer};
    use bsp::info::UartKind;
    use embedded_hal::delay::DelayNs;
    use firmware::boot::{self, Machine};
    use firmware::devices;
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("a delay lasts as long as it is told", a_delay_lasts),
                ("the firmware knows the board", the_firmware_knows_the_board),
                ("the firmware knows the clocks", the_firmware_knows_the_clocks),
            ],
        )
    }

    fn a_delay_lasts(_: &'static Machine) -> Result<(), &'static str> {
        let mut delay = Delay::new(GenericTimer);
        for ns in [1, 1_000, 1_000_000, 20_000_000] {
            let start = boot::uptime_ns();
            delay.delay_ns(ns);
            // The clock is read in whole ticks.
            check(boot::uptime_ns() - start + 100 >= u64::from(ns), "it is too short")?;
        }
        Ok(())
    }

    fn the_firmware_knows_the_board(machine: &'static Machine) -> Result<(), &'static str> {
        let board = devices::revision().map(|revision| (revision.board(), revision.processor()));
        let expected = match machine.info.compatible.as_str() {
            "raspberrypi,4-model-b" => Some((Some("4B"), Some("BCM2711"))),
            "raspberrypi,3-model-b" => Some((Some("3B"), Some("BCM2837"))),
            _ => None,
        };
        check(board == expected, "it takes the board for another")
    }

    fn the_firmware_knows_the_clocks(machine: &'static Machine) -> Result<(), &'static str> {
        for kind in [UartKind::Pl011, UartKind::BcmAux] {
            // Every question is a message of its own, and its answer must not be an earlier one's.
            let (first, second) = (devices::uart_clock(kind), devices::uart_clock(kind));
            check(first == second, "a clock changes")?;
            check(
                first.is_some() == machine.info.is_raspberry_pi(),
                "there is a clock where there is no firmware, or none",
            )?;
            check(first.is_none_or(|hz| (1_000_000..2_000_000_000).contains(&hz)), "no clock runs at that rate")?;
        }
        let same = devices::uart_clock(UartKind::Pl011) == devices::uart_clock(UartKind::BcmAux);
        check(!same || !machine.info.is_raspberry_pi(), "two clocks are one")
    }
}
