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
//! contiguous hint wherever a whole aligned group of 16 is there, so that a TLB entry reaches far. A table
//! descriptor counts the entries of its table that are in use, in bits that the hardware ignores: whether a
//! table is empty, or full, takes one load.
//!
//! | file | does |
//! | --- | --- |
//! | [`map`] | acquires all tables, publishes them, then links and fills: nothing can fail halfway |
//! | `batch` | the same for many pieces: tables that are there are written one behind the other |
//! | `unmap` | clears entries; what TLBs may hold becomes an [`Unmapped`](crate::tlb::Unmapped) |
//! | `split` | makes a boundary inside a block or a contiguous group |
//! | `change` | permissions and memory types: `protect`, `set_memory_ro` and its family |
//! | [`walk`](Leaves), [`dump`] | what is there, in order; in the format of Linux's ptdump |
//!
//! *Lock:* whoever owns the [`PageTable`] is its only writer (`&mut self`); put it behind a lock of
//! [`Rank::PAGE_TABLE`](crate::sync::Rank::PAGE_TABLE) to share it. Readers without the lock: [`Walker`].
//! *Rules met:* a table is cleared and published before it is linked, so that no walker can read garbage
//! (Arm ARM D8.2.6); what a valid entry may become is decided in one place, [`Transition`] (D8.16.1); one pair of
//! barriers closes a batch. *Invariant:* the counts are right, and a contiguous group is uniform or empty.
//! Nothing recurses.

mod batch;
mod chain;
mod change;
pub mod descriptor;
pub mod dump;
mod error;
pub mod map;
mod split;
mod unmap;
mod walk;

pub use change::Change;
pub use descriptor::{Access, Asid, Attributes, Descriptor, MAIR, MemoryType, Regime, Transition};
pub use error::MapError;
pub use map::{Piece, max_tables};
pub use walk::{Leaf, Leaves, Walker};

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::Arch;

/// Entries of a table.
pub const ENTRIES: usize = 512;
/// Entries of a contiguous group.
pub const CONTIGUOUS_GROUP: usize = 16;
/// The last level: pages.
pub(crate) const PAGE_LEVEL: usize = 3;

/// Bytes that one entry of `level` maps.
#[must_use]
pub const fn level_size(level: usize) -> u64 {
    PAGE_SIZE << (9 * (PAGE_LEVEL - level))
}

/// Which entry of a `level` table translates `virt`.
#[inline(always)]
const fn index(virt: VirtAddr, level: usize) -> usize {
    (virt.as_raw() >> (PAGE_SHIFT as usize + 9 * (PAGE_LEVEL - level))) as usize % ENTRIES
}

impl Regime {
    /// The first address.
    #[must_use]
    pub const fn base(self) -> VirtAddr {
        match self {
            Self::Upper => VirtAddr::new(0xffff << 48),
            Self::Lower | Self::User(_) | Self::El2 => VirtAddr::new(0),
        }
    }

    const fn contains(self, virt: VirtAddr) -> bool {
        virt.as_raw() >> 48 == self.base().as_raw() >> 48
    }
}

/// Where the frames of tables come from, and go back to.
pub trait TableSource {
    /// A frame that nobody else uses and that the tree's [`Arch`] can reach, or `None` if there is no more.
    fn table(&mut self) -> Option<PhysAddr>;

    /// Takes back a frame that came from [`table`](TableSource::table). No CPU can reach it by the tree any more.
    fn give_back(&mut self, table: PhysAddr);
}

/// No frames: for trees whose tables are all there.
#[derive(Clone, Copy, Debug)]
pub struct NoTables;

impl TableSource for NoTables {
    fn table(&mut self) -> Option<PhysAddr> {
        None
    }

    fn give_back(&mut self, _: PhysAddr) {}
}

