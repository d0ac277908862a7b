// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is found late: held back by `mem=` at first, or plugged in.
//!
//! ```text
//!   [ metadata | frames ... )     the range; it carries what is kept of it in itself
//! ```
//!
//! It becomes a zone of its own behind the others, and in reports a part of the one of its kind on its node.

use core::fmt;
use core::slice;
use core::sync::atomic::Ordering::{Acquire, Release};

use super::Pages;
use super::map::{MAX_RANGES, WordMap};
use super::zone_cell::ZoneCell;
use crate::addr::{PAGE_SIZE, PhysRange};
use crate::arch::Arch;
use crate::buddy::{FreeError, TooSmall};
use crate::zone::{MAX_ZONES, Zone, ZoneKind};

/// Why a range cannot be added. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddError {
    /// It is less than its own metadata and a frame.
    TooSmall(PhysRange),
    /// Part of it is managed already.
    Overlaps(PhysRange),
    /// There are [`MAX_ZONES`] zones.
    TooManyZones,
    /// There are [`MAX_RANGES`] ranges.
    TooManyRanges,
    /// Another CPU is adding a range.
    Busy,
    /// The allocator was built without any memory, and stays so.
    Empty,
    /// The range contradicts itself.
    Metadata(TooSmall),
    /// As above.
    Free(FreeError),
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall(range) => write!(f, "{range} is too small for its own metadata"),
            Self::Overlaps(range) => write!(f, "part of {range} is in use already"),
            Self::TooManyZones => write!(f, "there are {MAX_ZONES} zones, and no room for more"),
            Self::TooManyRanges => write!(f, "there are {MAX_RANGES} ranges of memory, and no room for more"),
            Self::Empty => f.write_str("there is no memory that it could be added to"),
            Self::Busy => f.write_str("another CPU is adding memory"),
            Self::Metadata(error) => error.fmt(f),
            Self::Free(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AddError {}

/// A part of a range that becomes a zone.
#[derive(Clone, Copy)]
struct Part {
    range: PhysRange,
    kind: ZoneKind,
    node: u32,
}

impl Part {
    /// Words of metadata of its zone, and of the map of words.
    fn metadata_words(self, lanes: usize) -> (usize, usize) {
        (Zone::metadata_words(self.range), WordMap::metadata_words(self.range, lanes))
    }

    /// What its metadata leaves.
    fn free(self, lanes: usize) -> Result<PhysRange, AddError> {
        let (for_zone, for_words) = self.metadata_words(lanes);
        let bytes = ((for_zone + for_words) * size_of::<u64>()) as u64;
        let start = self.range.start().checked_add(bytes.next_multiple_of(PAGE_SIZE));
        let free = start.and_then(|start| PhysRange::new(start, self.range.end()));
        free.filter(|free| !free.is_empty()).ok_or(AddError::TooSmall(self.range))
    }
}

impl<'a, A: Arch> Pages<'a, A> {
    /// Puts the whole frames of a range under management and frees those that its metadata leaves. Returns their number.
    /// The watermarks are set anew. O(range / 4 MiB).
    ///
    /// # Errors
    ///
    /// [`AddError`].
    ///
    /// # Safety
    ///
    /// For as long as `'a` the range is RAM that [`direct_map`](Arch::direct_map) shows, writable, and nothing else uses
    /// it.
    pub unsafe fn add_memory(&self, range: PhysRange, node: u32) -> Result<u64, AddError> {
        if self.is_growing.swap(true, Acquire) {
            return Err(AddError::Busy);
        }
        let parts = ZoneKind::ALL.into_iter().filter_map(|kind| {
            let range = range.intersection(kind.window(self.dma_limit))?.frames_inside();
            (!range.is_empty()).then_some(Part { range, kind, node })
        });
        let mut added = self.check_parts(parts.clone()).map(|()| 0);
        for part in parts {
            // SAFETY: the caller's promise, for a part of the range; one CPU at a time, by the flag.
            added = added.and_then(|pages| Ok(pages + unsafe { self.add_part(part) }?));
        }
        self.set_watermarks(&self.tuning);
        self.is_growing.store(false, Release);
        added
    }

    /// Whether all parts can be added, so that none is without the other.
    fn check_parts(&self, parts: impl Iterator<Item = Part> + Clone) -> Result<(), AddError> {
        if self.map.nr_ranges() == 0 {
            return Err(AddError::Empty);
        }
        if self.zones.count() + parts.clone().count() > MAX_ZONES {
            return Err(AddError::TooManyZones);
        }
        if self.map.nr_ranges() + parts.clone().count() > MAX_RANGES {
            return Err(AddError::TooManyRanges);
        }
        for part in parts {
            if self.map.touches(part.range) {
                return Err(AddError::Overlaps(part.range));
            }
            part.free(self.map.lanes())?;
        }
        Ok(())
    }

    /// # Safety
    ///
    /// 1. As [`add_memory`](Pages::add_memory).
    /// 2. Nobody else adds at the same time.
    unsafe fn add_part(&self, part: Part) -> Result<u64, AddError> {
        let free = part.free(self.map.lanes())?;
        let (for_zone, for_words) = part.metadata_words(self.map.lanes());
        let start = self.arch.direct_map(part.range.start()).cast::<u64>();
        // SAFETY: inside the range, in front of what is free, and by (1) nobody's and mapped; any bits are a u64.
        let metadata: &'a mut [u64] = unsafe { slice::from_raw_parts_mut(start, for_zone + for_words) };
        let (for_zone, for_words) = metadata.split_at_mut(for_zone);
        if self.watch.fill.poison {
            // There the words say which frames are poisoned.
            for_words.fill(0);
        }
        let mut zone = Zone::new(part.range, part.kind, part.node, for_zone).map_err(AddError::Metadata)?;
        let pages = zone.buddy_mut().add_range(free).map_err(AddError::Free)?;
        // SAFETY: by (2); and there is a range already, as was checked.
        if !unsafe { self.map.add_shared(part.range, self.zones.count(), for_words) } {
            return Err(AddError::TooManyRanges);
        }
        self.zones.add(ZoneCell::new(zone));
        Ok(pages)
    }
}
