// SPDX-License-Identifier: MIT OR Apache-2.0
//! vmalloc's benchmarks: the loops and the trace that Linux's was measured with.
//!
//! Freeing is lazy, so what a pair costs contains its share of the flushes and of giving frames back: hot loops run until
//! several flushes are over, batches are followed by a purge that is not counted, as in Linux.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use mm::addr::{PAGE_SIZE, Pfn};
use mm::gfp::Gfp;
use mm::pgtable::Attributes;
use mm::vmalloc::VmallocError;

use super::trace::{SEED, Trace, shuffle};
use super::{Bench, Context, NO_ROOM, counter, no_suffix, replay};
use crate::console::Failure;
use crate::kvmalloc::{kvfree, kvmalloc};
use crate::test_vmalloc::{self, Parameters};
use crate::vmalloc::{self, KernelVmalloc, vm_map_ram, vm_unmap_aliases, vm_unmap_ram};

/// Bytes, and what they are called.
const SIZES: [(u64, &str); 6] =
    [(4 << 10, "4K"), (16 << 10, "16K"), (64 << 10, "64K"), (256 << 10, "256K"), (1 << 20, "1M"), (4 << 20, "4M")];
/// In which order a batch is freed.
const PATTERNS: [&str; 3] = ["fifo", "lifo", "shuf"];
/// Areas of a batch.
const BATCH: usize = 100;
/// Pages that are mapped at once.
const MAPPED: [usize; 3] = [1, 16, 64];
/// What is resized to what.
const RESIZED: [(&str, u64, u64); 3] = [
    ("grow_64K_128K", 64 << 10, 128 << 10),
    ("grow_1M_2M", 1 << 20, 2 << 20),
    ("shrink_128K_64K", 128 << 10, 64 << 10),
];

/// Tests with a loop, by their bits in the mask.
const TESTS: [(usize, &str); 9] = [
    (0, "fix_size"),
    (1, "full_fit"),
    (2, "long_busy_list"),
    (3, "random_size"),
    (4, "fix_align"),
    (5, "random_size_align"),
    (10, "vm_map_ram"),
    (11, "no_block"),
    (12, "vrealloc"),
];

pub(super) const BENCHES: &[Bench] = &[
    Bench {
        name: "vm_hot_",
        help: "vmalloc and vfree one area, flushes included",
        variants: SIZES.len(),
        suffix: size_suffix,
        run: hot,
    },
    Bench {
        name: "vm_batch100_",
        help: "vmalloc 100 areas, or half of memory, then vfree them",
        variants: SIZES.len() * PATTERNS.len(),
        suffix: batch_suffix,
        run: batch,
    },
    Bench { name: "vm_trace", help: "the mixed trace, an operation", variants: 1, suffix: no_suffix, run: trace },
    Bench {
        name: "vm_trace_p999",
        help: "the same, one operation at a time: percentiles",
        variants: 1,
        suffix: no_suffix,
        run: trace_percentiles,
    },
    Bench {
        name: "vmap_",
        help: "map and unmap frames that are there",
        variants: MAPPED.len(),
        suffix: |variant, w| write!(w, "{}", MAPPED.get(variant).unwrap_or(&0)),
        run: map,
    },
    Bench {
        name: "vm_map_ram_",
        help: "the same for a moment, without a flush",
        variants: MAPPED.len(),
        suffix: |variant, w| write!(w, "{}", MAPPED.get(variant).unwrap_or(&0)),
        run: map_ram,
    },
    Bench {
        name: "vrealloc_",
        help: "one call, a fresh area each time",
        variants: RESIZED.len(),
        suffix: |variant, w| w.write_str(RESIZED.get(variant).map_or("", |(name, ..)| name)),
        run: resize,
    },
    Bench {
        name: "kv_",
        help: "kvmalloc and kvfree one object",
        variants: SIZES.len(),
        suffix: size_suffix,
        run: either,
    },
    Bench {
        name: "tv_",
        help: "a loop of that test of test_vmalloc",
        variants: TESTS.len(),
        suffix: |variant, w| w.write_str(TESTS.get(variant).map_or("", |(_, name)| name)),
        run: test,
    },
];

const TRACE: Trace =
    Trace { slots: 200, operations: 100_000, value: |random| 1 + (random & 0x3f), hash: 0xc280_3cb6_8623_753c };

/// The calls that are measured: out of line, and by pointers.
#[derive(Clone, Copy)]
struct Calls {
    alloc: fn(u64) -> Result<NonNull<u8>, VmallocError>,
    free: unsafe fn(NonNull<u8>),
}

impl Calls {
    fn new() -> Self {
        core::hint::black_box(Self { alloc: vmalloc::vmalloc, free: vmalloc::vfree })
    }
}

fn size(variant: usize) -> (u64, &'static str) {
    SIZES.get(variant).copied().unwrap_or((PAGE_SIZE, ""))
}

