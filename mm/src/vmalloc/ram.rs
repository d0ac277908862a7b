// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small mappings of a moment (Linux's `vm_map_ram`): a block of addresses for each CPU, from which it cuts one mapping after
//! the other, with a table of its own that it writes to directly. No lock, no search, no flush for each.
//!
//! ```text
//!   window   256 blocks of 2 MiB, an area as `Kind::Ram`; a record each, in one frame
//!   block    current: its CPU cuts from it    used 0 ..= 512
//!            left:    all of it was cut
//!            stale:   all of it was given back; TLBs may still know it
//!            idle:    flushed, for whoever needs one next
//! ```
//!
//! A record counts pages that were cut and pages that were given back, in one word: who brings the second to 512 is the
//! last. A block is cut only once between two flushes, so no entry is ever written twice without one in between (Arm ARM
//! D8.16.1).
//!
//! *What is weaker here:* when a mapping is undone, TLBs may know its frames until [`Vmalloc::purge`], or until the block is
//! flushed with others. Whoever gives such frames to somebody he does not trust purges first.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::area::{EXTRA, Kind};
use super::block::Page;
use super::{BadArea, State, Vmalloc, VmallocError};
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::arch::{Arch, Dsb, MAX_CPUS};
use crate::pgtable::{Attributes, Descriptor, ENTRIES, PAGE_LEVEL, TableSource};
use crate::slab::PageSource;

/// Pages of the longest mapping that is made here; longer ones are areas.
pub const MOST_PAGES: usize = 64;
/// Blocks of the window.
const BLOCKS: u32 = 256;
/// Pages of a block: those of one table.
const BLOCK_PAGES: u32 = ENTRIES as u32;
const WORDS: usize = BLOCKS as usize / 64;
/// Stale blocks that are worth a flush.
const MANY: u32 = 16;
/// No block, or no window.
const NONE: u32 = u32::MAX;

/// In the first leaf of each mapping: a bit that hardware leaves to software (Arm ARM D8.3.2).
const FIRST: u64 = 1 << 58;

/// What is known of a block.
#[repr(C)]
struct Record {
    /// The frame of its table.
    table: AtomicU64,
    /// Pages cut, and in the upper half pages given back.
    counts: AtomicU64,
}

impl Record {
    #[inline(always)]
    fn table(&self) -> PhysAddr {
        Pfn::known(self.table.load(Ordering::Relaxed)).addr()
    }
}

const _: () = assert!(size_of::<Record>() * BLOCKS as usize == PAGE_SIZE as usize);

/// What everybody may look at.
#[derive(Debug)]
pub(super) struct Ram {
    /// The window's first page.
    window: AtomicU32,
    /// The records' frame, set before the window.
    records: AtomicU64,
    /// From which block each CPU cuts: its own affair, with interrupts masked.
    current: [AtomicU32; MAX_CPUS],
    /// A bit for each stale block.
    stale: [AtomicU64; WORDS],
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Blocks that have a table: the first so many.
    made: u32,
    /// A bit for each that is idle.
    idle: [u64; WORDS],
}

impl Blocks {
    pub(super) const fn new() -> Self {
        Self { made: 0, idle: [0; WORDS] }
    }

    fn take_idle(&mut self) -> Option<u32> {
        let (at, word) = self.idle.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        Some(at as u32 * 64 + bit)
    }
}

