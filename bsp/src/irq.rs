// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupt controllers, chosen by what the tree says the timer is wired to.
//!
//! A controller has two sides. Its *set-up* (`Controller`) is used by one CPU at a time: `&mut`. Its *CPU interface*
//! (`CpuInterface`) is used by every CPU for itself, without a lock: acknowledge, end, signal other CPUs.
//!
//! ```text
//!   GICv2, GICv3   number = INTID: 0-15 signals, 16-31 per CPU, 32 and up shared
//!   Pi 3           number = 0-31 lines of the per-core controller, 32 and up banks of the shared one, 32 each
//! ```
//!
//! The interrupts by which CPUs signal each other (SGIs) are numbered apart from lines, from 0 to 3: that many the
//! smallest controller has.

#[cfg(any(test, all(target_arch = "aarch64", target_os = "none")))]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "tests use parts of it"))]
mod bcm2836;
#[cfg(any(test, all(target_arch = "aarch64", target_os = "none")))]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "tests use parts of it"))]
mod gicv2;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod gicv3;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod machine;

use core::fmt;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use self::machine::{Controller, CpuInterface};
use crate::info::{BootInfo, IntcKind, Interrupt};

/// Number of signals between CPUs.
pub const NR_SIGNALS: u32 = 4;

/// One line of the interrupt controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Irq(pub u32);

/// When a line asks for attention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// As long as it is high (or low: where that can be chosen, the wiring has chosen).
    Level,
    /// Once, when it changes.
    Edge,
}

/// A line and its trigger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Which.
    pub irq: Irq,
    /// When.
    pub trigger: Trigger,
}

/// How the controller knows a CPU: for who wants to signal it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Target(pub u64);

/// What a CPU was interrupted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A signal of another CPU, or its own.
    Signal(u32),
    /// A line.
    Line(Irq),
}

/// An interrupt that was acknowledged, and must be ended by the same CPU.
#[derive(Debug)]
#[must_use = "until it is ended, nothing of the same priority comes through"]
pub struct Acknowledged {
    /// What it was.
    pub event: Event,
    /// As the controller wants it back.
    #[cfg_attr(not(any(test, target_os = "none")), expect(dead_code, reason = "only a CPU interface wants it"))]
    raw: u32,
}

/// Why there are no interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IrqError {
    /// The tree names no controller that there is a driver for.
    NoController,
    /// The controller's node has too few register blocks, or they cannot be mapped.
    Registers(IntcKind),
    /// The controller has no part for the CPU with this MPIDR.
    NoCpu(u64),
    /// The system register interface of the GIC is withheld by the firmware above us.
    NoSystemRegisters,
}

impl fmt::Display for IrqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoController => {
                f.write_str("the device tree names no interrupt controller that there is a driver for")
            }
            Self::Registers(kind) => write!(f, "the registers of the {} cannot be reached", kind.name()),
            Self::NoCpu(mpidr) => write!(f, "the interrupt controller has no part for the CPU with MPIDR {mpidr:#x}"),
            Self::NoSystemRegisters => f.write_str("the firmware keeps the GIC's system registers to itself"),
        }
    }
}

impl core::error::Error for IrqError {}

impl IntcKind {
    /// What the boot log calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GicV2 => "GICv2",
            Self::GicV3 => "GICv3",
            Self::BcmL1 => "BCM2836 local controller",
            Self::BcmArmctrl => "BCM2835 shared controller",
        }
    }

    const fn is_gic(self) -> bool {
        matches!(self, Self::GicV2 | Self::GicV3)
    }
}

/// The controller that interrupts the CPUs: the one that the timer is wired to, else the first GIC. A Pi 4's tree also
/// has the Pi 3's controllers, which it does not use.
#[must_use]
pub fn choose_controller(info: &BootInfo) -> Option<usize> {
    let of_timer = info.timer.as_ref().and_then(|timer| timer.interrupts.first()).map(|first| first.controller);
    let is_main = |index: &usize| info.intcs.get(*index).is_some_and(|intc| intc.kind != IntcKind::BcmArmctrl);
    of_timer.filter(is_main).or_else(|| info.intcs.iter().position(|intc| intc.kind.is_gic()))
}

