// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab's benchmarks: the loops and traces that Linux's slab was measured with.
//!
//! Frees are by `kfree`, which does not know the size; a row with `_sized` in its name uses the size.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use mm::addr::PAGE_SIZE;
use mm::gfp::Gfp;
use mm::slab::{CacheRef, CacheSpec, OutOfMemory};

use super::trace::{Trace, shuffle};
use super::{Bench, Context, NO_OTHER_CPU, NO_ROOM, counter, no_suffix, replay};
use crate::allocators::SLAB;
use crate::console::Failure;
use crate::random::Generator;
use crate::slab::{KernelSlab, slab};
use crate::smp::CpuSet;
use crate::thread;

/// Sizes of the hot loops and batches.
const SIZES: [usize; 14] = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 3000, 4096, 8192];
const PATTERNS: [&str; 3] = ["fifo", "lifo", "shuf"];

pub(super) const BENCHES: &[Bench] = &[
    Bench {
        name: "km_hot_",
        help: "kmalloc and kfree one object",
        variants: SIZES.len(),
        suffix: size_suffix,
        run: hot,
    },
    Bench {
        name: "km_sized_",
        help: "the same, freed by its size",
        variants: SIZES.len(),
        suffix: size_suffix,
        run: hot_sized,
    },
    Bench {
        name: "kmc_hot_",
        help: "one object of a cache",
        variants: SIZES.len(),
        suffix: size_suffix,
        run: hot_cache,
    },
    Bench {
        name: "km_batch1000_",
        help: "allocate 1000 objects, then free them",
        variants: SIZES.len() * PATTERNS.len(),
        suffix: batch_suffix,
        run: |context, variant| batch(context, variant, 1000),
    },
    Bench {
        name: "km_batch10000_",
        help: "allocate 10000 objects, then free them",
        variants: SIZES.len() * PATTERNS.len(),
        suffix: batch_suffix,
        run: |context, variant| batch(context, variant, 10_000),
    },
    Bench { name: "km_trace", help: "the mixed trace, an operation", variants: 1, suffix: no_suffix, run: trace },
    Bench {
        name: "km_trace_p999",
        help: "the same, one operation at a time: percentiles",
        variants: 1,
        suffix: no_suffix,
        run: trace_percentiles,
    },
    Bench {
        name: "km_cross64",
        help: "allocate 1000 objects of 64 bytes here, free them on another CPU",
        variants: 1,
        suffix: no_suffix,
        run: cross,
    },
    Bench { name: "km_eat", help: "bytes handed out until memory ends", variants: 1, suffix: no_suffix, run: eat },
];

const TRACE: Trace = Trace { slots: 2000, operations: 1_000_000, value: km_size, hash: 0xfe45_ffb5_ec45_8833 };

/// 8 to 4095 bytes, log-uniform.
pub(super) fn km_size(random: u64) -> u64 {
    let base = 8 << (((random >> 32) & 0xff) % 9);
    base + (random & 0xffff_ffff) % base
}

fn size_suffix(variant: usize, w: &mut dyn Write) -> fmt::Result {
    write!(w, "{}", SIZES.get(variant).unwrap_or(&0))
}

fn batch_suffix(variant: usize, w: &mut dyn Write) -> fmt::Result {
    let (size, pattern) = (SIZES.get(variant / PATTERNS.len()), PATTERNS.get(variant % PATTERNS.len()));
    write!(w, "{}_{}", size.unwrap_or(&0), pattern.unwrap_or(&""))
}

/// The calls that are measured: out of line, as they are in Linux, and not known to the loops.
#[derive(Clone, Copy)]
struct Calls {
    kmalloc: fn(usize, Gfp) -> Result<NonNull<u8>, OutOfMemory>,
    kfree: unsafe fn(NonNull<u8>),
    kfree_sized: unsafe fn(NonNull<u8>, usize),
    cache_alloc: fn(CacheRef) -> Result<NonNull<u8>, OutOfMemory>,
    cache_free: unsafe fn(CacheRef, NonNull<u8>),
    gfp: Gfp,
}

/// The machine's slab, without a branch for each call: the benches begin by looking for it.
#[inline(always)]
fn machine_slab() -> &'static KernelSlab {
    // SAFETY: `Calls::new` found it.
    unsafe { SLAB.get_unchecked() }
}

impl Calls {
    fn new() -> Result<Self, Failure> {
        fn kmalloc(bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
            machine_slab().kmalloc(bytes, gfp)
        }
        unsafe fn kfree(object: NonNull<u8>) {
            // SAFETY: the caller's promise.
            unsafe { machine_slab().kfree(object) }
        }
        unsafe fn kfree_sized(object: NonNull<u8>, bytes: usize) {
            // SAFETY: the caller's promise.
            unsafe { machine_slab().kfree_sized(object, bytes, 8) }
        }
        fn cache_alloc(cache: CacheRef) -> Result<NonNull<u8>, OutOfMemory> {
            machine_slab().cache_alloc(cache, Gfp::KERNEL)
        }
        unsafe fn cache_free(cache: CacheRef, object: NonNull<u8>) {
            // SAFETY: the caller's promise.
            unsafe { machine_slab().cache_free(cache, object) }
        }
        slab().ok_or("there is no slab")?;
        Ok(core::hint::black_box(Self { kmalloc, kfree, kfree_sized, cache_alloc, cache_free, gfp: Gfp::KERNEL }))
    }
}

