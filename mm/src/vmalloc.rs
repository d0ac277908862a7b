// SPDX-License-Identifier: MIT OR Apache-2.0
//! vmalloc: large memory that is contiguous in address space only, mapped page by page or in larger pieces.
//!
//! ```text
//!   Vmalloc     alloc, free, resize, map, unmap, find, read            this file, `alloc.rs`, `resize.rs`, `map.rs`
//!     |  \
//!     |   Space      which addresses are free, in constant time        `space.rs`, `block.rs`
//!     |     |
//!     |   Tags       a word a page: blocks, areas, their frames        `tags.rs`, `area.rs`
//!     |
//!     |--- Queue     unmapped, but TLBs may still know the way         `lazy.rs`
//!     |--- Shelf     areas with their frames, for the next of that size `shelf.rs`, `reuse.rs`
//!     |--- Dying     freed, and partly mapped still                    `retire.rs`
//!     |--- Pool      addresses that are free for the next of that size `pool.rs`
//!     |--- Ram       mappings of a moment, a block of addresses a CPU    `ram.rs`
//!     |
//!   Region      all of the above, for some of the CPUs                 `region.rs`
//!     |
//!   PageTable, Tlb                                                     `crate::pgtable`, `crate::tlb`
//! ```
//!
//! Nothing is allocated in order to allocate: what is to be known of an area, down to the frames behind it, stands in
//! the tags of its own pages. Frames are taken in the largest blocks that there are, and mapped with the largest
//! descriptors that these allow.
//!
//! *Freeing is lazy.* An area is unmapped at once, but neither its addresses nor its frames are used again before every
//! TLB has forgotten them, which costs one flush for up to [`Config::lazy_pages`]. Linux gives the frames back at once and
//! keeps only the addresses; here nobody can reach a frame of somebody else by a stale translation. What waits is given
//! back a little with each later call, and all at once when memory runs short ([`Shrinker`]). One
//! exception: until then a new area of that length may have the old one's frames at the old one's addresses. That is what
//! TLBs may still know, so it needs no flush.
//!
//! *Cost:* O(1) for the address space, O(pieces) for frames and tables; a call of [`Vmalloc::free`] unmaps at most 8,192
//! descriptors and gives back at most 1,088 blocks, no more than 64 beyond its own pages. *Locks:* one of rank `SPACE` for
//! each of [`Config::regions`], with interrupts masked, so that handlers may allocate and free; frames of areas are taken
//! outside of it. CPUs that allocate do not meet, unless one frees what another has made. *Invariants:*
//! [`Vmalloc::validate`].
//!
//! *Rules met:* an area is unmapped before it waits, and waits until a whole flush that began after that is complete
//! (Arm ARM D8.16.2); a block of addresses is mapped again only then, so no break-before-make is ever needed.

mod alloc;
mod area;
mod block;
mod error;
mod global;
mod lazy;
mod look;
mod map;
mod pieces;
mod pool;
mod ram;
mod region;
mod resize;
mod retire;
mod reuse;
mod shelf;
mod space;
mod tags;

use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64};

pub use self::alloc::Request;
pub use self::area::{Area, GUARD_PAGES, Kind};
use self::block::{MAX_PAGES, Page};
pub use self::error::{BadArea, VmallocError};
pub use self::global::Global;
use self::lazy::Queue;
pub use self::look::Usage;
use self::pool::Pool;
pub use self::ram::MOST_PAGES as MOST_RAM_PAGES;
use self::ram::{Blocks, Ram};
use self::region::Region;
pub use self::region::{MOST_REGIONS, REGION_STRIDE};
use self::retire::Dying;
use self::shelf::Shelf;
use self::space::Space;
use self::tags::Tags;
use crate::addr::{Order, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::page_alloc::Shrinker;
use crate::pgtable::{PageTable, Regime, TableSource};
use crate::slab::PageSource;
use crate::tlb::{Stamp, Tlb};

/// What a [`Vmalloc`] is made with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The first address: a multiple of 512 GiB.
    pub start: VirtAddr,
    /// Bytes of address space of a region; what is above 256 GiB is left alone.
    pub size: u64,
    /// Regions, [`REGION_STRIDE`] one behind the other, each for the CPUs with every so manieth number: at most
    /// [`MOST_REGIONS`]. One takes no memory before a CPU allocates from it, or [`Vmalloc::start_regions`].
    pub regions: usize,
    /// Frames of the machine: nobody gets more at once.
    pub ram_pages: u64,
    /// Frames that may wait for a flush.
    pub lazy_pages: u64,
    /// Whether blocks and contiguous groups are used; without, everything is mapped by pages (Linux's `nohugevmalloc`).
    pub huge: bool,
}

impl Config {
    /// Linux's limit for what waits (`lazy_max_pages`), fls(CPUs) x 32 MiB, and no more than an eighth of the RAM.
    #[must_use]
    pub const fn lazy_limit(nr_cpus: usize, ram_pages: u64) -> u64 {
        let linux = (usize::BITS - nr_cpus.leading_zeros()) as u64 * ((32 << 20) / PAGE_SIZE);
        if linux < ram_pages / 8 { linux } else { ram_pages / 8 }
    }
}

