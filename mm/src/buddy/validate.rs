// SPDX-License-Identifier: MIT OR Apache-2.0
//! A walk over everything: for tests, and for a console that wants to be sure.

use core::fmt;

use super::{Best, Buddy, Class};
use crate::addr::{MAX_ORDER, NR_ORDERS, Order, Pfn};

/// An invariant that does not hold, with the number of the chunk or the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The head does not say what the leaf says, or two buddies are free side by side.
    Chunk(usize),
    /// Free blocks overlap, or differ from the row of frames.
    Frames(usize),
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
            Self::Chunk(chunk) => write!(f, "chunk {chunk}: head and leaf differ"),
            Self::Frames(chunk) => write!(f, "chunk {chunk}: free blocks and free frames differ"),
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
        let best = |remembered: Best| {
            let Best { class, chunk, first_pfn } = remembered;
            self.sets.best(0) == Some((class, chunk)) && self.spans.first_pfn(chunk) == Some(first_pfn)
        };
        if !self.sets.is_consistent() || !self.sets.for_page.is_none_or(best) {
            return Err(Broken::Summary);
        }
        for chunk in 0..self.heads.len() {
            self.validate_chunk(chunk)?;
        }
        let (mut nr_free, mut free_pages) = ([0u64; NR_ORDERS], 0);
        for (_, order) in self.free_blocks() {
            free_pages += order.pages();
            if let Some(count) = nr_free.get_mut(order.as_usize()) {
                *count += 1;
            }
        }
        for (order, (counted, kept)) in Order::all().zip(nr_free.into_iter().zip(self.nr_free())) {
            if counted != kept {
                return Err(Broken::Count(order));
            }
        }
        if free_pages != self.free_pages || free_pages > self.managed_pages {
            return Err(Broken::FreePages(free_pages));
        }
        Ok(())
    }

    fn validate_chunk(&self, chunk: usize) -> Result<(), Broken> {
        let Some(view) = self.view(chunk) else {
            return Err(Broken::Chunk(chunk));
        };
        let class = if view.is_split() {
            if !view.is_consistent() {
                return Err(Broken::Chunk(chunk));
            }
            if !view.rows_agree() {
                return Err(Broken::Frames(chunk));
            }
            view.class()
        } else if self.sets.contains(Class::WHOLE, chunk) {
            Class::WHOLE
        } else {
            Class::NONE
        };
        let mut classes = (0..=MAX_ORDER as u32).map(Class::of);
        if !classes.all(|set| self.sets.contains(set, chunk) == (class == set)) {
            return Err(Broken::Set(chunk));
        }
        let is_ram = |(pfn, order): (Pfn, Order)| self.locate(pfn, order).is_ok();
        if self.blocks_of(chunk).all(is_ram) { Ok(()) } else { Err(Broken::OutsideRam(chunk)) }
    }

    /// All free blocks, chunk by chunk; those of a chunk by order, the smallest first.
    pub fn free_blocks(&self) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        (0..self.heads.len()).flat_map(|chunk| self.blocks_of(chunk))
    }

    fn blocks_of(&self, chunk: usize) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        let split = self.view(chunk).filter(|view| view.is_split());
        let whole = split.is_none() && self.sets.contains(Class::WHOLE, chunk);
        let blocks = split.into_iter().flat_map(|view| view.blocks());
        let first_pfn = self.spans.first_pfn(chunk);
        let whole = whole.then_some((0, MAX_ORDER as u32));
        blocks.chain(whole).filter_map(move |(offset, order)| {
            Some((Pfn::new(first_pfn? + u64::from(offset))?, Order::new(order as usize)?))
        })
    }
}
