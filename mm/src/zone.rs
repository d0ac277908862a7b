// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zones: RAM by what can reach it and where it is.
//!
//! A *node* is the memory near some CPUs (`numa-node-id`; most boards have node 0 alone). Within a node
//! frames below the *DMA limit*, the tightest that the tree's `dma-ranges` set, are zone DMA, and the
//! rest is zone Normal. A zone without RAM does not exist, and without a limit all is Normal.
//!
//! ```text
//!             0                DMA limit
//!   node 0    [      DMA      )[      Normal      )      [ Normal )
//!   node 1                                         [ ... )         one zone, two ranges
//! ```
//!
//! An allocation names the highest zone it can use and its node. It *falls back* downwards, never
//! upwards, on its own node first: whoever asks for DMA memory never gets what his device cannot
//! reach. A chunk that a border cuts has a leaf in either zone, each with its own frames only.
//!
//! *Metadata* comes from [`Memblock`] and is sized by RAM, not by what of it is free, so that taking it
//! changes nothing. *Lock:* each zone's own, in [`page_alloc`](crate::page_alloc). *Invariants*
//! (`tests/zone_model.rs`): every free frame of memblock is in exactly one zone, the one that its
//! address and node say, and memory freed returns exactly.
#![forbid(unsafe_code)]

use core::fmt;

use crate::addr::{NR_ORDERS, Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use crate::buddy::{Buddy, FreeError, Lane, Mobility, PageBlock, TooSmall};
use crate::memblock::{Memblock, MemoryRegion};

/// Most zones: four nodes with two each, and as many ranges that were added late.
pub const MAX_ZONES: usize = 16;

/// Metadata of each zone begins at a multiple of this many words: a cache line.
const ALIGN_WORDS: usize = 8;

/// What kind of memory, lowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ZoneKind {
    /// Below the DMA limit: every device reaches it.
    Dma,
    /// At or above it.
    Normal,
}

impl ZoneKind {
    pub(crate) const ALL: [Self; 2] = [Self::Dma, Self::Normal];

    /// As Linux's reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dma => "DMA",
            Self::Normal => "Normal",
        }
    }

    /// As the names of Linux's counters end.
    #[must_use]
    pub const fn lower_name(self) -> &'static str {
        match self {
            Self::Dma => "dma",
            Self::Normal => "normal",
        }
    }

    /// Its addresses. A frame that the limit cuts is out of a device's reach.
    pub(crate) fn window(self, dma_limit: Option<PhysAddr>) -> PhysRange {
        let below = PhysRange::below(dma_limit.unwrap_or(PhysAddr::ZERO).align_down(PAGE_SIZE));
        match self {
            Self::Dma => below,
            Self::Normal => PhysRange::EVERYTHING.around(below).next().unwrap_or_default(),
        }
    }
}

/// Why there are no zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZoneError {
    /// More than [`MAX_ZONES`] would be needed; the node of the first that did not fit.
    TooManyZones(u32),
    /// More than [`MAX_RANGES`](crate::page_alloc::MAX_RANGES) ranges of RAM; the node of the first that did not fit.
    TooManyRanges(u32),
    /// The metadata is less than [`Pages::metadata_bytes`](crate::page_alloc::Pages::metadata_bytes).
    Metadata(TooSmall),
    /// A free range that a zone refused: memblock contradicts itself.
    Free(FreeError),
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyZones(node) => {
                write!(f, "more than {MAX_ZONES} zones: no room for those of node {node}")
            }
            Self::TooManyRanges(node) => write!(f, "too many ranges of memory: no room for those of node {node}"),
            Self::Metadata(error) => error.fmt(f),
            Self::Free(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ZoneError {}

/// One kind of memory on one node.
#[derive(Debug)]
pub struct Zone<'a> {
    kind: ZoneKind,
    node: u32,
    buddy: Buddy<'a>,
}

/// The figures of a zone at one moment, to be printed when its lock is open again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneInfo {
    /// DMA or Normal.
    pub kind: ZoneKind,
    /// Its node.
    pub node: u32,
    /// Frames of RAM, reserved ones included.
    pub present_pages: u64,
    /// Frames under management.
    pub managed_pages: u64,
    /// Free frames.
    pub free_pages: u64,
    /// Free blocks of each order.
    pub nr_free: [u64; NR_ORDERS],
}

impl ZoneInfo {
    /// Both together, which are parts of one zone.
    #[must_use]
    pub(crate) fn with(mut self, other: &Self) -> Self {
        self.present_pages += other.present_pages;
        self.managed_pages += other.managed_pages;
        self.free_pages += other.free_pages;
        self.nr_free.iter_mut().zip(other.nr_free).for_each(|(mine, others)| *mine += others);
        self
    }
}

impl<'a> Zone<'a> {
    /// Words of metadata for a zone of one range.
    pub(crate) fn metadata_words(range: PhysRange) -> usize {
        Buddy::metadata_words(core::iter::once(range)).next_multiple_of(ALIGN_WORDS)
    }

