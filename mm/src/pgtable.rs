// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation tables: one tree of 512-entry tables, 4 KiB granule, 48-bit addresses, levels 0 to 3.
//!
//! ```text
//!   virtual address   47      39 38      30 29      21 20      12 11        0
//!                    | level 0  | level 1  | level 2  | level 3  |  in page  |
//!   one entry maps      512 GiB     1 GiB      2 MiB      4 KiB
//!                       (table)    (block)    (block)     (page)
//!   16 entries, contiguous hint      -        32 MiB     64 KiB
//! ```
//!
//! A range is mapped with the largest descriptors that the alignment of both sides allows, and with the
//! contiguous hint wherever a whole aligned group of 16 is there, so that a TLB entry reaches far.
//!
//! *Lock:* whoever owns the [`PageTable`] is its only writer (`&mut self`). *Rules met:* a table is cleared and
//! published before it is linked, so that no walker can read garbage; an entry is only ever written where
//! none was (invalid to valid needs neither break-before-make nor an invalidate, Arm ARM D8.16.1); one pair
//! of barriers closes a [`map`](PageTable::map).

pub mod descriptor;
mod walk;

use core::fmt;

pub use descriptor::{Access, Attributes, Descriptor, MAIR, MemoryType};
pub use walk::{Leaf, Leaves};

use crate::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::Arch;

/// Entries of a table.
pub const ENTRIES: usize = 512;
/// Entries of a contiguous group.
pub const CONTIGUOUS_GROUP: usize = 16;
/// The last level: pages.
const PAGE_LEVEL: usize = 3;

/// Bytes that one entry of `level` maps.
#[must_use]
pub const fn level_size(level: usize) -> u64 {
    PAGE_SIZE << (9 * (PAGE_LEVEL - level))
}

/// Which entry of a `level` table translates `virt`.
const fn index(virt: VirtAddr, level: usize) -> usize {
    (virt.as_raw() / level_size(level)) as usize % ENTRIES
}

/// The half of the address space that a tree translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// TTBR0: addresses from 0 up.
    Lower,
    /// TTBR1: addresses whose upper 16 bits are set.
    Upper,
}

impl Half {
    /// The first address.
    #[must_use]
    pub const fn base(self) -> VirtAddr {
        match self {
            Self::Lower => VirtAddr::new(0),
            Self::Upper => VirtAddr::new(0xffff << 48),
        }
    }

    fn contains(self, virt: VirtAddr) -> bool {
        virt.as_raw() >> 48 == self.base().as_raw() >> 48
    }
}

/// Why a mapping was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Virtual address, physical address or size is not a multiple of the page size.
    Misaligned(VirtAddr),
    /// The range leaves this half of the address space, or physical memory.
    OutOfRange(VirtAddr),
    /// Something is mapped at this address already.
    AlreadyMapped(VirtAddr),
    /// No frame could be had for a table.
    NoTable,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(virt) => write!(f, "mapping at {virt:?} is not page-aligned"),
            Self::OutOfRange(virt) => write!(f, "mapping at {virt:?} leaves the address space"),
            Self::AlreadyMapped(virt) => write!(f, "{virt:?} is mapped already"),
            Self::NoTable => write!(f, "no frame for a translation table"),
        }
    }
}

impl core::error::Error for MapError {}

/// Where the frames of new tables come from.
pub trait TableSource {
    /// A frame that nobody else uses and that the tree's [`Arch`] can reach, or `None` if there is no more.
    fn table(&mut self) -> Option<PhysAddr>;
}

/// One translation tree.
#[derive(Debug)]
pub struct PageTable<A> {
    arch: A,
    root: PhysAddr,
    half: Half,
}

