// SPDX-License-Identifier: MIT OR Apache-2.0
//! An array that grows in blocks of the page allocator: what is to be remembered of memory that is with a device.
//!
//! *Growing* takes a block without the lock that guards the array: [`Table::room`] says what is missing, [`Table::move_to`]
//! puts the new block in place. So nothing is allocated under a lock that an interrupt handler may want.

use core::marker::PhantomData;
use core::slice;

use crate::addr::{Order, Pfn};
use crate::arch::Arch;
use crate::buddy::PageBlock;

/// Values of `T`, which need no drop, in one block of frames.
#[derive(Debug)]
pub(super) struct Table<T> {
    items: *mut T,
    len: usize,
    capacity: usize,
    block: Option<(Pfn, Order)>,
    values: PhantomData<T>,
}

// SAFETY: the block is the table's alone.
unsafe impl<T: Send> Send for Table<T> {}

impl<T: Copy> Table<T> {
    pub(super) const fn new() -> Self {
        Self { items: core::ptr::dangling_mut(), len: 0, capacity: 0, block: None, values: PhantomData }
    }

    #[inline]
    pub(super) fn items(&self) -> &[T] {
        // SAFETY: the first `len` items were written, and the block is ours for as long as we are borrowed.
        unsafe { slice::from_raw_parts(self.items, self.len) }
    }

    #[inline]
    pub(super) fn items_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and we are borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.items, self.len) }
    }

    /// The order of a block with room for one more than there is room for; `None` if there is room.
    #[inline]
    pub(super) fn wanted(&self) -> Option<Order> {
        if self.len < self.capacity {
            return None;
        }
        let order = self.block.map_or(0, |(_, order)| order.as_usize() + 1);
        Some(Order::new(order).unwrap_or(Order::MAX))
    }

    /// Frames that it holds.
    pub(super) fn pages(&self) -> u64 {
        self.block.map_or(0, |(_, order)| order.pages())
    }

    /// Goes on in a larger block. Returns the one to be given back: the old one, or this if it is no larger.
    pub(super) fn move_to<A: Arch>(&mut self, arch: &A, block: PageBlock) -> Option<PageBlock> {
        let (pfn, order) = block.into_raw();
        let capacity = order.bytes() as usize / size_of::<T>();
        if capacity <= self.capacity {
            return Some(PageBlock::from_raw(pfn, order));
        }
        let items = arch.direct_map(pfn.addr()).cast::<T>();
        // SAFETY: both blocks are RAM of this arch and ours alone; the new one has more room, and a frame is aligned for
        // any T here.
        unsafe { self.items.copy_to_nonoverlapping(items, self.len) };
        let old = self.block.replace((pfn, order));
        (self.items, self.capacity) = (items, capacity);
        old.map(|(pfn, order)| PageBlock::from_raw(pfn, order))
    }

    /// Puts `item` before the one at `at`; `false` if there is no room, or no such place.
    pub(super) fn insert(&mut self, at: usize, item: T) -> bool {
        if self.len == self.capacity || at > self.len {
            return false;
        }
        // SAFETY: one more item has room, and `at` is among those there are or just behind them.
        let place = unsafe { self.items.add(at) };
        // SAFETY: as above: the items from `at` on move up by one.
        unsafe { place.copy_to(place.wrapping_add(1), self.len - at) };
        // SAFETY: as above.
        unsafe { place.write(item) };
        self.len += 1;
        true
    }

    /// Takes the item at `at` out.
    pub(super) fn remove(&mut self, at: usize) -> Option<T> {
        let item = *self.items().get(at)?;
        self.items_mut().copy_within(at + 1.., at);
        self.len -= 1;
        Some(item)
    }

    /// Gives up everything; returns the block.
    pub(super) fn clear(&mut self) -> Option<PageBlock> {
        let block = self.block.take();
        *self = Self::new();
        block.map(|(pfn, order)| PageBlock::from_raw(pfn, order))
    }

    /// Makes all the room there is items with this value.
    pub(super) fn fill(&mut self, value: T) {
        for at in 0..self.capacity {
            // SAFETY: there is room for `capacity` items.
            unsafe { self.items.wrapping_add(at).write(value) };
        }
        self.len = self.capacity;
    }
}
