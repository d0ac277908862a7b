// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this crate asks of a CPU: one small trait, and its back ends.
//!
//! Everything in `mm` is generic over [`Arch`], so that the same code runs on the real CPU, in a host
//! process and under Miri. This is the only place of the crate with instructions or pointers made from
//! physical addresses.

use crate::addr::PhysAddr;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod aarch64;
#[cfg(not(target_os = "none"))]
pub mod host;

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
pub unsafe trait Arch {
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