impl<A: Arch> PageTable<A> {
    /// An empty tree, whose root takes the first frame of `source`.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn new(arch: A, half: Half, source: &mut impl TableSource) -> Result<Self, MapError> {
        let root = new_table(&arch, source)?;
        Ok(Self { arch, root, half })
    }

    /// A tree that exists already.
    ///
    /// # Safety
    ///
    /// 1. `root` is the root of a whole tree for `half`, and `arch` can reach each of its tables.
    /// 2. Nobody else writes it while this value lives.
    pub const unsafe fn from_root(arch: A, root: PhysAddr, half: Half) -> Self {
        Self { arch, root, half }
    }

    /// What TTBR holds.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Maps `size` bytes at `virt` to `phys`. Complexity: one step per descriptor written.
    ///
    /// # Errors
    ///
    /// See [`MapError`]. What was mapped before the error stays mapped: use
    /// [`max_tables`] beforehand so that tables cannot run out in the middle.
    pub fn map(
        &mut self,
        virt: VirtAddr,
        phys: PhysAddr,
        size: u64,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        if !(virt.as_raw() | phys.as_raw() | size).is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Misaligned(virt));
        }
        if size == 0 {
            return Ok(());
        }
        let last = virt.checked_add(size - 1).ok_or(MapError::OutOfRange(virt))?;
        if !self.half.contains(virt) || !self.half.contains(last) || phys.as_raw().saturating_add(size) > 1 << 48 {
            return Err(MapError::OutOfRange(virt));
        }
        let mut done = 0;
        while done < size {
            // Neither sum can overflow: both ends were checked.
            let virt = VirtAddr::new(virt.as_raw() + done);
            let phys = PhysAddr::new_saturating(phys.as_raw() + done);
            let level = best_level(virt, phys, size - done);
            let table = self.descend(virt, level, source)?;
            done += self.fill(table, level, virt, phys, size - done, attributes)?;
        }
        self.arch.publish_tables();
        Ok(())
    }

    /// The leaf that translates `virt`, if any. Complexity: at most four loads.
    #[must_use]
    pub fn lookup(&self, virt: VirtAddr) -> Option<Leaf> {
        if !self.half.contains(virt) {
            return None;
        }
        let mut table = self.root;
        for level in 0..=PAGE_LEVEL {
            let descriptor = self.load(table, index(virt, level));
            if !descriptor.is_valid() {
                return None;
            }
            if !descriptor.is_table(level) {
                let virt = VirtAddr::new(virt.as_raw() & !(level_size(level) - 1));
                return Some(Leaf { virt, level, descriptor });
            }
            table = descriptor.address();
        }
        None
    }

    /// Where `virt` leads, if it is mapped.
    #[must_use]
    pub fn translate(&self, virt: VirtAddr) -> Option<PhysAddr> {
        let leaf = self.lookup(virt)?;
        leaf.descriptor.address().checked_add(virt.as_raw() - leaf.virt.as_raw())
    }

    /// Every leaf in ascending order of address. Complexity: one load per entry of every table.
    pub fn leaves(&self) -> Leaves<'_, A> {
        Leaves::new(self)
    }

    fn load(&self, table: PhysAddr, index: usize) -> Descriptor {
        // SAFETY: the tree's tables are reachable: those we made by the source's contract, the others by
        // that of `from_root`.
        Descriptor::from_raw(unsafe { self.arch.load_descriptor(table, index) })
    }

    /// The table of `level` that translates `virt`; missing ones are made.
    fn descend(&mut self, virt: VirtAddr, level: usize, source: &mut impl TableSource) -> Result<PhysAddr, MapError> {
        let mut table = self.root;
        for above in 0..level {
            let slot = index(virt, above);
            let descriptor = self.load(table, slot);
            table = if descriptor.is_table(above) {
                descriptor.address()
            } else if descriptor.is_valid() {
                return Err(MapError::AlreadyMapped(virt));
            } else {
                let next = new_table(&self.arch, source)?;
                // SAFETY: the entry was invalid, so there is nothing to break; `next` is clear and published.
                unsafe { self.arch.store_descriptor(table, slot, Descriptor::table(next).as_raw()) };
                next
            };
        }
        Ok(table)
    }

    /// Writes leaves of one level into one table, up to its end or the range's; tells how many bytes they map.
    fn fill(
        &mut self,
        table: PhysAddr,
        level: usize,
        virt: VirtAddr,
        phys: PhysAddr,
        left: u64,
        attributes: Attributes,
    ) -> Result<u64, MapError> {
        let step = level_size(level);
        let first = index(virt, level);
        let count = ((left / step) as usize).min(ENTRIES - first);
        // Virtual and physical groups must both be aligned; then they stay in step through the table.
        let groups = level > 1 && (phys.as_raw() / step) as usize % CONTIGUOUS_GROUP == first % CONTIGUOUS_GROUP;
        for slot in first..first + count {
            let group = slot - slot % CONTIGUOUS_GROUP;
            let contiguous = groups && group >= first && group + CONTIGUOUS_GROUP <= first + count;
            let offset = (slot - first) as u64 * step;
            if self.load(table, slot).is_valid() {
                return Err(MapError::AlreadyMapped(VirtAddr::new(virt.as_raw() + offset)));
            }
            let phys = PhysAddr::new_saturating(phys.as_raw() + offset);
            let leaf = Descriptor::leaf(level, phys, attributes, contiguous);
            // SAFETY: the entry was invalid, so there is nothing to break.
            unsafe { self.arch.store_descriptor(table, slot, leaf.as_raw()) };
        }
        Ok(count as u64 * step)
    }
}

/// The most tables that mapping `size` bytes at `virt` to `phys` can need, the root not counted.
#[must_use]
pub fn max_tables(virt: VirtAddr, phys: PhysAddr, size: u64) -> u64 {
    if size == 0 {
        return 0;
    }
    let first = virt.as_raw();
    let last = first.saturating_add(size - 1);
    let touched = |level: usize| last / level_size(level) - first / level_size(level) + 1;
    // Where both sides are congruent, only the slots at the two ends cannot be blocks.
    let congruent = |level: usize| (first ^ phys.as_raw()).is_multiple_of(level_size(level));
    let level2 = if congruent(1) { touched(1).min(2) } else { touched(1) };
    let level3 = if congruent(2) { touched(2).min(2) } else { touched(2) };
    touched(0) + level2 + level3
}

/// The level whose entries are the largest that fit here.
fn best_level(virt: VirtAddr, phys: PhysAddr, left: u64) -> usize {
    let fits = |level: &usize| {
        let size = level_size(*level);
        virt.is_aligned(size) && phys.is_aligned(size) && left >= size
    };
    (1..PAGE_LEVEL).find(fits).unwrap_or(PAGE_LEVEL)
}

/// A clear table that every walker sees as clear before it can be linked.
fn new_table<A: Arch>(arch: &A, source: &mut impl TableSource) -> Result<PhysAddr, MapError> {
    let table = source.table().ok_or(MapError::NoTable)?;
    // SAFETY: the source gives frames that are ours alone and reachable.
    unsafe { arch.zero_table(table) };
    arch.publish_tables();
    Ok(table)
}

#[cfg(test)]
mod tests;
