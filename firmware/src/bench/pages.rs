// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page allocator's benchmarks.

use core::fmt::{self, Write};

use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{BadFree, Config, OutOfMemory, Pages};

use spin::mutex::SpinMutex;

use super::trace::{Trace, shuffle};
use super::{Bench, Context, counter, no_suffix, replay};
use crate::console::Failure;
use crate::cpu::{Hardware, hardware};

type PageAllocator = Pages<'static, Hardware>;

const ORDERS: usize = Order::MAX.as_usize() + 1;
/// In which order a batch is freed.
const PATTERNS: [&str; 3] = ["fifo", "lifo", "shuf"];
/// Pages of a bulk call, as Linux was measured.
const BULK: usize = 64;

pub(super) const BENCHES: &[Bench] = &[
    Bench { name: "pg_hot_", help: "allocate and free one block", variants: ORDERS, suffix: order_suffix, run: hot },
    Bench {
        name: "pg_batch1000_",
        help: "allocate 1000 blocks, or half of memory, then free them",
        variants: ORDERS * PATTERNS.len(),
        suffix: batch_suffix,
        run: batch,
    },
    Bench {
        name: "pg_bulk64",
        help: "64 pages in one call, freed one by one",
        variants: 1,
        suffix: no_suffix,
        run: bulk,
    },
    Bench {
        name: "pg_bulk64b",
        help: "64 pages in one call, freed in one",
        variants: 1,
        suffix: no_suffix,
        run: bulk_both,
    },
    Bench { name: "pg_trace", help: "the mixed trace, an operation", variants: 1, suffix: no_suffix, run: trace },
    Bench {
        name: "pg_trace_p999",
        help: "the same, one operation at a time: percentiles",
        variants: 1,
        suffix: no_suffix,
        run: trace_percentiles,
    },
    Bench { name: "pg_init_", help: "making the allocator", variants: 2, suffix: init_suffix, run: init },
];

const TRACE: Trace = Trace {
    slots: 512,
    operations: 1_000_000,
    value: |random| u64::from(((random & 0x3ff) | 0x400).trailing_zeros()),
    hash: 0x425b_a820_eca5_bbb0,
};

/// The calls that are measured: out of line as they are in Linux, and by pointers, so that the compiler cannot fit them
/// to their only callers.
#[derive(Clone, Copy)]
struct Calls {
    alloc: fn(&PageAllocator, Gfp, Order) -> Result<PageBlock, OutOfMemory>,
    free: fn(&PageAllocator, PageBlock) -> Result<(), BadFree>,
    gfp: Gfp,
}

impl Calls {
    fn new() -> Self {
        fn alloc_pages(pages: &PageAllocator, gfp: Gfp, order: Order) -> Result<PageBlock, OutOfMemory> {
            pages.alloc(gfp, order)
        }
        fn free_pages(pages: &PageAllocator, block: PageBlock) -> Result<(), BadFree> {
            pages.free(block)
        }
        core::hint::black_box(Self { alloc: alloc_pages, free: free_pages, gfp: Gfp::KERNEL })
    }
}

/// Apart from the loop, so that it costs a branch there and nothing else.
#[cold]
fn failed(failures: &mut u64) {
    *failures += 1;
}

fn order_suffix(variant: usize, w: &mut dyn Write) -> fmt::Result {
    write!(w, "{variant}")
}

fn batch_suffix(variant: usize, w: &mut dyn Write) -> fmt::Result {
    write!(w, "{}_{}", variant / PATTERNS.len(), PATTERNS.get(variant % PATTERNS.len()).unwrap_or(&""))
}

fn init_suffix(variant: usize, w: &mut dyn Write) -> fmt::Result {
    w.write_str(if variant == 0 { "512m" } else { "64g" })
}

fn order(order: usize) -> Order {
    Order::new(order).unwrap_or_default()
}

