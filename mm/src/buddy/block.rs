// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes in and out of the allocator: blocks, and what may be wrong with them.

use core::fmt;

use crate::addr::{Order, Pfn, PhysAddr, PhysRange};

/// A run of frames that its holder owns. Not `Copy`: giving it to [`Buddy::free`](super::Buddy::free) ends it.
#[derive(PartialEq, Eq)]
#[must_use = "dropping a block leaks its frames"]
#[repr(transparent)]
pub struct PageBlock(
    /// The first frame, shifted by [`ORDER_BITS`], and the order: one register. With [`MISALIGNED`] where no block of
    /// that order begins: nothing was ever allocated as such, so it fits nowhere, and frees need not look.
    u64,
);

/// Bits below the frame number.
pub(crate) const ORDER_BITS: u32 = 8;
const MISALIGNED: u64 = 1 << (ORDER_BITS - 1);

impl PageBlock {
    /// A block whose number was kept elsewhere. That it is allocated, and by nobody else, is the
    /// caller's claim; `free` refuses what it can tell to be wrong.
    #[inline]
    pub const fn from_raw(pfn: Pfn, order: Order) -> Self {
        Self::from_bits(pfn.as_raw() << ORDER_BITS | order.as_usize() as u64)
    }

    /// Frame and order, to be kept elsewhere.
    #[must_use]
    #[inline]
    pub const fn into_raw(self) -> (Pfn, Order) {
        (self.pfn(), self.order())
    }

    /// Frame and order in one word, to be kept elsewhere; at most 2^49.
    #[must_use]
    #[inline(always)]
    pub const fn into_bits(self) -> u64 {
        self.0
    }

    /// As [`from_raw`](PageBlock::from_raw), from what [`into_bits`](PageBlock::into_bits) told.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        let is_aligned = (bits >> ORDER_BITS) & !u64::MAX.wrapping_shl(bits as u32) == 0;
        Self(if is_aligned { bits } else { bits | MISALIGNED })
    }

    /// The same, of what is known to be aligned.
    #[inline(always)]
    pub(crate) const fn known(bits: u64) -> Self {
        Self(bits)
    }

    /// The order as a plain number; if the block is misaligned, one that no block has.
    #[inline(always)]
    pub(crate) const fn order_index(&self) -> usize {
        (self.0 & ((1 << ORDER_BITS) - 1)) as usize
    }

    /// The first frame's bit among the 64 around it.
    #[inline(always)]
    pub(crate) const fn bit(&self) -> u64 {
        1u64.wrapping_shl((self.0 >> ORDER_BITS) as u32)
    }

    /// Whether a block of its order may begin at its first frame.
    #[inline(always)]
    pub(crate) const fn is_aligned(&self) -> bool {
        self.0 & MISALIGNED == 0
    }

    /// Frame and order as they are kept.
    #[inline(always)]
    pub(crate) const fn bits(&self) -> u64 {
        self.0
    }

    /// The first frame.
    #[must_use]
    #[inline]
    pub const fn pfn(&self) -> Pfn {
        Pfn::known(self.0 >> ORDER_BITS)
    }

    /// log2 of the number of frames.
    #[must_use]
    #[inline]
    pub const fn order(&self) -> Order {
        match Order::new((self.0 & (MISALIGNED - 1)) as usize) {
            Some(order) => order,
            None => Order::ZERO,
        }
    }

    /// The addresses.
    #[must_use]
    pub fn range(&self) -> PhysRange {
        let start = self.pfn().addr();
        let end = PhysAddr::new_saturating(start.as_raw().saturating_add(self.order().bytes()));
        PhysRange::new(start, end).unwrap_or_default()
    }
}

impl fmt::Debug for PageBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBlock({:?}, order {})", self.pfn(), self.order().as_usize())
    }
}

/// Out of memory: no free block is large enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllocError {
    /// The order asked for.
    pub order: Order,
    /// Frames that are free, in smaller blocks.
    pub free_pages: u64,
    /// The largest free block there is.
    pub largest_free_order: Option<Order>,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (order, free) = (self.order.as_usize(), self.free_pages);
        write!(f, "out of memory: order {order}, free pages {free}, ")?;
        match self.largest_free_order {
            Some(largest) => write!(f, "largest free order {}", largest.as_usize()),
            None => f.write_str("no free block"),
        }
    }
}

impl core::error::Error for AllocError {}

/// A block that must not be freed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// Not, or not wholly, RAM of this allocator.
    Foreign(Pfn, Order),
    /// No block of this order begins at this frame.
    Misaligned(Pfn, Order),
    /// Free already: the block, one that holds it, or a part of it.
    AlreadyFree(Pfn, Order),
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pfn, order, fault) = match *self {
            Self::Foreign(pfn, order) => (pfn, order, "is no memory of this allocator"),
            Self::Misaligned(pfn, order) => (pfn, order, "is misaligned for its order"),
            Self::AlreadyFree(pfn, order) => (pfn, order, "is already free, in whole or in part"),
        };
        write!(f, "block {pfn:?} of order {} {fault}", order.as_usize())
    }
}

impl core::error::Error for FreeError {}

/// The metadata slice is too small: words needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooSmall(pub usize);

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata is too small: {} words of 8 bytes are needed", self.0)
    }
}

impl core::error::Error for TooSmall {}

/// Why a block must not be freed.
#[derive(Clone, Copy)]
pub(super) enum Refused {
    Foreign,
    Misaligned,
    AlreadyFree,
}

impl Refused {
    /// As a number that no frame has, so that it goes back in a register.
    #[inline(always)]
    pub(super) const fn encode(self) -> u64 {
        u64::MAX - self as u64
    }

    /// What a frame number or a coded refusal says.
    #[inline(always)]
    pub(super) const fn decode(code: u64) -> Result<(), Self> {
        match u64::MAX - code {
            0 => Err(Self::Foreign),
            1 => Err(Self::Misaligned),
            2 => Err(Self::AlreadyFree),
            _ => Ok(()),
        }
    }

    #[cold]
    pub(super) const fn about(self, pfn: Pfn, order: Order) -> FreeError {
        match self {
            Self::Foreign => FreeError::Foreign(pfn, order),
            Self::Misaligned => FreeError::Misaligned(pfn, order),
            Self::AlreadyFree => FreeError::AlreadyFree(pfn, order),
        }
    }
}
