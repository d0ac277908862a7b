// SPDX-License-Identifier: MIT OR Apache-2.0
//! Movable blocks: who has them, and how they get to other frames.
//!
//! Nothing is kept of a block here. Who hands out movable memory to others *registers* as an owner; when a frame is in
//! the way of a range ([`contig`](super::contig)), the owners are asked whose it is, and that one moves it.
#![forbid(unsafe_code)]

use super::Pages;
use crate::addr::{Order, Pfn};
use crate::arch::Arch;
use crate::buddy::PageBlock;
use crate::gfp::Gfp;

/// Most owners of [`Pages::add_owner`].
pub(super) const MAX_OWNERS: usize = 8;

/// A block that its owner can move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovableBlock {
    /// Its first frame.
    pub first: Pfn,
    /// Its order.
    pub order: Order,
    /// What it was allocated with, and its new frames will be.
    pub gfp: Gfp,
}

/// What has movable blocks, and moves them on request (Linux's `movable_operations`).
///
/// Called with no lock of the page allocator held, never in interrupt context. Other CPUs go on meanwhile: what was
/// told of a block may be outdated a moment later, and [`migrate`](MovableOwner::migrate) is where it is decided.
pub trait MovableOwner: Sync {
    /// The block of this owner that a frame is part of, if it has one.
    fn block_at(&self, pfn: Pfn) -> Option<MovableBlock>;

    /// Moves a block: copies what is in it to `target`, which is as large, and changes everything that leads to the
    /// old frames. Returns those; nobody uses them any more.
    ///
    /// # Errors
    ///
    /// `target`, if the block cannot be moved now, or is not there any more. Nothing has changed then.
    fn migrate(&self, block: MovableBlock, target: PageBlock) -> Result<PageBlock, PageBlock>;
}

/// What became of a frame in the way.
pub(super) enum Moved {
    /// It is free.
    Away,
    /// It is to be tried again, or not.
    Refused,
    /// Nobody says that it is his.
    NoOwner,
    /// There is no memory to move it to.
    NoMemory,
}

impl<'a, A: Arch> Pages<'a, A> {
    /// Registers who has movable blocks. `false` if there are too many.
    pub fn add_owner(&self, owner: &'a dyn MovableOwner) -> bool {
        self.owners.iter().any(|slot| {
            let mut is_mine = false;
            slot.call_once(|| {
                is_mine = true;
                owner
            });
            is_mine
        })
    }

    /// Who has the block that a frame is part of. O(owners), and what they need.
    pub(super) fn owner_of(&self, pfn: Pfn) -> Option<(&'a dyn MovableOwner, MovableBlock)> {
        let owners = self.owners.iter().filter_map(|slot| slot.get().copied());
        let mut blocks = owners.filter_map(|owner| Some((owner, owner.block_at(pfn)?)));
        blocks.find(|(_, block)| {
            block.first.is_aligned(block.order)
                && pfn.as_raw() >> block.order.as_usize() << block.order.as_usize() == block.first.as_raw()
        })
    }

    /// Has the block moved that a frame is part of.
    pub(super) fn move_away(&self, pfn: Pfn) -> Moved {
        let Some((owner, block)) = self.owner_of(pfn) else { return Moved::NoOwner };
        let Ok(target) = self.alloc(block.gfp, block.order) else { return Moved::NoMemory };
        let (freed, moved) = match owner.migrate(block, target) {
            Ok(old) => (old, Moved::Away),
            Err(target) => (target, Moved::Refused),
        };
        if self.free(freed).is_ok() { moved } else { Moved::Refused }
    }
}