    /// A zone of one range, of which nothing is free yet.
    pub(crate) fn new(range: PhysRange, kind: ZoneKind, node: u32, metadata: &'a mut [u64]) -> Result<Self, TooSmall> {
        Ok(Self { kind, node, buddy: Buddy::new(core::iter::once(range), metadata)? })
    }

    /// All figures. O(ranges of RAM).
    #[must_use]
    pub fn info(&self) -> ZoneInfo {
        ZoneInfo {
            kind: self.kind,
            node: self.node,
            present_pages: self.present_pages(),
            managed_pages: self.buddy.managed_pages(),
            free_pages: self.buddy.free_pages(),
            nr_free: self.buddy.nr_free(),
        }
    }

    /// Takes a block.
    #[inline(always)]
    pub(crate) fn take(&mut self, order: Order, mobility: Mobility) -> Option<Pfn> {
        self.buddy.take(order, mobility)
    }

    /// Takes a block of order 3 or more; one below the largest from a lane, if that has one.
    #[inline(always)]
    pub(crate) fn take_near(&mut self, order: Order, mobility: Mobility, lane: Lane) -> Option<Pfn> {
        if !lane.is_only() && order != Order::MAX {
            let near = self.buddy.take_from_lane(order, mobility, lane);
            if near.is_some() {
                return near;
            }
        }
        self.take(order, mobility)
    }

    /// Gives a block back.
    pub(crate) fn put(&mut self, pfn: Pfn, order: Order) -> Result<(), FreeError> {
        self.buddy.free(PageBlock::from_raw(pfn, order))
    }

    /// DMA or Normal.
    #[must_use]
    pub const fn kind(&self) -> ZoneKind {
        self.kind
    }

    /// Its node.
    #[must_use]
    pub const fn node(&self) -> u32 {
        self.node
    }

    /// Its page allocator.
    #[must_use]
    pub const fn buddy(&self) -> &Buddy<'a> {
        &self.buddy
    }

    /// Its page allocator, to be used.
    pub(crate) const fn buddy_mut(&mut self) -> &mut Buddy<'a> {
        &mut self.buddy
    }

    /// Frames of RAM, reserved ones included.
    #[must_use]
    pub fn present_pages(&self) -> u64 {
        self.buddy.ranges().map(|range| range.size() / PAGE_SIZE).sum()
    }

    /// From the first frame of RAM to the last, holes included.
    #[must_use]
    pub fn spanned(&self) -> PhysRange {
        let spanned = self.buddy.ranges().reduce(|all, range| PhysRange::new(all.start(), range.end()).unwrap_or(all));
        spanned.unwrap_or_default()
    }
}

/// A zone to be made.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'m> {
    memblock: &'m Memblock,
    kind: ZoneKind,
    node: u32,
    window: PhysRange,
}

impl<'m> Plan<'m> {
    /// All zones that have RAM, node by node, DMA before Normal.
    pub(crate) fn all(memblock: &'m Memblock, dma_limit: Option<PhysAddr>) -> impl Iterator<Item = Self> + Clone {
        let next_node = |above: Option<u32>| {
            let nodes = memblock.memory().iter().map(|region| region.node);
            nodes.filter(|node| above.is_none_or(|above| *node > above)).min()
        };
        core::iter::successors(next_node(None), move |node| next_node(Some(*node)))
            .flat_map(|node| ZoneKind::ALL.map(|kind| (node, kind)))
            .map(move |(node, kind)| Self { memblock, kind, node, window: kind.window(dma_limit) })
            .filter(|plan| plan.ram().next().is_some())
    }

    /// Its RAM, in whole frames.
    pub(crate) fn ram(self) -> impl Iterator<Item = PhysRange> + Clone + 'm {
        self.within(self.memblock.memory().iter().copied())
    }

    fn free_ranges(self) -> impl Iterator<Item = PhysRange> + 'm {
        self.within(self.memblock.free_ranges())
    }

    /// What of these regions belongs to the zone, in whole frames.
    fn within<I: Iterator<Item = MemoryRegion> + Clone + 'm>(
        self,
        regions: I,
    ) -> impl Iterator<Item = PhysRange> + Clone + 'm {
        regions
            .filter(move |region| region.node == self.node)
            .filter_map(move |region| region.range.intersection(self.window))
            .map(PhysRange::frames_inside)
            .filter(|range| !range.is_empty())
    }

    /// Words of metadata for its page allocator.
    pub(crate) fn metadata_words(self) -> usize {
        Buddy::metadata_words(self.ram()).next_multiple_of(ALIGN_WORDS)
    }

    /// Makes the zone and frees every free range of memblock into it.
    pub(crate) fn build(self, metadata: &mut [u64]) -> Result<Zone<'_>, ZoneError> {
        let mut buddy = Buddy::new(self.ram(), metadata).map_err(ZoneError::Metadata)?;
        for range in self.free_ranges() {
            buddy.add_first(range).map_err(ZoneError::Free)?;
        }
        Ok(Zone { kind: self.kind, node: self.node, buddy })
    }

    /// Its node.
    pub(crate) const fn node(self) -> u32 {
        self.node
    }
}
