// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux's `memtest=N`: before anybody has memory, patterns are written to all that is free and read back, as many as asked
//! for; what does not keep them is reserved, and said. The same for what is free later, by `memtest` on the console.
//!
//! All of a range is written before any of it is read, so that an address line that is stuck shows as well. Good RAM
//! cannot be made bad in an emulator: `memtest_bad=ADDRESS,..` names words that are spoilt between the two.

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::{Memblock, ReserveFlags};

use super::owner::Owner;
use super::{Memory, direct_ptr};
use crate::{output, pr_err, pr_info, pr_warn};

/// Number of patterns there are, and what `memtest` without a number takes, as in Linux.
pub const NR_PATTERNS: u64 = 17;
/// Each hexadecimal digit of a pattern; the first comes last, and leaves zeros.
const DIGITS: [u64; NR_PATTERNS as usize - 1] =
    [0x0, 0xf, 0x5, 0xa, 0x1, 0x2, 0x4, 0x8, 0x3, 0x6, 0x9, 0xc, 0x7, 0xb, 0xd, 0xe];

/// What a word holds: 16 patterns of one digit, and one in which every word differs.
#[derive(Clone, Copy)]
struct Pattern(Option<u64>);

impl Pattern {
    fn new(number: u64) -> Self {
        Self(DIGITS.get((number % NR_PATTERNS) as usize).map(|digit| digit * 0x1111_1111_1111_1111))
    }

    const fn at(self, address: u64) -> u64 {
        match self.0 {
            Some(word) => word,
            None => !address,
        }
    }
}

/// A line that grows to the right.
struct Bar {
    total: u64,
    done: u64,
    shown: u64,
}

impl Bar {
    const WIDTH: u64 = 50;

    fn new(total: u64) -> Self {
        Self { total: total.max(1), done: 0, shown: 0 }
    }

    #[inline(never)]
    fn step(&mut self, bytes: u64) {
        self.done += bytes;
        let wanted = (u128::from(self.done) * u128::from(Self::WIDTH) / u128::from(self.total)) as u64;
        while self.shown < wanted.min(Self::WIDTH) {
            self.shown += 1;
            output::show(format_args!("#"));
        }
    }

    fn end(self) {
        output::show(format_args!("\n"));
    }
}

/// The words that are spoilt on purpose.
#[derive(Clone, Copy, Default, Debug)]
pub struct Injected<'a>(pub Option<&'a str>);

impl Injected<'_> {
    #[cold]
    #[inline(never)]
    fn spoil(self, range: PhysRange) {
        let addresses = self.0.into_iter().flat_map(|list| list.split(',')).filter_map(bsp::cmdline::parse_size);
        for address in addresses.filter_map(|raw| PhysAddr::new(raw & !7)).filter(|at| range.contains(*at)) {
            let word = direct_ptr(address).cast::<u64>();
            // SAFETY: in the range that is being tested, whose memory is the caller's.
            let kept = unsafe { word.read_volatile() };
            // SAFETY: as above.
            unsafe { word.write_volatile(kept ^ 0x10) };
        }
    }
}

/// Writes a pattern to all of the range and reads it back; tells each run of words that did not keep it.
///
/// # Safety
///
/// The range is the caller's own, in whole words, and the direct map shows it.
unsafe fn one_pass(
    range: PhysRange,
    number: u64,
    injected: Injected<'_>,
    bar: &mut Bar,
    bad: &mut dyn FnMut(PhysRange),
) {
    const CHUNK: u64 = 64 << 10;
    let (first, end) = (range.start().as_raw(), range.end().as_raw());
    let chunks = || (first..end).step_by(CHUNK as usize).map(|start| (start, end.min(start + CHUNK)));
    let pattern = Pattern::new(number);
    let word = |at: u64| direct_ptr(PhysAddr::new_saturating(at)).cast::<u64>();
    for (start, end) in chunks() {
        for at in (start..end).step_by(8) {
            // SAFETY: the caller's promise.
            unsafe { word(at).write_volatile(pattern.at(at)) };
        }
        bar.step(end - start);
    }
    if injected.0.is_some() {
        injected.spoil(range);
    }
    let mut run: Option<(u64, u64)> = None;
    let mut tell = |run: Option<(u64, u64)>| {
        let at = PhysAddr::new_saturating;
        run.and_then(|(start, end)| PhysRange::new(at(start), at(end))).into_iter().for_each(&mut *bad);
    };
    for (start, end) in chunks() {
        for at in (start..end).step_by(8) {
            // SAFETY: the caller's promise.
            if unsafe { word(at).read_volatile() } == pattern.at(at) {
                continue;
            }
            run = match run {
                Some((start, end)) if end == at => Some((start, at + 8)),
                before => {
                    tell(before);
                    Some((at, at + 8))
                }
            };
        }
        bar.step(end - start);
    }
    tell(run);
}

