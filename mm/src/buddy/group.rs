// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chunks change their type: when they are taken as a whole, when one type runs out of its own, and on request.
//!
//! When a type has nothing left and no chunk is free as a whole, its allocation *falls back* to the chunk with the
//! largest free block of another type. That chunk changes hands altogether if at least half of it is free, and
//! always if pages that stay are about to go into it: one such page spoils the chunk for large blocks, and
//! the next ones had better join it there. Movable pages spoil nothing; a few of them move in as guests where
//! they fit best.

use super::{Buddy, CHUNK_PAGES, Class, Head, Mobility, NOTHING, SHARED, View};
use crate::addr::Pfn;

/// The type of a chunk in reports. Linux starts with movable blocks; so do we with what is free as a whole.
pub(super) fn reported_as(head: Head) -> Mobility {
    Mobility::ALL.get(head.row()).copied().unwrap_or(Mobility::Movable)
}

impl Buddy<'_> {
    /// The row that a request takes from.
    #[inline(always)]
    pub(super) const fn row_of(&self, mobility: Mobility) -> usize {
        mobility as usize & self.grouping
    }

    /// Takes a block from a chunk of another type, which may be one of this type from now on.
    #[cold]
    #[inline(never)]
    pub(super) fn fall_back(&mut self, row: usize, order: u32) -> u64 {
        if row == Mobility::Movable as usize {
            // Borrowed, and no chunk changes its type.
            let borrowed = self.take_raw(Mobility::Cma as usize, order);
            if borrowed != NOTHING {
                return borrowed;
            }
        }
        let fallbacks = Mobility::ALL.get(row).map_or(&[][..], |mobility| mobility.fallbacks());
        let largest = |other: &Mobility| self.sets.largest(*other as usize);
        let fitting = fallbacks.iter().copied().filter(|other| largest(other) >= Class::of(order));
        // The first of the largest.
        let Some(other) = fitting.rev().max_by_key(largest) else { return NOTHING };
        let Some(chunk) = self.sets.first(other as usize, largest(&other)) else { return NOTHING };
        let free_pages = self.chunk(chunk).map_or(0, View::free_pages);
        let spoils = row != Mobility::Movable as usize;
        let row = if spoils || free_pages >= CHUNK_PAGES / 2 {
            self.move_to_row(chunk, row);
            row
        } else {
            other as usize
        };
        self.take_raw(row, order)
    }

    /// Changes the type of a chunk, with all that is free in it.
    pub(super) fn move_to_row(&mut self, chunk: usize, row: usize) {
        let Some(mut it) = self.chunks.get_mut(chunk) else { return };
        let (before, free_pages) = (it.head(), it.view().free_pages());
        if row == Mobility::Isolate as usize && before.row() != row {
            it.set_aside();
        }
        let after = if before.class() == Class::WHOLE { before.with_row(row).whole() } else { before.with_row(row) };
        it.set_head(after);
        if before.class() != Class::NONE && before != after {
            self.move_pages(before.row(), after.row(), free_pages);
            self.sets.refile(chunk, before, after, 0);
        }
    }

    /// Chunks of this type, as `pagetypeinfo` counts page blocks. O(chunks).
    #[must_use]
    pub fn nr_chunks_of(&self, mobility: Mobility) -> u64 {
        self.chunks.heads(0..self.chunks.len()).filter(|head| reported_as(*head) == mobility).count() as u64
    }

    /// The type of the chunk around a frame; `None` if the frame is no RAM of this allocator.
    #[must_use]
    pub fn mobility_of(&self, pfn: Pfn) -> Option<Mobility> {
        let (chunk, _) = self.spans.locate(pfn.as_raw(), 1)?;
        Some(self.reported_type(chunk))
    }

    fn reported_type(&self, chunk: usize) -> Mobility {
        self.chunk(chunk).map_or(Mobility::Movable, |chunk| reported_as(chunk.head()))
    }

    /// Changes the type of the chunk around a frame, to reserve it for [`Mobility::HighAtomic`] or to end that.
    /// Returns the type that it had; `None` if the frame is no RAM of this allocator.
    pub fn set_mobility(&mut self, pfn: Pfn, mobility: Mobility) -> Option<Mobility> {
        let (chunk, _) = self.spans.locate(pfn.as_raw(), 1)?;
        let before = self.reported_type(chunk);
        self.move_to_row(chunk, mobility as usize);
        Some(before)
    }

    /// The first frame of the chunk of this type with the largest free block, if any of this type has something
    /// free: a reserve to be opened.
    #[must_use]
    pub fn largest_chunk_of(&self, mobility: Mobility) -> Option<Pfn> {
        let row = mobility as usize;
        let shared = self.sets.whole(SHARED).filter(|_| mobility == Mobility::Movable);
        let chunk = shared.or_else(|| self.sets.first(row, self.sets.largest(row)))?;
        Pfn::new(self.chunk(chunk)?.head().first_pfn())
    }

    /// Whether chunks are grouped by mobility. A zone of fewer chunks than there are types does not: there all
    /// requests count as [`Mobility::Unmovable`].
    #[must_use]
    pub const fn is_grouping(&self) -> bool {
        self.grouping != 0
    }

    /// Groups chunks by mobility, or stops it.
    pub const fn set_grouping(&mut self, grouping: bool) {
        self.grouping = if grouping { !0 } else { 0 };
    }
}
