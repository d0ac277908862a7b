// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain host: "physical memory" is an array of words, threads are CPUs, and there is no walker to be ordered
//! against and no interrupt to be masked.
//!
//! Good for testing what structures say, and for measuring what code costs. What the barriers do is not tested
//! here.

extern crate std;

use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use std::thread_local;

use super::{Arch, CacheOp, Dsb, IrqState, MAX_CPUS, MmuFeatures, Tlbi};
use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};

/// Physical memory from `base` upwards, in words that the caller provides.
#[derive(Debug)]
pub struct Host<'a> {
    base: PhysAddr,
    /// No reference: Miri would go through all of the memory at each use of one.
    first: *const AtomicU64,
    words: usize,
    memory: PhantomData<&'a [AtomicU64]>,
}

// SAFETY: it stands for a shared borrow of atomics, which may go to other threads and be used by several.
unsafe impl Send for Host<'_> {}
// SAFETY: as above.
unsafe impl Sync for Host<'_> {}

impl<'a> Host<'a> {
    /// Physical memory that begins at `base`, a multiple of the page size. Without words, no frame may be
    /// touched; frames that are only counted need none.
    #[must_use]
    pub fn new(base: PhysAddr, words: &'a mut [u64]) -> Self {
        let (first, words) = (words.as_mut_ptr().cast_const().cast(), words.len());
        Self { base, first, words, memory: PhantomData }
    }

    fn word(&self, table: PhysAddr, index: usize) -> &AtomicU64 {
        let at = (table.as_raw() - self.base.as_raw()) as usize / 8 + (index & 511);
        assert!(at < self.words, "a table outside the given memory is a bug of the test");
        // SAFETY: inside the memory whose exclusive borrow was given up to this value; `AtomicU64` has the layout of u64
        // on every host that this runs on.
        unsafe { &*self.first.wrapping_add(at) }
    }
}

/// The numbers that threads have claimed, a bit each.
static CLAIMED: AtomicU64 = AtomicU64::new(0);
const _: () = assert!(MAX_CPUS <= u64::BITS as usize);

/// A thread's number, its own until it ends.
struct Number(usize);

impl Number {
    fn claim() -> Self {
        let first_free =
            |claimed: u64| ((claimed.trailing_ones() as usize) < MAX_CPUS).then(|| claimed | (claimed + 1));
        match CLAIMED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, first_free) {
            Ok(claimed) => Self(claimed.trailing_ones() as usize),
            #[expect(clippy::panic, reason = "a host program with more threads than CPUs is a bug of the program")]
            Err(_) => panic!("more than {MAX_CPUS} threads use the memory manager at once"),
        }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        KNOWN.set(UNKNOWN);
        CLAIMED.fetch_and(!(1 << self.0), Ordering::Relaxed);
    }
}

/// No number.
const UNKNOWN: usize = usize::MAX;

thread_local! {
    static NUMBER: Number = Number::claim();
    /// The same, where it can be read at once: what has nothing to drop is there from the start.
    static KNOWN: Cell<usize> = const { Cell::new(UNKNOWN) };
}

/// Claims this thread a number.
#[cold]
#[inline(never)]
fn claim() -> usize {
    let number = NUMBER.with(|number| number.0);
    KNOWN.set(number);
    number
}

// SAFETY: (1), (2) every access goes through a bounds-checked atomic of the right word; (3) there is no other
// observer; (4) a thread keeps its number, below MAX_CPUS, until it ends, and no signal handler comes here;
// (5) the words are borrowed for as long as this value lives, and a cell may be written through a shared borrow.
unsafe impl Arch for Host<'_> {
    #[inline(always)]
    fn cpu(&self) -> usize {
        match KNOWN.get() {
            UNKNOWN => claim(),
            number => number,
        }
    }

    #[inline(always)]
    fn mask_interrupts(&self) -> IrqState {
        IrqState(0)
    }

    #[inline(always)]
    unsafe fn restore_interrupts(&self, _: IrqState) {}

    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        let offset = phys.as_raw().wrapping_sub(self.base.as_raw()) as usize;
        self.first.cast_mut().cast::<u8>().wrapping_add(offset)
    }

    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        self.word(table, index).load(Ordering::Relaxed)
    }

    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        self.word(table, index).store(descriptor, Ordering::Relaxed);
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        for index in 0..512 {
            self.word(table, index).store(0, Ordering::Relaxed);
        }
    }

    fn dsb(&self, _: Dsb) {}

    fn isb(&self) {}

    fn tlbi(&self, _: Tlbi, _: u64) {}

    fn mmu_features(&self) -> MmuFeatures {
        MmuFeatures::default()
    }

    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        // There are no translations here: addresses are physical.
        let offset = entries.as_raw() % PAGE_SIZE;
        let table = PhysAddr::new_saturating(entries.as_raw() - offset);
        // SAFETY: the caller names entries of one table of this memory.
        unsafe { self.fill_descriptors(table, offset as usize / 8, count, first, step) };
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        body();
    }

    unsafe fn maintain_cache(&self, _: CacheOp, _: VirtAddr, _: u64) {}
}
