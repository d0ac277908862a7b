// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a CPU says of itself, read when it comes up, so that any other can print it.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{
    CNTFRQ_EL0, ID_AA64DFR0_EL1, ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1,
    ID_AA64PFR0_EL1, ID_AA64PFR1_EL1, MIDR_EL1,
};
use tock_registers::interfaces::Readable;

use crate::features::Registers;

/// A CPU's ID registers.
#[derive(Debug)]
pub struct Id([AtomicU64; Registers::COUNT]);

impl Id {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Registers::COUNT])
    }

    /// Reads those of the CPU that runs this.
    pub(crate) fn read(&self) {
        let registers = Registers {
            midr: MIDR_EL1.get(),
            mmfr0: ID_AA64MMFR0_EL1.get(),
            mmfr1: ID_AA64MMFR1_EL1.get(),
            mmfr2: ID_AA64MMFR2_EL1.get(),
            isar0: ID_AA64ISAR0_EL1.get(),
            pfr0: ID_AA64PFR0_EL1.get(),
            pfr1: ID_AA64PFR1_EL1.get(),
            dfr0: ID_AA64DFR0_EL1.get(),
            ctr: super::cache_type(),
            cntfrq: CNTFRQ_EL0.get(),
        };
        for (slot, value) in self.0.iter().zip(registers.to_array()) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    /// The registers; all zero before the CPU came up.
    #[must_use]
    pub fn registers(&self) -> Registers {
        Registers::from_array(self.0.each_ref().map(|value| value.load(Ordering::Relaxed)))
    }
}
