// SPDX-License-Identifier: MIT OR Apache-2.0
//! The zones, which may become more, and in which order a request tries them.
#![forbid(unsafe_code)]

use core::cmp::Reverse;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64};

use spin::Once;

use super::zone_cell::ZoneCell;
use crate::zone::MAX_ZONES;

/// Bits of a zone's number in a row.
const NUMBER: usize = 4;
/// The last number, which stands for none where there are fewer.
const LAST: u64 = MAX_ZONES as u64 - 1;

/// All zones. What was added late has one of its own, even if there is one of that kind on that node already.
#[derive(Debug)]
pub(super) struct Zones<'a> {
    cells: &'a [Once<ZoneCell<'a>>],
    /// For each zone, in which order its node tries them all: the number of the first in the lowest bits, and so on.
    fallback: [AtomicU64; MAX_ZONES],
    /// Whether they are of more than one node.
    has_nodes: AtomicBool,
}

impl<'a> Zones<'a> {
    pub(super) fn new(cells: &'a [Once<ZoneCell<'a>>]) -> Self {
        let zones =
            Self { cells, fallback: [const { AtomicU64::new(0) }; MAX_ZONES], has_nodes: AtomicBool::new(false) };
        zones.order();
        zones
    }

    pub(super) fn get(&self, index: usize) -> Option<&'a ZoneCell<'a>> {
        self.cells.get(index)?.get()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'a ZoneCell<'a>> + Clone + use<'a> {
        self.cells.iter().map_while(Once::get)
    }

    /// Whether there is more than one node.
    #[inline(always)]
    pub(super) fn has_nodes(&self) -> bool {
        self.has_nodes.load(Relaxed)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.iter().count()
    }

    /// Adds a zone, if there is room. One CPU at a time.
    pub(super) fn add(&self, cell: ZoneCell<'a>) {
        if let Some(slot) = self.cells.get(self.count()) {
            slot.call_once(|| cell);
            self.order();
        }
    }

    /// The zones as the node of zone `home` tries them.
    pub(super) fn from(&self, home: usize) -> impl Iterator<Item = &'a ZoneCell<'a>> {
        let row = self.fallback.get(home).map_or(0, |row| row.load(Relaxed));
        // Where there is no zone the row has numbers of none.
        (0..self.cells.len()).map_while(move |at| self.get((row >> (at * NUMBER)) as usize % MAX_ZONES))
    }

    /// For each zone: those of its node from the highest down, then those of other nodes, each from the highest down.
    fn order(&self) {
        let count = self.count();
        let first = self.get(0).map(|zone| zone.node);
        self.has_nodes.store(self.iter().any(|zone| Some(zone.node) != first), Relaxed);
        for (home, row) in self.iter().zip(&self.fallback) {
            let rank = |index: &usize| {
                self.get(*index).map(|zone| (zone.node != home.node, zone.node, Reverse(zone.kind), *index))
            };
            // Picked one by one: there are few, and sorting is a lot of code.
            let (mut left, mut order) = (!0u64, !0);
            for at in 0..count {
                let next = (0..count).filter(|index| left >> index & 1 != 0).min_by_key(rank).unwrap_or_default();
                left &= !(1 << next);
                order = order & !(LAST << (at * NUMBER)) | (next as u64) << (at * NUMBER);
            }
            row.store(order, Relaxed);
        }
    }
}

const _: () = assert!(MAX_ZONES == 1 << NUMBER && MAX_ZONES * NUMBER <= 64);
