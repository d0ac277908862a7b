// SPDX-License-Identifier: MIT OR Apache-2.0
//! Watermarks: how many free frames of a zone are whose. The formulas are Linux's (`mm/page_alloc.c`).
//!
//! ```text
//!   free frames  |----- min -----|-- gap --|-- gap --|
//!                0              min       low       high
//!    reserved for HIGH and       |         |         +- background reclaim stops
//!    ATOMIC, by parts            |         +- and starts
//!                                +- who may wait reclaims by himself from here on
//! ```
//!
//! `min` is a zone's share of `min_free_kbytes` = sqrt(16 x memory in KiB), 128 to 262144; the gap is the larger of
//! min / 4 and `watermark_scale_factor` ten-thousandths of the zone. On top of its mark, a zone keeps a *low memory
//! reserve* from requests that could have been served higher up: the frames of those higher zones divided by 256.
#![forbid(unsafe_code)]

use crate::addr::{Order, PAGE_SHIFT};
use crate::gfp::Gfp;

/// What the user may set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// `vm.min_free_kbytes`; by RAM if `None`.
    pub min_free_kbytes: Option<u64>,
    /// `vm.watermark_scale_factor`: ten-thousandths of a zone between the marks, 1 to 3000.
    pub watermark_scale_factor: u64,
    /// `vm.lowmem_reserve_ratio` of zone DMA; 0 for no reserve.
    pub dma_reserve_ratio: u64,
}

impl Tuning {
    /// Linux's defaults.
    pub const DEFAULT: Self = Self { min_free_kbytes: None, watermark_scale_factor: 10, dma_reserve_ratio: 256 };
}

impl Default for Tuning {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The marks of one zone, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Watermarks {
    /// Below it only who may use the reserves.
    pub min: u64,
    /// Background reclaim starts below it.
    pub low: u64,
    /// Background reclaim stops there.
    pub high: u64,
    /// Linux promotes pages between nodes above it.
    pub promo: u64,
    /// Kept from requests that could be served by a higher zone.
    pub lowmem_reserve: u64,
}

/// `vm.min_free_kbytes` for so many frames.
#[must_use]
pub fn min_free_kbytes(managed_pages: u64) -> u64 {
    let kbytes = managed_pages << (PAGE_SHIFT - 10);
    kbytes.saturating_mul(16).isqrt().clamp(128, 262_144)
}

impl Watermarks {
    /// The marks of a zone of `managed` frames out of `total`, with `higher` frames in the zones above it.
    #[must_use]
    pub fn new(tuning: &Tuning, managed: u64, total: u64, higher: u64) -> Self {
        let kbytes = tuning.min_free_kbytes.unwrap_or_else(|| min_free_kbytes(total));
        let share = |pages: u64| (u128::from(pages) * u128::from(managed)).checked_div(u128::from(total));
        let min = share(kbytes >> (PAGE_SHIFT - 10)).unwrap_or(0) as u64;
        let scaled = u128::from(managed) * u128::from(tuning.watermark_scale_factor) / 10_000;
        let gap = (min / 4).max(scaled as u64);
        let low = min + gap;
        let lowmem_reserve = higher.checked_div(tuning.dma_reserve_ratio).unwrap_or(0);
        Self { min, low, high: low + gap, promo: low + 2 * gap, lowmem_reserve }
    }

    /// The frames that a request of this kind must leave free when it may go down to `min`.
    #[must_use]
    pub fn min_for(&self, gfp: Gfp) -> u64 {
        if gfp.contains(Gfp::MEMALLOC) {
            return 0;
        }
        let mut min = self.min;
        if gfp.contains(Gfp::HIGH) {
            min -= min / 2;
            // Who cannot wait may go further down than who merely matters.
            if !gfp.may_wait() {
                min -= min / 4;
            }
        }
        min
    }

    /// Whether a block may be taken from `free` frames, so that more than `mark` and the reserve are left.
    #[inline]
    pub(super) const fn allow(free: u64, order: Order, mark: u64, reserve: u64) -> bool {
        Self::allow_pages(free, order.pages(), mark, reserve)
    }

    /// The same for any number of frames.
    #[inline]
    pub(super) const fn allow_pages(free: u64, pages: u64, mark: u64, reserve: u64) -> bool {
        free >= pages && free - pages >= mark + reserve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_free_kbytes_are_those_of_linux() {
        // MiB of memory and the table of Documentation in mm/page_alloc.c.
        for (mib, kbytes) in
            [(16, 512), (32, 724), (64, 1024), (128, 1448), (256, 2048), (512, 2896), (1024, 4096), (16 << 10, 16384)]
        {
            assert_eq!(min_free_kbytes(mib << 8), kbytes);
        }
        assert_eq!((min_free_kbytes(1), min_free_kbytes(1 << 40)), (128, 262_144));
    }

    #[test]
    fn marks_are_spaced_by_the_larger_gap() {
        // 512 MiB: min = 2896 KiB = 724 frames; a quarter of it is more than a thousandth of the zone.
        let marks = Watermarks::new(&Tuning::DEFAULT, 131_072, 131_072, 0);
        assert_eq!((marks.min, marks.low, marks.high, marks.promo), (724, 905, 1086, 1267));
        // Scaled by a hundredth.
        let tuning = Tuning { watermark_scale_factor: 100, min_free_kbytes: Some(4096), ..Tuning::DEFAULT };
        let marks = Watermarks::new(&tuning, 131_072, 262_144, 131_072);
        assert_eq!((marks.min, marks.low, marks.high), (512, 512 + 1310, 512 + 2620));
        assert_eq!(marks.lowmem_reserve, 512);
    }

    #[test]
    fn reserves_are_for_those_who_may() {
        let marks = Watermarks { min: 800, ..Watermarks::default() };
        let rights = [Gfp::KERNEL, Gfp::NOWAIT, Gfp::KERNEL.union(Gfp::HIGH), Gfp::ATOMIC, Gfp::MEMALLOC];
        assert_eq!(rights.map(|gfp| marks.min_for(gfp)), [800, 800, 400, 300, 0]);
        assert!(Watermarks::allow(801, Order::ZERO, 700, 100) && !Watermarks::allow(800, Order::ZERO, 700, 100));
        assert!(!Watermarks::allow(3, Order::MAX, 0, 0));
    }
}