fn hot(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    const OPERATIONS: u64 = 10_000;
    let (pages, order, overhead) = (context.machine.memory.pages, order(variant), counter::overhead());
    let mut counts = [0; 31];
    let (mut failures, calls) = (0u64, Calls::new());
    for count in &mut counts {
        *count = counter::count(overhead, || {
            let pair = |block| (calls.free)(pages, block).is_ok();
            if !(0..OPERATIONS).all(|_| (calls.alloc)(pages, calls.gfp, order).is_ok_and(pair)) {
                failed(&mut failures);
            }
        });
    }
    if failures != 0 {
        return Err(Failure::Because("an operation failed"));
    }
    // The first round is cold.
    let median = counter::median(counts.get(1..).unwrap_or_default());
    Ok(context.report(format_args!("pg_hot_{variant}"), median, OPERATIONS, "instructions")?)
}

fn batch(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let (pages, overhead) = (context.machine.memory.pages, counter::overhead());
    let (at, pattern) = (variant / PATTERNS.len(), variant % PATTERNS.len());
    let order = order(at);
    let half = (pages.free_pages() / 2) >> at;
    let count = half.min(1000) as usize;
    let mut blocks = context.buffer::<u64>(count)?;
    let mut sequence = context.buffer::<u32>(count)?;
    sequence.iter_mut().zip(0..).for_each(|(slot, index)| *slot = index);
    match pattern {
        0 => {}
        1 => sequence.reverse(),
        _ => shuffle(context.parameters.seed, &mut sequence),
    }
    let (mut allocs, mut frees) = ([0; 12], [0; 12]);
    let (mut failures, calls) = (0u64, Calls::new());
    for (alloc, free) in allocs.iter_mut().zip(&mut frees) {
        *alloc = counter::count(overhead, || {
            for slot in blocks.iter_mut() {
                let Ok(block) = (calls.alloc)(pages, calls.gfp, order) else { return failed(&mut failures) };
                *slot = block.into_bits();
            }
        });
        if failures != 0 {
            return Err(Failure::Because("an allocation failed"));
        }
        *free = counter::count(overhead, || {
            for index in sequence.iter() {
                let Some(block) = blocks.get(*index as usize) else { return failed(&mut failures) };
                if (calls.free)(pages, PageBlock::from_bits(*block)).is_err() {
                    return failed(&mut failures);
                }
            }
        });
        if failures != 0 {
            return Err(Failure::Because("a block was refused"));
        }
    }
    // The first round is cold.
    for (what, counts) in [("alloc", &mut allocs), ("free", &mut frees)] {
        let median = counter::median(counts.get(1..).unwrap_or_default());
        let pattern = PATTERNS.get(pattern).unwrap_or(&"");
        context.report(format_args!("pg_batch1000_{at}_{pattern}_{what}"), median, count as u64, "instructions")?;
    }
    Ok(())
}

fn bulk(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let calls = Calls::new();
    measure_bulk(context, "pg_bulk64", |pages, taken| {
        let one = |pfn: &Pfn| (calls.free)(pages, PageBlock::from_raw(*pfn, Order::ZERO)).is_ok();
        taken.iter().all(one)
    })
}

fn bulk_both(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    #[inline(never)]
    fn free_bulk(pages: &PageAllocator, taken: &[Pfn]) -> bool {
        pages.free_bulk(taken).is_ok()
    }
    measure_bulk(context, "pg_bulk64b", free_bulk)
}

fn measure_bulk(
    context: &mut Context<'_>,
    name: &str,
    free: impl Fn(&PageAllocator, &[Pfn]) -> bool,
) -> Result<(), Failure> {
    #[inline(never)]
    fn alloc_bulk(pages: &PageAllocator, gfp: Gfp, room: &mut [Pfn]) -> usize {
        pages.alloc_bulk(gfp, room)
    }
    const OPERATIONS: u64 = 100;
    let (pages, overhead) = (context.machine.memory.pages, counter::overhead());
    let mut room = [Pfn::default(); BULK];
    let (mut failed, calls) = (false, Calls::new());
    let mut counts = [0; 31];
    for count in &mut counts {
        *count = counter::count(overhead, || {
            for _ in 0..OPERATIONS {
                let taken = alloc_bulk(pages, calls.gfp, &mut room);
                failed |= taken != BULK || !free(pages, room.get(..taken).unwrap_or_default());
            }
        });
    }
    if failed {
        return Err(Failure::Because("an operation failed"));
    }
    let median = counter::median(counts.get(1..).unwrap_or_default());
    Ok(context.report(format_args!("{name}"), median, OPERATIONS * BULK as u64, "instructions per page")?)
}

