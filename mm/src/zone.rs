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
//! changes nothing. *Lock:* the caller's, one for all zones so far. *Invariants*
//! (`tests/zone_model.rs`): every free frame of memblock is in exactly one zone, the one that its
//! address and node say, and memory freed returns exactly.
#![forbid(unsafe_code)]

use core::fmt;

use crate::addr::{NR_ORDERS, Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use crate::buddy::{AllocError, Broken, Buddy, FreeError, Mobility, PageBlock, TooSmall};
use crate::memblock::{Memblock, MemoryRegion};

/// Most zones: four nodes with two each.
pub const MAX_ZONES: usize = 8;

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
    const ALL: [Self; 2] = [Self::Dma, Self::Normal];

    /// As Linux's reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dma => "DMA",
            Self::Normal => "Normal",
        }
    }

    /// Its addresses. A frame that the limit cuts is out of a device's reach.
    fn window(self, dma_limit: Option<PhysAddr>) -> PhysRange {
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
    /// The metadata is less than [`Zones::metadata_bytes`].
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

impl<'a> Zone<'a> {
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
    pub(crate) fn take(&mut self, order: Order, mobility: Mobility) -> Option<Pfn> {
        self.buddy.alloc(order, mobility).ok().map(|block| block.pfn())
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
    pub const fn buddy_mut(&mut self) -> &mut Buddy<'a> {
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

/// All zones, node by node, DMA before Normal.
#[derive(Default, Debug)]
pub struct Zones<'a> {
    zones: [Option<Zone<'a>>; MAX_ZONES],
    /// For each zone, in which order its node tries them all.
    fallback: [[u8; MAX_ZONES]; MAX_ZONES],
}

/// A zone to be made.
#[derive(Clone, Copy)]
struct Plan<'m> {
    memblock: &'m Memblock,
    kind: ZoneKind,
    node: u32,
    window: PhysRange,
}

impl<'m> Plan<'m> {
    /// All zones that have RAM.
    fn all(memblock: &'m Memblock, dma_limit: Option<PhysAddr>) -> impl Iterator<Item = Self> + Clone {
        let next_node = |above: Option<u32>| {
            let nodes = memblock.memory().iter().map(|region| region.node);
            nodes.filter(|node| above.is_none_or(|above| *node > above)).min()
        };
        core::iter::successors(next_node(None), move |node| next_node(Some(*node)))
            .flat_map(|node| ZoneKind::ALL.map(|kind| (node, kind)))
            .map(move |(node, kind)| Self { memblock, kind, node, window: kind.window(dma_limit) })
            .filter(|plan| plan.ram().next().is_some())
    }

    fn ram(self) -> impl Iterator<Item = PhysRange> + Clone + 'm {
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

    fn metadata_words(self) -> usize {
        Buddy::metadata_words(self.ram()).next_multiple_of(ALIGN_WORDS)
    }
}

impl<'a> Zones<'a> {
    /// Bytes of metadata for [`Zones::build`]: about 0.26 bytes a frame of RAM. Reservations do not
    /// change it.
    #[must_use]
    pub fn metadata_bytes(memblock: &Memblock, dma_limit: Option<PhysAddr>) -> u64 {
        let words: usize = Plan::all(memblock, dma_limit).map(Plan::metadata_words).sum();
        words as u64 * size_of::<u64>() as u64
    }

    /// The ranges of RAM of all zones, in whole frames.
    pub(crate) fn ranges(memblock: &Memblock, dma_limit: Option<PhysAddr>) -> impl Iterator<Item = PhysRange> {
        Plan::all(memblock, dma_limit).flat_map(Plan::ram)
    }

    /// Makes the zones and frees every free range of `memblock` into them. `metadata` may hold
    /// anything; it should be page aligned, and reserved in `memblock` by now.
    ///
    /// # Errors
    ///
    /// [`ZoneError`].
    pub fn build(memblock: &Memblock, dma_limit: Option<PhysAddr>, metadata: &'a mut [u64]) -> Result<Self, ZoneError> {
        let mut zones = Self::default();
        let mut slots = zones.zones.iter_mut();
        let mut rest = metadata;
        for plan in Plan::all(memblock, dma_limit) {
            let slot = slots.next().ok_or(ZoneError::TooManyZones(plan.node))?;
            let words = plan.metadata_words();
            let parts = rest.split_at_mut_checked(words);
            let (part, behind) = parts.ok_or(ZoneError::Metadata(TooSmall(words)))?;
            rest = behind;
            let mut buddy = Buddy::new(plan.ram(), part).map_err(ZoneError::Metadata)?;
            for range in plan.free_ranges() {
                buddy.add_range(range).map_err(ZoneError::Free)?;
            }
            *slot = Some(Zone { kind: plan.kind, node: plan.node, buddy });
        }
        zones.set_fallback();
        Ok(zones)
    }

    /// The own node's zones from the highest down, then those of other nodes, each from the highest down.
    fn set_fallback(&mut self) {
        let nodes = self.zones.each_ref().map(|zone| zone.as_ref().map(|zone| (zone.node, zone.kind)));
        for (home, order) in nodes.iter().zip(&mut self.fallback) {
            *order = core::array::from_fn(|index| index as u8);
            order.sort_unstable_by_key(|index| {
                let zone = nodes.get(usize::from(*index)).copied().flatten();
                let elsewhere = zone.map(|(node, _)| Some(node) != home.map(|(node, _)| node));
                let node = zone.map(|(node, _)| node);
                (zone.is_none(), elsewhere, node, zone.map(|(_, kind)| core::cmp::Reverse(kind)))
            });
        }
    }

    /// Takes a block from zone `highest` of `node`, or from where it falls back to. A node that does
    /// not exist counts as the first.
    ///
    /// # Errors
    ///
    /// [`AllocError`], its figures those of all zones that might have been used.
    pub fn alloc(&mut self, order: Order, highest: ZoneKind, node: u32) -> Result<PageBlock, AllocError> {
        let home = self.iter().position(|zone| zone.node == node).unwrap_or(0);
        let mut failed = AllocError { order, free_pages: 0, largest_free_order: None };
        for index in self.fallback.get(home).copied().unwrap_or_default() {
            let zone = self.zones.get_mut(usize::from(index)).and_then(Option::as_mut);
            let Some(zone) = zone.filter(|zone| zone.kind <= highest) else {
                continue;
            };
            match zone.buddy.alloc(order, Mobility::Unmovable) {
                Ok(block) => return Ok(block),
                Err(error) => {
                    failed.free_pages += error.free_pages;
                    failed.largest_free_order = failed.largest_free_order.max(error.largest_free_order);
                }
            }
        }
        Err(failed)
    }

    /// Gives a block back to the zone that its frame is in.
    ///
    /// # Errors
    ///
    /// [`FreeError`].
    pub fn free(&mut self, block: PageBlock) -> Result<(), FreeError> {
        match self.zone_of_mut(block.pfn()) {
            Some(zone) => zone.buddy.free(block),
            None => Err(FreeError::Foreign(block.pfn(), block.order())),
        }
    }

    /// Puts whole frames of RAM under management that were held back so far, such as boot-only parts
    /// of the kernel image, and frees them. Returns their number.
    ///
    /// # Errors
    ///
    /// [`FreeError`] at the first zone border or end of RAM behind which it cannot be done; what lies
    /// before it has been added.
    pub fn add_range(&mut self, range: PhysRange) -> Result<u64, FreeError> {
        let mut left = range.frames_inside();
        let mut pages = 0;
        while !left.is_empty() {
            let foreign = FreeError::Foreign(left.start().pfn(), Order::ZERO);
            let zone = self.zone_of_mut(left.start().pfn()).ok_or(foreign)?;
            let ram = zone.buddy.ranges().find(|ram| ram.contains(left.start())).ok_or(foreign)?;
            let end = left.end().min(ram.end());
            let part = PhysRange::new(left.start(), end).ok_or(foreign)?;
            pages += zone.buddy.add_range(part)?;
            left = PhysRange::new(end, left.end()).ok_or(foreign)?;
        }
        Ok(pages)
    }

    /// The figures of all zones.
    #[must_use]
    pub fn info(&self) -> [Option<ZoneInfo>; MAX_ZONES] {
        self.zones.each_ref().map(|zone| zone.as_ref().map(Zone::info))
    }

    /// The zones, and for each in which order its node tries them all.
    pub(crate) fn into_parts(self) -> ([Option<Zone<'a>>; MAX_ZONES], [[u8; MAX_ZONES]; MAX_ZONES]) {
        (self.zones, self.fallback)
    }

    /// The zones, node by node, DMA before Normal.
    pub fn iter(&self) -> impl Iterator<Item = &Zone<'a>> {
        self.zones.iter().flatten()
    }

    /// The zone that a frame of RAM is in.
    #[must_use]
    pub fn zone_of(&self, pfn: Pfn) -> Option<&Zone<'a>> {
        self.iter().find(|zone| zone.buddy.owns(pfn))
    }

    fn zone_of_mut(&mut self, pfn: Pfn) -> Option<&mut Zone<'a>> {
        self.zones.iter_mut().flatten().find(|zone| zone.buddy.owns(pfn))
    }

    /// Frames that are free.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.iter().map(|zone| zone.buddy.free_pages()).sum()
    }

    /// Frames under management: those that were ever free.
    #[must_use]
    pub fn managed_pages(&self) -> u64 {
        self.iter().map(|zone| zone.buddy.managed_pages()).sum()
    }

    /// Checks every zone.
    ///
    /// # Errors
    ///
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Broken> {
        self.iter().try_for_each(|zone| zone.buddy.validate())
    }
}
