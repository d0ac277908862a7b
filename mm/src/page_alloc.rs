// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page allocator: blocks of frames from zones, for every CPU at once, interrupt handlers included.
//!
//! ```text
//!   alloc, free        the fast path: one word of 64 frames, one atomic step, no lock     this file, `word.rs`
//!     |  nothing there, or the word is not hoarded
//!   hoard              per CPU and kind of request: the word in use                       `hoard.rs`
//!     |  it is empty
//!   waiting words      of all CPUs, its own lane first, found in a bitmap     `lanes.rs`, `marks.rs`, `waiting.rs`
//!     |  none is of this kind
//!   zone               lock, watermarks, fallback, reclaim, out of memory                  `slow.rs`, `watermark.rs`
//!     |
//!   buddy              split and merge                                                     `crate::buddy`
//! ```
//!
//! Beside it: ranges of one's own, and moving what is in the way (`contig.rs`, `migrate.rs`); memory that is found late
//! (`hotplug.rs`); a reserve for those who cannot wait (`reserve.rs`); failures on purpose and filling (`watch.rs`).
//!
//! A CPU *hoards* words: of 64 frames all that the buddy allocator has, cut into blocks of one order. A bit says that
//! a block is free. Taking one clears the lowest bit, giving one back sets it again, whichever CPU it is: that a block
//! was free already shows in the same atomic step, and so does, by a byte beside it, that it is of another order.
//! A word without blocks is nobody's; the CPU that gives back the first one keeps the word, or has it *wait* for any
//! CPU that needs such blocks. When memory runs short all words are given up, and their frames merge again.
//!
//! *Cost:* O(1) up to order 5, O(orders) above, whatever the size. 0.4 bytes a frame with the buddy allocator.
//! *Locks:* [`Rank::ZONE`](crate::sync::Rank::ZONE), [`Rank::LANE`](crate::sync::Rank::LANE); hooks are called with none. *Invariants* ([`Pages::validate`],
//! `tests/page_model.rs`): a free frame is in the buddy allocator or in its word, never in both; a word that is not
//! hoarded is zero; what is freed returns exactly.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32};

use crate::addr::{Order, PhysAddr};
use crate::arch::{Arch, MAX_CPUS};
use crate::buddy::{MAX_LANES, PageBlock};
use crate::gfp::Gfp;

mod build;
mod bulk;
mod claim;
mod cma;
mod contig;
mod error;
mod exact;
mod figures;
mod hoard;
mod hotplug;
mod lanes;
mod large;
mod map;
mod marks;
mod migrate;
mod place;
mod refill;
mod reserve;
mod slow;
mod waiting;
mod watch;
mod watermark;
pub(crate) mod word;
#[cfg(test)]
mod word_tests;
mod zone_cell;
mod zones;

/// Where `word.rs` gets its atomics from: its test under loom has others.
mod atomic {
    pub(crate) use core::sync::atomic::AtomicU64;
}

pub use build::Config;
pub use contig::{ContigError, ContigFault, ContigRange};
pub use error::{BadFree, Fault, OutOfMemory};
pub use figures::{CpuPages, ZoneReport};
use hoard::{Hoard, List, MAX_HOARD_ORDER};
pub use hotplug::AddError;
use lanes::LaneCell;
pub use map::MAX_RANGES;
use map::{Place, WordMap};
pub use migrate::{MovableBlock, MovableOwner};
pub use watch::{Faults, Fill, PAGE_POISON};
pub use watermark::{Tuning, Watermarks, min_free_kbytes};
use zones::Zones;

/// What the fast path cannot do.
const SLOW: Gfp = Gfp::ZERO.union(Gfp::THISNODE);

/// What gives memory back to the page allocator when it runs short.
///
/// Called with no lock of the page allocator held; it may free, and allocate with [`Gfp::MEMALLOC`].
pub trait Shrinker: Sync {
    /// Frees what is free already but was kept back, such as pages that wait for a lazy flush. Never waits: it is
    /// called from interrupt handlers too. At most 64 blocks a call. Returns how many frames were freed.
    fn flush(&self) -> u64 {
        0
    }

    /// Reclaims memory that somebody still uses but can do without, for a request of that order. May wait. Returns
    /// how many frames were freed.
    fn reclaim(&self, _gfp: Gfp, _order: Order) -> u64 {
        0
    }

    /// A zone fell below its low watermark: reclaim in the background from now on. Never waits.
    fn wake(&self) {}
}

