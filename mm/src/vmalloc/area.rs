// SPDX-License-Identifier: MIT OR Apache-2.0
//! An area as its tags describe it.
//!
//! ```text
//!   page 0       state, length of the block (`space.rs`); kind
//!   page 1       caller; of a lazy area, the moment of its unmapping
//!   page 2       bytes asked for, pages mapped; of a lazy area, runs given back, pages left
//!   page 3 ..    the runs of frames behind it; of device registers, their address
//! ```
//!
//! An area of n pages takes n + 3 pages of address space, so that there is a tag for each run even if every run is a
//! single frame. The last three are never mapped: they are its guard.
#![forbid(unsafe_code)]

use super::block::{NoTags, Page, TagStore};
use super::space::Space;
use crate::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::buddy::PageBlock;
use crate::pgtable::Piece;

/// Pages of a block that are not mapped.
pub(super) const EXTRA: Page = 3;
/// Pages that are never mapped behind each area, and so in front of the next.
pub const GUARD_PAGES: u64 = EXTRA as u64;
/// Where the runs begin.
const RUNS: Page = 3;

/// Beside the kind: pages of it are or were mapped in another way than [`Attributes::DATA`](crate::pgtable::Attributes), or
/// its frames elsewhere too. Until a flush, TLBs may know more of it than its tables say.
pub(super) const UNLIKE: u32 = 8;

/// What an area is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Its frames are its own.
    Alloc = 0,
    /// The same, to be mapped into user space too: it never shrinks.
    User = 1,
    /// Frames of somebody else.
    Map = 2,
    /// Device registers.
    Io = 3,
    /// Addresses alone.
    Reserved = 4,
    /// Being made or moved: nobody's yet.
    Pending = 5,
    /// Mappings of a moment.
    Ram = 6,
}

impl Kind {
    #[inline(always)]
    pub(super) const fn of(short: u32) -> Self {
        match short & 7 {
            0 => Self::Alloc,
            1 => Self::User,
            2 => Self::Map,
            3 => Self::Io,
            4 => Self::Reserved,
            6 => Self::Ram,
            _ => Self::Pending,
        }
    }

    /// Whether it may be unmapped by whoever made it.
    pub(super) const fn is_mapping(self) -> bool {
        matches!(self, Self::Map | Self::Io | Self::Reserved)
    }

    /// Whether the frames behind it belong to it.
    pub(super) const fn owns_frames(self) -> bool {
        matches!(self, Self::Alloc | Self::User)
    }
}

/// An area, as it was a moment ago.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// The first address.
    pub start: VirtAddr,
    /// Pages mapped from there on.
    pub pages: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// What it is for.
    pub kind: Kind,
    /// Who asked for it: an address in code, or 0.
    pub caller: u64,
    /// Of device registers: where they are.
    pub phys: Option<PhysAddr>,
}

impl Area {
    /// Bytes mapped.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.pages * PAGE_SIZE
    }
}

/// Frames in a row: one block of the page allocator, or the rest of one that was taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) first: Pfn,
    pub(super) pages: u32,
    /// Of a block that was taken apart: its frames go back in parts.
    pub(super) is_apart: bool,
}

const PFN_BITS: u32 = 36;
const PAGES_BITS: u32 = 20;

impl Run {
    /// A whole block.
    pub(super) const fn of(block: &PageBlock) -> Self {
        Self { first: block.pfn(), pages: block.order().pages() as u32, is_apart: false }
    }

    /// As what is to be mapped.
    #[inline(always)]
    pub(super) const fn piece(self) -> Piece {
        Piece { phys: self.first.addr(), size: self.pages as u64 * PAGE_SIZE }
    }

    #[inline(always)]
    pub(super) const fn into_word(self) -> u64 {
        self.first.as_raw() | (self.pages as u64) << PFN_BITS | (self.is_apart as u64) << (PFN_BITS + PAGES_BITS)
    }

    #[inline(always)]
    pub(super) fn from_word(word: u64) -> Self {
        Self {
            first: Pfn::known(word & ((1 << PFN_BITS) - 1)),
            pages: (word >> PFN_BITS & ((1 << PAGES_BITS) - 1)) as u32,
            is_apart: word >> (PFN_BITS + PAGES_BITS) & 1 != 0,
        }
    }

    /// The blocks in which it goes back: one, or if it was taken apart aligned ones up to order 5.
    pub(super) fn blocks(self) -> impl Iterator<Item = PageBlock> {
        const MOST: u32 = 5;
        let (mut next, mut left) = (self.first.as_raw(), self.pages);
        core::iter::from_fn(move || {
            let most = if self.is_apart { next.trailing_zeros().min(MOST) } else { u32::MAX };
            let order = Order::new(left.checked_ilog2()?.min(most) as usize)?;
            let block = PageBlock::from_raw(Pfn::new(next)?, order);
            next += order.pages();
            left -= order.pages() as u32;
            Some(block)
        })
    }
}