/// One operation of the trace; a slot holds a block's bits and 1, or 0. Whether it was an allocation, and whether it went well.
#[inline(always)]
fn operate(pages: &PageAllocator, calls: Calls, entry: u32, slots: &mut [u64]) -> (bool, bool) {
    let Some(slot) = slots.get_mut((entry >> 16) as usize) else { return (false, false) };
    if *slot == 0 {
        match (calls.alloc)(pages, calls.gfp, order((entry & 0xffff) as usize)) {
            Ok(block) => {
                *slot = block.into_bits() + 1;
                (true, true)
            }
            Err(_) => (true, false),
        }
    } else {
        (false, (calls.free)(pages, PageBlock::from_bits(core::mem::take(slot) - 1)).is_ok())
    }
}

fn clean_up(pages: &PageAllocator, slots: &mut [u64]) {
    for slot in slots.iter_mut().filter(|slot| **slot != 0) {
        // They are ours.
        let _ = pages.free(PageBlock::from_bits(core::mem::take(slot) - 1));
    }
}

fn trace(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let (pages, overhead) = (context.machine.memory.pages, counter::overhead());
    let (entries, mut slots) = replay::prepare(context, &TRACE)?;
    let (mut failures, calls) = (0u64, Calls::new());
    let count = counter::count(overhead, || {
        for entry in entries.iter() {
            failures += u64::from(!operate(pages, calls, *entry, &mut slots).1);
        }
    });
    clean_up(pages, &mut slots);
    if failures != 0 {
        context.note(format_args!("{failures} operations failed"))?;
    }
    Ok(context.report(format_args!("pg_trace"), count, entries.len() as u64, "instructions")?)
}

fn trace_percentiles(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let (pages, calls) = (context.machine.memory.pages, Calls::new());
    let (entries, mut slots) = replay::prepare(context, &TRACE)?;
    let costs = replay::measure(context, &entries, |entry| operate(pages, calls, entry, &mut slots).0)?;
    clean_up(pages, &mut slots);
    costs.report(context, "pg_trace")
}

/// Too large for the stack.
static IMAGINED: SpinMutex<Memblock> = SpinMutex::new(Memblock::new());

fn init(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let (name, bytes) = if variant == 0 { ("512m", 512 << 20) } else { ("64g", 64u64 << 30) };
    let end = PhysAddr::new_saturating((1 << 30) + bytes);
    let range = PhysRange::new(PhysAddr::new_saturating(1 << 30), end).unwrap_or_default();
    let mut memblock = IMAGINED.lock();
    *memblock = Memblock::new();
    memblock.add(range, 0).map_err(|_| "memblock refused the range")?;
    let config = Config { nr_cpus: context.machine.info.cpus.len(), ..Config::DEFAULT };
    let words = PageAllocator::metadata_bytes(&memblock, &config) / 8;
    let mut metadata = context.buffer::<u64>(words as usize)?;
    let overhead = counter::overhead();
    let mut managed = 0;
    let count = counter::count(overhead, || managed = build(&memblock, &config, &mut metadata));
    if managed != bytes / PAGE_SIZE {
        return Err(Failure::Because("the allocator does not have all pages"));
    }
    let thousandths = words * 8 * 1000 / managed;
    context.note(format_args!("{} bytes of metadata, {thousandths} thousandths a frame", words * 8))?;
    context.report(format_args!("pg_metadata_{name}"), words * 8, managed, "bytes per frame")?;
    Ok(context.report(format_args!("pg_init_{name}"), count, 1, "instructions")?)
}

/// Makes an allocator over RAM that is not there, and tells how much it is.
#[inline(never)]
fn build(memblock: &Memblock, config: &Config, metadata: &mut [u64]) -> u64 {
    Pages::build(hardware(), memblock, config, metadata).map_or(0, |pages| pages.managed_pages())
}
