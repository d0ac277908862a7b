// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this crate asks of a CPU: one small trait, and its back ends.
//!
//! Everything in `mm` is generic over [`Arch`], so that the same code runs on the real CPU, in a host
//! process and under Miri. This is the only place of the crate with instructions or pointers made from
//! physical addresses.

use core::sync::atomic::AtomicU64;

use crate::addr::PhysAddr;
use crate::page_alloc::word;
use crate::sync::LockId;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod aarch64;
#[cfg(not(target_os = "none"))]
pub mod host;

/// Most CPUs that the memory manager keeps data for: numbers from 0 to this less one.
pub const MAX_CPUS: usize = 64;

/// The interrupt mask of a CPU as it was: what [`Arch::restore_interrupts`] brings back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the mask must be restored"]
pub struct IrqState(
    /// In the back end's own encoding; DAIF on AArch64.
    pub u64,
);

/// The hardware under the memory manager.
///
/// # Safety
///
/// An implementation promises:
/// 1. For every table address that it is given, [`store_descriptor`](Arch::store_descriptor) and
///    [`load_descriptor`](Arch::load_descriptor) touch the eight bytes of that entry and nothing else,
///    as one single-copy atomic access.
/// 2. [`zero_table`](Arch::zero_table) clears that frame and nothing else.
/// 3. [`publish_tables`](Arch::publish_tables) does what it says on every CPU that uses the tables.
/// 4. [`cpu`](Arch::cpu) is below [`MAX_CPUS`]; between [`mask_interrupts`](Arch::mask_interrupts) and the
///    matching restore it does not change, and no other context has the same number.
/// 5. [`direct_map`](Arch::direct_map) gives a pointer that is valid for reads and writes of all of that RAM.
pub unsafe trait Arch: Sync {
    /// The number of the CPU that runs this, from 0 up. While interrupts are not masked the caller may be
    /// elsewhere by the time it looks: then it is a hint.
    fn cpu(&self) -> usize;

    /// Masks interrupts on this CPU. Nests: each call is undone by its own restore, the latest first.
    fn mask_interrupts(&self) -> IrqState;

    /// Undoes the matching [`mask_interrupts`](Arch::mask_interrupts).
    ///
    /// # Safety
    ///
    /// `state` comes from the latest mask on this CPU that has not been undone.
    unsafe fn restore_interrupts(&self, state: IrqState);

    /// This CPU is about to wait for a lock, interrupts masked: the moment to check the order.
    #[inline(always)]
    fn lock_wanted(&self, _lock: LockId) {}

    /// Somebody else holds the lock; called over and over while this CPU waits with interrupts masked, so that it
    /// can still do what others wait for. `round` counts the calls of one wait from 0.
    #[inline(always)]
    fn lock_waiting(&self, _lock: LockId, _round: u64) {}

    /// This CPU took the lock.
    #[inline(always)]
    fn lock_taken(&self, _lock: LockId) {}

    /// The lock is about to be released.
    #[inline(always)]
    fn lock_released(&self, _lock: LockId) {}

    /// Where the CPU sees the RAM at `phys`. Makes a pointer, touches nothing.
    fn direct_map(&self, phys: PhysAddr) -> *mut u8;

    /// Clears the lowest bit of a word that has one, with acquire semantics, and returns the word as it was. A back end
    /// may know fewer instructions for it.
    #[inline(always)]
    fn take_lowest(&self, word: &AtomicU64) -> u64 {
        word::take(word)
    }

    /// Sets bits in a word that has others, and none of these, with release semantics; otherwise `false`.
    #[inline(always)]
    fn put_beside(&self, word: &AtomicU64, bits: u64) -> bool {
        word::put(word, bits)
    }

    /// Fills `bytes`, a multiple of the page size, from `start`, at a page, with copies of a byte.
    ///
    /// # Safety
    ///
    /// They are RAM that [`direct_map`](Arch::direct_map) shows, belong to the caller, and nothing refers to them.
    #[inline]
    unsafe fn fill(&self, start: PhysAddr, bytes: u64, byte: u8) {
        // SAFETY: the caller's memory, which the direct map shows, by (5).
        unsafe { self.direct_map(start).write_bytes(byte, bytes as usize) };
    }

    /// Reads entry `index` (0 to 511) of the translation table at `table`.
    ///
    /// # Safety
    ///
    /// `table` is a translation table that this `Arch` can reach.
    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64;

    /// Writes entry `index` (0 to 511) of the translation table at `table`.
    ///
    /// # Safety
    ///
    /// 1. `table` is a translation table that this `Arch` can reach.
    /// 2. The new entry obeys break-before-make against the old one (Arm ARM D8.16.1).
    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64);

    /// Clears the frame at `table`, so that it can become a translation table.
    ///
    /// # Safety
    ///
    /// The frame belongs to the caller, this `Arch` can reach it, and nothing else refers to it.
    unsafe fn zero_table(&self, table: PhysAddr);

    /// Makes all earlier descriptor writes visible to the table walkers of every CPU, and to this CPU's own
    /// next instruction: `DSB ISHST; ISB` (Arm ARM D8.2.6, K11.5.3).
    fn publish_tables(&self);
}
