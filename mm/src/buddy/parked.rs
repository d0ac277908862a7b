// SPDX-License-Identifier: MIT OR Apache-2.0
//! The large block that was freed last is put aside, *parked*, until something else is asked for.
//!
//! Who takes a large block, gives it back and takes the next one like it has it from here, and nothing is merged
//! and split again: per-CPU lists do the same for small blocks. Everybody else finds the memory as if it had
//! been merged at once, since whatever is not the same request *settles* first.
//!
//! A parked block counts as free. In its chunk it is still taken; the chunk does not look split, so that
//! nothing is done there without settling: freeing any part of the block again is noticed as ever.

use super::chunk::{CHUNK_WORDS, Chunk, Put, View};
use super::{Buddy, Class, Mobility, NOTHING, SHARED, TOP};

/// Blocks from this order on are parked. Per-CPU lists hold those below.
pub(super) const PARKS: u32 = 4;

/// A block that is put aside, or nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    /// Order and row of the block; or [`EMPTY`].
    kind: u32,
    chunk: usize,
    pfn: u64,
}

const EMPTY: u32 = u32::MAX;

#[inline(always)]
const fn kind(row: usize, order: u32) -> u32 {
    (row as u32) << 8 | order
}

impl Parked {
    pub(super) const NOTHING: Self = Self { kind: EMPTY, chunk: usize::MAX, pfn: NOTHING };

    #[inline(always)]
    pub(super) const fn is_something(self) -> bool {
        self.kind != EMPTY
    }

    /// Whether a block of this chunk is parked.
    #[inline(always)]
    pub(super) const fn is_in(self, chunk: usize) -> bool {
        self.chunk == chunk
    }

    const fn order(self) -> u32 {
        self.kind & 0xff
    }
}

impl Buddy<'_> {
    /// Parks a block that is not free, in a chunk of this row. Nothing is parked, and the chunk does not look
    /// split any more.
    #[inline(always)]
    pub(super) fn park(&mut self, row: usize, order: u32, pfn: u64, chunk: usize) -> u64 {
        self.parked = Parked { kind: kind(row, order), chunk, pfn };
        if let Some(pages) = self.free_pages.get_mut(row) {
            *pages += 1 << order;
        }
        pfn
    }

    /// Takes the parked block if it is what is asked for.
    #[inline(always)]
    pub(super) fn take_parked(&mut self, row: usize, order: u32) -> u64 {
        let Parked { kind: parked, chunk, pfn } = self.parked;
        if parked != kind(row, order) {
            return self.take_settled(row, order);
        }
        self.parked = Parked::NOTHING;
        if order < TOP
            && let Some(mut it) = self.chunks.get_mut(chunk).map(Chunk)
        {
            it.set_head(it.head().split(it.head().class()));
        }
        if let Some(pages) = self.free_pages.get_mut(row) {
            *pages -= 1 << order;
        }
        pfn
    }

    #[inline(never)]
    pub(super) fn take_settled(&mut self, row: usize, order: u32) -> u64 {
        self.settle();
        self.take_raw(row, order)
    }

    #[inline(never)]
    pub(super) fn put_settled(&mut self, pfn: u64, order: u32) -> u64 {
        self.settle();
        self.put_raw(pfn, order)
    }

    /// Merges the parked block with what is free around it, if there is one.
    pub(super) fn settle(&mut self) {
        let parked = core::mem::replace(&mut self.parked, Parked::NOTHING);
        let Some(mut it) = self.chunks.get_mut(parked.chunk).map(Chunk) else { return };
        let class = it.head().class();
        let merged = merge(&mut it, parked);
        if Class::of(merged) > class {
            self.raise(parked.chunk, merged);
        }
    }

    /// The class of the chunk with the parked block, were that merged; if there is one, for everybody.
    pub(super) fn parked_class(&self) -> Option<Class> {
        let head = self.parked.is_something().then(|| View(&self.settled(self.parked.chunk)).head())?;
        let is_ordinary = head.row() < Mobility::ORDINARY || head.row() == SHARED;
        is_ordinary.then(|| head.class())
    }

    /// A copy of a chunk as it is with its parked block merged, if it has one.
    pub(super) fn settled(&self, chunk: usize) -> [u64; CHUNK_WORDS] {
        let mut copy = self.chunks.get(chunk).copied().unwrap_or([0; CHUNK_WORDS]);
        if self.parked.is_in(chunk) {
            let mut it = Chunk(&mut copy);
            let class = it.head().class();
            let merged = merge(&mut it, self.parked);
            if merged == TOP {
                it.set_head(it.head().whole());
            } else if Class::of(merged) > class {
                it.set_head(it.head().split(Class::of(merged)));
            }
        }
        copy
    }
}

/// Frees the parked block in its chunk. Returns the order of what it is part of now.
fn merge(it: &mut Chunk<'_>, parked: Parked) -> u32 {
    if parked.order() >= TOP {
        return TOP;
    }
    it.set_head(it.head().split(it.head().class()));
    let offset = (parked.pfn - it.head().first_pfn()) as u32;
    let put = match parked.order() {
        4 => it.put::<4>(offset),
        5 => it.put::<5>(offset),
        6 => it.put::<6>(offset),
        7 => it.put::<7>(offset),
        8 => it.put::<8>(offset),
        _ => it.put::<9>(offset),
    };
    match put {
        Put::Merged(order) => order,
        Put::Fills => it.fill(offset),
        Put::Occupied => 0,
    }
}
