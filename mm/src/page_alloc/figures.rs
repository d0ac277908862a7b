// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the page allocator tells about itself.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::Relaxed;

use super::hoard::MAX_HOARD_ORDER;
use super::map::WORD_ORDER;
use super::marks::Marked;
use super::watermark::Watermarks;
use super::zone_cell::ZoneCell;
use super::{Pages, word};
use crate::addr::{NR_ORDERS, PAGE_SIZE, Pfn, PhysRange};
use crate::arch::Arch;
use crate::buddy::{Broken, Mobility};
use crate::report::Cell;
use crate::zone::{MAX_ZONES, Zone, ZoneInfo, ZoneKind};

/// All figures of a zone, to be printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneReport {
    /// Frames and free blocks.
    pub info: ZoneInfo,
    /// Its watermarks.
    pub marks: Watermarks,
    /// From the first frame of RAM to the last, holes included.
    pub spanned_pages: u64,
    /// The first frame of RAM.
    pub start_pfn: u64,
    /// Frames kept from requests that can go as high as zone DMA, and as zone Normal.
    pub protection: [u64; 2],
    /// Free blocks of each order by type, in the order of [`Mobility::ALL`].
    pub nr_free_of: [[u64; NR_ORDERS]; Mobility::COUNT],
    /// Chunks of 1024 frames by type.
    pub nr_chunks_of: [u64; Mobility::COUNT],
    /// Requests that had to reclaim by themselves.
    pub alloc_stalls: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Words of 64 frames that CPUs took into their hoards.
    pub words_hoarded: u64,
    /// Words that they gave back.
    pub words_released: u64,
}

impl ZoneReport {
    /// Both together, which are parts of one zone.
    fn with(self, other: Self) -> Self {
        let start_pfn = self.start_pfn.min(other.start_pfn);
        let end_pfn = |of: &Self| of.start_pfn + of.spanned_pages;
        let sum = |a: Watermarks, b: Watermarks| Watermarks {
            min: a.min + b.min,
            low: a.low + b.low,
            high: a.high + b.high,
            promo: a.promo + b.promo,
            lowmem_reserve: a.lowmem_reserve.max(b.lowmem_reserve),
        };
        let [mine, others] = [&self, &other].map(|of| of.nr_free_of);
        Self {
            info: self.info.with(&other.info),
            marks: sum(self.marks, other.marks),
            spanned_pages: end_pfn(&self).max(end_pfn(&other)) - start_pfn,
            start_pfn,
            protection: add(self.protection, other.protection, u64::max),
            nr_free_of: add(mine, others, |a, b| add(a, b, |a, b| a + b)),
            nr_chunks_of: add(self.nr_chunks_of, other.nr_chunks_of, |a, b| a + b),
            alloc_stalls: self.alloc_stalls + other.alloc_stalls,
            failures: self.failures + other.failures,
            words_hoarded: self.words_hoarded + other.words_hoarded,
            words_released: self.words_released + other.words_released,
        }
    }
}

/// Two arrays, entry by entry.
fn add<T: Copy, const N: usize>(mut a: [T; N], b: [T; N], entry: impl Fn(T, T) -> T) -> [T; N] {
    a.iter_mut().zip(b).for_each(|(a, b)| *a = entry(*a, b));
    a
}

/// What a CPU hoards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuPages {
    /// Its number.
    pub cpu: usize,
    /// Free frames that it hoards.
    pub count: u64,
    /// Words that it hoards are given back from here on.
    pub high: u64,
    /// Frames that it takes at a time.
    pub batch: u64,
}

impl<'a, A: Arch> Pages<'a, A> {
    /// All figures of all zones, each as of the moment when the iterator comes to it. What was added late counts with
    /// the zone of its kind on its node.
    pub fn zone_reports(&self) -> impl Iterator<Item = ZoneReport> + Clone {
        (0..MAX_ZONES).map_while(|nth| self.parts_of(nth)?.map(|cell| self.report_of(cell)).reduce(ZoneReport::with))
    }

    /// What the `nth` zone of reports is made of.
    fn parts_of(&self, nth: usize) -> Option<impl Iterator<Item = &'a ZoneCell<'a>> + Clone> {
        let is_same = |a: &ZoneCell<'_>, b: &ZoneCell<'_>| (a.node, a.kind) == (b.node, b.kind);
        let mut firsts = self
            .zones
            .iter()
            .enumerate()
            .filter(|(index, cell)| !self.zones.iter().take(*index).any(|before| is_same(before, cell)));
        let (_, first) = firsts.nth(nth)?;
        Some(self.zones.iter().filter(move |cell| is_same(cell, first)))
    }

    fn report_of(&self, cell: &ZoneCell<'a>) -> ZoneReport {
        let zone = cell.zone.lock(self.arch);
        let (buddy, spanned, marks) = (zone.buddy(), zone.spanned(), cell.marks());
        ZoneReport {
            info: zone.info(),
            marks,
            spanned_pages: spanned.size() / PAGE_SIZE,
            start_pfn: spanned.start().pfn().as_raw(),
            protection: [0, if cell.kind == ZoneKind::Dma { marks.lowmem_reserve } else { 0 }],
            nr_free_of: Mobility::ALL.map(|mobility| buddy.nr_free_of(mobility)),
            nr_chunks_of: Mobility::ALL.map(|mobility| buddy.nr_chunks_of(mobility)),
            alloc_stalls: cell.events.alloc_stall.load(Relaxed),
            failures: cell.events.alloc_failed.load(Relaxed),
            words_hoarded: cell.events.hoarded.load(Relaxed),
            words_released: cell.events.released.load(Relaxed),
        }
    }

