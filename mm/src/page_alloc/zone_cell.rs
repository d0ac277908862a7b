// SPDX-License-Identifier: MIT OR Apache-2.0
//! A zone as CPUs share it: the lock around it, and beside it what is read without the lock.
#![forbid(unsafe_code)]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::watermark::Watermarks;
use crate::sync::{IrqSpinLock, Rank};
use crate::zone::{Zone, ZoneKind};

/// Events of a zone since the start, as `/proc/vmstat` counts them.
#[derive(Default, Debug)]
pub(super) struct Events {
    /// Requests that had to reclaim by themselves.
    pub(super) alloc_stall: AtomicU64,
    /// Requests that failed.
    pub(super) alloc_failed: AtomicU64,
    /// Words taken into hoards.
    pub(super) hoarded: AtomicU64,
    /// Words given back from hoards.
    pub(super) released: AtomicU64,
}

/// Counts one. The zone's lock is held, or it does not matter.
pub(super) fn count(event: &AtomicU64) {
    event.fetch_add(1, Relaxed);
}

#[derive(Debug)]
pub(super) struct ZoneCell<'a> {
    pub(super) kind: ZoneKind,
    pub(super) node: u32,
    pub(super) zone: IrqSpinLock<Zone<'a>>,
    min: AtomicU64,
    low: AtomicU64,
    high: AtomicU64,
    promo: AtomicU64,
    reserve: AtomicU64,
    /// Chunks in reserve for those who cannot wait; changed under the lock.
    pub(super) nr_reserved: AtomicU64,
    pub(super) events: Events,
}

impl<'a> ZoneCell<'a> {
    pub(super) fn new(zone: Zone<'a>) -> Self {
        Self {
            kind: zone.kind(),
            node: zone.node(),
            zone: IrqSpinLock::new(Rank::ZONE, zone),
            min: AtomicU64::new(0),
            low: AtomicU64::new(0),
            high: AtomicU64::new(0),
            promo: AtomicU64::new(0),
            reserve: AtomicU64::new(0),
            nr_reserved: AtomicU64::new(0),
            events: Events::default(),
        }
    }

    pub(super) fn marks(&self) -> Watermarks {
        Watermarks {
            min: self.min.load(Relaxed),
            low: self.low.load(Relaxed),
            high: self.high.load(Relaxed),
            promo: self.promo.load(Relaxed),
            lowmem_reserve: self.reserve.load(Relaxed),
        }
    }

    pub(super) fn low(&self) -> u64 {
        self.low.load(Relaxed)
    }

    pub(super) fn set_marks(&self, marks: Watermarks) {
        self.min.store(marks.min, Relaxed);
        self.low.store(marks.low, Relaxed);
        self.high.store(marks.high, Relaxed);
        self.promo.store(marks.promo, Relaxed);
        self.reserve.store(marks.lowmem_reserve, Relaxed);
    }

    /// Frames kept from a request that could go as high as `highest`.
    pub(super) fn reserve(&self, highest: ZoneKind) -> u64 {
        if self.kind < highest { self.reserve.load(Relaxed) } else { 0 }
    }
}
