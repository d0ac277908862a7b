// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whichever controller the machine has.

use aarch64_cpu::asm::barrier;
use arrayvec::ArrayVec;

use super::bcm2836::{self, Bcm2836};
use super::gicv2::{self, GicV2};
use super::gicv3::{self, GicV3, MAX_REGIONS};
use super::{Acknowledged, Irq, IrqError, Line, NR_SIGNALS, Target, choose_controller};
use crate::info::{BootInfo, IntcKind, Interrupt, InterruptController, RawRange};

/// The affinity fields of MPIDR_EL1 (Arm ARM D24.2.121).
const AFFINITY: u64 = 0xff_00ff_ffff;

/// The set-up of the machine's interrupt controller. One CPU at a time uses it, with interrupts masked.
#[derive(Debug)]
pub struct Controller {
    /// Index in [`BootInfo::intcs`].
    main: usize,
    kind: IntcKind,
    model: Model,
}

#[derive(Debug)]
enum Model {
    V2(GicV2),
    V3(GicV3),
    Bcm(Bcm2836),
}

/// What every CPU uses for itself: no lock, no state.
#[derive(Clone, Copy, Debug)]
pub struct CpuInterface(Interface);

#[derive(Clone, Copy, Debug)]
enum Interface {
    /// Memory-mapped registers, each CPU its own.
    V2(GicV2),
    /// System registers.
    V3,
    /// Registers for each core.
    Bcm(Bcm2836),
}

impl Controller {
    /// Takes over the controller that the tree names; all lines are off then. `map` maps registers as Device memory.
    ///
    /// # Errors
    ///
    /// [`IrqError`], also if `map` gives `None`.
    ///
    /// # Safety
    ///
    /// 1. The tree's register blocks are what it says, and nobody else drives them.
    /// 2. What `map` maps stays mapped, for good.
    pub unsafe fn new(
        info: &BootInfo,
        mut map: impl FnMut(RawRange) -> Option<usize>,
    ) -> Result<(Self, CpuInterface), IrqError> {
        let main = choose_controller(info).ok_or(IrqError::NoController)?;
        let intc = info.intcs.get(main).ok_or(IrqError::NoController)?;
        let mut map = |of: &InterruptController, index: usize, least: u64| {
            let regs = of.regs.get(index).filter(|regs| regs.size >= least).copied()?;
            Some((map(regs)?, regs.size))
        };
        let no_registers = IrqError::Registers(intc.kind);
        let (model, interface) = match intc.kind {
            IntcKind::GicV2 => {
                let (distributor, _) = map(intc, 0, gicv2::DISTRIBUTOR_SIZE).ok_or(no_registers)?;
                let (interface, _) = map(intc, 1, gicv2::INTERFACE_SIZE).ok_or(no_registers)?;
                // SAFETY: the caller's promises.
                let mut gic = unsafe { GicV2::new(distributor, interface) };
                gic.init();
                (Model::V2(gic), Interface::V2(gic))
            }
            IntcKind::GicV3 => {
                let (distributor, _) = map(intc, 0, gicv3::DISTRIBUTOR_SIZE).ok_or(no_registers)?;
                let count = intc.redistributor_regions.clamp(1, MAX_REGIONS);
                let regions: ArrayVec<_, MAX_REGIONS> = (1..=count).filter_map(|index| map(intc, index, 0)).collect();
                // SAFETY: the caller's promises.
                let mut gic = unsafe { GicV3::new(distributor, regions) }.ok_or(no_registers)?;
                gic.init();
                (Model::V3(gic), Interface::V3)
            }
            IntcKind::BcmL1 | IntcKind::BcmArmctrl => {
                let (local, _) = map(intc, 0, bcm2836::LOCAL_SIZE).ok_or(no_registers)?;
                let behind = |other: &&InterruptController| {
                    other.kind == IntcKind::BcmArmctrl && other.parent.is_some_and(|parent| parent.controller == main)
                };
                let shared = info.intcs.iter().find(behind);
                let shared = shared.and_then(|shared| map(shared, 0, bcm2836::SHARED_SIZE)).map(|(base, _)| base);
                // SAFETY: the caller's promises.
                let mut intc = unsafe { Bcm2836::new(local, shared) };
                intc.init();
                (Model::Bcm(intc), Interface::Bcm(intc))
            }
        };
        Ok((Self { main, kind: intc.kind, model }, CpuInterface(interface)))
    }

