// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arm GIC architecture version 2 (Arm IHI 0048B): QEMU virt's default, and the GIC-400 of the Raspberry Pi 4.
//!
//! We run in Non-secure state where there are two: then our view of the registers shows group 1 alone, and bit 0 of
//! both control registers enables just that group (4.3.1, 4.4.1). Which group an interrupt is in was settled by whoever
//! ran in Secure state before us.
//!
//! Registers that hold several interrupts are written by byte, or by their set and clear twins: nothing but the trigger
//! is read, changed and written back, so that what one CPU does to one line leaves the others alone.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use super::{Acknowledged, Event, Irq, Line, Target, Trigger};

register_bitfields! {u32,
    Enable [
        GROUP OFFSET(0) NUMBITS(1) [],
        /// The CPU interface's bypass of legacy inputs, which is the Secure world's choice.
        BYPASS OFFSET(5) NUMBITS(4) []
    ],
    DistributorType [
        LINES OFFSET(0) NUMBITS(5) []
    ],
    Acknowledge [
        SOURCE OFFSET(10) NUMBITS(3) [],
        INTID OFFSET(0) NUMBITS(10) []
    ],
    Signal [
        TARGETS OFFSET(16) NUMBITS(8) [],
        INTID OFFSET(0) NUMBITS(4) []
    ]
}

register_structs! {
    Distributor {
        (0x000 => control: ReadWrite<u32, Enable::Register>),
        (0x004 => kind: ReadOnly<u32, DistributorType::Register>),
        (0x008 => _reserved0),
        (0x100 => set_enable: [ReadWrite<u32>; 32]),
        (0x180 => clear_enable: [ReadWrite<u32>; 32]),
        (0x200 => _reserved1),
        (0x380 => clear_active: [ReadWrite<u32>; 32]),
        (0x400 => priority: [ReadWrite<u8>; 1024]),
        (0x800 => targets: [ReadWrite<u8>; 1024]),
        (0xc00 => configuration: [ReadWrite<u32>; 64]),
        (0xd00 => _reserved2),
        (0xf00 => signal: WriteOnly<u32, Signal::Register>),
        (0xf04 => @END),
    }
}

register_structs! {
    Interface {
        (0x00 => control: ReadWrite<u32, Enable::Register>),
        (0x04 => priority_mask: ReadWrite<u32>),
        (0x08 => binary_point: ReadWrite<u32>),
        (0x0c => acknowledge: ReadOnly<u32, Acknowledge::Register>),
        (0x10 => end: WriteOnly<u32>),
        (0x14 => @END),
    }
}

/// Bytes of registers that are used.
pub(super) const DISTRIBUTOR_SIZE: u64 = 0x1000;
/// Bytes of registers that are used.
pub(super) const INTERFACE_SIZE: u64 = 0x1000;

/// Priorities: lower is more urgent. Both are in the middle of what the Non-secure world can say.
const PRIORITY: u8 = 0xa0;
const PREFERRED: u8 = 0x40;
/// Lets every priority through.
const UNMASKED: u32 = 0xff;
/// INTIDs from here on mean that nothing was acknowledged.
const SPECIAL: u32 = 1020;
const NR_PRIVATE: u32 = 32;

/// The distributor and the CPUs' interfaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct GicV2 {
    distributor: usize,
    interface: usize,
}

impl GicV2 {
    /// The controller whose register blocks are mapped at these addresses.
    ///
    /// # Safety
    ///
    /// A distributor and a CPU interface of a GICv2 are mapped there as Device memory, for as long as the value or a
    /// copy of it is used, and nobody else drives them.
    pub(super) const unsafe fn new(distributor: usize, interface: usize) -> Self {
        Self { distributor, interface }
    }

    fn distributor(&self) -> &Distributor {
        // SAFETY: `new` was promised that the registers are mapped, and they are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.distributor) }
    }

    fn interface(&self) -> &Interface {
        // SAFETY: as above.
        unsafe { &*core::ptr::with_exposed_provenance(self.interface) }
    }

    /// Number of INTIDs, 32 to 1020 (4.3.2).
    pub(super) fn nr_lines(&self) -> u32 {
        (32 * (self.distributor().kind.read(DistributorType::LINES) + 1)).min(SPECIAL)
    }

    /// Takes the distributor over: all shared lines off, level-triggered.
    pub(super) fn init(&mut self) {
        let registers = self.distributor();
        registers.control.modify(Enable::GROUP::CLEAR);
        for first in (NR_PRIVATE..self.nr_lines()).step_by(32) {
            set(&registers.clear_enable, first / 32, u32::MAX);
            set(&registers.clear_active, first / 32, u32::MAX);
            set(&registers.configuration, first / 16, 0);
            set(&registers.configuration, first / 16 + 1, 0);
        }
        for line in NR_PRIVATE..self.nr_lines() {
            set_byte(&registers.priority, line, PRIORITY);
        }
        registers.control.modify(Enable::GROUP::SET);
    }

    /// Takes the calling CPU's part over: private lines off, signals on. Tells how the CPU is signalled.
    pub(super) fn init_cpu(&mut self) -> Target {
        let registers = self.distributor();
        // The banked registers of this CPU.
        set(&registers.clear_enable, 0, 0xffff_0000);
        set(&registers.clear_active, 0, u32::MAX);
        for line in 0..NR_PRIVATE {
            set_byte(&registers.priority, line, PRIORITY);
        }
        set(&registers.set_enable, 0, 0x0000_ffff);
        let interface = self.interface();
        interface.priority_mask.set(UNMASKED);
        interface.binary_point.set(0);
        let bypass = interface.control.read(Enable::BYPASS);
        interface.control.write(Enable::GROUP::SET + Enable::BYPASS.val(bypass));
        // The first registers are read-only and hold the reading CPU's own bit; a GIC for one CPU says 0 (4.3.12).
        let own = registers.targets.iter().take(NR_PRIVATE as usize).map(Readable::get).fold(0, |all, byte| all | byte);
        Target(u64::from(own.max(1)))
    }