/// Frames for tables and tags.
#[derive(Debug)]
struct Frames<S>(S);

impl<S: PageSource> TableSource for Frames<S> {
    fn table(&mut self) -> Option<PhysAddr> {
        // Under the lock that a flush would take: `with_retry` takes care of that.
        self.0.take(Order::ZERO, Gfp::ATOMIC.union(Gfp::NOFLUSH)).map(|block| block.pfn().addr())
    }

    fn give_back(&mut self, table: PhysAddr) {
        self.0.give(PageBlock::from_raw(table.pfn(), Order::ZERO));
    }
}

/// The tags of a machine.
type MachineTags<'a, A, S> = Tags<&'a A, Frames<S>>;

/// What the lock guards.
struct State<'a, A: Arch, S: PageSource> {
    space: Space<MachineTags<'a, A, S>>,
    tree: PageTable<&'a A>,
    tables: Frames<S>,
    lazy: Queue,
    shelf: Shelf,
    dying: Dying,
    pool: Pool,
    ram: Blocks,
    /// When frames last went to other addresses: until a flush after that, TLBs may know them by the old ones too.
    last_move: Option<Stamp>,
    /// The address of its first page.
    start: VirtAddr,
    /// Its share of [`Config::lazy_pages`].
    quota: u64,
    /// Frames of areas that are in use.
    nr_pages: u64,
    nr_areas: u64,
}

/// Address space, and whoever has which part of it. See the head of this file.
pub struct Vmalloc<'a, A: Arch, S: PageSource> {
    arch: &'a A,
    source: S,
    tlb: &'a Tlb<&'a A>,
    config: Config,
    /// Pages of each region.
    pages: Page,
    /// Bytes from the beginning of the first region to the end of the last.
    span: u64,
    root: PhysAddr,
    regime: Regime,
    ram: Ram,
    first: Region<'a, A, S>,
    /// The other regions, once they are in use.
    more: [AtomicPtr<Region<'a, A, S>>; MOST_REGIONS - 1],
    /// Of [`Config::lazy_pages`], what is no region's share.
    spare: AtomicU64,
}

/// An address of an area as a pointer, to be used where the tree is in use.
///
/// # Errors
///
/// [`VmallocError::NoSpace`] for null, where no area is.
pub fn pointer(virt: VirtAddr) -> Result<NonNull<u8>, VmallocError> {
    NonNull::new(ptr::with_exposed_provenance_mut(virt.as_raw() as usize)).ok_or(VmallocError::NoSpace)
}

impl<A: Arch, S: PageSource> fmt::Debug for Vmalloc<'_, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmalloc").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Address space that is all free, mapped by the tree at `root`. Takes no memory yet.
    ///
    /// # Safety
    ///
    /// 1. `root` is the root of a whole tree for `regime`, which `arch` can reach; the configured addresses belong to
    ///    that regime.
    /// 2. Nobody else maps, unmaps or changes anything in the 512 GiB from `config.start` on, nor in those behind for each
    ///    further region, nor frees tables of it.
    pub const unsafe fn new(
        arch: &'a A,
        source: S,
        tlb: &'a Tlb<&'a A>,
        root: PhysAddr,
        regime: Regime,
        mut config: Config,
    ) -> Self {
        let pages = config.size / PAGE_SIZE;
        let pages = if pages < MAX_PAGES as u64 { pages as Page } else { MAX_PAGES };
        config.regions = match config.regions {
            0 => 1,
            1..MOST_REGIONS => config.regions,
            _ => MOST_REGIONS,
        };
        let spare = AtomicU64::new(config.lazy_pages - config.least_quota() * config.regions as u64);
        let more = [const { AtomicPtr::new(ptr::null_mut()) }; MOST_REGIONS - 1];
        let span = (config.regions as u64 - 1) * REGION_STRIDE + pages as u64 * PAGE_SIZE;
        let (ram, first) = (Ram::new(), Region::new(config.start));
        Self { arch, source, tlb, config, pages, span, root, regime, ram, first, more, spare }
    }

    /// What it was made with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) const fn arch(&self) -> &'a A {
        self.arch
    }

    /// Where frames come from.
    pub const fn source(&self) -> S {
        self.source
    }

    /// Whether `virt` is an address of this space, in use or not (Linux's `is_vmalloc_addr`).
    #[must_use]
    pub const fn contains(&self, virt: VirtAddr) -> bool {
        virt.as_raw().wrapping_sub(self.config.start.as_raw()) < self.span
    }

    /// Whether everything is consistent. O(blocks + entries of all tables).
    #[must_use]
    pub fn validate(&self) -> bool {
        let is_sound = |state: &mut State<'a, A, S>| {
            let space = &state.space;
            space.validate() && state.lazy.validate(space) && state.shelf.validate(space) && state.dying.validate(space)
        };
        self.regions().all(|region| self.peek(region, is_sound).unwrap_or(true))
    }
}

impl<A: Arch, S: PageSource + Copy + Send> Shrinker for Vmalloc<'_, A, S> {
    fn flush(&self) -> u64 {
        self.flush_some()
    }
}

#[cfg(test)]
mod tests;