/// The line that a device's node names, if it is one of the `main` controller's, or of one behind it.
///
/// Bindings: `arm,gic.yaml`, `arm,gic-v3.yaml` (type, number, flags); `brcm,bcm2836-l1-intc` (number, flags);
/// `brcm,bcm2835-armctrl-ic` (bank, number).
#[must_use]
pub fn line(info: &BootInfo, main: usize, interrupt: &Interrupt) -> Option<Line> {
    const EDGES: u32 = 3;
    let controller = info.intcs.get(interrupt.controller)?;
    let [first, second, third] = interrupt.cells;
    match controller.kind {
        IntcKind::GicV2 | IntcKind::GicV3 if interrupt.controller == main => {
            let irq = match (first, second) {
                (0, 0..988) => second + 32,
                (1, 0..16) => second + 16,
                _ => return None,
            };
            let trigger = if third & EDGES != 0 { Trigger::Edge } else { Trigger::Level };
            Some(Line { irq: Irq(irq), trigger })
        }
        IntcKind::BcmL1 if interrupt.controller == main && first < 10 => {
            Some(Line { irq: Irq(first), trigger: Trigger::Level })
        }
        IntcKind::BcmArmctrl if controller.parent.is_some_and(|parent| parent.controller == main) => {
            let valid = second < if first == 0 { 8 } else { 32 } && first < 3;
            valid.then_some(Line { irq: Irq(32 + 32 * first + second), trigger: Trigger::Level })
        }
        _ => None,
    }
}

/// Plain memory in the place of registers: what was written last can be read.
#[cfg(test)]
mod fake {
    use core::sync::atomic::{AtomicU32, Ordering};

    pub(super) struct Block(Box<[AtomicU32; 1024]>);

    impl Block {
        pub(super) fn new() -> Self {
            Self(Box::new([const { AtomicU32::new(0) }; 1024]))
        }

        /// Where a driver finds it.
        pub(super) fn base(&self) -> usize {
            self.0.as_ptr().expose_provenance()
        }

        pub(super) fn read(&self, offset: usize) -> u32 {
            self.0[offset / 4].load(Ordering::Relaxed)
        }

        pub(super) fn write(&self, offset: usize, value: u32) {
            self.0[offset / 4].store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{InterruptController, Timer};
    use arrayvec::ArrayVec;

    fn machine(kinds: &[IntcKind], timer: usize) -> BootInfo {
        let mut info = BootInfo::new();
        for kind in kinds {
            let regs = ArrayVec::new();
            info.intcs.push(InterruptController { kind: *kind, regs, parent: None, redistributor_regions: 1 });
        }
        let mut interrupts = ArrayVec::new();
        interrupts.push(Interrupt { controller: timer, cells: [1, 13, 4] });
        info.timer = Some(Timer { interrupts });
        info
    }

    #[test]
    fn the_timer_says_which_controller_is_used() {
        assert_eq!(choose_controller(&machine(&[IntcKind::BcmL1, IntcKind::GicV2], 1)), Some(1));
        assert_eq!(choose_controller(&machine(&[IntcKind::BcmArmctrl, IntcKind::BcmL1], 1)), Some(1));
        assert_eq!(choose_controller(&machine(&[IntcKind::BcmArmctrl, IntcKind::GicV3], 0)), Some(1));
        assert_eq!(choose_controller(&machine(&[IntcKind::BcmArmctrl], 0)), None);
    }

    #[test]
    fn specifiers_of_a_gic_become_intids() {
        let info = machine(&[IntcKind::GicV2], 0);
        let line = |cells| line(&info, 0, &Interrupt { controller: 0, cells }).map(|line| (line.irq.0, line.trigger));
        assert_eq!(line([0, 1, 4]), Some((33, Trigger::Level)));
        assert_eq!(line([1, 11, 0xf08]), Some((27, Trigger::Level)));
        assert_eq!(line([0, 0, 1]), Some((32, Trigger::Edge)));
        assert_eq!(line([1, 16, 4]), None);
        assert_eq!(line([0, 988, 4]), None);
        assert_eq!(line([2, 0, 4]), None);
    }

    #[test]
    fn banks_of_the_shared_controller_follow_the_local_lines() {
        let mut info = machine(&[IntcKind::BcmL1, IntcKind::BcmArmctrl], 0);
        let number =
            |info: &BootInfo, controller, cells| line(info, 0, &Interrupt { controller, cells }).map(|line| line.irq.0);
        assert_eq!(number(&info, 1, [1, 29, 0]), None, "it leads nowhere");
        info.intcs[1].parent = Some(Interrupt { controller: 0, cells: [8, 4, 0] });
        assert_eq!(number(&info, 1, [1, 29, 0]), Some(93));
        assert_eq!(number(&info, 1, [2, 25, 0]), Some(121));
        assert_eq!(number(&info, 1, [0, 8, 0]), None);
        assert_eq!(number(&info, 1, [3, 0, 0]), None);
        assert_eq!(number(&info, 0, [3, 4, 0]), Some(3));
        assert_eq!(number(&info, 0, [10, 4, 0]), None);
    }
}
