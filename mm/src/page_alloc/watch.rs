// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes every call take the long way: failures on purpose, and memory that is filled when it changes hands.
//!
//! While anything of it is on, no CPU hoards, so that nothing passes by unseen; while all is off, it costs nothing.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use super::Pages;
use crate::addr::{PAGE_SIZE, Pfn};
use crate::arch::Arch;
use crate::buddy::PageBlock;

/// What is written to free pages that nobody may use (Linux's `PAGE_POISON`).
pub const PAGE_POISON: u8 = 0xaa;

/// Every call has to be seen. Below it, isolations are counted.
pub(super) const SEES_ALL: u32 = 1 << 31;

/// What memory is filled with, and when.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fill {
    /// `init_on_alloc=1`: zeros when it is handed out.
    pub on_alloc: bool,
    /// `init_on_free=1`: zeros when it comes back.
    pub on_free: bool,
    /// `page_poison=1`: [`PAGE_POISON`] when it comes back, rather than zeros; checked when it is handed out again.
    pub poison: bool,
}

impl Fill {
    /// Whether every call has to be seen.
    #[must_use]
    pub const fn is_on(self) -> bool {
        self.on_alloc || self.on_free || self.poison
    }
}

/// Which allocations fail on purpose: Linux's `fail_page_alloc=interval,probability,space,times`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults {
    /// Of the calls that the others let through, every so many may fail; 0 and 1 for each.
    pub interval: u64,
    /// Per cent of those that do.
    pub probability: u64,
    /// Frames that are handed out before the first failure.
    pub space: u64,
    /// Failures altogether; below 0 for no limit.
    pub times: i64,
}

impl Faults {
    /// The parameter's value: four numbers with commas.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(',').map(str::trim);
        let mut next = || numbers.next()?.parse::<i64>().ok();
        let (interval, probability, space, times) = (next()?, next()?, next()?, next()?);
        let is_end = numbers.next().is_none();
        let natural = |number: i64| u64::try_from(number).ok();
        let (interval, probability, space) = (natural(interval)?, natural(probability)?, natural(space)?);
        (is_end && probability <= 100).then_some(Self { interval, probability, space, times })
    }
}

/// The state behind it.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) fill: Fill,
    injects: AtomicBool,
    interval: AtomicU64,
    probability: AtomicU64,
    space: AtomicU64,
    times: AtomicI64,
    calls: AtomicU64,
    random: AtomicU64,
    /// Calls until the one that fails; 0 for none.
    countdown: AtomicU64,
    failed: AtomicU64,
    on_spoilt: Option<fn(Pfn, usize)>,
    spoilt: AtomicU64,
}