fn size_suffix(variant: usize, w: &mut dyn Write) -> fmt::Result {
    w.write_str(size(variant).1)
}

fn batch_suffix(variant: usize, w: &mut dyn Write) -> fmt::Result {
    let pattern = PATTERNS.get(variant % PATTERNS.len()).unwrap_or(&"");
    write!(w, "{}_{pattern}", size(variant / PATTERNS.len()).1)
}

fn state(context: &Context<'_>) -> &'static KernelVmalloc {
    context.machine.memory.vmalloc
}

const NO_MEMORY: Failure = Failure::Because(NO_ROOM);

fn hot(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    /// Flushes that are waited for.
    const FLUSHES: u64 = 8;
    let ((bytes, name), vmalloc, overhead, calls) = (size(variant), state(context), counter::overhead(), Calls::new());
    let pairs = (FLUSHES * vmalloc.config().lazy_pages / (bytes / PAGE_SIZE + 1)).max(200);
    let mut failed = false;
    let mut run = |pairs: u64| {
        counter::count(overhead, || {
            for _ in 0..pairs {
                match (calls.alloc)(bytes) {
                    // SAFETY: ours, and nobody knows of it.
                    Ok(memory) => unsafe { (calls.free)(memory) },
                    Err(_) => return failed = true,
                }
            }
        })
    };
    // The state that it stays in: after the first flush.
    let _ = run(pairs / FLUSHES + 1);
    let count = run(pairs);
    if failed {
        return Err(NO_MEMORY);
    }
    Ok(context.report(format_args!("vm_hot_{name}"), count, pairs, "instructions")?)
}

fn batch(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    const ROUNDS: usize = 11;
    let (bytes, name) = size(variant / PATTERNS.len());
    let pattern = PATTERNS.get(variant % PATTERNS.len()).copied().unwrap_or("");
    let (vmalloc, overhead, calls) = (state(context), counter::overhead(), Calls::new());
    let half = context.machine.memory.pages.free_pages() / 2 / (bytes / PAGE_SIZE + 1);
    let count = half.min(BATCH as u64) as usize;
    let mut order = [0usize; BATCH];
    order.iter_mut().enumerate().for_each(|(at, slot)| *slot = at);
    let Some(order) = order.get_mut(..count) else { return Err(NO_MEMORY) };
    match pattern {
        "lifo" => order.reverse(),
        "shuf" => shuffle(SEED, order),
        _ => {}
    }
    let mut areas = [None; BATCH];
    let (mut allocs, mut frees) = ([0; ROUNDS], [0; ROUNDS]);
    let mut failed = false;
    for (alloc, free) in allocs.iter_mut().zip(&mut frees) {
        *alloc = counter::count(overhead, || {
            for slot in areas.iter_mut().take(count) {
                *slot = (calls.alloc)(bytes).ok();
                failed |= slot.is_none();
            }
        });
        *free = counter::count(overhead, || {
            for at in &*order {
                if let Some(memory) = areas.get_mut(*at).and_then(Option::take) {
                    // SAFETY: ours, and nobody knows of it.
                    unsafe { (calls.free)(memory) };
                }
            }
        });
        vmalloc.purge();
    }
    if failed || count == 0 {
        return Err(NO_MEMORY);
    }
    for (what, counts) in [("alloc", &mut allocs), ("free", &mut frees)] {
        let name = format_args!("vm_batch100_{name}_{pattern}_{what}");
        context.report(name, counter::median(counts), count as u64, "instructions")?;
    }
    Ok(())
}

/// One operation of the trace; tells whether it was an allocation.
#[inline(always)]
fn operate(calls: Calls, slots: &mut [u64], entry: u32) -> bool {
    let Some(slot) = slots.get_mut((entry >> 16) as usize) else { return false };
    match NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(*slot as usize)) {
        Some(memory) => {
            // SAFETY: ours, and nobody knows of it.
            unsafe { (calls.free)(memory) };
            *slot = 0;
            false
        }
        None => {
            let memory = (calls.alloc)(u64::from(entry & 0xffff) * PAGE_SIZE);
            *slot = memory.map_or(0, |memory| memory.addr().get() as u64);
            true
        }
    }
}

/// Frees what a trace left.
fn clear(calls: Calls, slots: &mut [u64]) {
    for slot in slots.iter_mut().filter(|slot| **slot != 0) {
        let memory = core::ptr::with_exposed_provenance_mut(core::mem::take(slot) as usize);
        // SAFETY: ours, and nobody knows of it.
        NonNull::new(memory).into_iter().for_each(|memory| unsafe { (calls.free)(memory) });
    }
}

fn trace(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let calls = Calls::new();
    let (entries, mut slots) = replay::prepare(context, &TRACE)?;
    let count = counter::count(counter::overhead(), || {
        for entry in entries.iter() {
            operate(calls, &mut slots, *entry);
        }
    });
    clear(calls, &mut slots);
    Ok(context.report(format_args!("vm_trace"), count, entries.len() as u64, "instructions")?)
}

