// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a slab is set up: what the command line may say, and what follows from the board.

use core::fmt;

use super::cache::Policy;
use super::debug::{Debug, DebugSpec};
use super::fault::Fault;
use super::front::MAX_CAPACITY;
use crate::addr::Order;

/// RAM for each CPU below which a board is tiny.
const TINY_BELOW: u64 = 32 << 20;
/// Of the RAM for each CPU, the part that one array of a CPU may hold: a 32768th. All of them full, with the few places
/// that large objects have, are a 250th at most.
const ARRAY_SHARE: u64 = 1 << 15;
/// Beyond so many bytes a quarter of that: with these, most operations on a heap of a megabyte find their array neither
/// empty nor full, and what lies in arrays is about a tenth of it.
const ARRAY_ENOUGH: u64 = 4096;

/// Sizes of the kmalloc caches by default. Few, since each holds slabs that are partly empty: with fourteen, a small heap
/// takes more memory for those than it saves within the objects.
const CLASSES: [u16; 11] = [8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256];
/// The class of each size up to the largest, in steps of eight.
pub(super) static CLASS_OF: [u8; 32] = {
    let (mut class_of, mut step, mut class) = ([0; 32], 0, 0);
    while step < class_of.len() {
        #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
        {
            while (CLASSES[class] as usize) < (step + 1) * 8 {
                class += 1;
            }
            class_of[step] = class as u8;
        }
        step += 1;
    }
    class_of
};

/// Sizes of the kmalloc caches when objects are debugged: Linux's.
const DEBUG_CLASSES: [u16; 12] = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096];

/// `failslab=`: allocations that fail on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FailSlab {
    /// Of a hundred, how many.
    pub probability: u32,
    /// Only every so many-th is considered; 0 for each.
    pub interval: u32,
    /// How many are let through before the first fails.
    pub space: u32,
    /// How many fail at most.
    pub times: u32,
}

impl FailSlab {
    /// Parses Linux's `interval,probability,space,times`, where -1 times means for ever.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split(',').map(str::trim);
        let mut number = || parts.next()?.parse::<i64>().ok();
        let (interval, probability, space, times) = (number()?, number()?, number()?, number()?);
        Some(Self {
            probability: u32::try_from(probability).ok().filter(|percent| *percent <= 100)?,
            interval: u32::try_from(interval).ok()?,
            space: u32::try_from(space).ok()?,
            times: if times < 0 { u32::MAX } else { u32::try_from(times).ok()? },
        })
    }

    /// Whether any allocation may fail.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.probability > 0 && self.times > 0
    }

    /// Whether the allocation with this count, from 0 up, fails.
    #[must_use]
    pub fn fails(&self, count: u64) -> bool {
        let Some(count) = count.checked_sub(self.space.into()) else { return false };
        let interval = u64::from(self.interval.max(1));
        if !count.is_multiple_of(interval) {
            return false;
        }
        // Spread evenly instead of drawn: the n-th fails when n * p / 100 reaches the next whole number.
        let (turn, p) = (count / interval, u64::from(self.probability));
        let failed = turn * p / 100;
        (turn + 1) * p / 100 > failed && failed < u64::from(self.times)
    }
}

/// How a [`Slab`](super::Slab) is set up.
#[derive(Clone, Copy)]
pub struct Settings {
    /// `slab_tiny=`: chosen from the RAM for each CPU if it does not say.
    pub tiny: Option<bool>,
    /// RAM that the page allocator has.
    pub ram_bytes: u64,
    /// CPUs that will allocate.
    pub nr_cpus: usize,
    /// `slub_debug=`.
    pub debug: DebugSpec<'static>,
    /// `init_on_alloc=`: new objects are zeroed.
    pub init_on_alloc: bool,
    /// `init_on_free=`: objects are zeroed when they are freed.
    pub init_on_free: bool,
    /// `failslab=`.
    pub failslab: FailSlab,
    /// Large objects take the room that frames of small ones have before they take a new frame: for a fixed arena, where no
    /// frame that goes back helps anybody else.
    pub one_group: bool,
    /// What the links of free memory are XORed with: random, if there is anything random.
    pub secret: usize,
    /// Is called for each fault that is found, with no lock held, maybe in interrupt context.
    pub report: fn(&Fault),
}

impl Settings {
    /// The defaults for so much RAM and so many CPUs. Faults go to `report`.
    #[must_use]
    pub const fn new(ram_bytes: u64, nr_cpus: usize, report: fn(&Fault)) -> Self {
        Self {
            tiny: None,
            ram_bytes,
            nr_cpus,
            debug: DebugSpec::NONE,
            init_on_alloc: false,
            init_on_free: false,
            failslab: FailSlab { probability: 0, interval: 0, space: 0, times: 0 },
            one_group: false,
            secret: 0x5bd1_e995_9d1b_58d0,
            report,
        }
    }