#[cold]
fn failed(failures: &mut u64) {
    *failures += 1;
}

/// Measures a pair of calls in the hot loop.
fn hot_loop(
    context: &mut Context<'_>,
    name: fmt::Arguments<'_>,
    alloc: impl Fn() -> Result<NonNull<u8>, OutOfMemory>,
    free: impl Fn(NonNull<u8>),
) -> Result<(), Failure> {
    const OPERATIONS: u64 = 1000;
    let (overhead, mut counts, mut failures) = (counter::overhead(), [0; 31], 0);
    for count in &mut counts {
        *count = counter::count(overhead, || {
            for _ in 0..OPERATIONS {
                let Ok(object) = alloc() else { return failed(&mut failures) };
                free(object);
            }
        });
    }
    if failures != 0 {
        return Err(Failure::Because("an allocation failed"));
    }
    let median = counter::median(counts.get(1..).unwrap_or_default());
    Ok(context.report(name, median, OPERATIONS, "instructions")?)
}

fn size_of_variant(variant: usize) -> usize {
    SIZES.get(variant).copied().unwrap_or(8)
}

fn hot(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let (calls, size) = (Calls::new()?, size_of_variant(variant));
    // SAFETY: the loop frees what it allocated.
    hot_loop(
        context,
        format_args!("km_hot_{size}"),
        || (calls.kmalloc)(size, calls.gfp),
        |object| unsafe {
            (calls.kfree)(object);
        },
    )
}

fn hot_sized(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let (calls, size) = (Calls::new()?, size_of_variant(variant));
    // SAFETY: the loop frees what it allocated.
    hot_loop(
        context,
        format_args!("km_sized_{size}"),
        || (calls.kmalloc)(size, calls.gfp),
        |object| unsafe {
            (calls.kfree_sized)(object, size);
        },
    )
}

fn hot_cache(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let (calls, size) = (Calls::new()?, size_of_variant(variant));
    let cache = machine_slab().cache_create(CacheSpec::new("bench", size)).map_err(|_| "no cache")?;
    // SAFETY: the loop frees what it allocated.
    let result = hot_loop(
        context,
        format_args!("kmc_hot_{size}"),
        || (calls.cache_alloc)(cache),
        |object| unsafe {
            (calls.cache_free)(cache, object);
        },
    );
    // SAFETY: nobody else has the handle.
    unsafe { machine_slab().cache_destroy(cache) }.map_err(|_| "objects were lost")?;
    result
}

/// An object's address in a slot; 0 for none.
pub(super) fn bits(object: NonNull<u8>) -> u64 {
    object.as_ptr().expose_provenance() as u64
}

pub(super) fn object(bits: u64) -> Option<NonNull<u8>> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(bits as usize))
}

fn batch(context: &mut Context<'_>, variant: usize, count: usize) -> Result<(), Failure> {
    let (calls, overhead) = (Calls::new()?, counter::overhead());
    let (size, pattern) = (size_of_variant(variant / PATTERNS.len()), variant % PATTERNS.len());
    let pages = context.machine.memory.pages;
    if (pages.free_pages() * PAGE_SIZE) < 3 * (count * size) as u64 {
        return Err(Failure::Because(NO_ROOM));
    }
    let mut objects = context.buffer::<u64>(count)?;
    let mut sequence = context.buffer::<u32>(count)?;
    sequence.iter_mut().zip(0..).for_each(|(slot, index)| *slot = index);
    match pattern {
        0 => {}
        1 => sequence.reverse(),
        _ => shuffle(context.parameters.seed, &mut sequence),
    }
    let (mut allocs, mut frees, mut failures) = ([0; 12], [0; 12], 0);
    for (alloc, free) in allocs.iter_mut().zip(&mut frees) {
        *alloc = counter::count(overhead, || {
            for slot in objects.iter_mut() {
                let Ok(object) = (calls.kmalloc)(size, calls.gfp) else { return failed(&mut failures) };
                *slot = bits(object);
            }
        });
        *free = counter::count(overhead, || {
            for index in sequence.iter() {
                let Some(object) = objects.get(*index as usize).and_then(|bits| object(*bits)) else {
                    return failed(&mut failures);
                };
                // SAFETY: allocated above, once.
                unsafe { (calls.kfree)(object) };
            }
        });
        if failures != 0 {
            return Err(Failure::Because("an allocation failed"));
        }
    }
    for (what, counts) in [("alloc", &mut allocs), ("free", &mut frees)] {
        // The first round is cold.
        let median = counter::median(counts.get(1..).unwrap_or_default());
        let pattern = PATTERNS.get(pattern).unwrap_or(&"");
        context.report(
            format_args!("km_batch{count}_{size}_{pattern}_{what}"),
            median,
            count as u64,
            "instructions",
        )?;
    }
    Ok(())
}