    /// Turns a line on; a shared one goes to `target`.
    pub(super) fn enable(&mut self, line: Line, target: Target) {
        let registers = self.distributor();
        let Irq(number) = line.irq;
        if number >= NR_PRIVATE {
            let shift = number % 16 * 2 + 1;
            if let Some(register) = registers.configuration.get(number as usize / 16) {
                let edge = u32::from(line.trigger == Trigger::Edge) << shift;
                register.set(register.get() & !(1 << shift) | edge);
            }
            set_byte(&registers.targets, number, target.0 as u8);
        }
        set(&registers.set_enable, number / 32, 1 << (number % 32));
    }

    /// Gives a line precedence; a private one of the calling CPU.
    pub(super) fn prefer(&mut self, irq: Irq) {
        set_byte(&self.distributor().priority, irq.0, PREFERRED);
    }

    /// Turns a line off; a private one for the calling CPU.
    pub(super) fn disable(&mut self, irq: Irq) {
        set(&self.distributor().clear_enable, irq.0 / 32, 1 << (irq.0 % 32));
    }

    /// The most urgent interrupt of the calling CPU.
    pub(super) fn acknowledge(&self) -> Option<Acknowledged> {
        let value = self.interface().acknowledge.extract();
        match value.read(Acknowledge::INTID) {
            SPECIAL.. => None,
            // The value names the CPU that signalled, and wants it back (4.4.4, 4.4.5).
            signal @ 0..16 => Some(Acknowledged { event: Event::Signal(signal), raw: value.get() }),
            line => Some(Acknowledged { event: Event::Line(Irq(line)), raw: value.get() }),
        }
    }

    pub(super) fn end(&self, acknowledged: Acknowledged) {
        self.interface().end.set(acknowledged.raw);
    }

    /// Signals all `targets` at once.
    pub(super) fn signal(&self, signal: u32, targets: impl Iterator<Item = Target>) {
        let targets = targets.fold(0, |all, target| all | target.0 as u32);
        self.distributor().signal.write(Signal::TARGETS.val(targets) + Signal::INTID.val(signal));
    }
}

fn set(registers: &[ReadWrite<u32>], index: u32, value: u32) {
    if let Some(register) = registers.get(index as usize) {
        register.set(value);
    }
}

fn set_byte(registers: &[ReadWrite<u8>], index: u32, value: u8) {
    if let Some(register) = registers.get(index as usize) {
        register.set(value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Block;
    use super::*;

    /// A controller of 96 lines.
    fn gic(distributor: &Block, interface: &Block) -> GicV2 {
        distributor.write(0x004, 2);
        // SAFETY: plain memory takes every access, and outlives the use in the test.
        unsafe { GicV2::new(distributor.base(), interface.base()) }
    }

    #[test]
    fn one_line_is_changed_and_no_other() {
        let (distributor, interface) = (Block::new(), Block::new());
        let mut gic = gic(&distributor, &interface);
        gic.init();
        assert_eq!(distributor.read(0x420), 0xa0a0_a0a0, "priorities of 32 to 35");
        assert_eq!(distributor.read(0x460), 0, "there is no line 96");
        gic.enable(Line { irq: Irq(33), trigger: Trigger::Edge }, Target(2));
        gic.enable(Line { irq: Irq(34), trigger: Trigger::Level }, Target(1));
        assert_eq!(distributor.read(0x820), 0x0001_0200, "targets of 32 to 35");
        assert_eq!(distributor.read(0xc08), 1 << 3, "only 33 is an edge");
        assert_eq!(distributor.read(0x104), 1 << 2, "a write of ones sets: the last was for 34");
        gic.prefer(Irq(34));
        assert_eq!(distributor.read(0x420), 0xa040_a0a0);
        gic.disable(Irq(33));
        assert_eq!(distributor.read(0x184), 1 << 1);
        assert_eq!(distributor.read(0x000), 1);
    }

    #[test]
    fn a_cpu_lets_its_signals_through() {
        let (distributor, interface) = (Block::new(), Block::new());
        distributor.write(0x800, 0x0404_0404);
        interface.write(0x00, 0x1e0);
        let mut gic = gic(&distributor, &interface);
        assert_eq!(gic.init_cpu(), Target(4));
        assert_eq!(distributor.read(0x100), 0xffff);
        assert_eq!(distributor.read(0x180), 0xffff_0000);
        assert_eq!(interface.read(0x00), 0x1e1, "the bypass bits stay");
        assert_eq!(interface.read(0x04), 0xff);
        gic.signal(3, [Target(2), Target(8)].into_iter());
        assert_eq!(distributor.read(0xf00), 0x000a_0003);
    }

    #[test]
    fn a_signal_is_ended_with_its_source() {
        let (distributor, interface) = (Block::new(), Block::new());
        let gic = gic(&distributor, &interface);
        interface.write(0x0c, 0x0c02);
        let acknowledged = gic.acknowledge().unwrap();
        assert_eq!(acknowledged.event, Event::Signal(2));
        gic.end(acknowledged);
        assert_eq!(interface.read(0x10), 0x0c02);
        interface.write(0x0c, 33);
        assert_eq!(gic.acknowledge().unwrap().event, Event::Line(Irq(33)));
        interface.write(0x0c, 1023);
        assert!(gic.acknowledge().is_none());
    }
}
