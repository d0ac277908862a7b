// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong. Each error is one word, so that a result comes back in registers.
#![forbid(unsafe_code)]

use core::fmt;
use core::num::NonZeroU64;

use crate::addr::{Order, Pfn};
use crate::buddy::{FreeError, PageBlock};
use crate::zone::ZoneKind;

/// Out of memory: no zone that the request may use has a block that large above its watermark.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory(u64);

impl OutOfMemory {
    pub(super) const fn new(order: Order, kind: ZoneKind, node: u32) -> Self {
        let is_dma = matches!(kind, ZoneKind::Dma) as u64;
        Self(order.as_usize() as u64 | is_dma << 8 | (node as u64 & 0xff) << 16)
    }

    pub(super) fn with_free(self, free_pages: u64, largest: Option<Order>) -> Self {
        let largest = largest.map_or(0, |largest| largest.as_usize() as u64 + 1);
        Self(self.0 & 0x00ff_ffff | largest << 24 | free_pages.min(u64::from(u32::MAX)) << 32)
    }

    /// The order asked for.
    #[must_use]
    pub fn order(self) -> Order {
        Order::new((self.0 & 0xff) as usize).unwrap_or_default()
    }

    /// The zone that was tried first.
    #[must_use]
    pub const fn zone(self) -> ZoneKind {
        if self.0 >> 8 & 1 != 0 { ZoneKind::Dma } else { ZoneKind::Normal }
    }

    /// Its node.
    #[must_use]
    pub const fn node(self) -> u32 {
        (self.0 >> 16 & 0xff) as u32
    }

    /// Frames that are free in the zones that the request may use; saturates at 2^32 - 1.
    #[must_use]
    pub const fn free_pages(self) -> u64 {
        self.0 >> 32
    }

    /// The largest free block in those zones.
    #[must_use]
    pub fn largest_free_order(self) -> Option<Order> {
        Order::new(((self.0 >> 24 & 0xff) as usize).checked_sub(1)?)
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (order, zone) = (self.order().as_usize(), self.zone().name());
        write!(
            f,
            "out of memory: order {order}, zone {zone} on node {}, free pages {}, ",
            self.node(),
            self.free_pages()
        )?;
        match self.largest_free_order() {
            Some(largest) => write!(f, "largest free order {}", largest.as_usize()),
            None => f.write_str("no free block"),
        }
    }
}

impl fmt::Debug for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for OutOfMemory {}

/// What is wrong with a block that was to be freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Not, or not wholly, RAM of the page allocator.
    Foreign,
    /// No block of this order begins at this frame.
    Misaligned,
    /// Free already: the block, one that holds it, or a part of it.
    AlreadyFree,
    /// Allocated, but not as a block of this order.
    WrongOrder,
}

/// A block that must not be freed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BadFree(
    /// The block, and from [`FAULT_SHIFT`] on the fault plus 1: so that success is zero.
    NonZeroU64,
);

/// A block is less than 2 to this.
const FAULT_SHIFT: u32 = 56;

impl BadFree {
    pub(super) const fn new(fault: Fault, block: &PageBlock) -> Self {
        let fault = (fault as u64 + 1) << FAULT_SHIFT;
        Self(match NonZeroU64::new(fault | block.bits()) {
            Some(bits) => bits,
            None => NonZeroU64::MAX,
        })
    }

    /// What is wrong with it.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self.0.get() >> FAULT_SHIFT {
            1 => Fault::Foreign,
            2 => Fault::Misaligned,
            3 => Fault::AlreadyFree,
            _ => Fault::WrongOrder,
        }
    }

    const fn block(self) -> PageBlock {
        PageBlock::known(self.0.get() & ((1 << FAULT_SHIFT) - 1))
    }

    /// The first frame that was named.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        self.block().pfn()
    }

    /// The order that was named.
    #[must_use]
    pub const fn order(self) -> Order {
        self.block().order()
    }
}

const _: () = assert!(Fault::WrongOrder as u64 == 3);

impl From<FreeError> for BadFree {
    fn from(error: FreeError) -> Self {
        let (fault, pfn, order) = match error {
            FreeError::Foreign(pfn, order) => (Fault::Foreign, pfn, order),
            FreeError::Misaligned(pfn, order) => (Fault::Misaligned, pfn, order),
            FreeError::AlreadyFree(pfn, order) => (Fault::AlreadyFree, pfn, order),
        };
        Self::new(fault, &PageBlock::from_raw(pfn, order))
    }
}

impl fmt::Display for BadFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault() {
            Fault::Foreign => "is no memory of this allocator",
            Fault::Misaligned => "is misaligned for its order",
            Fault::AlreadyFree => "is already free, in whole or in part",
            Fault::WrongOrder => "was not allocated as one of that order",
        };
        write!(f, "block {:?} of order {} {fault}", self.pfn(), self.order().as_usize())
    }
}

impl fmt::Debug for BadFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for BadFree {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_they_are_about() {
        let error = OutOfMemory::new(Order::MAX, ZoneKind::Dma, 3).with_free(1234, Order::new(7));
        assert_eq!(
            error.to_string(),
            "out of memory: order 10, zone DMA on node 3, free pages 1234, largest free order 7"
        );
        let error = OutOfMemory::new(Order::ZERO, ZoneKind::Normal, 0).with_free(u64::MAX, None);
        assert_eq!((error.order(), error.free_pages(), error.largest_free_order()), (Order::ZERO, 0xffff_ffff, None));
        assert!(error.to_string().ends_with("no free block"));
        let block = PageBlock::from_raw(Pfn::known(0x1234), Order::MAX);
        let error = BadFree::new(Fault::WrongOrder, &block);
        assert_eq!(error.to_string(), "block pfn:0x1234 of order 10 was not allocated as one of that order");
        assert_eq!((error.pfn(), error.order()), block.into_raw());
        for fault in [Fault::Foreign, Fault::Misaligned, Fault::AlreadyFree, Fault::WrongOrder] {
            let block = PageBlock::from_raw(Pfn::known((1 << 40) - 1), Order::MAX);
            let error = BadFree::new(fault, &block);
            assert_eq!((error.fault(), error.pfn(), error.order()), (fault, block.pfn(), Order::MAX));
        }
    }

    #[test]
    fn results_fit_in_registers() {
        assert_eq!(size_of::<Result<PageBlock, OutOfMemory>>(), 16);
        assert_eq!(size_of::<Result<(), BadFree>>(), 8);
    }
}