/// One translation tree.
#[derive(Debug)]
pub struct PageTable<A> {
    arch: A,
    root: PhysAddr,
    regime: Regime,
    /// Bits 63:48 of the regime's addresses.
    top: u64,
    /// The GiB that was used last, its level 1 table and its level 2 table: most of the next are for the same.
    last: (u64, PhysAddr, PhysAddr),
}

/// The count of a table that somebody writes to directly.
const HELD: usize = 1023;

/// No GiB has this number.
const NO_GIB: u64 = u64::MAX;

/// Where a walk from the root ended.
#[derive(Clone, Copy, Debug)]
struct Spot {
    table: PhysAddr,
    level: usize,
    /// Where the entry that leads to `table` stands. Of the root: anywhere, and not to be used.
    parent: (PhysAddr, usize),
    /// That entry.
    link: Descriptor,
}

impl Spot {
    /// Entries in use of the table; of the root nobody counts them.
    #[inline(always)]
    const fn entries(&self) -> usize {
        if self.level == 0 { 1 } else { self.link.entries() }
    }
}

impl<A: Arch> PageTable<A> {
    /// An empty tree, whose root takes the first frame of `source`.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn new(arch: A, regime: Regime, source: &mut impl TableSource) -> Result<Self, MapError> {
        let root = source.table().ok_or(MapError::NoTable)?;
        // SAFETY: the source gives frames that are ours alone and reachable.
        unsafe { arch.zero_table(root) };
        arch.publish_tables();
        Ok(Self { arch, root, regime, top: regime.base().as_raw() >> 48, last: (NO_GIB, root, root) })
    }

    /// A tree that exists already.
    ///
    /// # Safety
    ///
    /// 1. `root` is the root of a whole tree for `regime`, and `arch` can reach each of its tables.
    /// 2. Nobody else writes it while this value lives.
    /// 3. Table descriptors count the entries in use as those made here do ([`Descriptor::entries`]), wherever
    ///    this value will write.
    pub const unsafe fn from_root(arch: A, root: PhysAddr, regime: Regime) -> Self {
        Self { arch, root, regime, top: regime.base().as_raw() >> 48, last: (NO_GIB, root, root) }
    }

    /// What TTBR holds.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// What it is for.
    #[must_use]
    pub const fn regime(&self) -> Regime {
        self.regime
    }

    /// The leaf that translates `virt`, if any. Complexity: at most four loads.
    #[must_use]
    pub fn lookup(&self, virt: VirtAddr) -> Option<Leaf> {
        // SAFETY: `self` is borrowed, so no table is given back meanwhile.
        unsafe { self.walker().lookup(virt) }
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

    /// The leaves from the one that maps `virt`, or else the next one, on.
    pub fn leaves_from(&self, virt: VirtAddr) -> Leaves<'_, A> {
        Leaves::starting_at(self, virt)
    }

    /// Tables of the tree, the root too. Complexity: one load per entry of every table above level 3.
    #[must_use]
    pub fn tables(&self) -> u64 {
        let mut leaves = Leaves::new(self);
        leaves.by_ref().for_each(drop);
        leaves.tables()
    }

    /// For reading without the lock that guards this tree.
    #[must_use]
    pub const fn walker(&self) -> Walker<'_, A> {
        Walker::new(&self.arch, self.root, self.regime)
    }

    /// Checks the counts and the contiguous groups of all tables. Complexity: one load per entry of every table.
    ///
    /// # Errors
    ///
    /// The first address for which something is wrong.
    pub fn validate(&self) -> Result<(), VirtAddr> {
        Leaves::new(self).validate()
    }

    #[inline(always)]
    fn load(&self, table: PhysAddr, index: usize) -> Descriptor {
        // SAFETY: the tree's tables are reachable: those we made by the source's contract, the others by
        // that of `from_root`.
        Descriptor::from_raw(unsafe { self.arch.load_descriptor(table, index) })
    }

    /// Writes an entry that [`Transition`] allows to be written as it is.
    #[inline(always)]
    fn store(&mut self, table: PhysAddr, index: usize, descriptor: Descriptor) {
        // SAFETY: a table of the tree, reachable as above. Callers have asked `Transition`, or know that the entry
        // was not valid.
        unsafe { self.arch.store_descriptor(table, index, descriptor.as_raw()) };
    }

    /// Writes entries that [`Transition`] allows to be written as they are.
    #[inline(always)]
    fn fill(&mut self, table: PhysAddr, index: usize, count: usize, first: Descriptor, step: u64) {
        if count == 1 {
            return self.store(table, index, first);
        }
        // SAFETY: as in `store`; callers stay inside the table.
        unsafe { self.arch.fill_descriptors(table, index, count, first.as_raw(), step) };
    }

    /// Walks down to `level`, or as far as there are tables. Tells where, and the entry for `virt` there.
    #[inline(always)]
    fn locate(&self, virt: VirtAddr, level: usize) -> (Spot, Descriptor) {
        let root = Spot { table: self.root, level: 0, parent: (self.root, 0), link: Descriptor::NONE };
        // Written out, so that all shifts are constants.
        let (zero, entry) = (root, self.load(root.table, index(virt, 0)));
        if level == 0 || !entry.is_table(0) {
            return (zero, entry);
        }
        let (one, entry) = self.below(&zero, entry, virt, 1);
        if level == 1 || !entry.is_table(1) {
            return (one, entry);
        }
        let (two, entry) = self.below(&one, entry, virt, 2);
        if level == 2 || !entry.is_table(2) {
            return (two, entry);
        }
        self.below(&two, entry, virt, PAGE_LEVEL)
    }

    /// The table of level 2 or 3 for `virt`, if there is one: the short way.
    #[inline(always)]
    fn table_at<const LEVEL: usize>(&mut self, virt: VirtAddr) -> Option<Spot> {
        let gib = virt.as_raw() / level_size(1);
        // The last one was of this regime.
        if self.last.0 != gib {
            if !self.contains(virt) {
                return None;
            }
            let (spot, _) = self.locate(virt, 2);
            if spot.level != 2 {
                return None;
            }
            self.last = (gib, spot.parent.0, spot.table);
        }
        let above = if LEVEL == 2 { self.last.1 } else { self.last.2 };
        let parent = (above, index(virt, LEVEL - 1));
        let link = self.load(parent.0, parent.1);
        link.is_table(LEVEL - 1).then_some(Spot { table: link.address(), level: LEVEL, parent, link })
    }

    /// The table that `link` leads to from `above`, and its entry for `virt`.
    #[inline(always)]
    fn below(&self, above: &Spot, link: Descriptor, virt: VirtAddr, level: usize) -> (Spot, Descriptor) {
        let parent = (above.table, index(virt, level - 1));
        let spot = Spot { table: link.address(), level, parent, link };
        (spot, self.load(spot.table, index(virt, level)))
    }

    /// `change` more entries of the table at `spot` are in use (or fewer). No walker sees a difference.
    #[inline(always)]
    fn count(&mut self, spot: &mut Spot, change: isize) {
        if spot.level != 0 {
            spot.link = spot.link.with_more_entries(change);
            self.store(spot.parent.0, spot.parent.1, spot.link);
        }
    }

    #[inline(always)]
    const fn contains(&self, virt: VirtAddr) -> bool {
        virt.as_raw() >> 48 == self.top
    }

    /// Checks that `size` bytes from `virt` are pages of this regime.
    #[inline(always)]
    fn check_range(&self, virt: VirtAddr, size: u64) -> Result<(), MapError> {
        if !(virt.as_raw() | size).is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Misaligned(virt));
        }
        // An empty range is as good as its first address.
        let last = virt.checked_add(size.saturating_sub(1)).ok_or(MapError::OutOfRange(virt))?;
        if self.contains(virt) && self.contains(last) { Ok(()) } else { Err(MapError::OutOfRange(virt)) }
    }
}

#[cfg(test)]
mod tests;