/// The page allocator over all zones.
///
/// ```
/// use mm::gfp::Gfp;
/// # use mm::addr::{Order, PhysAddr, PhysRange};
/// # use mm::arch::host::Host;
/// # use mm::memblock::Memblock;
/// # use mm::page_alloc::{Config, Pages};
/// # let span = PhysRange::new(PhysAddr::new(1 << 30).unwrap(), PhysAddr::new((1 << 30) + (8 << 20)).unwrap()).unwrap();
/// # let mut words = vec![0_u64; 12 << 17];
/// # let skip = words.as_ptr().align_offset(4 << 20);
/// # let host = Host::new(span.start(), &mut words[skip..][..8 << 17]);
/// # let mut memblock = Memblock::new();
/// # memblock.add(span, 0)?;
/// # let mut metadata = vec![0; Pages::<Host<'_>>::metadata_bytes(&memblock, &Config::DEFAULT) as usize / 8];
/// # let pages = Pages::build(&host, &memblock, &Config::DEFAULT, &mut metadata)?;
///
/// // 8 MiB of RAM, as memblock had it. Blocks of 1, 2, 4 ... pages; the state of none of them lies in it.
/// let free = pages.free_pages() + pages.hoarded_pages();
/// let block = pages.alloc(Gfp::KERNEL | Gfp::ZERO, Order::new(3).unwrap())?;
/// assert_eq!(free - pages.free_pages() - pages.hoarded_pages(), 8);
/// pages.free(block)?;
/// // More than there is: an error, and nothing is lost.
/// assert!((0..3).any(|_| pages.alloc(Gfp::KERNEL, Order::MAX).map(core::mem::forget).is_err()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// What every call reads comes first, in reach of short offsets.
#[repr(C)]
pub struct Pages<'a, A: Arch> {
    hoards: [&'a Hoard; MAX_CPUS],
    map: WordMap<'a>,
    arch: &'a A,
    lanes: [&'a LaneCell; MAX_LANES],
    zones: Zones<'a>,
    /// For each CPU, its node.
    nodes: [AtomicU32; MAX_CPUS],
    /// What speaks against hoarding at the moment: [`SEES_ALL`](watch::SEES_ALL), and the number of isolations.
    against_hoarding: AtomicU32,
    /// Whether they do when nothing speaks against it.
    may_hoard: bool,
    watch: watch::Watch,
    tuning: Tuning,
    dma_limit: Option<PhysAddr>,
    is_growing: AtomicBool,
    shrinkers: [spin::Once<&'a dyn Shrinker>; slow::MAX_SHRINKERS],
    owners: [spin::Once<&'a dyn MovableOwner>; migrate::MAX_OWNERS],
}

impl<A: Arch> fmt::Debug for Pages<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("zones", &self.zones).finish_non_exhaustive()
    }
}

impl<A: Arch> Pages<'_, A> {
    /// Takes a block of `2^order` frames, aligned to its length. What is in it is not known, unless with
    /// [`Gfp::ZERO`].
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]. Nothing is lost, and the caller goes on.
    #[inline(always)]
    pub fn alloc(&self, gfp: Gfp, order: Order) -> Result<PageBlock, OutOfMemory> {
        if gfp.intersects(SLOW) {
            return self.alloc_slow(gfp, order);
        }
        let list = List::of(gfp, order);
        #[expect(clippy::indexing_slicing, reason = "there is a hoard for each number that a CPU may have")]
        let place = self.hoards[self.arch.cpu()].current(list).load();
        let word = self.map.word(place);
        let before = self.arch.take_lowest(word.free);
        if before != 0 {
            let bit = before.trailing_zeros();
            if word.tag().is_hoarded_for(list) {
                return Ok(place.block(bit));
            }
            // By reference: so a stack frame is needed here, and made here, and not on the fast path.
            let mut settled = PageBlock::known(0);
            self.alloc_stale(gfp, order, place, bit, &mut settled)?;
            return Ok(settled);
        }
        if order.as_usize() > MAX_HOARD_ORDER {
            self.alloc_large(gfp, order)
        } else {
            self.alloc_waiting(gfp, order, waiting::WORTH)
        }
    }

    /// Gives a block back.
    ///
    /// # Errors
    ///
    /// [`BadFree`] if it cannot be a block that was allocated here; then nothing has changed.
    #[inline(always)]
    pub fn free(&self, block: PageBlock) -> Result<(), BadFree> {
        match self.map.find_first(&block) {
            Some(place) if self.put_beside(place, &block) => Ok(()),
            Some(_) if block.order_index() > MAX_HOARD_ORDER => self.free_large(block),
            Some(place) => self.free_first(block, place),
            None => self.free_elsewhere(block),
        }
    }

    #[inline(always)]
    fn put_beside(&self, place: Place, block: &PageBlock) -> bool {
        let word = self.map.word(place);
        word.order() == block.order_index() && self.arch.put_beside(word.free, block.bit())
    }

    /// Frees a block that is not in the first range of RAM.
    #[inline(never)]
    fn free_elsewhere(&self, block: PageBlock) -> Result<(), BadFree> {
        match self.map.find(&block) {
            Some(place) if self.put_beside(place, &block) => Ok(()),
            Some(_) if block.order_index() > MAX_HOARD_ORDER => self.free_large(block),
            Some(place) => self.free_first(block, place),
            None => self.free_slow(block),
        }
    }

    /// The block that the fast path took from a word that had become another's in the meantime.
    #[cold]
    #[inline(never)]
    fn alloc_stale(
        &self,
        gfp: Gfp,
        order: Order,
        place: Place,
        bit: u32,
        settled: &mut PageBlock,
    ) -> Result<(), OutOfMemory> {
        *settled = match self.settle(List::of(gfp, order), place, bit) {
            Some(block) => block,
            None => self.alloc_slow(gfp, order)?,
        };
        Ok(())
    }

    /// Decides about a block that was taken from a word that may have changed its list. While a block of a word is
    /// out the word is not hoarded anew, so its tag still names the list that the block was taken for.
    fn settle(&self, list: List, place: Place, bit: u32) -> Option<PageBlock> {
        let taken_for = self.map.word(place).tag().last_list();
        let block = place.with(taken_for).block(bit);
        if taken_for == list {
            return Some(block);
        }
        // It was free a moment ago, so it cannot be refused.
        let _ = self.free(block);
        None
    }

    /// Whether CPUs hoard: not while every allocation has to be looked at.
    #[inline(always)]
    fn is_hoarding(&self) -> bool {
        self.against_hoarding.load(Relaxed) & watch::SEES_ALL == 0
    }

    /// Whether a block may be handed on without being seen here: not while every allocation has to be looked at, nor where
    /// frames have a place that matters.
    #[inline(always)]
    pub(crate) fn may_recycle(&self) -> bool {
        self.is_hoarding() && !self.zones.has_nodes()
    }

    /// Whether CPUs keep large blocks: nor while ranges are isolated.
    #[inline(always)]
    fn is_keeping(&self) -> bool {
        self.against_hoarding.load(Relaxed) == 0
    }
}