impl Ram {
    pub(super) const fn new() -> Self {
        Self {
            window: AtomicU32::new(NONE),
            records: AtomicU64::new(0),
            current: [const { AtomicU32::new(NONE) }; MAX_CPUS],
            stale: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    fn set_stale(&self, block: u32) {
        if let Some(word) = self.stale.get(block as usize / 64) {
            word.fetch_or(1 << (block % 64), Ordering::AcqRel);
        }
    }

    fn nr_stale(&self) -> u32 {
        self.stale.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Maps frames one behind the other as ordinary memory, for a moment. Works in interrupt handlers. Complexity:
    /// O(frames).
    ///
    /// # Errors
    ///
    /// [`VmallocError`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// The caller may map these frames, until [`unmap_ram`](Self::unmap_ram); until a [`purge`](Self::purge) behind that,
    /// nobody has them who must not see or change what is written by stale pointers.
    #[inline(always)]
    pub unsafe fn map_ram(&self, frames: &[Pfn], caller: u64) -> Result<VirtAddr, VmallocError> {
        match self.cut_ram(frames) {
            Some(virt) => Ok(virt),
            // SAFETY: the caller's promise, passed on.
            None => unsafe { self.map_ram_anew(frames, caller) },
        }
    }

    /// Where the block ended, or there is none; or what is too much for one.
    ///
    /// # Safety
    ///
    /// As [`map_ram`](Self::map_ram).
    #[cold]
    #[inline(never)]
    unsafe fn map_ram_anew(&self, frames: &[Pfn], caller: u64) -> Result<VirtAddr, VmallocError> {
        loop {
            if let Some(virt) = self.cut_ram(frames) {
                return Ok(virt);
            }
            if frames.is_empty() || frames.len() > MOST_PAGES || self.next_ram().is_err() {
                // SAFETY: the caller's promise covers this.
                return unsafe { self.map(frames, Attributes::DATA, caller) };
            }
        }
    }

    /// Undoes [`map_ram`](Self::map_ram) of so many pages at `virt`; any CPU may.
    ///
    /// # Errors
    ///
    /// [`BadArea`]: that is not mapped. Nothing has changed then.
    #[inline(always)]
    pub fn unmap_ram(&self, virt: VirtAddr, pages: usize) -> Result<(), BadArea> {
        let window = self.ram.window.load(Ordering::Acquire);
        let offset = virt.as_raw().wrapping_sub(self.first.virt_of(window).as_raw());
        if window == NONE || offset >= u64::from(BLOCKS * BLOCK_PAGES) * PAGE_SIZE {
            return self.unmap(virt);
        }
        let (page, block) = ((offset / PAGE_SIZE) as u32, (offset / PAGE_SIZE) as u32 / BLOCK_PAGES);
        let slot = (page % BLOCK_PAGES) as usize;
        if !offset.is_multiple_of(PAGE_SIZE) || pages.wrapping_sub(1) >= MOST_PAGES.min(ENTRIES - slot) {
            return Err(BadArea::Address(virt));
        }
        let record = self.record(block);
        let table = record.table();
        let entry = |slot| {
            // SAFETY: a table of a block that is in the tree for good; the entry is in it.
            if slot < ENTRIES { unsafe { self.arch.load_descriptor(table, slot) } } else { 0 }
        };
        // Neither free nor the first of another one.
        let is_inside = |slot| entry(slot).wrapping_sub(1) < FIRST - 1;
        if table == PhysAddr::ZERO || entry(slot) & FIRST == 0 {
            return Err(BadArea::None(virt));
        }
        if is_inside(slot + pages) || (1..pages).any(|page| !is_inside(slot + page)) {
            return Err(BadArea::Length(virt));
        }
        // SAFETY: as above; these entries are the mapping's own.
        unsafe { self.arch.fill_descriptors(table, slot, pages, 0, 0) };
        self.arch.dsb(Dsb::InnerShareableStores);
        let given = (pages as u64) << 32;
        if record.counts.fetch_add(given, Ordering::AcqRel) + given >= u64::from(BLOCK_PAGES) << 32 {
            self.ram.set_stale(block);
        }
        Ok(())
    }

    fn record(&self, block: u32) -> &Record {
        let records = Pfn::known(self.ram.records.load(Ordering::Relaxed));
        let first: *const Record = self.arch.direct_map(records.addr()).cast_const().cast();
        // SAFETY: a frame of records, zeroed before the window was seen, and never given back; all its fields are atomic.
        unsafe { &*first.wrapping_add(block as usize) }
    }

    /// A mapping from this CPU's block, if there is room.
    #[inline(always)]
    fn cut_ram(&self, frames: &[Pfn]) -> Option<VirtAddr> {
        let state = self.arch.mask_interrupts();
        let cut = self.cut_masked(frames);
        // SAFETY: the latest mask of this CPU.
        unsafe { self.arch.restore_interrupts(state) };
        cut
    }

    #[inline(always)]
    fn cut_masked(&self, frames: &[Pfn]) -> Option<VirtAddr> {
        let block = self.ram.current.get(self.arch.cpu())?.load(Ordering::Relaxed);
        if block == NONE || frames.len().wrapping_sub(1) >= MOST_PAGES {
            return None;
        }
        let record = self.record(block);
        // Nobody else cuts, so that there is still as much room when it is counted.
        let used = record.counts.load(Ordering::Relaxed) as u32;
        if used as usize + frames.len() > ENTRIES {
            return None;
        }
        record.counts.fetch_add(frames.len() as u64, Ordering::Relaxed);
        let table = record.table();
        let leaf = Descriptor::leaf_of(self.regime, PAGE_LEVEL, PhysAddr::ZERO, Attributes::DATA, false).as_raw();
        let mut first = FIRST;
        for (slot, frame) in (used as usize..).zip(frames) {
            // SAFETY: a table of a block that is in the tree for good; nobody else has these entries, which were flushed
            // since they were in use last, and the caller of `map_ram` promised what they map.
            unsafe { self.arch.store_descriptor(table, slot, leaf | first | frame.addr().as_raw()) };
            first = 0;
        }
        self.arch.publish_tables();
        Some(self.first.virt_of(self.ram.window.load(Ordering::Relaxed) + block * BLOCK_PAGES + used))
    }

    /// Gives this CPU another block. The old one is left as it is: what was not cut counts as given back.
    #[cold]
    #[inline(never)]
    fn next_ram(&self) -> Result<(), VmallocError> {
        if self.ram.nr_stale() >= MANY {
            self.flush_ram();
        }
        let next = || self.with_retry(&self.first, |state| self.next_block(state));
        match next() {
            Err(VmallocError::NoSpace) if self.ram.nr_stale() > 0 => {
                self.flush_ram();
                next()
            }
            result => result,
        }
    }

    fn next_block(&self, state: &mut State<'a, A, S>) -> Result<(), VmallocError> {
        let current = self.ram.current.get(self.arch.cpu()).ok_or(VmallocError::NoSpace)?;
        let block = match state.ram.take_idle() {
            Some(block) => block,
            None => self.make_block(state)?,
        };
        self.record(block).counts.store(0, Ordering::Release);
        let left = current.swap(block, Ordering::Relaxed);
        if left != NONE {
            let counts = &self.record(left).counts;
            let rest = u64::from(BLOCK_PAGES) - (counts.load(Ordering::Relaxed) & u64::from(u32::MAX));
            let rest = rest | rest << 32;
            if (counts.fetch_add(rest, Ordering::AcqRel) + rest) >> 32 == u64::from(BLOCK_PAGES) {
                self.ram.set_stale(left);
            }
        }
        Ok(())
    }

    /// A block that was never in use.
    fn make_block(&self, state: &mut State<'a, A, S>) -> Result<u32, VmallocError> {
        let mut window = self.ram.window.load(Ordering::Relaxed);
        if window == NONE {
            window = self.make_window(state)?;
        }
        let block = state.ram.made;
        if block == BLOCKS {
            return Err(VmallocError::NoSpace);
        }
        let virt = state.virt_of(window + block * BLOCK_PAGES);
        let table = state.tree.hold_table(virt, &mut state.tables)?;
        self.record(block).table.store(table.pfn().as_raw(), Ordering::Relaxed);
        state.ram.made += 1;
        Ok(block)
    }

    fn make_window(&self, state: &mut State<'a, A, S>) -> Result<Page, VmallocError> {
        let records = state.tables.table().ok_or(VmallocError::NoMemory)?;
        // SAFETY: a frame of our own, which `arch` shows.
        unsafe { self.arch.direct_map(records).write_bytes(0, PAGE_SIZE as usize) };
        let pages = BLOCKS * BLOCK_PAGES;
        let skew = (self.config.start.as_raw() / PAGE_SIZE) as Page % BLOCK_PAGES;
        let made = state.space.alloc(pages + EXTRA, BLOCK_PAGES, skew).map_err(VmallocError::from);
        let made = made.and_then(|first| {
            let described = state.space.describe(first, Kind::Ram, 0, u64::from(pages) * PAGE_SIZE, 0);
            described.map(|()| first).map_err(|error| {
                state.space.free(first);
                error.into()
            })
        });
        match made {
            Ok(first) => {
                self.ram.records.store(records.pfn().as_raw(), Ordering::Relaxed);
                self.ram.window.store(first, Ordering::Release);
                state.nr_areas += 1;
                Ok(first)
            }
            Err(error) => {
                state.tables.give_back(records);
                Err(error)
            }
        }
    }

    /// Makes all TLBs forget what was undone; stale blocks become idle.
    pub(super) fn flush_ram(&self) {
        if self.ram.window.load(Ordering::Relaxed) == NONE {
            return;
        }
        let stale = self.ram.stale.each_ref().map(|word| word.swap(0, Ordering::AcqRel));
        self.tlb.flush_everything(self.regime);
        self.peek(&self.first, |state| state.ram.idle.iter_mut().zip(stale).for_each(|(idle, stale)| *idle |= stale));
    }
}