fn free_bytes(memblock: &Memblock) -> u64 {
    memblock.free_ranges().map(|region| region.range.size()).sum()
}

/// The first free range that begins at `start` or behind it.
fn free_from(memblock: &Memblock, start: PhysAddr) -> Option<PhysRange> {
    memblock.free_ranges().map(|region| region.range).find(|range| range.start() >= start)
}

/// Tests all that is free and reserves what is bad. For one CPU that boots, with the direct map live.
#[cold]
#[inline(never)]
pub(super) fn early(memblock: &mut Memblock, passes: u64, injected: Injected<'_>) {
    let before = free_bytes(memblock);
    pr_info!("early_memtest: # of tests: {passes}");
    let mut bar = Bar::new(passes.saturating_mul(2).saturating_mul(before));
    for number in (0..passes).rev() {
        let mut next = PhysAddr::ZERO;
        // What is found is reserved behind us, so the walk begins anew each time.
        while let Some(range) = free_from(memblock, next) {
            next = range.end();
            // SAFETY: free, so it is nobody's; the direct map shows it.
            unsafe { one_pass(range, number, injected, &mut bar, &mut |bad| reserve(memblock, number, bad)) };
        }
    }
    bar.end();
    match before - free_bytes(memblock) {
        0 => pr_info!("early_memtest: all of {} KiB is good", before / 1024),
        lost => pr_warn!("early_memtest: {} KiB of {} KiB are bad and reserved", lost / 1024, before / 1024),
    }
}

fn reserve(memblock: &mut Memblock, number: u64, bad: PhysRange) {
    let sample = Pattern::new(number).at(bad.start().as_raw());
    pr_err!("early_memtest:   {sample:016x} bad mem addr {bad} reserved");
    if let Err(error) = memblock.reserve(bad, Owner::BadRam.tag(), ReserveFlags::empty()) {
        pr_err!("early_memtest: not kept from use: {error}");
    }
}

impl Memory {
    /// Tests what is free now, but for the reserves, with so many patterns, or as much of it until `is_enough`; bad blocks are kept from use for
    /// good. Returns bytes tested and bytes kept.
    pub fn test_free(&self, passes: u64, injected: Injected<'_>, is_enough: &mut dyn FnMut() -> bool) -> (u64, u64) {
        let (mut tested, mut kept, mut chain) = (0, 0, 0);
        let free = (self.pages.free_pages() + self.pages.hoarded_pages()) * PAGE_SIZE;
        let mut bar = Bar::new(free.saturating_mul(2).saturating_mul(passes));
        for order in Order::all().rev() {
            while !is_enough()
                && let Ok(block) = self.pages.alloc(Gfp::NOWAIT | Gfp::NOWARN | Gfp::NORETRY, order)
            {
                let mut nr_bad = 0;
                for number in (0..passes).rev() {
                    let mut bad = |bad: PhysRange| {
                        nr_bad += 1;
                        pr_err!("memtest: pattern {number}: bad memory at {bad}");
                    };
                    // SAFETY: a block of ours, in the direct map.
                    unsafe { one_pass(block.range(), number, injected, &mut bar, &mut bad) };
                }
                tested += order.bytes();
                if nr_bad > 0 {
                    kept += order.bytes();
                    continue;
                }
                let word = direct_ptr(block.pfn().addr()).cast::<u64>();
                // SAFETY: as above. The first word leads to the block before.
                unsafe { word.write(chain) };
                chain = block.into_bits() + 1;
            }
        }
        bar.end();
        while chain != 0 {
            let block = PageBlock::from_bits(chain - 1);
            // SAFETY: written above.
            chain = unsafe { direct_ptr(block.pfn().addr()).cast::<u64>().read() };
            if let Err(error) = self.pages.free(block) {
                pr_err!("memtest: {error}");
            }
        }
        (tested, kept)
    }
}