    /// Which controller it is.
    #[must_use]
    pub const fn kind(&self) -> IntcKind {
        self.kind
    }

    /// The line that a device's node names, if it leads here.
    #[must_use]
    pub fn line(&self, info: &BootInfo, interrupt: &Interrupt) -> Option<Line> {
        super::line(info, self.main, interrupt)
    }

    /// Takes over the part of the calling CPU, whose MPIDR is given: private lines off, signals on. Tells how it is
    /// signalled.
    ///
    /// # Errors
    ///
    /// [`IrqError`].
    pub fn init_cpu(&mut self, mpidr: u64) -> Result<Target, IrqError> {
        let affinity = mpidr & AFFINITY;
        match &mut self.model {
            Model::V2(gic) => Ok(gic.init_cpu()),
            Model::V3(gic) => gic.init_cpu(affinity),
            Model::Bcm(intc) => intc.init_cpu(affinity & 0xff).ok_or(IrqError::NoCpu(affinity)),
        }
    }

    /// Turns a line on: a private one for the calling CPU, whose MPIDR is given; a shared one goes to `target`.
    ///
    /// # Errors
    ///
    /// [`IrqError::NoCpu`].
    pub fn enable(&mut self, line: Line, target: Target, mpidr: u64) -> Result<(), IrqError> {
        let affinity = mpidr & AFFINITY;
        match &mut self.model {
            Model::V2(gic) => gic.enable(line, target),
            Model::V3(gic) => gic.enable(line, target, affinity)?,
            Model::Bcm(intc) => intc.enable(line, affinity & 0xff),
        }
        Ok(())
    }

    /// Gives a line precedence over all others, where the controller knows any: a private one of the calling CPU, whose
    /// MPIDR is given.
    pub fn prefer(&mut self, irq: Irq, mpidr: u64) {
        match &mut self.model {
            Model::V2(gic) => gic.prefer(irq),
            Model::V3(gic) => gic.prefer(irq, mpidr & AFFINITY),
            // Timers go first there anyway.
            Model::Bcm(_) => {}
        }
    }

    /// Turns a line off: a private one for the calling CPU, whose MPIDR is given.
    pub fn disable(&mut self, irq: Irq, mpidr: u64) {
        let affinity = mpidr & AFFINITY;
        match &mut self.model {
            Model::V2(gic) => gic.disable(irq),
            Model::V3(gic) => gic.disable(irq, affinity),
            Model::Bcm(intc) => intc.disable(irq, affinity & 0xff),
        }
        // The line must be quiet before the CPU can be interrupted again.
        barrier::dsb(barrier::SY);
    }
}

impl CpuInterface {
    /// The most urgent interrupt of the calling CPU, whose MPIDR is given; `None` if there is none any more.
    #[inline]
    pub fn acknowledge(&self, mpidr: u64) -> Option<Acknowledged> {
        match &self.0 {
            Interface::V2(gic) => gic.acknowledge(),
            Interface::V3 => gicv3::acknowledge(),
            Interface::Bcm(intc) => intc.acknowledge(mpidr & 0xff),
        }
    }

    /// Ends an interrupt: the next may come.
    #[inline]
    pub fn end(&self, acknowledged: Acknowledged) {
        // The device's registers were written before its line is looked at again.
        barrier::dsb(barrier::SY);
        match &self.0 {
            Interface::V2(gic) => gic.end(acknowledged),
            Interface::V3 => gicv3::end(acknowledged),
            // Nothing was acknowledged there.
            Interface::Bcm(_) => {}
        }
    }

    /// Signals CPUs. What was written before is seen by them when they are interrupted.
    pub fn signal(&self, signal: u32, targets: impl Iterator<Item = Target>) {
        if signal >= NR_SIGNALS {
            return;
        }
        barrier::dsb(barrier::ISHST);
        match &self.0 {
            Interface::V2(gic) => gic.signal(signal, targets),
            Interface::V3 => gicv3::signal(signal, targets),
            Interface::Bcm(intc) => intc.signal(signal, targets),
        }
    }
}
