// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that nobody wants, that are not their device's, or that never fall silent are masked, and the machine goes on.
//!
//! The line is that of the physical timer, which the firmware does not use: it asks for ever once its time is over.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use aarch64_cpu::registers::{CNTP_CTL_EL0, CNTP_CVAL_EL0, Writeable};
    use firmware::boot::Machine;
    use firmware::irq::{self, Handled, Line, RegisterError};
    use firmware::{thread, tick, time};
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("a line that nobody registered for is masked at once", nobodys_line_is_masked),
                ("a line that is never its device's is masked", a_strange_line_is_masked),
                ("a line that screams is masked", a_screaming_line_is_masked),
                ("a line has one handler", a_line_has_one_handler),
            ],
        )
    }

    static IS_MINE: AtomicBool = AtomicBool::new(false);
    static CALLS: AtomicU32 = AtomicU32::new(0);

    fn handler() -> Handled {
        CALLS.fetch_add(1, Ordering::Relaxed);
        if IS_MINE.load(Ordering::Relaxed) { Handled::Yes } else { Handled::No }
    }

    fn physical_timer(machine: &'static Machine) -> Result<Line, &'static str> {
        let interrupt = machine.info.timer.as_ref().and_then(|timer| timer.physical()).ok_or("no physical timer")?;
        irq::line_of(machine, &interrupt).ok_or("the physical timer has no line")
    }

    /// Turns the line on, which then never falls silent, and waits until it is masked. Tells how many more lines are.
    fn scream(machine: &'static Machine) -> Result<u32, &'static str> {
        let line = physical_timer(machine)?;
        let before = irq::nr_masked();
        CNTP_CVAL_EL0.set(0);
        CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::SET);
        irq::enable(line).map_err(|_| "the line cannot be turned on")?;
        let start = time::ticks();
        while irq::nr_masked() == before && !time::has_passed(start, 20_000) {
            core::hint::spin_loop();
        }
        // Whoever is masked stays masked.
        let ticks = tick::count();
        thread::sleep(50);
        check(tick::count() > ticks, "the tick has stopped")?;
        CNTP_CTL_EL0.set(0);
        Ok(irq::nr_masked() - before)
    }

    fn nobodys_line_is_masked(machine: &'static Machine) -> Result<(), &'static str> {
        check(scream(machine)? == 1, "it was not masked once")?;
        // It can be turned on again.
        check(scream(machine)? == 1, "it was not masked once more")
    }

    fn a_strange_line_is_masked(machine: &'static Machine) -> Result<(), &'static str> {
        let line = physical_timer(machine)?;
        irq::register(line, "scream", handler).map_err(|_| "it cannot be registered for")?;
        check(scream(machine)? == 1, "it was not masked once")?;
        check((2..=1000).contains(&CALLS.load(Ordering::Relaxed)), "its handler was not asked some times")
    }

    fn a_screaming_line_is_masked(machine: &'static Machine) -> Result<(), &'static str> {
        IS_MINE.store(true, Ordering::Relaxed);
        check(scream(machine)? == 1, "it was not masked once")?;
        check(CALLS.load(Ordering::Relaxed) > 1000, "it was masked too soon")
    }

    fn a_line_has_one_handler(machine: &'static Machine) -> Result<(), &'static str> {
        let line = physical_timer(machine)?;
        check(irq::register(line, "again", handler) == Err(RegisterError::Taken(line.irq)), "it has two")
    }
}