impl Watch {
    pub(super) const fn new(fill: Fill, on_spoilt: Option<fn(Pfn, usize)>) -> Self {
        Self {
            fill,
            on_spoilt,
            spoilt: AtomicU64::new(0),
            injects: AtomicBool::new(false),
            interval: AtomicU64::new(0),
            probability: AtomicU64::new(0),
            space: AtomicU64::new(0),
            times: AtomicI64::new(0),
            calls: AtomicU64::new(0),
            random: AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            countdown: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Whether this call, for so many frames, is to fail.
    #[cold]
    fn fails(&self, pages: u64) -> bool {
        if self.countdown.load(Relaxed) > 0 && self.countdown.fetch_sub(1, Relaxed) == 1 {
            self.failed.fetch_add(1, Relaxed);
            return true;
        }
        if !self.injects.load(Relaxed) || self.times.load(Relaxed) == 0 {
            return false;
        }
        let space = self.space.load(Relaxed);
        if space > 0 {
            self.space.store(space.saturating_sub(pages), Relaxed);
            return false;
        }
        let calls = self.calls.fetch_add(1, Relaxed) + 1;
        let interval = self.interval.load(Relaxed);
        if interval > 1 && !calls.is_multiple_of(interval) {
            return false;
        }
        let mut random = self.random.load(Relaxed);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.store(random, Relaxed);
        if (random >> 32) % 100 >= self.probability.load(Relaxed) {
            return false;
        }
        if self.times.load(Relaxed) > 0 {
            self.times.fetch_sub(1, Relaxed);
        }
        self.failed.fetch_add(1, Relaxed);
        true
    }
}

impl<A: Arch> Pages<'_, A> {
    /// Makes allocations fail on purpose from now on; `None` ends it.
    pub fn inject_faults(&self, faults: Option<Faults>) {
        let watch = &self.watch;
        if let Some(faults) = faults {
            watch.interval.store(faults.interval, Relaxed);
            watch.probability.store(faults.probability, Relaxed);
            watch.space.store(faults.space, Relaxed);
            watch.times.store(faults.times, Relaxed);
            watch.calls.store(0, Relaxed);
        }
        watch.injects.store(faults.is_some(), Relaxed);
        self.decide_hoarding();
    }

    /// Makes the `nth` allocation from now on fail, the next being the first, and only that; 0 calls it off. For tests
    /// that run out of memory at every possible place.
    pub fn fail_nth(&self, nth: u64) {
        self.watch.countdown.store(nth, Relaxed);
        self.decide_hoarding();
    }

    /// Allocations that failed on purpose.
    #[must_use]
    pub fn injected_failures(&self) -> u64 {
        self.watch.failed.load(Relaxed)
    }

    /// CPUs hoard unless every call has to be seen.
    pub(super) fn decide_hoarding(&self) {
        let watch = &self.watch;
        let sees_all = watch.fill.is_on() || watch.injects.load(Relaxed) || watch.countdown.load(Relaxed) > 0;
        match self.may_hoard && !sees_all {
            true => self.against_hoarding.fetch_and(!SEES_ALL, Relaxed),
            false => self.against_hoarding.fetch_or(SEES_ALL, Relaxed),
        };
        if sees_all {
            self.drain();
        }
    }

    /// Large blocks go to their zones from now on, and so into the isolation, if they lie there.
    pub(super) fn begin_isolation(&self) {
        self.against_hoarding.fetch_add(1, Relaxed);
    }

    /// Undoes [`begin_isolation`](Pages::begin_isolation).
    pub(super) fn end_isolation(&self) {
        self.against_hoarding.fetch_sub(1, Relaxed);
    }

    /// Whether a call that is seen is to fail.
    pub(super) fn fails_on_purpose(&self, pages: u64) -> bool {
        !self.is_hoarding() && self.watch.fails(pages)
    }

    /// Fills a block before it goes back, while it is still its owner's. That it is, and not free already, is the
    /// owner's word: the buddy allocator looks at it only afterwards.
    #[cold]
    #[inline(never)]
    pub(super) fn fill_before_free(&self, block: &PageBlock) {
        let fill = self.watch.fill;
        if fill.poison {
            self.fill(block, PAGE_POISON);
            self.each_word(block, |word, frames| {
                word.fetch_or(frames, Relaxed);
            });
        } else if fill.on_free {
            self.fill(block, 0);
        }
    }

    /// Whether the frames of a block that were poisoned still are. If not, somebody wrote to memory that he had freed:
    /// that is told, and the block must not be used.
    pub(super) fn is_unspoilt(&self, block: &PageBlock) -> bool {
        let mut spoilt = None;
        let mut first = block.pfn().as_raw();
        self.each_word(block, |word, frames| {
            let poisoned = word.fetch_and(!frames, Relaxed) & frames;
            let base = first & !63;
            for pfn in (0..64).filter(|bit| poisoned >> bit & 1 != 0).map(|bit| Pfn::known(base + bit)) {
                // SAFETY: the frame is RAM of a zone and the block is ours alone, so nobody writes to it by rights.
                let page = unsafe { &*self.arch.direct_map(pfn.addr()).cast::<[u8; PAGE_SIZE as usize]>() };
                if let Some(offset) = page.iter().position(|byte| *byte != PAGE_POISON) {
                    spoilt = spoilt.or(Some((pfn, offset)));
                }
            }
            first = base + 64;
        });
        if let Some((pfn, offset)) = spoilt {
            self.watch.spoilt.fetch_add(1, Relaxed);
            if let Some(tell) = self.watch.on_spoilt {
                tell(pfn, offset);
            }
        }
        spoilt.is_none()
    }

    /// The words that a block lies in, each with the bits of the block's frames. Without hoards they are free for use.
    fn each_word(&self, block: &PageBlock, mut each: impl FnMut(&AtomicU64, u64)) {
        let (mut first, end) = (block.pfn().as_raw(), block.pfn().as_raw() + block.order().pages());
        while first < end {
            let next = ((first | 63) + 1).min(end);
            if let Some(place) = self.map.find_frame(Pfn::known(first)) {
                each(self.map.word(place).free, u64::MAX >> (64 - (next - first)) << (first % 64));
            }
            first = next;
        }
    }

    /// Blocks that were written to while they were free, and are kept from use.
    #[must_use]
    pub fn spoilt_blocks(&self) -> u64 {
        self.watch.spoilt.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_read_as_linux_reads_it() {
        let faults = Faults { interval: 10, probability: 50, space: 0, times: -1 };
        assert_eq!(Faults::parse("10,50,0,-1"), Some(faults));
        for bad in ["", "1,2,3", "1,2,3,4,5", "1,101,0,1", "-1,1,0,1", "a,1,0,1"] {
            assert_eq!(Faults::parse(bad), None);
        }
    }

    #[test]
    fn failures_come_as_often_as_asked_for() {
        let watch = Watch::new(Fill::default(), None);
        let ask = |interval, probability, space, times| {
            watch.injects.store(true, Relaxed);
            watch.interval.store(interval, Relaxed);
            watch.probability.store(probability, Relaxed);
            watch.space.store(space, Relaxed);
            watch.times.store(times, Relaxed);
            watch.calls.store(0, Relaxed);
            (0..1000).filter(|_| watch.fails(1)).count()
        };
        assert_eq!(ask(0, 100, 0, -1), 1000);
        assert_eq!(ask(10, 100, 0, -1), 100);
        assert_eq!(ask(1, 100, 300, -1), 700);
        assert_eq!(ask(1, 100, 0, 7), 7);
        assert_eq!(ask(1, 0, 0, -1), 0);
        assert!((400..600).contains(&ask(1, 50, 0, -1)));
        assert_eq!(ask(1, 100, 0, 0), 0);
        watch.countdown.store(3, Relaxed);
        assert_eq!((0..6).map(|_| watch.fails(1)).collect::<Vec<_>>(), [false, false, true, false, false, false]);
    }
}
