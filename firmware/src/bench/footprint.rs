// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory objects take: a slab of its own in both modes, so that one boot shows both.

use core::fmt;
use core::sync::atomic::AtomicU16;

use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::aarch64::AArch64;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::slab::{Settings, Slab};

use super::slab::{bits, km_size, object};
use super::{Bench, Context};
use crate::console::Failure;
use crate::layout::DIRECT_MAP;
use crate::random::Generator;
use crate::slab::Source;

/// The states of a footprint.
const STATES: [&str; 3] = ["trace", "grow", "thin"];

/// Bytes that are asked for again and again: a size class and what lies between two.
const SIZES: [u32; 36] = [
    8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896,
    1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192,
];

pub(super) const BENCHES: &[Bench] = &[
    Bench {
        name: "km_footprint_",
        help: "memory over what was asked for, in both modes",
        variants: STATES.len(),
        suffix: |variant, w| w.write_str(STATES.get(variant).unwrap_or(&"")),
        run: footprint,
    },
    Bench {
        name: "km_overhead_",
        help: "the same for a MiB of objects of one size",
        variants: SIZES.len(),
        suffix: |variant, w| write!(w, "{}", SIZES.get(variant).unwrap_or(&0)),
        run: overhead,
    },
];

type OtherSlab<'a> = Slab<'a, AArch64, Source>;
/// Fills a slab by way of room for objects and sizes; returns the bytes that are live then.
type Fill<'a> = &'a mut dyn FnMut(&OtherSlab<'_>, &mut [u64], &mut [u32]) -> Option<u64>;

fn footprint(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    // On small boards as Linux was measured there.
    let small = context.machine.memory.pages.managed_pages() < 32 << 8;
    let (nr, operations) = if small { (2000, 20_000) } else { (10_000, 100_000) };
    let (seed, state) = (context.parameters.seed, STATES.get(variant).unwrap_or(&""));
    in_another_slab(context, nr, format_args!("km_footprint_{state}"), &mut |slab, objects, sizes| match variant {
        0 => state_trace(slab, operations, seed, objects, sizes),
        1 => state_grow(slab, seed, objects, sizes),
        _ => state_grow(slab, seed, objects, sizes).map(|live| live - thin(slab, seed, objects, sizes)),
    })
}

fn overhead(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let size = *SIZES.get(variant).unwrap_or(&8);
    let nr = (1 << 20) / size as usize;
    in_another_slab(context, nr, format_args!("km_overhead_{size}"), &mut |slab, objects, _| {
        for slot in objects {
            *slot = bits(slab.kmalloc(size as usize, Gfp::KERNEL).ok()?);
        }
        Some(nr as u64 * u64::from(size))
    })
}

/// Reports what `fill` makes a slab hold, over what is live.
fn in_another_slab(
    context: &mut Context<'_>,
    nr: usize,
    name: fmt::Arguments<'_>,
    fill: Fill<'_>,
) -> Result<(), Failure> {
    let pages = context.machine.memory.pages;
    // SAFETY: the direct map and TPIDR_EL1 are as for the machine's own.
    let arch = unsafe { AArch64::new(DIRECT_MAP) };
    let span = ram(context.machine.memory.memblock);
    let mut tags = context.buffer::<u32>(OtherSlab::nr_tags(span).div_ceil(2))?;
    let mut objects = context.buffer::<u64>(nr)?;
    let mut sizes = context.buffer::<u32>(nr)?;
    for tiny in [true, false] {
        // SAFETY: a pair of 16-bit atomics has the size and at most the alignment of 32 bits; borrowed until the
        // slab is gone.
        let tags =
            unsafe { core::slice::from_raw_parts_mut(tags.as_mut_ptr().cast::<AtomicU16>(), OtherSlab::nr_tags(span)) };
        let ram_bytes = pages.managed_pages() * PAGE_SIZE;
        let settings = Settings { tiny: Some(tiny), ..Settings::new(ram_bytes, 1, |_| ()) };
        let slab = OtherSlab::new(&arch, pages, span, tags, settings).map_err(|_| "no second slab")?;
        let live = fill(&slab, &mut objects, &mut sizes);
        let held = slab.pages() as u64 * PAGE_SIZE;
        for object in objects.iter_mut().filter_map(|bits| object(core::mem::take(bits))) {
            // SAFETY: allocated from that slab above.
            unsafe { slab.kfree(object) };
        }
        // SAFETY: no object is in use, and no CPU uses it.
        unsafe { slab.close() };
        let live = live.ok_or("an allocation failed")?;
        let mode = if tiny { "tiny" } else { "default" };
        context.note(format_args!("{name}_{mode}: {live} bytes live, {held} held"))?;
        context.report(format_args!("{name}_{mode}"), held.saturating_sub(live) * 100, live, "percent over")?;
    }
    Ok(())
}

/// From the first byte of RAM to the last.
fn ram(memblock: &Memblock) -> PhysRange {
    let regions = memblock.memory();
    let start = regions.first().map_or(PhysAddr::ZERO, |region| region.range.start());
    PhysRange::new(start, regions.last().map_or(start, |region| region.range.end())).unwrap_or_default()
}

/// The trace's first operations. Returns the bytes that are live then.
fn state_trace(
    slab: &OtherSlab<'_>,
    operations: usize,
    seed: u64,
    objects: &mut [u64],
    sizes: &mut [u32],
) -> Option<u64> {
    let (mut generator, mut live) = (Generator::new(seed), 0);
    for _ in 0..operations {
        let random = generator.next();
        let at = ((random >> 40) % 2000) as usize;
        let (slot, size) = (objects.get_mut(at)?, sizes.get_mut(at)?);
        if let Some(object) = object(core::mem::take(slot)) {
            // SAFETY: the slot's object, which it no longer holds.
            unsafe { slab.kfree(object) };
            live -= u64::from(*size);
        } else {
            *size = km_size(random) as u32;
            *slot = bits(slab.kmalloc(*size as usize, Gfp::KERNEL).ok()?);
            live += u64::from(*size);
        }
    }
    Some(live)
}

/// So many objects of the trace's sizes, in its order.
fn state_grow(slab: &OtherSlab<'_>, seed: u64, objects: &mut [u64], sizes: &mut [u32]) -> Option<u64> {
    let (mut generator, mut live) = (Generator::new(seed), 0);
    for (slot, size) in objects.iter_mut().zip(sizes) {
        *size = km_size(generator.next()) as u32;
        *slot = bits(slab.kmalloc(*size as usize, Gfp::KERNEL).ok()?);
        live += u64::from(*size);
    }
    Some(live)
}

/// Frees nine of ten. Returns their bytes.
fn thin(slab: &OtherSlab<'_>, seed: u64, objects: &mut [u64], sizes: &[u32]) -> u64 {
    let (mut generator, mut freed) = (Generator::new(seed), 0);
    for (slot, size) in objects.iter_mut().zip(sizes) {
        if (generator.next() >> 32) % 100 >= 10
            && let Some(object) = object(core::mem::take(slot))
        {
            // SAFETY: the slot's object, which it no longer holds.
            unsafe { slab.kfree(object) };
            freed += u64::from(*size);
        }
    }
    freed
}