const BYTES_BITS: u32 = 38;

/// The third tag of an area: bytes asked for and pages mapped; of a lazy area, runs given back and pages left.
#[inline(always)]
pub(super) const fn extent(bytes: u64, pages: u64) -> u64 {
    bytes | pages << BYTES_BITS
}

/// What [`extent`] was made of.
#[inline(always)]
pub(super) const fn extent_of(word: u64) -> (u64, u64) {
    (word & ((1 << BYTES_BITS) - 1), word >> BYTES_BITS)
}

impl<T: TagStore> Space<T> {
    /// Writes what is to be known of a new area; its runs come later.
    #[inline]
    pub(super) fn describe(
        &mut self,
        first: Page,
        kind: Kind,
        caller: u64,
        bytes: u64,
        pages: u64,
    ) -> Result<(), NoTags> {
        self.tags_mut().provide(first + RUNS)?;
        self.tags_mut().provide(first + 2)?;
        self.set_info(first, kind as u32, caller);
        self.set_extent(first, bytes, pages);
        Ok(())
    }

    /// Bytes asked for and pages mapped; of a lazy area, what `set_extent` stored last.
    #[inline]
    pub(super) fn extent(&self, first: Page) -> (u64, u64) {
        extent_of(self.tags().get(first + 2))
    }

    #[inline]
    pub(super) fn set_extent(&mut self, first: Page, bytes: u64, pages: u64) {
        self.tags_mut().set(first + 2, extent(bytes, pages));
    }

    /// Run `index` of an area that has as many.
    #[inline]
    pub(super) fn run(&self, first: Page, index: u32) -> Run {
        Run::from_word(self.tags().get(first + RUNS + index))
    }

    /// Provides for runs up to and without `end`.
    pub(super) fn provide_runs(&mut self, first: Page, start: u32, end: u32) -> Result<(), NoTags> {
        self.tags_mut().provide_all(first + RUNS + start..first + RUNS + end)
    }

    /// Some of the runs of an area from `index` on, as words, at least one of the `count` that it has.
    #[inline]
    pub(super) fn run_words(&self, first: Page, index: u32, count: u32) -> &[u64] {
        self.tags().words(first + RUNS + index, count)
    }

    #[inline]
    pub(super) fn set_run(&mut self, first: Page, index: u32, word: u64) {
        self.tags_mut().set(first + RUNS + index, word);
    }

    /// The runs of an area, from its first page on, until all its mapped pages are told.
    pub(super) fn runs(&self, first: Page) -> impl Iterator<Item = Run> + Clone + '_ {
        let (_, pages) = self.extent(first);
        let mut left = pages;
        (0..).map_while(move |index| {
            (left > 0).then(|| {
                let run = self.run(first, index);
                left = left.saturating_sub(u64::from(run.pages.max(1)));
                run
            })
        })
    }

    #[inline]
    pub(super) fn kind(&self, first: Page) -> Kind {
        Kind::of(self.info(first).0)
    }

    /// The busy area that begins at `first`.
    pub(super) fn area(&self, first: Page, start: VirtAddr) -> Area {
        let (bytes, pages) = self.extent(first);
        let (short, caller) = self.info(first);
        let kind = Kind::of(short);
        let phys = (kind == Kind::Io).then(|| PhysAddr::new_saturating(self.tags().get(first + RUNS)));
        Area { start, pages, bytes, kind, caller, phys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_as_it_was_written() {
        for run in [
            Run { first: Pfn::new(0).unwrap(), pages: 1, is_apart: false },
            Run { first: Pfn::new((1 << 36) - 1).unwrap(), pages: 1024, is_apart: true },
        ] {
            assert_eq!(Run::from_word(run.into_word()), run);
        }
    }

    #[test]
    fn a_run_goes_back_as_it_came_or_in_parts() {
        let run = |first, pages, is_apart| Run { first: Pfn::new(first).unwrap(), pages, is_apart };
        let orders =
            |run: Run| run.blocks().map(|block| (block.pfn().as_raw(), block.order().as_usize())).collect::<Vec<_>>();
        assert_eq!(orders(run(1024, 1024, false)), [(1024, 10)]);
        assert_eq!(orders(run(8, 1, false)), [(8, 0)]);
        assert_eq!(orders(run(64, 100, true)), [(64, 5), (96, 5), (128, 5), (160, 2)]);
        assert_eq!(orders(run(3, 6, true)), [(3, 0), (4, 2), (8, 0)]);
    }
}