fn trace_percentiles(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let calls = Calls::new();
    let (entries, mut slots) = replay::prepare(context, &TRACE)?;
    let costs = replay::measure(context, &entries, |entry| operate(calls, &mut slots, entry))?;
    clear(calls, &mut slots);
    costs.report(context, "vm_trace")
}

fn map(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let vmalloc = state(context);
    map_with(context, "vmap", variant, |frames| {
        // SAFETY: the frames are ours.
        let virt = unsafe { vmalloc.map(frames, Attributes::DATA, 0) };
        virt.is_ok_and(|virt| vmalloc.unmap(virt).is_ok())
    })
}

fn map_ram(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let map: unsafe fn(&[Pfn]) -> _ = core::hint::black_box(vm_map_ram);
    let unmap: unsafe fn(_, _) = core::hint::black_box(vm_unmap_ram);
    let done = map_with(context, "vm_map_ram", variant, |frames| {
        // SAFETY: the frames are ours.
        let Ok(memory) = (unsafe { map(frames) }) else { return false };
        // SAFETY: as above, and nobody knows of it.
        unsafe { unmap(memory, frames.len()) };
        true
    });
    vm_unmap_aliases();
    done
}

fn map_with(
    context: &mut Context<'_>,
    name: &str,
    variant: usize,
    mut pair: impl FnMut(&[Pfn]) -> bool,
) -> Result<(), Failure> {
    const PAIRS: u64 = 10_000;
    let count = MAPPED.get(variant).copied().unwrap_or(1);
    let (pages, overhead) = (context.machine.memory.pages, counter::overhead());
    let mut frames = [Pfn::default(); 64];
    let Some(frames) = frames.get_mut(..count) else { return Err(NO_MEMORY) };
    let taken = pages.alloc_bulk(Gfp::KERNEL, frames);
    let mut failed = taken < count;
    let total = counter::count(overhead, || {
        for _ in 0..PAIRS {
            failed |= !pair(frames);
        }
    });
    let freed = pages.free_bulk(frames.get(..taken).unwrap_or_default());
    if failed || freed.is_err() {
        return Err(NO_MEMORY);
    }
    Ok(context.report(format_args!("{name}_{count}"), total, PAIRS, "instructions")?)
}

fn resize(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    const ROUNDS: usize = 30;
    let (name, from, to) = RESIZED.get(variant).copied().unwrap_or(("", PAGE_SIZE, PAGE_SIZE));
    let (vmalloc, overhead, calls) = (state(context), counter::overhead(), Calls::new());
    let call: unsafe fn(_, _, _) -> _ = core::hint::black_box(vmalloc::vrealloc);
    let mut counts = [0; ROUNDS];
    for slot in &mut counts {
        let memory = (calls.alloc)(from).map_err(|_| NO_MEMORY)?;
        let mut grown = None;
        // SAFETY: ours, and nobody knows of it.
        *slot = counter::count(overhead, || grown = unsafe { call(Some(memory), to, Gfp::KERNEL) }.ok().flatten());
        // SAFETY: as above.
        unsafe { (calls.free)(grown.ok_or(NO_MEMORY)?) };
        vmalloc.purge();
    }
    Ok(context.report(format_args!("vrealloc_{name}"), counter::median(&counts), 1, "instructions")?)
}

fn either(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    const PAIRS: u64 = 1000;
    let ((bytes, name), overhead) = (size(variant), counter::overhead());
    let (alloc, free): (fn(_, _) -> _, unsafe fn(_)) = core::hint::black_box((kvmalloc, kvfree));
    let mut failed = false;
    let mut run = |pairs: u64| {
        counter::count(overhead, || {
            for _ in 0..pairs {
                match alloc(bytes as usize, Gfp::KERNEL) {
                    // SAFETY: ours, and nobody knows of it.
                    Ok(object) => unsafe { free(object) },
                    Err(_) => return failed = true,
                }
            }
        })
    };
    let _ = run(1);
    let count = run(PAIRS);
    if failed {
        return Err(NO_MEMORY);
    }
    Ok(context.report(format_args!("kv_{name}"), count, PAIRS, "instructions")?)
}

fn test(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    const LOOPS: u64 = 20_000;
    let ((number, name), overhead) = (TESTS.get(variant).copied().unwrap_or((0, "")), counter::overhead());
    let mut passed = true;
    let mut run = |loops| {
        let parameters = Parameters { test_loop_count: loops, ..Parameters::DEFAULT };
        counter::count(overhead, || passed &= test_vmalloc::run_one(number, &parameters))
    };
    // The first run is for the flushes to come; the second without a loop is what the test does beside it.
    let _ = run(LOOPS / 10);
    let count = run(LOOPS).saturating_sub(run(0));
    if !passed {
        return Err(NO_MEMORY);
    }
    Ok(context.report(format_args!("tv_{name}"), count, LOOPS, "instructions")?)
}
