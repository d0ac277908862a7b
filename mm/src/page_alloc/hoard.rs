// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each CPU hoards: for every kind of request the word that it takes from.
//!
//! These are only *hints* where blocks are. A word may be in no hoard (all its blocks are out, or it waits), in one, or,
//! as a leftover, in several; whether a block is there is decided in the word itself, and whether the word is meant for
//! this list by its tag. So a CPU that looks at a stale hint loses a few instructions and nothing else.
//!
//! Whoever takes a hint out of a hoard sees to the word that it named: so no word with a block is forgotten.

use core::sync::atomic::AtomicU64;

use crate::addr::{NR_ORDERS, Order};
use crate::buddy::{Lane, Mobility};
use crate::gfp::Gfp;
use crate::page_alloc::map::{AtomicPlace, Place};

/// Blocks of up to this order are hoarded.
pub(super) const MAX_HOARD_ORDER: usize = 5;
/// Flags that make a kind: DMA, MOVABLE, RECLAIMABLE.
const CLASSES: usize = 8;
/// Lists of a CPU. Those of large orders stay empty, which saves a comparison.
const LISTS: usize = NR_ORDERS * CLASSES;
/// Lists of small blocks.
const SMALL_LISTS: usize = (MAX_HOARD_ORDER + 1) * CLASSES;
/// Most large blocks that are kept for a list.
const MOST_KEPT: usize = 4;

/// A kind of request: order, zone and mobility.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct List(u32);

impl List {
    /// Lists of one order.
    pub(super) const PER_ORDER: usize = CLASSES;

    #[inline(always)]
    pub(super) const fn of(gfp: Gfp, order: Order) -> Self {
        Self((order.as_usize() * CLASSES) as u32 + gfp.bits() % CLASSES as u32)
    }

    /// A list by its number. Of words that were never hoarded it is an impossible one, which has no blocks.
    pub(super) const fn from_raw(raw: u8) -> Self {
        Self(raw as u32)
    }

    #[inline(always)]
    pub(super) const fn as_raw(self) -> u8 {
        self.0 as u8
    }

    /// The order of its blocks.
    #[inline(always)]
    pub(super) const fn order(self) -> usize {
        self.0 as usize / CLASSES
    }

    /// The first block of each kind in a word: a bit for each block of its order.
    #[inline(always)]
    pub(super) const fn blocks(self) -> u64 {
        /// For every order that is hoarded, and some more, which saves a comparison.
        const BLOCKS: [u64; 8] = [
            !0,
            0x5555_5555_5555_5555,
            0x1111_1111_1111_1111,
            0x0101_0101_0101_0101,
            0x0001_0001_0001_0001,
            0x0000_0001_0000_0001,
            1,
            1,
        ];
        #[expect(clippy::indexing_slicing, reason = "reduced to what there is")]
        BLOCKS[self.order() % BLOCKS.len()]
    }

    /// Every list of large blocks.
    pub(super) fn all_large() -> impl Iterator<Item = Self> {
        (SMALL_LISTS as u32..LISTS as u32).map(Self)
    }

    /// Every list that may have words.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..SMALL_LISTS as u32).map(Self)
    }
}

const _: () = assert!(Gfp::DMA.bits() | Gfp::MOVABLE.bits() | Gfp::RECLAIMABLE.bits() == CLASSES as u32 - 1);

/// The type that the buddy allocator groups a request by.
pub(super) const fn mobility(gfp: Gfp) -> Mobility {
    if gfp.contains(Gfp::MOVABLE) {
        Mobility::Movable
    } else if gfp.contains(Gfp::RECLAIMABLE) {
        Mobility::Reclaimable
    } else {
        Mobility::Unmovable
    }
}

/// The hoard of one CPU.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Hoard {
    current: [AtomicPlace; LISTS],
    /// For each list of large blocks, the bits of those that are kept; their order makes them more than 0.
    kept: [[AtomicU64; MOST_KEPT]; LISTS - SMALL_LISTS],
    /// Frames that a CPU may keep in the blocks of one list.
    keeps: u64,
    /// The part of RAM that the CPU takes words from first.
    lane: Lane,
    /// Words that it is worth: on small machines too few for large blocks.
    limit: u32,
    /// The first list that words are not hoarded for: each needs one in hand.
    lists: u32,
    /// For each list of small blocks, where to go on to look for a word that waits.
    cursors: [AtomicPlace; SMALL_LISTS],
}

impl Hoard {
    pub(super) const fn new(limit: usize, keeps: u64, lane: Lane) -> Self {
        let kept = [const { [const { AtomicU64::new(0) }; MOST_KEPT] }; LISTS - SMALL_LISTS];
        let cursors = [const { AtomicPlace::new(Place::FIRST) }; SMALL_LISTS];
        let orders = if limit / 4 <= MAX_HOARD_ORDER { limit / 4 } else { MAX_HOARD_ORDER + 1 };
        let lists = (orders * CLASSES) as u32;
        Self {
            current: [const { AtomicPlace::new(Place::NOWHERE) }; LISTS],
            kept,
            keeps,
            lane,
            limit: limit as u32,
            lists,
            cursors,
        }
    }

    /// The part of RAM that the CPU takes words from first.
    #[inline(always)]
    pub(super) const fn lane(&self) -> Lane {
        self.lane
    }

    /// Words that it is worth.
    pub(super) const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Whether words are hoarded for a list.
    #[inline(always)]
    pub(super) const fn hoards(&self, list: List) -> bool {
        list.0 < self.lists
    }

    /// The blocks that are kept for a list, if it is one of large ones.
    #[inline(always)]
    pub(super) fn kept(&self, list: List) -> Option<&[AtomicU64; MOST_KEPT]> {
        self.kept.get((list.0 as usize).wrapping_sub(SMALL_LISTS))
    }

    /// Where a list goes on to look for words that wait.
    #[inline(always)]
    pub(super) fn cursor(&self, list: List) -> &AtomicPlace {
        #[expect(clippy::indexing_slicing, reason = "reduced to what there is")]
        &self.cursors[list.0 as usize % SMALL_LISTS]
    }

    /// How many blocks of a list may be kept.
    #[inline(always)]
    pub(super) const fn may_keep(&self, list: List) -> usize {
        (self.keeps >> list.order()) as usize
    }

    /// The word that a list takes from.
    #[inline(always)]
    pub(super) fn current(&self, list: List) -> &AtomicPlace {
        #[expect(clippy::indexing_slicing, reason = "made from an order and a class, a list is always inside")]
        &self.current[list.0 as usize]
    }
}
