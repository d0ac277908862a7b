// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arm GIC architecture version 3 and 4 (Arm IHI 0069), by the `arm-gic` crate.
//!
//! What that leaves to us: finding each CPU's redistributor by its affinity, in whichever region it is, and the
//! barriers around the CPU interface's registers.

use core::ptr::NonNull;

use aarch64_cpu::asm::barrier;
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicDistributor, GicRedistributor, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use arrayvec::ArrayVec;

use super::{Acknowledged, Event, Irq, IrqError, Line, Target, Trigger};

/// Bytes of the distributor's registers.
pub(super) const DISTRIBUTOR_SIZE: u64 = size_of::<Gicd>() as u64;
/// Most regions with redistributors.
pub(super) const MAX_REGIONS: usize = 4;
/// Lets every priority through.
const UNMASKED: u8 = 0xff;
/// More urgent than the 0x80 that `arm-gic` gives to every line.
const PREFERRED: u8 = 0x40;
/// ICC_SRE_EL1.SRE (Arm IHI 0069, 12.2.22).
const SRE: u64 = 1;

/// Mapped registers: address and size.
pub(super) type Region = (usize, u64);

/// The distributor and all redistributors.
#[derive(Debug)]
pub(super) struct GicV3 {
    distributor: GicDistributor<'static>,
    regions: ArrayVec<Region, MAX_REGIONS>,
}

/// The INTID of a line that [`line`](super::line) made.
fn intid(irq: Irq) -> IntId {
    match irq.0 {
        number @ 16..32 => IntId::ppi(number - 16),
        number => IntId::spi(number.saturating_sub(32).min(987)),
    }
}

impl GicV3 {
    /// # Safety
    ///
    /// The register blocks of a GICv3 are mapped there as Device memory, for as long as the value is used, and nobody
    /// else drives them.
    pub(super) unsafe fn new(distributor: usize, regions: ArrayVec<Region, MAX_REGIONS>) -> Option<Self> {
        let distributor = NonNull::new(core::ptr::with_exposed_provenance_mut::<Gicd>(distributor))?;
        // SAFETY: the caller promises that the registers are there and ours alone.
        let distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(distributor) });
        Some(Self { distributor, regions })
    }

    /// Takes the distributor over: all shared lines off, level-triggered, in group 1 as far as we may say.
    pub(super) fn init(&mut self) {
        self.distributor.enable_all_interrupts(false);
        self.distributor.wait_for_pending_write();
        self.distributor.configure_default_settings();
    }

    /// Takes the calling CPU's part over: private lines off, signals on. Tells how the CPU is signalled.
    pub(super) fn init_cpu(&mut self, mpidr: u64) -> Result<Target, IrqError> {
        GicCpuInterface::enable_system_register_el1();
        barrier::isb(barrier::SY);
        let sre: u64;
        // SAFETY: reads ICC_SRE_EL1, which exists where the tree names a GICv3.
        unsafe { core::arch::asm!("mrs {}, S3_0_C12_C12_5", out(reg) sre, options(nomem, nostack)) };
        if sre & SRE == 0 {
            return Err(IrqError::NoSystemRegisters);
        }
        let mut redistributor = self.redistributor(mpidr)?;
        redistributor.power_on();
        // In error if the CPU is awake already, which is as good.
        let _ = redistributor.mark_core_awake();
        redistributor.configure_default_settings();
        for signal in 0..super::NR_SIGNALS {
            // Only an INTID that is not private would be refused.
            let _ = redistributor.enable_interrupt(IntId::sgi(signal), true);
        }
        redistributor.wait_for_pending_write();
        GicCpuInterface::set_priority_mask(UNMASKED);
        // An end also deactivates, and the binary point splits nothing (ICC_CTLR_EL1, ICC_BPR1_EL1).
        // SAFETY: both registers only say how this CPU takes interrupts, which are masked.
        unsafe { core::arch::asm!("msr S3_0_C12_C12_4, xzr", "msr S3_0_C12_C12_3, xzr", options(nomem, nostack)) };
        GicCpuInterface::enable_group1(true);
        barrier::isb(barrier::SY);
        Ok(Target(mpidr))
    }

    fn redistributor(&mut self, mpidr: u64) -> Result<GicRedistributor<'_>, IrqError> {
        for (base, size) in &self.regions {
            let mut offset = 0;
            while offset + size_of::<GicrSgi>() as u64 <= *size {
                let frame = core::ptr::with_exposed_provenance_mut::<GicrSgi>(base + offset as usize);
                let Some(frame) = NonNull::new(frame) else { break };
                // SAFETY: `new` was promised that the region is mapped and ours alone, and the frame is inside; one
                // redistributor at a time is used, by `&mut self`.
                let redistributor = GicRedistributor::new(unsafe { UniqueMmioPointer::new(frame) });
                let kind = redistributor.typer();
                if kind.core_mpidr() == mpidr {
                    return Ok(redistributor);
                }
                if kind.last_redistributor() {
                    break;
                }
                // A GICv4's has two more frames, for virtual interrupts (Arm IHI 0069, 12.10).
                let frames = if kind.virtual_lpis_supported() { 2 } else { 1 };
                offset += frames * size_of::<GicrSgi>() as u64;
            }
        }
        Err(IrqError::NoCpu(mpidr))
    }

    /// Turns a line on: a private one for the calling CPU, whose MPIDR is `own`; a shared one goes to `target`.
    pub(super) fn enable(&mut self, line: Line, target: Target, own: u64) -> Result<(), IrqError> {
        let id = intid(line.irq);
        let trigger = match line.trigger {
            Trigger::Level => arm_gic::Trigger::Level,
            Trigger::Edge => arm_gic::Trigger::Edge,
        };
        // The crate's errors are about INTIDs of the other kind, which the two branches rule out.
        if id.is_private() {
            let mut redistributor = self.redistributor(own)?;
            let _ = redistributor.set_trigger(id, trigger);
            let _ = redistributor.enable_interrupt(id, true);
        } else {
            let _ = self.distributor.set_trigger(id, trigger);
            let _ = self.distributor.set_routing(id, Some(target.0));
            let _ = self.distributor.enable_interrupt(id, true);
        }
        Ok(())
    }

    /// Gives a line precedence: a private one of the calling CPU, whose MPIDR is `own`.
    pub(super) fn prefer(&mut self, irq: Irq, own: u64) {
        let id = intid(irq);
        if !id.is_private() {
            let _ = self.distributor.set_interrupt_priority(id, PREFERRED);
        } else if let Ok(mut redistributor) = self.redistributor(own) {
            let _ = redistributor.set_interrupt_priority(id, PREFERRED);
        }
    }

    /// Turns a line off: a private one for the calling CPU, whose MPIDR is `own`.
    pub(super) fn disable(&mut self, irq: Irq, own: u64) {
        let id = intid(irq);
        if !id.is_private() {
            let _ = self.distributor.enable_interrupt(id, false);
            self.distributor.wait_for_pending_write();
        } else if let Ok(mut redistributor) = self.redistributor(own) {
            let _ = redistributor.enable_interrupt(id, false);
            redistributor.wait_for_pending_write();
        }
    }
}

