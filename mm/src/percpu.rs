// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data that each CPU has for itself: a copy for each, found by the CPU's number (Linux's `alloc_percpu`).
//!
//! ```text
//!   chunk    [ unit of CPU 0 ][ unit of CPU 1 ] ... [ unit of CPU n-1 ]      a page each, one block
//!              ^ object         ^ object              ^ object                at the same offset in every unit
//! ```
//!
//! Chunks are made when they are needed and go back when their last object is freed.

use core::fmt;
use core::ptr::{self, NonNull};

use crate::addr::{Order, PAGE_SIZE};
use crate::arch::{Arch, MAX_CPUS};
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::slab::{OutOfMemory, PageSource, Slab};
use crate::sync::{IrqSpinLock, Rank};

/// Bytes that a bit of a chunk's map stands for.
const GRANULE: usize = 8;
/// Bytes of a CPU's unit: the largest object.
pub const UNIT: usize = PAGE_SIZE as usize;
const WORDS: usize = UNIT / GRANULE / 64;

/// An object in every unit of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerCpuPtr {
    /// The copy of CPU 0.
    first: NonNull<u8>,
    bytes: u32,
    nr_cpus: u32,
}

// SAFETY: an address; what is done with it is the users' affair.
unsafe impl Send for PerCpuPtr {}
// SAFETY: the same.
unsafe impl Sync for PerCpuPtr {}

impl PerCpuPtr {
    /// The copy of a CPU; `None` if there is no such CPU.
    #[must_use]
    #[inline]
    pub fn of(&self, cpu: usize) -> Option<NonNull<u8>> {
        (cpu < self.nr_cpus as usize).then(|| self.first.map_addr(|addr| addr.saturating_add(cpu * UNIT)))
    }

    /// Bytes of a copy.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes as usize
    }
}

/// A chunk's descriptor, in memory of the slab.
struct Chunk {
    next: *mut Chunk,
    units: NonNull<u8>,
    block: Option<PageBlock>,
    /// A bit for each granule that is in use.
    used: [u64; WORDS],
}

/// Chunks, newest first.
struct Chunks {
    first: *mut Chunk,
    nr: usize,
}

// SAFETY: the chunks belong to the list, wherever its lock is held.
unsafe impl Send for Chunks {}

/// The allocator of per-CPU objects, over a slab that outlives it.
pub struct PerCpu<'s, 'a, A: Arch, S: PageSource> {
    slab: &'s Slab<'a, A, S>,
    nr_cpus: usize,
    chunks: IrqSpinLock<Chunks>,
}

impl Chunk {
    /// The lowest run of `nr` free granules at a multiple of `align`.
    fn find(&self, nr: usize, align: usize) -> Option<usize> {
        let is_used = |at: usize| self.used.get(at / 64).is_none_or(|word| word >> (at % 64) & 1 != 0);
        let mut at = 0;
        while at + nr <= WORDS * 64 {
            match (at..at + nr).rev().find(|granule| is_used(*granule)) {
                Some(taken) => at = (taken + 1).next_multiple_of(align),
                None => return Some(at),
            }
        }
        None
    }

    fn mark(&mut self, at: usize, nr: usize, used: bool) {
        for granule in at..at + nr {
            if let Some(word) = self.used.get_mut(granule / 64) {
                let bit = 1 << (granule % 64);
                *word = if used { *word | bit } else { *word & !bit };
            }
        }
    }
}

impl<'s, 'a, A: Arch, S: PageSource> PerCpu<'s, 'a, A, S> {
    /// No chunk yet, for CPUs from 0 to `nr_cpus` less one.
    #[must_use]
    pub const fn new(slab: &'s Slab<'a, A, S>, nr_cpus: usize) -> Self {
        let nr_cpus = if nr_cpus == 0 {
            1
        } else if nr_cpus > MAX_CPUS {
            MAX_CPUS
        } else {
            nr_cpus
        };
        Self { slab, nr_cpus, chunks: IrqSpinLock::new(Rank::SLAB, Chunks { first: ptr::null_mut(), nr: 0 }) }
    }

