// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boot-time memory: which RAM there is, and who has taken which part of it.
//!
//! Before there is a page allocator there are two short sorted lists. *Memory* is RAM as the device
//! tree describes it, each region with its NUMA node. *Reserved* is what somebody owns: the kernel
//! image, the tree, a firmware's buffer, early allocations. What is memory and not reserved is free,
//! and is in the end handed to the page allocator.
//!
//! ```text
//!   memory     [==================]      [=================]      bytes, as the tree says
//!   reserved      [AA][B]   [~~~~~~~~~~~~~~~]       [C]           bytes, one owner each
//!   free       [=]       [=]                 [======]  [==]       whole frames, rounded inwards
//! ```
//!
//! *Ledger:* every byte of memory is free, or reserved under exactly one [`Tag`], or lost because no
//! whole frame was left around it ([`Memblock::ledger`]). A reservation may lie outside memory; there
//! it counts for nothing.
//!
//! *Cost:* arrays, so O(regions) a call; the walks are linear merges of both lists. *Lock:* none,
//! booting is done by one CPU. *Invariants* (`tests/memblock_model.rs`): both lists are sorted, never
//! overlap themselves, and hold no two regions that could be one; the ledger adds up to the byte.
//!
//! After Linux's `mm/memblock.c`; unlike there, a reservation knows its owner.
#![forbid(unsafe_code)]

use core::fmt;

use bitflags::bitflags;

use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};

mod iter;
mod ledger;
mod regions;

pub use ledger::Ledger;
use regions::{Region, Regions};

/// Most memory regions. The largest board layouts have four; servers with NUMA some dozens.
pub const MAX_MEMORY: usize = 64;
/// Most reserved regions. A tree may hold many small `/reserved-memory` nodes.
pub const MAX_RESERVED: usize = 320;

/// Who owns a reservation: a number whose meaning is its user's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Tag(pub u16);

bitflags! {
    /// What else is to be known of a reservation (Devicetree Specification 3.5.4).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
    pub struct ReserveFlags: u8 {
        /// `no-map`: the direct map leaves it out.
        const NOMAP = 1 << 0;
        /// `reusable`: the owner lends it out while it does not need it.
        const REUSABLE = 1 << 1;
    }
}

/// A run of RAM on one NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRegion {
    /// Where it is.
    pub range: PhysRange,
    /// Its `numa-node-id`, 0 where the tree has none.
    pub node: u32,
}

/// A run of addresses with one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Where it is, to the byte.
    pub range: PhysRange,
    /// The owner.
    pub tag: Tag,
    /// Its properties.
    pub flags: ReserveFlags,
}

/// What [`Memblock::add`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Added {
    /// Bytes that were memory before; they keep their node.
    pub overlap_bytes: u64,
}

/// What [`Memblock::reserve`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// Bytes that were reserved before; they keep their owner and its flags.
    pub already_bytes: u64,
}

/// Where [`Memblock::alloc`] looks first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Direction {
    /// The highest address that fits: keeps low memory for devices that reach no further.
    #[default]
    TopDown,
    /// The lowest address that fits.
    BottomUp,
}

/// What to allocate: size and owner, and the rest by the methods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a request does nothing until it is given to `Memblock::alloc`"]
pub struct Request {
    size: u64,
    align: u64,
    within: Option<PhysRange>,
    tag: Tag,
    flags: ReserveFlags,
    direction: Direction,
}

impl Request {
    /// `size` bytes, rounded up to whole pages, page aligned, anywhere, from the top down.
    pub const fn new(size: u64, tag: Tag) -> Self {
        Self { size, align: PAGE_SIZE, within: None, tag, flags: ReserveFlags::empty(), direction: Direction::TopDown }
    }

    /// Aligned to `bytes`, a power of two; less than a page means a page.
    pub const fn align(mut self, bytes: u64) -> Self {
        self.align = bytes;
        self
    }

    /// Only inside `range`.
    pub const fn within(mut self, range: PhysRange) -> Self {
        self.within = Some(range);
        self
    }

    /// With these properties.
    pub const fn flags(mut self, flags: ReserveFlags) -> Self {
        self.flags = flags;
        self
    }

    /// From this end of memory.
    pub const fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }
}

/// What went wrong. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemblockError {
    /// No slot is left for another memory region.
    MemoryFull {
        /// The range that did not fit in.
        range: PhysRange,
    },
    /// No slot is left for another reserved region.
    ReservedFull {
        /// The range that did not fit in.
        range: PhysRange,
    },
    /// No hole is large enough.
    NoSpace {
        /// Bytes asked for.
        size: u64,
        /// Alignment asked for, in bytes.
        align: u64,
        /// Bytes of the largest hole where it was looked for, its alignment not considered.
        largest_hole: u64,
    },
    /// An allocation of no bytes.
    ZeroSize,
    /// An alignment, in bytes, that is no power of two.
    BadAlign(u64),
}

