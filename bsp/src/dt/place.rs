// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a node stands: the buses between it and the CPU, and whether they are enabled.
//!
//! A bus's `ranges` says where its children's addresses are in its parent's space (Devicetree Specification
//! 2.3.8); from the bottom up they lead to the CPU. `dma-ranges` says the same of the addresses that its children
//! send out.

use arrayvec::ArrayVec;

use super::header::MAX_DEPTH;
use super::values::{entries, number, split};
use crate::info::{DmaWindow, DmaWindows, RawRange};

/// What a node means for the nodes below it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level<'a> {
    /// Its `#address-cells` and `#size-cells`; 2 and 1 if it has none (2.3.5).
    pub(super) address_cells: usize,
    pub(super) size_cells: usize,
    /// Whether it and all above it are.
    pub(super) enabled: bool,
    pub(super) ranges: Option<&'a [u8]>,
    pub(super) dma_ranges: Option<&'a [u8]>,
    /// Whether it and what is below it sees the CPU's caches, unless that says otherwise.
    pub(super) dma_coherent: bool,
    /// How its children see RAM.
    pub(super) dma_window: DmaWindow,
    /// The phandle of the controller that its interrupts, and those below it, go to (2.4.1).
    pub(super) interrupt_parent: Option<u32>,
}

/// The nodes from the root down to the one at hand.
#[derive(Debug, Default)]
pub(super) struct Place<'a> {
    levels: ArrayVec<Level<'a>, { MAX_DEPTH + 1 }>,
}

impl<'a> Place<'a> {
    /// Forgets all levels but the first `depth`: the parents of a node `depth` below the root.
    pub(super) fn rise_to(&mut self, depth: usize) {
        self.levels.truncate(depth);
    }

    /// Goes down into a node. Deeper than the check allows it is forgotten, which cannot happen.
    pub(super) fn enter(&mut self, level: Level<'a>) {
        let _ = self.levels.try_push(level);
    }

