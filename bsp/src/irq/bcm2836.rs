// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interrupt controllers of the Raspberry Pi 2 and 3 (QA7, "ARM Quad A7 core", section 4; BCM2835 ARM Peripherals,
//! section 7): one with registers for each core, and behind its line 8 one for the peripherals, which interrupt core 0.
//!
//! Nothing is acknowledged by the controller itself: a line is pending as long as its device says so. Signals between
//! cores are bits of each core's mailbox 0, which is also the only place where a signal is kept.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};

use super::{Acknowledged, Event, Irq, Line, Target};

register_structs! {
    /// A core's four mailboxes; the first is used.
    Mailboxes {
        (0x00 => first: ReadWrite<u32>),
        (0x04 => _others),
        (0x10 => @END),
    }
}

register_structs! {
    Local {
        (0x00 => _reserved0),
        (0x0c => gpu_routing: ReadWrite<u32>),
        (0x10 => pmu_set: WriteOnly<u32>),
        (0x14 => pmu_clear: WriteOnly<u32>),
        (0x18 => _reserved1),
        (0x40 => timer_control: [ReadWrite<u32>; 4]),
        (0x50 => mailbox_control: [ReadWrite<u32>; 4]),
        (0x60 => pending: [ReadOnly<u32>; 4]),
        (0x70 => _reserved2),
        (0x80 => mailbox_set: [Mailboxes; 4]),
        (0xc0 => mailbox_clear: [Mailboxes; 4]),
        (0x100 => @END),
    }
}

register_structs! {
    Shared {
        (0x00 => pending: [ReadOnly<u32>; 3]),
        (0x0c => fast_interrupt: ReadWrite<u32>),
        (0x10 => enable: [ReadWrite<u32>; 3]),
        (0x1c => disable: [ReadWrite<u32>; 3]),
        (0x28 => @END),
    }
}

/// Bytes of registers.
pub(super) const LOCAL_SIZE: u64 = 0x100;
/// Bytes of registers.
pub(super) const SHARED_SIZE: u64 = 0x200;

/// Local lines: four timers, four mailboxes, the peripherals, the performance monitor.
const TIMERS: u32 = 0xf;
const MAILBOX_0: u32 = 4;
const PERIPHERALS: u32 = 8;
const PMU: u32 = 9;
/// Where the shared controller's banks begin in our numbers.
const BANKS: u32 = 32;
/// Bits of the shared controller's first pending register that are lines of their own.
const BANK_0_LINES: u32 = 0xff;

/// Both controllers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bcm2836 {
    local: usize,
    shared: Option<usize>,
}

impl Bcm2836 {
    /// The controllers whose registers are mapped at these addresses.
    ///
    /// # Safety
    ///
    /// The registers are mapped there as Device memory, for as long as the value or a copy of it is used, and nobody
    /// else drives them.
    pub(super) const unsafe fn new(local: usize, shared: Option<usize>) -> Self {
        Self { local, shared }
    }

    fn local(&self) -> &Local {
        // SAFETY: `new` was promised that the registers are mapped, and they are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.local) }
    }

    fn shared(&self) -> Option<&Shared> {
        // SAFETY: as above.
        self.shared.map(|base| unsafe { &*core::ptr::with_exposed_provenance(base) })
    }

    /// Takes the shared controller over: all lines off.
    pub(super) fn init(&mut self) {
        // Peripherals interrupt core 0 by IRQ.
        self.local().gpu_routing.set(0);
        if let Some(shared) = self.shared() {
            shared.fast_interrupt.set(0);
            shared.disable.iter().for_each(|register| register.set(u32::MAX));
        }
    }

    /// Takes `core`'s part over: timers off, signals on.
    pub(super) fn init_cpu(&mut self, core: u64) -> Option<Target> {
        let local = self.local();
        let core_index = core as usize;
        local.timer_control.get(core_index)?.set(0);
        local.pmu_clear.set(0x11 << core);
        // Signals left over by whoever ran before.
        local.mailbox_clear.get(core_index)?.first.set(u32::MAX);
        local.mailbox_control.get(core_index)?.set(1);
        Some(Target(core))
    }

    /// Turns a line on; a local one for `core`.
    pub(super) fn enable(&mut self, line: Line, core: u64) {
        self.switch(line.irq, core, true);
    }

    /// Turns a line off; a local one for `core`.
    pub(super) fn disable(&mut self, irq: Irq, core: u64) {
        self.switch(irq, core, false);
    }

    fn switch(&mut self, Irq(number): Irq, core: u64, on: bool) {
        let local = self.local();
        match number {
            0..4 => {
                if let Some(control) = local.timer_control.get(core as usize) {
                    let others = control.get() & !(1 << number);
                    control.set(others | u32::from(on) << number);
                }
            }
            PMU if on => local.pmu_set.set(1 << core),
            PMU => local.pmu_clear.set(1 << core),
            BANKS.. => {
                let bank = match (number - BANKS) / 32 {
                    // The first bank's enable register is the last one.
                    0 => 2,
                    bank => bank as usize - 1,
                };
                let registers = self.shared().map(|shared| if on { &shared.enable } else { &shared.disable });
                if let Some(register) = registers.and_then(|registers| registers.get(bank)) {
                    register.set(1 << (number % 32));
                }
            }
            _ => {}
        }
    }