/// Objects wander: one CPU always allocates, the other always frees. Under `-icount` instructions of all CPUs count, so
/// the one that waits rests.
fn cross(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    const OBJECTS: usize = 1000;
    let (calls, overhead) = (Calls::new()?, counter::overhead());
    let other = CpuSet::others().iter().next().ok_or(NO_OTHER_CPU)?;
    let mut objects = context.buffer::<u64>(OBJECTS)?;
    let (mut allocs, mut frees, mut failures) = ([0; 12], [0; 12], 0);
    for (alloc, free) in allocs.iter_mut().zip(&mut frees) {
        *alloc = counter::count(overhead, || {
            for slot in objects.iter_mut() {
                let Ok(object) = (calls.kmalloc)(64, calls.gfp) else { return failed(&mut failures) };
                *slot = bits(object);
            }
        });
        let first = objects.as_ptr().expose_provenance();
        let remote = thread::spawn_on(other, move || {
            let slots: *const u64 = core::ptr::with_exposed_provenance(first);
            // SAFETY: the buffer, which nobody touches until this thread was joined.
            let slots = unsafe { core::slice::from_raw_parts(slots, OBJECTS) };
            counter::start();
            counter::count(overhead, || {
                for object in slots.iter().filter_map(|bits| object(*bits)) {
                    // SAFETY: allocated above, once.
                    unsafe { (calls.kfree)(object) };
                }
            })
        });
        *free = remote.map_err(|_| "a thread could not be spawned")?.join();
        objects.fill(0);
        if failures != 0 {
            return Err(Failure::Because("an allocation failed"));
        }
    }
    for (what, counts) in [("alloc", &mut allocs), ("free", &mut frees)] {
        // The first round is cold.
        let median = counter::median(counts.get(1..).unwrap_or_default());
        context.report(format_args!("km_cross64_{what}"), median, OBJECTS as u64, "instructions")?;
    }
    Ok(())
}

/// One operation of the trace. Whether it was an allocation, and whether it went well.
#[inline(always)]
fn operate(calls: Calls, entry: u32, slots: &mut [u64]) -> (bool, bool) {
    let Some(slot) = slots.get_mut((entry >> 16) as usize) else { return (false, false) };
    if let Some(object) = object(*slot) {
        *slot = 0;
        // SAFETY: the slot's object, which it no longer holds.
        unsafe { (calls.kfree)(object) };
        return (false, true);
    }
    match (calls.kmalloc)((entry & 0xffff) as usize, calls.gfp) {
        Ok(object) => {
            *slot = bits(object);
            (true, true)
        }
        Err(_) => (true, false),
    }
}

fn clean_up(calls: Calls, slots: &mut [u64]) {
    for object in slots.iter_mut().filter_map(|slot| object(core::mem::take(slot))) {
        // SAFETY: the slot's object, which it no longer holds.
        unsafe { (calls.kfree)(object) };
    }
}

fn trace(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let (calls, overhead) = (Calls::new()?, counter::overhead());
    let (entries, mut slots) = replay::prepare(context, &TRACE)?;
    let mut failures = 0;
    let count = counter::count(overhead, || {
        for entry in entries.iter() {
            failures += u64::from(!operate(calls, *entry, &mut slots).1);
        }
    });
    clean_up(calls, &mut slots);
    if failures != 0 {
        context.note(format_args!("{failures} operations failed"))?;
    }
    Ok(context.report(format_args!("km_trace"), count, entries.len() as u64, "instructions")?)
}

fn trace_percentiles(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let calls = Calls::new()?;
    let (entries, mut slots) = replay::prepare(context, &TRACE)?;
    let costs = replay::measure(context, &entries, |entry| operate(calls, entry, &mut slots).0)?;
    clean_up(calls, &mut slots);
    costs.report(context, "km_trace")
}

fn eat(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    let calls = Calls::new()?;
    let (mut generator, mut bytes, mut nr, mut last) = (Generator::new(context.parameters.seed), 0, 0_u64, None);
    // Each object's first word leads to the one before.
    loop {
        let size = km_size(generator.next());
        let Ok(object) = (calls.kmalloc)(size as usize, calls.gfp) else { break };
        // SAFETY: a new object of eight bytes at least.
        unsafe { object.cast::<Option<NonNull<u8>>>().write(last) };
        last = Some(object);
        bytes += size;
        nr += 1;
    }
    while let Some(object) = last {
        // SAFETY: written above.
        last = unsafe { object.cast::<Option<NonNull<u8>>>().read() };
        // SAFETY: allocated above.
        unsafe { (calls.kfree)(object) };
    }
    context.note(format_args!("{nr} objects"))?;
    Ok(context.report(format_args!("km_eat"), bytes, 1, "bytes")?)
}
