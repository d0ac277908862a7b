// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the page allocator tells about itself.
#![forbid(unsafe_code)]

use super::hoard::MAX_HOARD_ORDER;
use super::watermark::Watermarks;
use super::{Pages, word};
use crate::addr::Pfn;
use crate::arch::Arch;
use crate::buddy::Broken;
use crate::zone::{MAX_ZONES, Zone, ZoneInfo};

impl<'a, A: Arch> Pages<'a, A> {
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

    /// The figures of all zones, each as of one moment.
    #[must_use]
    pub fn info(&self) -> [Option<ZoneInfo>; MAX_ZONES] {
        self.each_zone(Zone::info)
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
        let zones = self.info().into_iter().zip(self.watermarks());
        zones.filter_map(|(zone, marks)| Some(zone?.managed_pages.min(marks?.lowmem_reserve + marks?.high))).sum()
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
