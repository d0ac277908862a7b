// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hardware, with its barriers and invalidates counted: for what a benchmark costs beside instructions.

use core::cell::Cell;
use core::ops::Sub;

use mm::addr::{PhysAddr, VirtAddr};
use mm::arch::{Arch, CacheOp, Dsb, IrqState, MmuFeatures, Tlbi};
use mm::sync::LockId;

use crate::cpu::{Hardware, hardware};

/// How many there were.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Barriers {
    pub(super) dsb: u64,
    pub(super) isb: u64,
    pub(super) tlbi: u64,
}

impl Sub for Barriers {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { dsb: self.dsb - before.dsb, isb: self.isb - before.isb, tlbi: self.tlbi - before.tlbi }
    }
}

/// [`Hardware`] that counts. For one thread.
#[derive(Debug)]
pub(super) struct Counting {
    hardware: &'static Hardware,
    barriers: Cell<Barriers>,
}

// SAFETY: a benchmark makes one on its own stack and lends it to nobody; the counts are touched by its thread alone.
unsafe impl Sync for Counting {}

impl Counting {
    pub(super) fn new() -> Self {
        Self { hardware: hardware(), barriers: Cell::default() }
    }

    /// What was counted so far.
    pub(super) fn barriers(&self) -> Barriers {
        self.barriers.get()
    }

    fn count(&self, change: impl FnOnce(&mut Barriers)) {
        let mut barriers = self.barriers.get();
        change(&mut barriers);
        self.barriers.set(barriers);
    }
}

// SAFETY: every promise is the one of the hardware, to which all is passed on.
unsafe impl Arch for Counting {
    fn cpu(&self) -> usize {
        self.hardware.cpu()
    }

    fn mask_interrupts(&self) -> IrqState {
        self.hardware.mask_interrupts()
    }

    unsafe fn restore_interrupts(&self, state: IrqState) {
        // SAFETY: the caller's promise.
        unsafe { self.hardware.restore_interrupts(state) };
    }

    fn lock_wanted(&self, lock: LockId) {
        self.hardware.lock_wanted(lock);
    }

    fn lock_waiting(&self, lock: LockId, round: u64) {
        self.hardware.lock_waiting(lock, round);
    }

    fn lock_taken(&self, lock: LockId) {
        self.hardware.lock_taken(lock);
    }

    fn lock_released(&self, lock: LockId) {
        self.hardware.lock_released(lock);
    }

    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        self.hardware.direct_map(phys)
    }

    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.hardware.load_descriptor(table, index) }
    }

    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.hardware.store_descriptor(table, index, descriptor) };
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        // SAFETY: the caller's promise.
        unsafe { self.hardware.zero_table(table) };
    }

    unsafe fn fill_descriptors(&self, table: PhysAddr, index: usize, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.hardware.fill_descriptors(table, index, count, first, step) };
    }

    fn dsb(&self, kind: Dsb) {
        self.count(|barriers| barriers.dsb += 1);
        self.hardware.dsb(kind);
    }

    fn isb(&self) {
        self.count(|barriers| barriers.isb += 1);
        self.hardware.isb();
    }

    fn tlbi(&self, op: Tlbi, operand: u64) {
        self.count(|barriers| barriers.tlbi += 1);
        self.hardware.tlbi(op, operand);
    }

    fn mmu_features(&self) -> MmuFeatures {
        self.hardware.mmu_features()
    }

    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.hardware.replace_live(entries, count, first, step) };
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        self.hardware.with_others_stopped(body);
    }

    unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.hardware.maintain_cache(op, virt, size) };
    }
}
