// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an allocation may go about it: Linux's GFP flags ("get free pages"), as a type.
//!
//! The words are Linux's, so that whoever knows them is at home. `NOFAIL` is not offered: out of memory is an
//! error value, always.
#![forbid(unsafe_code)]

use bitflags::bitflags;

bitflags! {
    /// What a caller allows, and what it wants besides the memory itself.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Gfp: u32 {
        /// Only memory that every device reaches: zone DMA, below the limit of the tree's `dma-ranges`; anywhere if there is
        /// none.
        const DMA = 1 << 0;
        /// The owner can move it (it has registered how): keep it among its like.
        const MOVABLE = 1 << 1;
        /// It can be given back on request, as caches can: keep it among its like.
        const RECLAIMABLE = 1 << 2;
        /// May dip into the reserves below the minimum watermark.
        const HIGH = 1 << 3;
        /// May wake background reclaim.
        const KSWAPD_RECLAIM = 1 << 4;
        /// May wait while memory is reclaimed: never in interrupt context or with a lock held.
        const DIRECT_RECLAIM = 1 << 5;
        /// A failure is not worth a line in the log.
        const NOWARN = 1 << 8;
        /// Fail rather than try hard.
        const NORETRY = 1 << 9;
        /// May use all of the reserves: for who gives back more than he takes, soon.
        const MEMALLOC = 1 << 10;
        /// Nobody is asked to give back what he keeps for a flush: from whoever holds a lock that this would take (as Linux's
        /// `NOFS` and `NOIO` keep reclaim out of what is locked).
        const NOFLUSH = 1 << 11;
        /// From the node asked for, or not at all.
        const THISNODE = 1 << 30;
        /// The memory comes filled with zeros. The last bit, which stands beside the first where bits rotate: so one
        /// instruction asks for this and `DMA`, or this and `THISNODE`.
        const ZERO = 1 << 31;

        /// Both kinds of reclaim.
        const RECLAIM = Self::KSWAPD_RECLAIM.bits() | Self::DIRECT_RECLAIM.bits();
        /// The ordinary case: may wait.
        const KERNEL = Self::RECLAIM.bits();
        /// From anywhere, interrupt context included: never waits, and may dip into the reserves.
        const ATOMIC = Self::HIGH.bits() | Self::KSWAPD_RECLAIM.bits();
        /// Never waits, and leaves the reserves alone.
        const NOWAIT = Self::KSWAPD_RECLAIM.bits();
        /// Pages of user programs.
        const USER = Self::KERNEL.bits() | Self::MOVABLE.bits();
    }
}

impl Gfp {
    /// Whether the caller may be made to wait.
    #[must_use]
    pub const fn may_wait(self) -> bool {
        self.contains(Self::DIRECT_RECLAIM)
    }

    /// Whether the caller may take what is in reserve for those who cannot wait.
    #[must_use]
    pub const fn may_use_reserve(self) -> bool {
        self.contains(Self::MEMALLOC) || self.contains(Self::HIGH) && !self.may_wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ordinary_case_waits() {
        assert!(Gfp::KERNEL.may_wait() && Gfp::USER.may_wait());
        assert!(!Gfp::ATOMIC.may_wait() && !Gfp::NOWAIT.may_wait());
        assert!(Gfp::ATOMIC.may_use_reserve() && Gfp::MEMALLOC.may_use_reserve());
        assert!(!Gfp::NOWAIT.may_use_reserve() && !Gfp::KERNEL.union(Gfp::HIGH).may_use_reserve());
        assert!(Gfp::ATOMIC.contains(Gfp::HIGH) && !Gfp::NOWAIT.contains(Gfp::HIGH));
    }
}
