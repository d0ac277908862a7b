// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real CPU: tables are reached at a constant offset from their physical address.

use core::sync::atomic::AtomicU64;

use aarch64_cpu::asm::barrier;

use super::{Arch, IrqState, MAX_CPUS};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};

/// AArch64 at EL1 with a linear map of (at least) the tables.
#[derive(Clone, Copy, Debug)]
pub struct AArch64 {
    offset: u64,
}

impl AArch64 {
    /// A CPU that sees physical address `pa` at virtual address `pa + offset`, modulo 2^64.
    ///
    /// # Safety
    ///
    /// 1. Every frame that is used as a table or handed out as RAM through this value is mapped there as
    ///    Normal write-back memory, readable and writable, for as long as the value is used.
    /// 2. On every CPU that uses it, TPIDR_EL1 points to data of that CPU alone, whose first eight bytes hold
    ///    its number, below [`MAX_CPUS`].
    #[must_use]
    pub const unsafe fn new(offset: u64) -> Self {
        Self { offset }
    }

    /// Where this CPU sees `phys`.
    #[must_use]
    pub const fn virt(&self, phys: PhysAddr) -> VirtAddr {
        VirtAddr::new(phys.as_raw().wrapping_add(self.offset))
    }

    fn entry(&self, table: PhysAddr, index: usize) -> *mut u64 {
        core::ptr::with_exposed_provenance_mut::<u64>(self.virt(table).as_raw() as usize).wrapping_add(index & 511)
    }
}

// SAFETY: (1) `entry` names eight aligned bytes inside the table, and volatile accesses of a u64 are single
// LDR/STR instructions; (2) the loop below stays inside one frame; (3) the barriers are those of the contract;
// (4) `new` was promised what TPIDR_EL1 says, and only the CPU itself runs while its interrupts are masked;
// (5) `new` was promised the mapping.
unsafe impl Arch for AArch64 {
    #[inline(always)]
    fn cpu(&self) -> usize {
        let number: u64;
        // SAFETY: TPIDR_EL1 points to readable data whose first eight bytes are the number, by `new`. Not
        // `pure`: a thread may go on elsewhere.
        unsafe {
            core::arch::asm!("mrs {0}, tpidr_el1", "ldr {0}, [{0}]", out(reg) number, options(nostack, readonly, preserves_flags));
        }
        // SAFETY: below MAX_CPUS by `new`; saves every user a bounds check.
        unsafe { core::hint::assert_unchecked(number < MAX_CPUS as u64) };
        number as usize
    }

    #[inline(always)]
    fn mask_interrupts(&self) -> IrqState {
        let daif: u64;
        // SAFETY: changes PSTATE.I alone. Without `nomem`, the compiler moves no access across it.
        unsafe {
            core::arch::asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack, preserves_flags))
        };
        IrqState(daif)
    }

    #[inline(always)]
    unsafe fn restore_interrupts(&self, state: IrqState) {
        // SAFETY: brings back what `mask_interrupts` found, which the caller promises; a barrier to the compiler.
        unsafe { core::arch::asm!("msr daif, {}", in(reg) state.0, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.virt(phys).as_raw() as usize)
    }

    #[inline(always)]
    fn take_lowest(&self, word: &AtomicU64) -> u64 {
        let before: u64;
        // SAFETY: an exclusive pair on an atomic, which is what `word::take` does in more instructions. The monitor that
        // an early exit leaves open is closed by the next exclusive store or exception return (Arm ARM B2.17).
        unsafe {
            core::arch::asm!(
                "2: ldaxr {before}, [{word}]",
                "cbz {before}, 3f",
                "sub {after}, {before}, #1",
                "and {after}, {after}, {before}",
                "stxr {failed:w}, {after}, [{word}]",
                "cbnz {failed:w}, 2b",
                "3:",
                word = in(reg) word.as_ptr(),
                before = out(reg) before,
                after = out(reg) _,
                failed = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        before
    }

    #[inline(always)]
    fn put_beside(&self, word: &AtomicU64, bits: u64) -> bool {
        // SAFETY: as above, for `word::put`: none of the bits is there (`tst`), and others are (`ccmp`).
        unsafe {
            core::arch::asm!(
                "2: ldxr {now}, [{word}]",
                "tst {now}, {bits}",
                "ccmp {now}, #0, #4, eq",
                "b.eq {refused}",
                "orr {now}, {now}, {bits}",
                "stlxr {failed:w}, {now}, [{word}]",
                "cbnz {failed:w}, 2b",
                word = in(reg) word.as_ptr(),
                bits = in(reg) bits,
                now = out(reg) _,
                failed = out(reg) _,
                refused = label { return false },
                options(nostack),
            );
        }
        true
    }

    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: the caller gives a reachable table, so the entry is mapped and aligned.
        unsafe { self.entry(table, index).read_volatile() }
    }

    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: the caller gives a reachable table, so the entry is mapped, writable and aligned.
        unsafe { self.entry(table, index).write_volatile(descriptor) }
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        let words = self.entry(table, 0);
        // SAFETY: the frame is the caller's alone and mapped writable; 512 words are exactly one frame.
        unsafe { words.write_bytes(0, PAGE_SIZE as usize / 8) }
    }

    fn publish_tables(&self) {
        barrier::dsb(barrier::ISHST);
        barrier::isb(barrier::SY);
    }
}
