// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making the page allocator from what memblock knows.

use core::mem;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32};

use spin::Once;

use super::hoard::Hoard;
use super::lanes::LaneCell;
use super::map::{NOWHERE_WORDS, WORD_ORDER, WordMap};
use super::watch::{Faults, Fill, Watch};
use super::watermark::{Tuning, Watermarks};
use super::zone_cell::ZoneCell;
use super::zones::Zones;
use super::{Pages, lanes, place};
use crate::addr::{Order, Pfn, PhysAddr, PhysRange};
use crate::arch::{Arch, MAX_CPUS};
use crate::buddy::{FreeError, Lane, TooSmall};
use crate::memblock::Memblock;
use crate::zone::{MAX_ZONES, Plan, ZoneError};

/// The machine, as far as the page allocator needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The first address that not every device reaches.
    pub dma_limit: Option<PhysAddr>,
    /// CPUs that will ever run, numbered from 0. Others work too, without a hoard.
    pub nr_cpus: usize,
    /// Watermarks.
    pub tuning: Tuning,
    /// Whether CPUs hoard. Without, every call takes a zone's lock.
    pub hoarding: bool,
    /// What memory is filled with when it changes hands.
    pub fill: Fill,
    /// Called with a frame, and an offset in it, that was written to while it was free; with no lock held.
    pub on_spoilt: Option<fn(Pfn, usize)>,
    /// Which allocations fail on purpose.
    pub faults: Option<Faults>,
    /// Words of 64 frames that a CPU's hoard is worth: how many large blocks it keeps, of which orders it hoards small
    /// ones, and how many may wait though they are free as a whole. By RAM and CPUs if `None`.
    pub pool_words: Option<usize>,
}

impl Config {
    /// One CPU, no limit for devices, Linux's watermarks.
    pub const DEFAULT: Self = Self {
        dma_limit: None,
        nr_cpus: 1,
        tuning: Tuning::DEFAULT,
        hoarding: true,
        fill: Fill { on_alloc: false, on_free: false, poison: false },
        on_spoilt: None,
        faults: None,
        pool_words: None,
    };

    fn nr_hoards(&self) -> usize {
        self.nr_cpus.clamp(1, MAX_CPUS)
    }