/// The most urgent interrupt of the calling CPU.
pub(super) fn acknowledge() -> Option<Acknowledged> {
    const SPECIAL: u32 = 1020;
    let id = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1)?;
    // What the handler does comes after the acknowledgement (Arm IHI 0069, 4.1.1).
    barrier::dsb(barrier::SY);
    let raw = id.raw_value();
    match raw {
        0..16 => Some(Acknowledged { event: Event::Signal(raw), raw }),
        16..SPECIAL => Some(Acknowledged { event: Event::Line(Irq(raw)), raw }),
        _ => None,
    }
}

pub(super) fn end(acknowledged: Acknowledged) {
    // Only what `acknowledge` gave comes here, and all of that is valid.
    if let Ok(id) = IntId::try_from(acknowledged.raw) {
        GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
        barrier::isb(barrier::SY);
    }
}

/// Signals each of `targets`.
pub(super) fn signal(signal: u32, targets: impl Iterator<Item = Target>) {
    let id = IntId::sgi(signal & 15);
    let mut pending: Option<(u64, u16)> = None;
    let send = |(cluster, target_list): (u64, u16)| {
        let [_, affinity1, affinity2, _, affinity3, ..] = cluster.to_le_bytes();
        let target = SgiTarget::List { affinity3, affinity2, affinity1, target_list };
        // Refused if it were no signal, which it is.
        let _ = GicCpuInterface::send_sgi(id, target, SgiTargetGroup::CurrentGroup1);
    };
    for Target(mpidr) in targets {
        // CPUs of one cluster, up to 16, share a write.
        let (cluster, bit) = (mpidr & !0xff, 1 << (mpidr & 15));
        match &mut pending {
            Some((last, list)) if *last == cluster => *list |= bit,
            _ => {
                if let Some(done) = pending.replace((cluster, bit)) {
                    send(done);
                }
            }
        }
    }
    if let Some(done) = pending {
        send(done);
    }
    barrier::isb(barrier::SY);
}