    /// Takes an object of `bytes` for each CPU, zeroed, at a multiple of `align`, a power of two up to a page.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], also if `bytes` is 0 or above [`UNIT`].
    pub fn alloc(&self, bytes: usize, align: usize, gfp: Gfp) -> Result<PerCpuPtr, OutOfMemory> {
        if bytes == 0 || bytes > UNIT || !align.is_power_of_two() || align > UNIT {
            return Err(OutOfMemory);
        }
        let (nr, align) = (bytes.div_ceil(GRANULE), align.div_ceil(GRANULE));
        let mut chunks = self.chunks.lock(self.slab.arch());
        let mut found = Self::take(&mut chunks, nr, align);
        if found.is_none() {
            drop(chunks);
            let chunk = self.make_chunk(gfp)?;
            chunks = self.chunks.lock(self.slab.arch());
            // SAFETY: made by this call, and nobody else knows it.
            unsafe { (*chunk.as_ptr()).next = chunks.first };
            chunks.first = chunk.as_ptr();
            chunks.nr += 1;
            found = Self::take(&mut chunks, nr, align);
        }
        drop(chunks);
        let first = found.ok_or(OutOfMemory)?;
        let object = PerCpuPtr { first, bytes: bytes as u32, nr_cpus: self.nr_cpus as u32 };
        for copy in (0..self.nr_cpus).filter_map(|cpu| object.of(cpu)) {
            // SAFETY: the new object's copies, each in the unit of its CPU.
            unsafe { copy.write_bytes(0, nr * GRANULE) };
        }
        Ok(object)
    }

    fn take(chunks: &mut Chunks, nr: usize, align: usize) -> Option<NonNull<u8>> {
        let mut next = chunks.first;
        while let Some(mut chunk) = NonNull::new(next) {
            // SAFETY: a chunk of the list, whose lock is held.
            let chunk = unsafe { chunk.as_mut() };
            if let Some(at) = chunk.find(nr, align) {
                chunk.mark(at, nr, true);
                return Some(chunk.units.map_addr(|addr| addr.saturating_add(at * GRANULE)));
            }
            next = chunk.next;
        }
        None
    }

    fn make_chunk(&self, gfp: Gfp) -> Result<NonNull<Chunk>, OutOfMemory> {
        let chunk = self.slab.kmalloc_aligned(size_of::<Chunk>(), align_of::<Chunk>(), gfp)?.cast::<Chunk>();
        let order = Order::for_bytes((self.nr_cpus * UNIT) as u64);
        let block = order.and_then(|order| self.slab.source().take(order, gfp));
        let units = block.as_ref().and_then(|block| NonNull::new(self.slab.arch().direct_map(block.pfn().addr())));
        let Some(units) = units else {
            // SAFETY: allocated above.
            unsafe { self.slab.kfree(chunk.cast()) };
            return Err(OutOfMemory);
        };
        // SAFETY: allocated above for one.
        unsafe { chunk.write(Chunk { next: ptr::null_mut(), units, block, used: [0; WORDS] }) };
        Ok(chunk)
    }

    /// Frees an object. False if it is none of this allocator's, or free already; then nothing has changed.
    ///
    /// # Safety
    ///
    /// No CPU uses its copy from now on.
    pub unsafe fn free(&self, object: PerCpuPtr) -> bool {
        let nr = object.size().div_ceil(GRANULE);
        let mut chunks = self.chunks.lock(self.slab.arch());
        let mut before: *mut Chunk = ptr::null_mut();
        let mut next = chunks.first;
        while let Some(mut found) = NonNull::new(next) {
            // SAFETY: a chunk of the list, whose lock is held.
            let chunk = unsafe { found.as_mut() };
            let offset = object.first.addr().get().wrapping_sub(chunk.units.addr().get());
            if offset >= UNIT {
                before = next;
                next = chunk.next;
                continue;
            }
            let at = offset / GRANULE;
            if !(at..at + nr)
                .all(|granule| chunk.used.get(granule / 64).is_some_and(|word| word >> (granule % 64) & 1 != 0))
            {
                return false;
            }
            chunk.mark(at, nr, false);
            if chunk.used.iter().all(|word| *word == 0) {
                let (behind, block) = (chunk.next, chunk.block.take());
                if before.is_null() {
                    chunks.first = behind;
                } else {
                    // SAFETY: a chunk of the list, whose lock is held.
                    unsafe { (*before).next = behind };
                }
                chunks.nr -= 1;
                drop(chunks);
                if let Some(block) = block {
                    self.slab.source().give(block);
                }
                // SAFETY: the descriptor came from there and is in no list any more.
                unsafe { self.slab.kfree(found.cast()) };
            }
            return true;
        }
        false
    }

    /// Bytes of all chunks: `Percpu` of meminfo.
    pub fn bytes(&self) -> u64 {
        let order = Order::for_bytes((self.nr_cpus * UNIT) as u64).unwrap_or_default();
        self.chunks.lock(self.slab.arch()).nr as u64 * order.bytes()
    }
}

impl<A: Arch, S: PageSource> fmt::Debug for PerCpu<'_, '_, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCpu").field("nr_cpus", &self.nr_cpus).finish_non_exhaustive()
    }
}