impl fmt::Display for MemblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MemoryFull { range } => {
                write!(f, "no room for memory {range:?}: all {MAX_MEMORY} slots are in use")
            }
            Self::ReservedFull { range } => {
                write!(f, "no room for reservation {range:?}: all {MAX_RESERVED} slots are in use")
            }
            Self::NoSpace { size, align, largest_hole } => {
                write!(f, "no free memory for {size:#x} bytes aligned to {align:#x}: largest hole {largest_hole:#x}")
            }
            Self::ZeroSize => f.write_str("allocation of zero bytes"),
            Self::BadAlign(align) => write!(f, "alignment {align:#x} is no power of two"),
        }
    }
}

impl core::error::Error for MemblockError {}

/// The two lists. About 10 KiB; made to live in a static.
///
/// ```
/// use mm::addr::{PhysAddr, PhysRange};
/// use mm::memblock::{Memblock, Request, ReserveFlags, Tag};
///
/// let range = |start, end| PhysRange::new(PhysAddr::new(start)?, PhysAddr::new(end)?);
/// let mut memblock = Memblock::new();
/// memblock.add(range(1 << 30, 2 << 30).unwrap(), 0)?;
/// memblock.reserve(range(1 << 30, (1 << 30) + 0x10_0000).unwrap(), Tag(0), ReserveFlags::empty())?;
/// let table = memblock.alloc(Request::new(0x4000, Tag(1)))?;
/// assert_eq!(table.size(), 0x4000);
/// assert!(table.start() >= PhysAddr::new((1 << 30) + 0x10_0000).unwrap());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Memblock {
    memory: Regions<MemoryRegion, MAX_MEMORY>,
    reserved: Regions<Reservation, MAX_RESERVED>,
}

impl Default for Memblock {
    fn default() -> Self {
        Self::new()
    }
}

