// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is, in figures.

use super::index::{Class, Head, SHARED};
use super::{Buddy, Mobility, group};
use crate::addr::{NR_ORDERS, Order, PAGE_SHIFT, Pfn, PhysAddr, PhysRange};

impl Buddy<'_> {
    /// Frames that are free, isolated ones included.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.free_pages.iter().sum()
    }

    /// Frames that are free for everybody, and those in reserve if asked for; not those that are isolated, nor those of a
    /// contiguous memory area.
    #[must_use]
    pub fn usable_pages(&self, with_reserve: bool) -> u64 {
        let [unmovable, movable, reclaimable, reserve, _, _, shared, ..] = self.free_pages;
        unmovable + movable + reclaimable + shared + if with_reserve { reserve } else { 0 }
    }

    /// Frames that are free in chunks of this type. Chunks that are free as a whole count as movable.
    #[must_use]
    pub fn free_pages_of(&self, mobility: Mobility) -> u64 {
        let pages = |row: usize| self.free_pages.get(row).copied().unwrap_or_default();
        let shared = if mobility == Mobility::Movable { pages(SHARED) } else { 0 };
        pages(mobility as usize) + shared
    }

    /// Frames that were ever added.
    #[must_use]
    pub const fn managed_pages(&self) -> u64 {
        self.managed_pages
    }

    /// Free blocks of each order. Counted, in O(chunks) and O(words) of those that are split: for reports.
    #[must_use]
    pub fn nr_free(&self) -> [u64; NR_ORDERS] {
        self.count_free(|_| true)
    }

    /// Free blocks of each order in chunks of this type, as `pagetypeinfo` shows them. Counted as by
    /// [`nr_free`](Buddy::nr_free).
    #[must_use]
    pub fn nr_free_of(&self, mobility: Mobility) -> [u64; NR_ORDERS] {
        self.count_free(|head| group::reported_as(head) == mobility)
    }

    fn count_free(&self, wanted: impl Fn(Head) -> bool) -> [u64; NR_ORDERS] {
        let mut nr_free = [0; NR_ORDERS];
        for it in self.chunks.iter() {
            if it.head().class() == Class::NONE || !wanted(it.head()) {
                continue;
            }
            if it.head().is_split() {
                it.count_blocks(&mut nr_free);
            } else {
                nr_free.iter_mut().rev().take(1).for_each(|count| *count += 1);
            }
        }
        nr_free
    }

    /// The order of the largest free block that is for everybody: not reserved, not isolated.
    #[must_use]
    pub fn largest_free_order(&self) -> Option<Order> {
        let rows = (0..Mobility::ORDINARY).chain([SHARED]);
        rows.map(|row| self.sets.largest(row)).max()?.largest_order()
    }

    /// Whether this frame is RAM of this allocator, free or not.
    #[must_use]
    pub fn owns(&self, pfn: Pfn) -> bool {
        self.spans.locate(pfn.as_raw(), 1).is_some()
    }

    /// The ranges of RAM, lowest first.
    pub fn ranges(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.spans.iter().filter_map(|span| {
            let address = |pfn: u64| PhysAddr::new(pfn << PAGE_SHIFT);
            PhysRange::new(address(span.start)?, address(span.end)?)
        })
    }
}
