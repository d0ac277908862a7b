// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the slab gets its pages: the seam to a page allocator, this crate's or another.

use crate::addr::Order;
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;
use crate::page_alloc::Pages;

/// A page allocator, as slab and vmalloc need one.
///
/// # Safety
///
/// 1. The frames of an allocated block are RAM of the [`Arch`](crate::arch::Arch) that the slab was made with,
///    and its user's alone until they are given back.
/// 2. If [`SPLITS`](Self::SPLITS) is set, a block may be given back in parts, each an aligned block of a smaller order.
pub unsafe trait PageSource: Sync {
    /// Whether parts of a block may be given back: then a large object holds no page that it does not need.
    const SPLITS: bool;

    /// Takes a block; `None` if there is none. Fills nothing: [`Gfp::ZERO`] is the slab's own affair.
    fn take(&self, order: Order, gfp: Gfp) -> Option<PageBlock>;

    /// The same near a node, if it has any.
    fn take_on(&self, _node: u32, order: Order, gfp: Gfp) -> Option<PageBlock> {
        self.take(order, gfp)
    }

    /// Gives a block back, or where it splits an aligned part of one.
    fn give(&self, block: PageBlock);

    /// The largest order that may be worth asking for when one was not to be had.
    fn largest(&self, _gfp: Gfp) -> Order {
        Order::MAX
    }

    /// Whether a block that nobody uses any more may be handed on to somebody else, without it being given back and taken.
    fn recycles(&self) -> bool {
        true
    }

    /// From now on parts of this block may be given back, each an aligned block of order 5 or less; what always splits has
    /// nothing to do.
    fn take_apart(&self, _block: &PageBlock) {}
}

// SAFETY: every call is passed on.
unsafe impl<S: PageSource> PageSource for &S {
    const SPLITS: bool = S::SPLITS;

    fn take(&self, order: Order, gfp: Gfp) -> Option<PageBlock> {
        (**self).take(order, gfp)
    }

    fn take_on(&self, node: u32, order: Order, gfp: Gfp) -> Option<PageBlock> {
        (**self).take_on(node, order, gfp)
    }

    fn give(&self, block: PageBlock) {
        (**self).give(block);
    }

    fn largest(&self, gfp: Gfp) -> Order {
        (**self).largest(gfp)
    }

    fn recycles(&self) -> bool {
        (**self).recycles()
    }

    fn take_apart(&self, block: &PageBlock) {
        (**self).take_apart(block);
    }
}

// SAFETY: the page allocator hands out frames of the RAM that it was built with, each to one owner.
unsafe impl<A: Arch> PageSource for Pages<'_, A> {
    const SPLITS: bool = false;

    #[inline]
    fn take(&self, order: Order, gfp: Gfp) -> Option<PageBlock> {
        self.alloc(gfp, order).ok()
    }

    fn take_on(&self, node: u32, order: Order, gfp: Gfp) -> Option<PageBlock> {
        self.alloc_on(node, gfp, order).ok()
    }

    #[inline]
    fn give(&self, block: PageBlock) {
        // It came from there.
        let freed = self.free(block);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    fn largest(&self, gfp: Gfp) -> Order {
        self.largest_free(gfp)
    }

    #[inline(always)]
    fn recycles(&self) -> bool {
        self.may_recycle()
    }

    fn take_apart(&self, block: &PageBlock) {
        self.split(PageBlock::from_raw(block.pfn(), block.order()));
    }
}