impl Memblock {
    /// No memory, nothing reserved.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: Regions::new(), reserved: Regions::new() }
    }

    /// Adds RAM, in any order. What is memory already keeps its node; touching regions of one node
    /// become one. An empty range is no error.
    ///
    /// # Errors
    ///
    /// [`MemblockError::MemoryFull`].
    pub fn add(&mut self, range: PhysRange, node: u32) -> Result<Added, MemblockError> {
        match self.memory.fill(MemoryRegion { range, node }) {
            Some(overlap_bytes) => Ok(Added { overlap_bytes }),
            None => Err(MemblockError::MemoryFull { range }),
        }
    }

    /// Gives `range` to an owner. Bytes that have an owner keep it, with its flags: reserve what is
    /// `no-map` before that which may overlap it. The range need not be aligned, nor lie in memory.
    ///
    /// # Errors
    ///
    /// [`MemblockError::ReservedFull`].
    pub fn reserve(&mut self, range: PhysRange, tag: Tag, flags: ReserveFlags) -> Result<Reserved, MemblockError> {
        match self.reserved.fill(Reservation { range, tag, flags }) {
            Some(already_bytes) => Ok(Reserved { already_bytes }),
            None => Err(MemblockError::ReservedFull { range }),
        }
    }

    /// Takes `range` from whoever owns parts of it. Returns the bytes that had an owner.
    ///
    /// # Errors
    ///
    /// [`MemblockError::ReservedFull`], if it would leave two ends of one region and there is but one slot.
    pub fn release(&mut self, range: PhysRange) -> Result<u64, MemblockError> {
        if self.reserved.would_split(range) && self.reserved.is_full() {
            return Err(MemblockError::ReservedFull { range });
        }
        Ok(self.reserved.remove(range, |_| ()))
    }

    /// Drops memory outside `window`: what the direct map cannot reach. Returns the bytes dropped,
    /// and tells each dropped piece to `held_back`.
    pub fn clip(&mut self, window: PhysRange, mut held_back: impl FnMut(MemoryRegion)) -> u64 {
        let mut bytes = 0;
        for outside in PhysRange::EVERYTHING.around(window) {
            bytes += self.memory.remove(outside, &mut held_back);
        }
        bytes
    }

    /// `mem=`: keeps the lowest `bytes` of memory and, wherever it lies, what of `keep` is memory (the
    /// kernel image). Returns the bytes dropped, and tells each dropped piece to `held_back`.
    ///
    /// # Errors
    ///
    /// [`MemblockError::MemoryFull`], if a region falls into two and there is no slot for it.
    pub fn limit(
        &mut self,
        bytes: u64,
        keep: PhysRange,
        mut held_back: impl FnMut(MemoryRegion),
    ) -> Result<u64, MemblockError> {
        let Some(cut) = self.address_after(bytes) else {
            return Ok(0);
        };
        let above = PhysRange::EVERYTHING.around(PhysRange::below(cut));
        let mut dropped = 0;
        for range in above.flat_map(|range| range.around(keep)) {
            // Only the piece below `keep` can leave two ends, and it comes first: nothing has changed.
            if self.memory.would_split(range) && self.memory.is_full() {
                return Err(MemblockError::MemoryFull { range });
            }
            dropped += self.memory.remove(range, &mut held_back);
        }
        Ok(dropped)
    }

    /// Where the lowest `bytes` of memory end; `None` if there are not so many.
    fn address_after(&self, bytes: u64) -> Option<PhysAddr> {
        let mut left = bytes;
        for region in self.memory() {
            if left < region.range.size() {
                return region.range.start().checked_add(left);
            }
            left -= region.range.size();
        }
        None
    }

    /// Finds whole free frames, reserves them and returns them. Their contents are arbitrary.
    ///
    /// # Errors
    ///
    /// [`MemblockError::NoSpace`], [`MemblockError::ReservedFull`], and for requests without sense
    /// [`MemblockError::ZeroSize`] and [`MemblockError::BadAlign`].
    pub fn alloc(&mut self, request: Request) -> Result<PhysRange, MemblockError> {
        let Request { size, align, within, tag, flags, direction } = request;
        if size == 0 {
            return Err(MemblockError::ZeroSize);
        }
        if !align.is_power_of_two() {
            return Err(MemblockError::BadAlign(align));
        }
        let within = within.unwrap_or(PhysRange::EVERYTHING);
        let mut largest_hole = 0;
        let mut found = None;
        for region in self.free_ranges() {
            let Some(hole) = region.range.intersection(within) else {
                continue;
            };
            let hole = hole.frames_inside();
            largest_hole = largest_hole.max(hole.size());
            let Some(fit) = place(hole, size, align.max(PAGE_SIZE), direction) else {
                continue;
            };
            found = Some(fit);
            if direction == Direction::BottomUp {
                break;
            }
        }
        let range = found.ok_or(MemblockError::NoSpace { size, align, largest_hole })?;
        self.reserve(range, tag, flags).map(|_| range)
    }

    /// Memory regions, lowest first.
    #[must_use]
    pub fn memory(&self) -> &[MemoryRegion] {
        self.memory.as_slice()
    }

    /// Reserved regions, lowest first, whether or not they lie in memory.
    #[must_use]
    pub fn reserved(&self) -> &[Reservation] {
        self.reserved.as_slice()
    }

    /// Who owns the byte at `addr`.
    #[must_use]
    pub fn owner_of(&self, addr: PhysAddr) -> Option<Reservation> {
        self.reserved.find(addr)
    }

    /// Whether the byte at `addr` is RAM.
    #[must_use]
    pub fn is_memory(&self, addr: PhysAddr) -> bool {
        self.memory.find(addr).is_some()
    }
}

/// `size` bytes, rounded up to pages, at one end of `hole`.
fn place(hole: PhysRange, size: u64, align: u64, direction: Direction) -> Option<PhysRange> {
    let size = size.checked_next_multiple_of(PAGE_SIZE).filter(|size| *size <= hole.size())?;
    let start = match direction {
        Direction::TopDown => PhysAddr::new(hole.end().as_raw() - size)?.align_down(align).max(hole.start()),
        Direction::BottomUp => hole.start().align_up(align),
    };
    let range = PhysRange::new(start, start.checked_add(size)?)?;
    (start.is_aligned(align) && range.end() <= hole.end()).then_some(range)
}

impl Region for MemoryRegion {
    const EMPTY: Self = Self { range: PhysRange::EMPTY, node: 0 };

    fn range(&self) -> PhysRange {
        self.range
    }

    fn with_range(self, range: PhysRange) -> Self {
        Self { range, ..self }
    }

    fn may_join(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

impl Region for Reservation {
    const EMPTY: Self = Self { range: PhysRange::EMPTY, tag: Tag(0), flags: ReserveFlags::empty() };

    fn range(&self) -> PhysRange {
        self.range
    }

    fn with_range(self, range: PhysRange) -> Self {
        Self { range, ..self }
    }

    fn may_join(&self, other: &Self) -> bool {
        self.tag == other.tag && self.flags == other.flags
    }
}

#[cfg(test)]
mod tests;