    pub(super) fn resolved(mut self) -> Self {
        let share = self.ram_bytes / self.nr_cpus.max(1) as u64;
        self.tiny = Some(self.tiny.unwrap_or(share < TINY_BELOW));
        self
    }

    /// Whether every object comes from the packed heap, without per-CPU arrays.
    #[must_use]
    pub const fn is_tiny(&self) -> bool {
        matches!(self.tiny, Some(true))
    }

    /// Whether operations need more than the arrays do.
    const fn is_careful(&self) -> bool {
        self.init_on_alloc || self.init_on_free || self.failslab.is_on()
    }

    /// Bytes of objects that one array of a CPU may hold; 0 for no arrays.
    pub(super) fn array_bytes(&self) -> usize {
        if self.is_tiny() || self.is_careful() {
            return 0;
        }
        let share = self.ram_bytes / self.nr_cpus.max(1) as u64 / ARRAY_SHARE;
        (share / 4).max(share.min(ARRAY_ENOUGH)).clamp(512, MAX_CAPACITY as u64 * 512) as usize
    }

    pub(super) fn classes(&self) -> &'static [u16] {
        if !self.debug.of("kmalloc-64").is_empty() || !self.debug.of("kmalloc-4k").is_empty() {
            &DEBUG_CLASSES
        } else if self.is_tiny() {
            &[]
        } else {
            &CLASSES
        }
    }

    /// Whether kmalloc objects are debugged.
    pub(super) fn debug_any(&self) -> bool {
        self.classes().len() == DEBUG_CLASSES.len()
    }

    pub(super) fn policy(&self, name: &str) -> Policy {
        Policy {
            debug: self.debug.of(name) - Debug::FAILSLAB,
            array_bytes: self.array_bytes(),
            max_order: Order::new(if self.is_tiny() { 1 } else { 3 }).unwrap_or(Order::ZERO),
            keep: usize::from(!self.is_tiny()),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("tiny", &self.tiny).field("debug", &self.debug).finish_non_exhaustive()
    }
}

/// Why a slab was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// So many tags are needed.
    TooFewTags(usize),
    /// The direct map shows the first page here, which is no multiple of a page.
    Misaligned(usize),
    /// No memory for the kmalloc caches.
    OutOfMemory,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooFewTags(needed) => write!(f, "the slab needs {needed} tags of 2 bytes"),
            Self::Misaligned(addr) => write!(f, "the direct map shows a page at {addr:#x}, which is misaligned"),
            Self::OutOfMemory => f.write_str("out of memory for the kmalloc caches"),
        }
    }
}

impl core::error::Error for SetupError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_tiny_by_its_ram_for_each_cpu_unless_told() {
        let tiny = |mib: u64, cpus, told| {
            Settings { tiny: told, ..Settings::new(mib << 20, cpus, |_| {}) }.resolved().is_tiny()
        };
        assert!(tiny(16, 1, None) && tiny(31, 1, None) && tiny(100, 4, None));
        assert!(!tiny(32, 1, None) && !tiny(512, 4, None));
        assert!(tiny(512, 1, Some(true)) && !tiny(8, 1, Some(false)));
    }

    #[test]
    fn arrays_grow_with_the_ram_of_a_cpu() {
        let bytes = |mib: u64, cpus| Settings::new(mib << 20, cpus, |_| {}).resolved().array_bytes();
        assert_eq!([16, 32, 64, 128].map(|mib| bytes(mib, 1)), [0, 1024, 2048, 4096]);
        assert_eq!([256, 512, 1024, 8192].map(|mib| bytes(mib, 1)), [4096, 4096, 8192, 31 * 512]);
        assert_eq!(bytes(1024, 4), bytes(256, 1));
    }

    #[test]
    fn failslab_fails_so_many_of_a_hundred() {
        let fail = FailSlab::parse("1,10,5,-1").unwrap();
        let failed: Vec<u64> = (0..1005).filter(|count| fail.fails(*count)).collect();
        assert_eq!(failed.len(), 100);
        assert!(failed.iter().all(|count| *count >= 5));
        let twice = FailSlab::parse("1,100,0,2").unwrap();
        assert_eq!((0..10).filter(|count| twice.fails(*count)).count(), 2);
        for bad in ["", "1,2,3", "1,101,0,1", "x,1,1,1"] {
            assert_eq!(FailSlab::parse(bad), None, "{bad}");
        }
    }
}