    /// The parent of the node at hand, before it is entered.
    pub(super) fn parent(&self) -> Option<&Level<'a>> {
        self.levels.last()
    }

    /// Whether all nodes above are enabled.
    pub(super) fn is_enabled(&self) -> bool {
        self.parent().is_none_or(|parent| parent.enabled)
    }

    /// The first `reg` entry of the node at hand, as the CPU sees it.
    pub(super) fn cpu_range(&self, reg: &[u8], index: usize) -> Option<RawRange> {
        let parent = self.parent()?;
        let (mut list, _) = entries(reg, parent.address_cells + parent.size_cells);
        let (address, size) = split(list.nth(index)?, parent.address_cells)?;
        let base = self.translate(number(address)?, |level| match level.ranges {
            // No `ranges` at all: the children have no address beyond their bus.
            None => Bus::Closed,
            Some(ranges) => Bus::of(ranges),
        })?;
        Some(RawRange { base, size: number(size)? })
    }

    /// How devices on `bus`, the node at hand, see RAM: by the first of its `dma-ranges`; as the bus itself does, if
    /// it has none.
    pub(super) fn dma_window(&self, bus: &Level<'a>) -> DmaWindow {
        let Some(parent) = self.parent() else { return DmaWindow::IDENTITY };
        let Some(ranges) = bus.dma_ranges.filter(|ranges| !ranges.is_empty()) else { return parent.dma_window };
        let (mut list, _) = entries(ranges, bus.address_cells + parent.address_cells + bus.size_cells);
        let first = list.find_map(|entry| {
            let (child, rest) = split(entry, bus.address_cells)?;
            let (address, size) = split(rest, parent.address_cells)?;
            let cpu = self.dma_translate(number(address)?)?;
            Some(DmaWindow { bus: number(child)?, cpu, size: number(size)? })
        });
        first.unwrap_or(DmaWindow { bus: 0, cpu: 0, size: 0 })
    }

    /// How the node at hand sees RAM, if it is a master: all `dma-ranges` of the nearest bus that has some, as far as there
    /// is room; nothing if its addresses are the CPU's.
    pub(super) fn dma_windows(&self) -> DmaWindows {
        let is_translating = |level: &Level<'a>| level.dma_ranges.is_some_and(|ranges| !ranges.is_empty());
        let Some(at) = self.levels.iter().rposition(is_translating) else { return DmaWindows::new() };
        let above = self.levels.get(..at).unwrap_or_default();
        let (Some(bus), Some(parent)) = (self.levels.get(at), above.last()) else { return DmaWindows::new() };
        let (list, _) =
            entries(bus.dma_ranges.unwrap_or_default(), bus.address_cells + parent.address_cells + bus.size_cells);
        let windows = list.filter_map(|entry| {
            let (child, rest) = split(entry, bus.address_cells)?;
            let (address, size) = split(rest, parent.address_cells)?;
            let cpu = translate(above, number(address)?, dma_bus)?;
            Some(DmaWindow { bus: number(child)?, cpu, size: number(size)? })
        });
        windows.take(DmaWindows::new().capacity()).collect()
    }

    /// One past the highest CPU address that masters on the bus at hand reach, if its `dma-ranges` limit them
    /// (Linux: `of_dma_get_max_cpu_address`).
    pub(super) fn dma_end(&self, bus: &Level<'a>) -> Option<u64> {
        let parent = self.parent()?;
        let ranges = bus.dma_ranges.filter(|ranges| !ranges.is_empty())?;
        let (list, _) = entries(ranges, bus.address_cells + parent.address_cells + bus.size_cells);
        let ends = list.filter_map(|entry| {
            let (_, rest) = split(entry, bus.address_cells)?;
            let (address, size) = split(rest, parent.address_cells)?;
            let base = self.dma_translate(number(address)?)?;
            // An end beyond 64 bits limits nobody.
            Some(base.saturating_add(number(size)?))
        });
        ends.max().filter(|end| *end != u64::MAX)
    }

    /// Takes an address that a master on the bus above sends out up to RAM.
    fn dma_translate(&self, address: u64) -> Option<u64> {
        self.translate(address, dma_bus)
    }

    /// Takes `address`, in the space of the lowest level's children, up to the CPU.
    fn translate(&self, address: u64, bus: impl Fn(&Level<'a>) -> Bus<'a>) -> Option<u64> {
        translate(&self.levels, address, bus)
    }
}

/// Takes `address`, in the space of the last level's children, up to the CPU.
fn translate<'a>(levels: &[Level<'a>], mut address: u64, bus: impl Fn(&Level<'a>) -> Bus<'a>) -> Option<u64> {
    for (parent, level) in levels.iter().zip(levels.get(1..)?).rev() {
        address = match bus(level) {
            Bus::Closed => return None,
            Bus::Identity => address,
            Bus::Windows(ranges) => {
                let cells = [level.address_cells, parent.address_cells, level.size_cells];
                let (mut list, _) = entries(ranges, cells.iter().sum());
                list.find_map(|entry| window(entry, cells, address))?
            }
        };
    }
    Some(address)
}

/// How a bus passes on what its masters send out. As Linux: one that says nothing passes everything.
fn dma_bus<'a>(level: &Level<'a>) -> Bus<'a> {
    level.dma_ranges.map_or(Bus::Identity, Bus::of)
}

/// How a bus passes addresses on.
enum Bus<'a> {
    Closed,
    Identity,
    Windows(&'a [u8]),
}

impl<'a> Bus<'a> {
    fn of(ranges: &'a [u8]) -> Self {
        if ranges.is_empty() { Self::Identity } else { Self::Windows(ranges) }
    }
}

/// Where `address` comes out of a window (child address, parent address, size), if it goes in.
fn window(entry: &[u8], cells: [usize; 3], address: u64) -> Option<u64> {
    let [child_cells, parent_cells, _] = cells;
    let (child, rest) = split(entry, child_cells)?;
    let (parent, size) = split(rest, parent_cells)?;
    let offset = address.checked_sub(number(child)?)?;
    if offset < number(size)? { number(parent)?.checked_add(offset) } else { None }
}
