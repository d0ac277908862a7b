// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cache maintenance for memory that a device reads or writes and the CPU has mapped as cacheable (Arm ARM D7.5).

/// The largest that a cache line can be, or what a cache writes back at once (CTR_EL0.CWG): a buffer that a device
/// writes must own whole ones of these, or a neighbour's line could overwrite it.
pub const MAX_GRANULE: usize = 2048;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod lines {
    use aarch64_cpu::asm::barrier;

    /// Every line that `size` bytes from `start` touch.
    fn for_each_line(start: usize, size: usize, maintain: impl Fn(usize)) {
        let ctr: u64;
        // SAFETY: reads a register that EL1 may read.
        unsafe { core::arch::asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
        // DminLine is the log2 of words.
        let line = 4 << (ctr >> 16 & 0xf);
        (start & !(line - 1)..start + size).step_by(line).for_each(maintain);
        barrier::dsb(barrier::SY);
    }

    /// Writes what is in the caches back, to where devices see it.
    pub fn clean(start: usize, size: usize) {
        for_each_line(start, size, |line| {
            // SAFETY: cleaning changes nothing that a program can see.
            unsafe { core::arch::asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)) };
        });
    }

    /// Makes the CPU look at what a device has written, instead of what it has in its caches.
    ///
    /// # Safety
    ///
    /// Whole granules ([`MAX_GRANULE`](super::MAX_GRANULE)) of mapped memory are the caller's, and nothing in them
    /// that the CPU has written since they were cleaned is needed any more.
    pub unsafe fn invalidate(start: usize, size: usize) {
        for_each_line(start, size, |line| {
            // SAFETY: the caller gives up what the lines hold.
            unsafe { core::arch::asm!("dc ivac, {}", in(reg) line, options(nostack, preserves_flags)) };
        });
    }
}

/// A host has no devices.
#[cfg(not(all(target_arch = "aarch64", target_os = "none")))]
mod lines {
    use core::sync::atomic::{Ordering, fence};

    /// Orders memory accesses, and nothing else.
    pub fn clean(_start: usize, _size: usize) {
        fence(Ordering::SeqCst);
    }

    /// Orders memory accesses, and nothing else.
    ///
    /// # Safety
    ///
    /// Always sound here.
    pub unsafe fn invalidate(_start: usize, _size: usize) {
        fence(Ordering::SeqCst);
    }
}

pub use lines::{clean, invalidate};
