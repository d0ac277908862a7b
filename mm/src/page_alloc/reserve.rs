// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocks of more than a page for those who cannot wait (Linux's `MIGRATE_HIGHATOMIC`).
//!
//! Reclaim brings single pages. So when such a request gets a block while memory is short, the chunk around it becomes
//! a *reserve*: the next ones find something there, and nobody else takes from it. A hundredth of a zone at most,
//! in whole chunks; a zone of less than a hundred has none. Somebody who waited in vain opens it again.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::Relaxed;

use super::Pages;
use super::hoard::mobility;
use super::slow::Mark;
use super::zone_cell::ZoneCell;
use crate::addr::{Order, Pfn};
use crate::arch::Arch;
use crate::buddy::Mobility;
use crate::gfp::Gfp;
use crate::zone::Zone;

/// Chunks that a zone of so many frames may have in reserve.
const fn most_chunks(managed_pages: u64) -> u64 {
    managed_pages / 100 / Order::MAX.pages()
}

/// Takes a block for a request that the watermarks allow.
pub(super) fn take_block(cell: &ZoneCell<'_>, zone: &mut Zone<'_>, gfp: Gfp, order: Order, mark: Mark) -> Option<Pfn> {
    if mark == Mark::Low || !gfp.may_use_reserve() {
        return zone.take(order, mobility(gfp));
    }
    let is_large = order > Order::ZERO && !gfp.contains(Gfp::MEMALLOC);
    if is_large && let Some(pfn) = zone.take(order, Mobility::HighAtomic) {
        return Some(pfn);
    }
    let Some(pfn) = zone.take(order, mobility(gfp)) else {
        return zone.take(order, Mobility::HighAtomic);
    };
    if is_large {
        reserve(cell, zone, pfn);
    }
    Some(pfn)
}

/// Puts the chunk around a frame in reserve, if there may be another.
fn reserve(cell: &ZoneCell<'_>, zone: &mut Zone<'_>, pfn: Pfn) {
    let nr_reserved = cell.nr_reserved.load(Relaxed);
    let is_ordinary =
        !matches!(zone.buddy().mobility_of(pfn), None | Some(Mobility::HighAtomic | Mobility::Cma | Mobility::Isolate));
    let is_room = nr_reserved < most_chunks(zone.buddy().managed_pages());
    if is_ordinary && is_room && zone.buddy().is_grouping() {
        zone.buddy_mut().set_mobility(pfn, Mobility::HighAtomic);
        cell.nr_reserved.store(nr_reserved + 1, Relaxed);
    }
}

impl<A: Arch> Pages<'_, A> {
    /// Opens the reserve of a zone that the request may use: the chunk with the largest free block. `false` if there is
    /// none with anything free.
    pub(super) fn open_reserve(&self, home: usize, gfp: Gfp) -> bool {
        self.candidates(home, gfp).any(|cell| {
            let mut zone = cell.zone.lock(self.arch);
            let Some(pfn) = zone.buddy().largest_chunk_of(Mobility::HighAtomic) else { return false };
            zone.buddy_mut().set_mobility(pfn, mobility(gfp));
            cell.nr_reserved.fetch_sub(1, Relaxed);
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_a_hundredth_at_most() {
        assert_eq!([0, 102_399, 102_400, 1 << 24].map(most_chunks), [0, 0, 1, 163]);
        assert!((0..1 << 30).step_by(99_999).all(|pages| most_chunks(pages) * Order::MAX.pages() * 100 <= pages));
    }
}