    /// Fills cells with what is free in a zone of [`zone_reports`](Pages::zone_reports), each an equal stretch of it, from
    /// the first frame to the last; `None` if there is no such zone. A block counts where it begins, and in the cells
    /// behind. O(free blocks), with the zone's lock held.
    pub fn survey(&self, zone: usize, cells: &mut [Cell]) -> Option<usize> {
        let parts = self.parts_of(zone)?;
        let spans = parts.clone().map(|cell| cell.zone.lock(self.arch).spanned());
        let spanned = spans.reduce(|all, span| {
            PhysRange::new(all.start().min(span.start()), all.end().max(span.end())).unwrap_or(all)
        })?;
        let (start, size) = (spanned.start().pfn().as_raw(), spanned.size() / PAGE_SIZE);
        let per_cell = size.div_ceil(cells.len() as u64).max(1);
        cells.fill(Cell::default());
        // Adds a run of frames to the cells that it lies in.
        let mut add = |first: u64, pages: u64, to: &dyn Fn(&mut Cell, u64)| {
            let (mut at, end) = (first - start, first - start + pages);
            while at < end {
                let next = ((at / per_cell + 1) * per_cell).min(end);
                if let Some(cell) = cells.get_mut((at / per_cell) as usize) {
                    to(cell, next - at);
                }
                at = next;
            }
        };
        for zone in parts.map(|cell| cell.zone.lock(self.arch)) {
            for range in zone.buddy().ranges() {
                add(range.start().pfn().as_raw(), range.size() / PAGE_SIZE, &|cell, pages| cell.ram += pages);
            }
            for (pfn, order) in zone.buddy().free_blocks() {
                add(pfn.as_raw(), order.pages(), &|cell, pages| {
                    cell.free += pages;
                    cell.largest = cell.largest.max(order.as_usize() as u8 + 1);
                });
            }
        }
        Some(size.div_ceil(per_cell) as usize)
    }

    /// What a CPU hoards; `None` if it has no hoard of its own.
    #[must_use]
    pub fn cpu_pages(&self, cpu: usize) -> Option<CpuPages> {
        let hoard = self.hoards.get(cpu)?;
        let high = (hoard.limit() << WORD_ORDER) as u64;
        (high > 0).then(|| CpuPages { cpu, count: self.hoarded_by(hoard), high, batch: 1 << WORD_ORDER })
    }

    /// Frames that are free in the zones: those in hoards are not among them.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.each_zone(|zone| zone.buddy().free_pages()).into_iter().flatten().sum()
    }

    /// Frames under management: those that were ever free.
    #[must_use]
    pub fn managed_pages(&self) -> u64 {
        self.each_zone(|zone| zone.buddy().managed_pages()).into_iter().flatten().sum()
    }

    /// The figures of all zones, each as of one moment, put together as [`zone_reports`](Pages::zone_reports) are.
    #[must_use]
    pub fn info(&self) -> [Option<ZoneInfo>; MAX_ZONES] {
        let info = |cell: &ZoneCell<'a>| cell.zone.lock(self.arch).info();
        core::array::from_fn(|nth| self.parts_of(nth)?.map(info).reduce(|all, part| all.with(&part)))
    }

    /// The watermarks of all zones.
    #[must_use]
    pub fn watermarks(&self) -> [Option<Watermarks>; MAX_ZONES] {
        core::array::from_fn(|index| Some(self.zones.get(index)?.marks()))
    }

    /// Frames that nobody may count on: the reserves and the high watermarks of all zones (Linux's
    /// `totalreserve_pages`).
    #[must_use]
    pub fn reserved_pages(&self) -> u64 {
        let zones = self.zones.iter().map(|cell| (cell.zone.lock(self.arch).buddy().managed_pages(), cell.marks()));
        zones.map(|(managed, marks)| managed.min(marks.lowmem_reserve + marks.high)).sum()
    }

    /// Looks at each zone with its lock held. Nothing may be printed there.
    pub fn each_zone<T>(&self, look: impl Fn(&Zone<'a>) -> T) -> [Option<T>; MAX_ZONES] {
        core::array::from_fn(|index| Some(look(&self.zones.get(index)?.zone.lock(self.arch))))
    }

    /// Words that are not hoarded have nothing; of those that are the buddy allocator has nothing.
    fn validate_words(&self, zone: &Zone<'a>) -> Result<(), Broken> {
        let owned = |pfn: Pfn| zone.buddy().owns(pfn);
        for (pfn, word) in self.map.words().filter(|(pfn, _)| owned(*pfn)) {
            let tag = word.tag();
            let allowed = if tag.is_plain() || tag.order() > MAX_HOARD_ORDER { 0 } else { tag.last_list().blocks() };
            if !tag.is_fresh() && word::bits(word.free) & !allowed != 0 {
                return Err(Broken::Word(pfn));
            }
        }
        for order in 0..=MAX_HOARD_ORDER {
            for place in self.map.marked(Marked::Waiting(order)) {
                let (pfn, tag) = (place.pfn(0), self.map.word(place).tag());
                if owned(pfn) && (tag.is_plain() || tag.order() != order) {
                    return Err(Broken::Word(pfn));
                }
            }
        }
        for (pfn, _) in zone.buddy().free_blocks() {
            let tag = self.map.find_frame(pfn).map(|place| self.map.word(place).tag());
            if !tag.is_some_and(|tag| tag.is_plain()) {
                return Err(Broken::Word(pfn));
            }
        }
        Ok(())
    }

    /// Checks every zone, and every word. O(frames), with the locks held: for tests, and for a console that wants to be
    /// sure.
    ///
    /// # Errors
    ///
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Broken> {
        self.each_zone(|zone| zone.buddy().validate().and_then(|()| self.validate_words(zone)))
            .into_iter()
            .flatten()
            .collect()
    }
}
