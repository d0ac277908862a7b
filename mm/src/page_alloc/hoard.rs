// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each CPU hoards: for every kind of request the word that it takes from, and a pool of further ones.
//!
//! These are only *hints* where blocks are. A word may be in no hoard (all its blocks are out), in one, or, as a
//! leftover, in several; whether a block is there is decided in the word itself, and whether the word is meant for
//! this list by its list byte. So a CPU that looks at a stale hint loses a few instructions and nothing else.

use core::sync::atomic::AtomicU64;

use crate::addr::{NR_ORDERS, Order};
use crate::buddy::Mobility;
use crate::gfp::Gfp;
use crate::page_alloc::map::{AtomicPlace, Place};
use crate::sync::{IrqSpinLock, Rank};

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
/// Most words in a pool.
pub(super) const POOL_WORDS: usize = 128;
const END: u8 = u8::MAX;

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
    pub(super) const fn blocks(self) -> u64 {
        match self.order() {
            0 => !0,
            1 => 0x5555_5555_5555_5555,
            2 => 0x1111_1111_1111_1111,
            3 => 0x0101_0101_0101_0101,
            4 => 0x0001_0001_0001_0001,
            _ => 0x0000_0001_0000_0001,
        }
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
    /// For each list of large blocks, the bits of those that are kept, plus 1.
    kept: [[AtomicU64; MOST_KEPT]; LISTS - SMALL_LISTS],
    /// Frames that a CPU may keep in the blocks of one list.
    keeps: u64,
    pub(super) pool: IrqSpinLock<Pool>,
}

impl Hoard {
    pub(super) const fn new(limit: usize, keeps: u64) -> Self {
        let pool = IrqSpinLock::new(Rank::PER_CPU, Pool::new(limit));
        let kept = [const { [const { AtomicU64::new(0) }; MOST_KEPT] }; LISTS - SMALL_LISTS];
        Self { current: [const { AtomicPlace::new() }; LISTS], kept, keeps, pool }
    }

    /// The blocks that are kept for a list of large ones; none for others.
    #[inline(always)]
    pub(super) fn kept(&self, list: List) -> &[AtomicU64] {
        let slots = self.kept.get((list.0 as usize).wrapping_sub(SMALL_LISTS));
        slots.map_or(&[], |slots| slots.as_slice())
    }

    /// How many blocks of a list may be kept.
    #[inline(always)]
    pub(super) const fn may_keep(&self, list: List) -> usize {
        (self.keeps >> list.order()) as usize
    }

    /// The word that a list takes from. Stored with the pool locked.
    #[inline(always)]
    pub(super) fn current(&self, list: List) -> &AtomicPlace {
        #[expect(clippy::indexing_slicing, reason = "made from an order and a class, a list is always inside")]
        &self.current[list.0 as usize]
    }
}

/// Words that wait to become the current one of their list.
#[derive(Debug)]
pub(super) struct Pool {
    /// The first entry of each list, and of the unused ones.
    heads: [u8; LISTS],
    unused: u8,
    limit: u8,
    used: u8,
    entries: [(Place, u8); POOL_WORDS],
}

impl Pool {
    const fn new(limit: usize) -> Self {
        let mut entries = [(Place::NOWHERE, END); POOL_WORDS];
        let limit = if limit < POOL_WORDS { limit } else { POOL_WORDS };
        let mut index = 0;
        while index + 1 < limit {
            let (head, _) = entries.split_at_mut(index + 1);
            if let Some(entry) = head.last_mut() {
                entry.1 = index as u8 + 1;
            }
            index += 1;
        }
        let unused = if limit == 0 { END } else { 0 };
        Self { heads: [END; LISTS], unused, limit: limit as u8, used: 0, entries }
    }

    /// Most words that it holds.
    pub(super) const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Words that it holds.
    #[cfg(test)]
    const fn used(&self) -> usize {
        self.used as usize
    }

    /// The words of a list.
    pub(super) fn places(&self, list: List) -> impl Iterator<Item = Place> + '_ {
        let entry = |index: u8| self.entries.get(index as usize);
        let head = self.heads.get(list.0 as usize).and_then(|head| entry(*head));
        core::iter::successors(head, move |before| entry(before.1)).map(|entry| entry.0)
    }

    /// Keeps a word; `false` if the pool is full.
    pub(super) fn push(&mut self, list: List, place: Place) -> bool {
        let Some(head) = self.heads.get_mut(list.0 as usize) else { return false };
        if self.entries.get(*head as usize).is_some_and(|entry| entry.0 == place) {
            return true;
        }
        let index = self.unused;
        let Some(entry) = self.entries.get_mut(index as usize) else { return false };
        self.unused = entry.1;
        *entry = (place, *head);
        *head = index;
        self.used += 1;
        true
    }

    /// Takes the word that was kept last.
    pub(super) fn pop(&mut self, list: List) -> Option<Place> {
        let head = self.heads.get_mut(list.0 as usize)?;
        let index = *head;
        let entry = self.entries.get_mut(index as usize)?;
        let place = entry.0;
        *head = entry.1;
        *entry = (Place::NOWHERE, self.unused);
        self.unused = index;
        self.used -= 1;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
    use crate::page_alloc::map::WordMap;

    #[test]
    fn a_pool_keeps_what_fits_by_list() {
        let range = PhysRange::below(PhysAddr::new(1024 * PAGE_SIZE).unwrap());
        let (mut nowhere, mut metadata) = ([0; 2], vec![0; WordMap::metadata_words(range)]);
        let mut map = WordMap::new(&mut nowhere);
        assert!(map.add(range, 0, &mut metadata));
        let place = |word: u64| map.find_frame(crate::addr::Pfn::new(word * 64).unwrap()).unwrap();
        let (a, b) = (List::of(Gfp::KERNEL, Order::ZERO), List::of(Gfp::USER, Order::new(3).unwrap()));
        for limit in [0, 1, 3, POOL_WORDS] {
            let mut pool = Pool::new(limit);
            let kept = (0..16).take_while(|word| pool.push(if word % 2 == 0 { a } else { b }, place(*word))).count();
            assert_eq!(kept, limit.min(16));
            assert_eq!((pool.used(), pool.limit()), (kept, limit));
            let of = |pool: &mut Pool, list| core::iter::from_fn(|| pool.pop(list)).count();
            assert_eq!((of(&mut pool, a), of(&mut pool, b)), (kept.div_ceil(2), kept / 2));
            assert_eq!(pool.used(), 0);
        }
    }
}
