// SPDX-License-Identifier: MIT OR Apache-2.0
//! A walk over everything: for tests, and for a console that wants to be sure.

use core::fmt;

use super::{Buddy, CHUNK_PAGES, Class, Head, ROWS};
use crate::addr::{NR_ORDERS, Order, Pfn};

/// An invariant that does not hold, with the number of the chunk or the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The head or the labels do not say what the frames say.
    Chunk(usize),
    /// The chunk is in a set that it should not be in, or is not where it should be.
    Set(usize),
    /// A free block is, at least in part, no RAM.
    OutsideRam(usize),
    /// A summary differs from what it sums up.
    Summary,
    /// The number of free blocks of this order is wrong.
    Count(Order),
    /// The number of free frames is wrong.
    FreePages(u64),
    /// A word of the page allocator holds blocks that it should not, or that are free elsewhere too.
    Word(Pfn),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk(chunk) => write!(f, "chunk {chunk}: head, labels and frames differ"),
            Self::Set(chunk) => write!(f, "chunk {chunk}: in the wrong set"),
            Self::OutsideRam(chunk) => write!(f, "chunk {chunk}: a free block is no memory"),
            Self::Summary => f.write_str("a summary differs from its bitmap"),
            Self::Count(order) => write!(f, "count of free blocks of order {}", order.as_usize()),
            Self::Word(pfn) => write!(f, "word at {pfn:?}: blocks that are not its own"),
            Self::FreePages(counted) => write!(f, "free pages: {counted} counted"),
        }
    }
}

impl core::error::Error for Broken {}

impl Buddy<'_> {
    /// Checks every invariant. O(chunks), and O(frames) of those that are split.
    ///
    /// # Errors
    ///
    /// The first that does not hold.
    pub fn validate(&self) -> Result<(), Broken> {
        if !self.sets.is_consistent() {
            return Err(Broken::Summary);
        }
        let (mut nr_free, mut free_pages) = ([0; NR_ORDERS], [0; ROWS]);
        for chunk in 0..self.chunks.len() {
            let head = self.validate_chunk(chunk)?;
            for (_, order) in self.blocks_of(chunk) {
                nr_free.iter_mut().skip(order.as_usize()).take(1).for_each(|count| *count += 1);
                free_pages.iter_mut().skip(head.row()).take(1).for_each(|pages| *pages += order.pages());
            }
        }
        for (order, (counted, told)) in Order::all().zip(nr_free.into_iter().zip(self.nr_free())) {
            if counted != told {
                return Err(Broken::Count(order));
            }
        }
        let free_in_all = free_pages.iter().sum();
        if free_pages != self.free_pages || free_in_all > self.managed_pages {
            return Err(Broken::FreePages(free_in_all));
        }
        Ok(())
    }

    fn validate_chunk(&self, chunk: usize) -> Result<Head, Broken> {
        let view = self.chunk(chunk).ok_or(Broken::Chunk(chunk))?;
        let head = view.head();
        let is_whole = matches!(head.class(), Class::NONE | Class::WHOLE);
        if if head.is_split() { !view.is_consistent() } else { !is_whole } {
            return Err(Broken::Chunk(chunk));
        }
        if !self.sets.is_filed(head, chunk) {
            return Err(Broken::Set(chunk));
        }
        let is_ram = |(pfn, order): (Pfn, Order)| self.locate(pfn.as_raw(), order.as_usize() as u32).is_ok();
        if self.blocks_of(chunk).all(is_ram) { Ok(head) } else { Err(Broken::OutsideRam(chunk)) }
    }

    /// All free blocks, lowest first.
    pub fn free_blocks(&self) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        (0..self.chunks.len()).flat_map(|chunk| self.blocks_of(chunk))
    }

    fn blocks_of(&self, chunk: usize) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let view = self.chunk(chunk)?;
            while at < CHUNK_PAGES as u32 {
                let (offset, order) = (at, view.free_order(at));
                at += order.map_or(1, |order| 1 << order);
                if let Some(order) = order {
                    let pfn = Pfn::new(view.head().first_pfn() + u64::from(offset))?;
                    return Some((pfn, Order::new(order as usize)?));
                }
            }
            None
        })
    }
}