    /// How many lanes there are, with so much RAM.
    fn nr_lanes(&self, memblock: &Memblock) -> usize {
        let ram = Plan::all(memblock, self.dma_limit).flat_map(Plan::ram).map(PhysRange::size).sum();
        lanes::count(self.nr_hoards(), ram)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The part of a zone that the hoards of all CPUs may hold together, as Linux's default.
const HIGH_FRACTION: u64 = 8;

impl<'a, A: Arch> Pages<'a, A> {
    /// Bytes of metadata for [`Pages::build`]: about 0.4 bytes a frame of RAM, and 3 KiB a CPU. Reservations do not
    /// change it.
    #[must_use]
    pub fn metadata_bytes(memblock: &Memblock, config: &Config) -> u64 {
        let plans = Plan::all(memblock, config.dma_limit);
        let zones: usize = plans.clone().map(Plan::metadata_words).sum();
        if zones == 0 {
            return 0;
        }
        let nr_lanes = config.nr_lanes(memblock);
        let maps: usize = plans.flat_map(Plan::ram).map(|range| WordMap::metadata_words(range, nr_lanes)).sum();
        let hoards = place::words::<Hoard>(config.nr_hoards() + 1);
        let cells = place::words::<Once<ZoneCell<'_>>>(MAX_ZONES);
        let lanes = place::words::<LaneCell>(nr_lanes);
        ((zones + maps + hoards + cells + lanes + NOWHERE_WORDS) * size_of::<u64>()) as u64
    }

    /// Makes the zones and frees every free range of `memblock` into them. `metadata` may hold anything; it should
    /// be page aligned, and reserved in `memblock` by now. O(RAM / 4 MiB).
    ///
    /// # Errors
    ///
    /// [`ZoneError`].
    pub fn build(
        arch: &'a A,
        memblock: &Memblock,
        config: &Config,
        metadata: &'a mut [u64],
    ) -> Result<Self, ZoneError> {
        let words = (Self::metadata_bytes(memblock, config) / 8) as usize;
        let too_small = ZoneError::Metadata(TooSmall(words));
        let mut rest = metadata;
        let mut part = |words| {
            let (part, behind) = mem::take(&mut rest).split_at_mut_checked(words).ok_or(too_small)?;
            rest = behind;
            Ok(part)
        };
        let plans = || Plan::all(memblock, config.dma_limit);
        if let Some(plan) = plans().nth(MAX_ZONES) {
            return Err(ZoneError::TooManyZones(plan.node()));
        }
        let for_zones = part(plans().map(Plan::metadata_words).sum())?;
        let for_cells = part(place::words::<Once<ZoneCell<'_>>>(MAX_ZONES))?;
        let zones = build_zones(plans(), for_zones, for_cells)?;
        let managed: u64 =
            zones.iter_mut().filter_map(Once::get_mut).map(|cell| cell.zone.get_mut().buddy().managed_pages()).sum();
        let nr_hoards = config.nr_hoards();
        let share = (managed / HIGH_FRACTION / nr_hoards as u64) >> WORD_ORDER;
        let limit = config.pool_words.unwrap_or(share as usize);
        let nr_lanes = config.nr_lanes(memblock);
        let hoards = build_hoards(part(place::words::<Hoard>(nr_hoards + 1))?, nr_hoards, limit, nr_lanes);
        let cells = part(place::words::<LaneCell>(nr_lanes))?;
        let lanes = lanes::deal(place::place(cells, (0..nr_lanes).map(|_| LaneCell::new()))).ok_or(too_small)?;
        let (spare, hoards) = hoards.split_last().ok_or(too_small)?;
        let nowhere = part(NOWHERE_WORDS)?.first_chunk_mut().ok_or(too_small)?;
        let mut pages = Self {
            map: WordMap::new(nowhere, nr_lanes),
            hoards: core::array::from_fn(|cpu| hoards.get(cpu).unwrap_or(spare)),
            lanes,
            arch,
            zones: Zones::new(&[]),
            nodes: [const { AtomicU32::new(0) }; MAX_CPUS],
            against_hoarding: AtomicU32::new(super::watch::SEES_ALL),
            may_hoard: config.hoarding,
            watch: Watch::new(config.fill, config.on_spoilt),
            tuning: config.tuning,
            dma_limit: config.dma_limit,
            is_growing: AtomicBool::new(false),
            shrinkers: Default::default(),
            owners: Default::default(),
        };
        for (index, cell) in zones.iter_mut().filter_map(Once::get_mut).enumerate() {
            for range in cell.zone.get_mut().buddy().ranges() {
                let words = part(WordMap::metadata_words(range, nr_lanes))?;
                if !pages.map.add(range, index, words) {
                    return Err(ZoneError::TooManyRanges(cell.node));
                }
            }
        }
        pages.zones = Zones::new(zones);
        if config.fill.poison {
            pages.map.clear();
        }
        pages.set_watermarks(&config.tuning);
        pages.inject_faults(config.faults);
        Ok(pages)
    }

    /// Tells the node of a CPU: its requests try that node first. A node without memory counts as the first.
    pub fn set_node(&self, cpu: usize, node: u32) {
        if let Some(slot) = self.nodes.get(cpu) {
            slot.store(node, Relaxed);
        }
    }

    /// The first zone of a node.
    pub(super) fn home_of(&self, node: u32) -> usize {
        self.zones.iter().position(|zone| zone.node == node).unwrap_or(0)
    }

    /// Puts whole frames of RAM under management that were held back so far, such as boot-only parts of a kernel image,
    /// and frees them. Returns their number. The watermarks stay as they are.
    ///
    /// # Errors
    ///
    /// [`FreeError`] at the first zone border or end of RAM behind which it cannot be done; what lies before it has
    /// been added.
    pub fn add_range(&self, range: PhysRange) -> Result<u64, FreeError> {
        let mut left = range.frames_inside();
        let mut pages = 0;
        while !left.is_empty() {
            let foreign = FreeError::Foreign(left.start().pfn(), Order::ZERO);
            let place = self.map.find_frame(left.start().pfn()).ok_or(foreign)?;
            let cell = self.zones.get(self.map.zone(place)).ok_or(foreign)?;
            let mut zone = cell.zone.lock(self.arch);
            let ram = zone.buddy().ranges().find(|ram| ram.contains(left.start())).ok_or(foreign)?;
            let part = PhysRange::new(left.start(), left.end().min(ram.end())).ok_or(foreign)?;
            pages += zone.buddy_mut().add_range(part)?;
            left = PhysRange::new(part.end(), left.end()).ok_or(foreign)?;
        }
        Ok(pages)
    }

    /// Sets the watermarks of all zones by what they manage now.
    pub fn set_watermarks(&self, tuning: &Tuning) {
        let managed = self.each_zone(|zone| (zone.node(), zone.kind(), zone.buddy().managed_pages()));
        let total = managed.iter().flatten().map(|zone| zone.2).sum();
        for (cell, zone) in self.zones.iter().zip(managed) {
            let Some((node, kind, pages)) = zone else { continue };
            let higher = managed.iter().flatten().filter(|other| other.0 == node && other.1 > kind);
            cell.set_marks(Watermarks::new(tuning, pages, total, higher.map(|zone| zone.2).sum()));
        }
    }
}

/// Apart, as the next one, so that large values are off the stack when the rest is made.
#[inline(never)]
fn build_hoards(metadata: &mut [u64], count: usize, limit: usize, nr_lanes: usize) -> &[Hoard] {
    // The last one is for CPUs without a number of their own here.
    let hoards = (0..=count).map(|cpu| {
        let limit = if cpu < count { limit } else { 0 };
        Hoard::new(limit, (limit as u64) << WORD_ORDER >> 1, Lane::of_cpu(cpu, nr_lanes))
    });
    place::place(metadata, hoards)
}

#[inline(never)]
fn build_zones<'a, 'm>(
    plans: impl Iterator<Item = Plan<'m>>,
    metadata: &'a mut [u64],
    for_cells: &'a mut [u64],
) -> Result<&'a mut [Once<ZoneCell<'a>>], ZoneError> {
    let (mut rest, mut failed) = (metadata, None);
    let cells = plans.map_while(|plan| {
        let (part, behind) = mem::take(&mut rest).split_at_mut_checked(plan.metadata_words())?;
        rest = behind;
        match plan.build(part) {
            Ok(zone) => Some(ZoneCell::new(zone)),
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    });
    let cells = cells.map(Once::initialized).chain(core::iter::repeat_with(Once::new)).take(MAX_ZONES);
    let cells = place::place(for_cells, cells);
    failed.map_or(Ok(cells), Err)
}