    /// The most urgent interrupt of `core`; a signal is taken by that.
    pub(super) fn acknowledge(&self, core: u64) -> Option<Acknowledged> {
        let local = self.local();
        let pending = local.pending.get(core as usize)?.get();
        let found = |event| Some(Acknowledged { event, raw: 0 });
        if pending & (1 << MAILBOX_0) != 0 {
            let mailbox = &local.mailbox_clear.get(core as usize)?.first;
            let signals = mailbox.get();
            if signals != 0 {
                let signal = signals.trailing_zeros();
                mailbox.set(1 << signal);
                return found(Event::Signal(signal));
            }
        }
        // Timers go first, the virtual one before the others: nothing that screams must stop the clock.
        let timers = pending & TIMERS;
        if timers != 0 {
            return found(Event::Line(Irq(timers.ilog2())));
        }
        let lines = pending & !(1 << MAILBOX_0 | 1 << PERIPHERALS);
        if lines != 0 {
            return found(Event::Line(Irq(lines.trailing_zeros())));
        }
        let shared = self.shared().filter(|_| pending & (1 << PERIPHERALS) != 0)?;
        pending_peripheral(shared).and_then(|number| found(Event::Line(Irq(number))))
    }

    /// Signals each of `targets`.
    pub(super) fn signal(&self, signal: u32, targets: impl Iterator<Item = Target>) {
        for target in targets {
            if let Some(mailboxes) = self.local().mailbox_set.get(target.0 as usize) {
                mailboxes.first.set(1 << signal);
            }
        }
    }
}

/// The first line of the shared controller that is pending, in our numbers.
fn pending_peripheral(shared: &Shared) -> Option<u32> {
    let masks = [BANK_0_LINES, u32::MAX, u32::MAX];
    // Bits 8 and up of the first register only repeat what the other two say.
    let banks = shared.pending.iter().zip(masks).map(|(register, mask)| register.get() & mask);
    let (bank, lines) = banks.enumerate().find(|(_, lines)| *lines != 0)?;
    Some(BANKS + 32 * bank as u32 + lines.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::super::Trigger;
    use super::super::fake::Block;
    use super::*;

    #[test]
    fn lines_are_switched_where_they_are() {
        let (local, shared) = (Block::new(), Block::new());
        // SAFETY: plain memory takes every access, and outlives the use in the test.
        let mut intc = unsafe { Bcm2836::new(local.base(), Some(shared.base())) };
        assert_eq!(intc.init_cpu(3), Some(Target(3)));
        assert_eq!(intc.init_cpu(4), None);
        assert_eq!(local.read(0x5c), 1);
        let line = |number| Line { irq: Irq(number), trigger: Trigger::Level };
        intc.enable(line(1), 3);
        intc.enable(line(3), 3);
        assert_eq!(local.read(0x4c), 0b1010);
        intc.disable(Irq(1), 3);
        assert_eq!(local.read(0x4c), 0b1000);
        intc.enable(line(93), 3);
        assert_eq!(shared.read(0x10), 1 << 29, "bank 1");
        intc.enable(line(121), 3);
        assert_eq!(shared.read(0x14), 1 << 25, "bank 2");
        intc.disable(Irq(34), 3);
        assert_eq!(shared.read(0x24), 1 << 2, "bank 0");
    }

    #[test]
    fn signals_come_first_and_timers_before_peripherals() {
        let (local, shared) = (Block::new(), Block::new());
        local.write(0x64, 1 << MAILBOX_0 | 1 << PERIPHERALS | 1 << 3 | 1 << 1);
        local.write(0xd0, 0b1100);
        shared.write(0x00, 1 << 8);
        shared.write(0x04, 1 << 29);
        // SAFETY: plain memory takes every access, and outlives the use in the test.
        let intc = unsafe { Bcm2836::new(local.base(), Some(shared.base())) };
        let event = || intc.acknowledge(1).map(|acknowledged| acknowledged.event);
        assert_eq!(event(), Some(Event::Signal(2)));
        assert_eq!(local.read(0xd0), 0b0100, "a write of ones clears");
        local.write(0xd0, 0);
        assert_eq!(event(), Some(Event::Line(Irq(3))));
        local.write(0x64, 1 << PERIPHERALS | 1 << PMU | 1 << 1);
        assert_eq!(event(), Some(Event::Line(Irq(1))));
        local.write(0x64, 1 << PERIPHERALS | 1 << PMU);
        assert_eq!(event(), Some(Event::Line(Irq(PMU))));
        local.write(0x64, 1 << PERIPHERALS);
        assert_eq!(event(), Some(Event::Line(Irq(93))));
        shared.write(0x04, 0);
        assert_eq!(event(), None);
        intc.signal(1, [Target(0), Target(2)].into_iter());
        assert_eq!((local.read(0x80), local.read(0xa0), local.read(0x90)), (2, 2, 0));
    }
}
