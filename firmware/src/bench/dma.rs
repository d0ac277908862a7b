// SPDX-License-Identifier: MIT OR Apache-2.0
//! Benchmarks of memory for devices, as Linux's were measured: a device that does not see the caches.

use mm::addr::PAGE_SIZE;
use mm::dma::{Attrs, CoherentMemory, Device, Direction, DmaError, DmaPool, PoolSpec, Spec, bit_mask};
use mm::gfp::Gfp;

use super::{Bench, Context, NO_ROOM, counter, no_suffix};
use crate::console::Failure;
use crate::dma::{self, KernelMapper};

const SIZES: [(u64, &str); 3] = [(4 << 10, "4K"), (16 << 10, "16K"), (64 << 10, "64K")];

pub(super) const BENCHES: &[Bench] = &[
    Bench {
        name: "dma_coherent_",
        help: "allocate, zero and free coherent memory",
        variants: SIZES.len(),
        suffix: |variant, w| w.write_str(SIZES.get(variant).map_or("", |(_, name)| name)),
        run: coherent,
    },
    Bench {
        name: "dma_pool_64",
        help: "take and give back a block of 64 bytes",
        variants: 1,
        suffix: no_suffix,
        run: pool,
    },
    Bench {
        name: "dma_map_",
        help: "map and unmap a buffer that the device reads",
        variants: SIZES.len(),
        suffix: |variant, w| w.write_str(SIZES.get(variant).map_or("", |(_, name)| name)),
        run: map,
    },
];

/// Rounds of each loop, one more than are counted.
const ROUNDS: usize = 31;
/// Allocations of a round, before they are freed.
const BATCH: usize = 8;

/// The calls that are measured: out of line.
#[inline(never)]
fn alloc(mapper: &KernelMapper, device: &Device, size: u64) -> Result<CoherentMemory, DmaError> {
    mapper.alloc_coherent(device, size, Gfp::KERNEL)
}

#[inline(never)]
fn free(mapper: &KernelMapper, device: &Device, size: u64, memory: CoherentMemory) -> bool {
    mapper.free_coherent(device, size, memory).is_ok()
}

/// Runs `body` with a device of its own.
fn with_device(body: impl FnOnce(&'static KernelMapper, &Device) -> Result<(), Failure>) -> Result<(), Failure> {
    let mapper = dma::mapper().ok_or("there is no memory for devices")?;
    let spec = Spec { mask: bit_mask(64), ..Spec::new("bench") };
    let device = mapper.add_device(&spec).map_err(|_| Failure::Because("there are too many devices"))?;
    let result = body(mapper, &device);
    dma::release(device);
    result
}

fn coherent(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let (bytes, name) = SIZES.get(variant).copied().unwrap_or((PAGE_SIZE, ""));
    let overhead = counter::overhead();
    with_device(|mapper, device| {
        let (mut allocs, mut frees) = ([0; ROUNDS], [0; ROUNDS]);
        let mut all = [None; BATCH];
        let mut failed = false;
        for (allocated, freed) in allocs.iter_mut().zip(&mut frees) {
            *allocated = counter::count(overhead, || {
                for slot in &mut all {
                    *slot = alloc(mapper, device, bytes).ok();
                }
            });
            failed |= all.iter().any(Option::is_none);
            *freed = counter::count(overhead, || {
                for memory in all.iter_mut().filter_map(Option::take) {
                    failed |= !free(mapper, device, bytes, memory);
                }
            });
        }
        if failed {
            return Err(Failure::Because(NO_ROOM));
        }
        for (what, counts) in [("alloc", &mut allocs), ("free", &mut frees)] {
            let name = format_args!("dma_coherent_{name}_{what}");
            context.report(name, counter::median(counts), BATCH as u64, "instructions")?;
        }
        Ok(())
    })
}

fn pool(context: &mut Context<'_>, _: usize) -> Result<(), Failure> {
    const PAIRS: u64 = 1000;
    let overhead = counter::overhead();
    with_device(|mapper, device| {
        let spec = PoolSpec { size: 64, align: 64, boundary: 0 };
        let pool = DmaPool::new(mapper, device, &spec).map_err(|_| Failure::Because("there is no such pool"))?;
        let mut counts = [0; ROUNDS];
        let mut failed = false;
        for count in &mut counts {
            *count = counter::count(overhead, || {
                for _ in 0..PAIRS {
                    failed |= match take(&pool) {
                        Ok(block) => !give(&pool, block),
                        Err(_) => true,
                    };
                }
            });
        }
        if failed {
            return Err(Failure::Because(NO_ROOM));
        }
        Ok(context.report(format_args!("dma_pool_64"), counter::median(&counts), PAIRS, "instructions")?)
    })
}

type Pool<'a> = DmaPool<'a, 'static, crate::cpu::Hardware, crate::slab::Source, dma::KernelMap>;

#[inline(never)]
fn take(pool: &Pool<'_>) -> Result<CoherentMemory, DmaError> {
    pool.alloc(Gfp::KERNEL)
}

#[inline(never)]
fn give(pool: &Pool<'_>, block: CoherentMemory) -> bool {
    pool.free(block).is_ok()
}

fn map(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let (bytes, name) = SIZES.get(variant).copied().unwrap_or((PAGE_SIZE, ""));
    let overhead = counter::overhead();
    let pages = context.machine.memory.pages;
    let order = mm::addr::Order::for_bytes(bytes).unwrap_or_default();
    let block = pages.alloc(Gfp::KERNEL, order).map_err(|_| Failure::Because(NO_ROOM))?;
    let phys = block.pfn().addr();
    let result = with_device(|mapper, device| {
        let mut counts = [0; ROUNDS];
        let mut failed = false;
        let (direction, none) = (Direction::ToDevice, Attrs::empty());
        for count in &mut counts {
            *count = counter::count(overhead, || {
                // SAFETY: the block is ours, and there is no device.
                let mapped = unsafe { mapper.map_page(device, phys, bytes, direction, none) };
                // SAFETY: as above.
                failed |=
                    mapped.and_then(|addr| unsafe { mapper.unmap(device, addr, bytes, direction, none) }).is_err();
            });
        }
        if failed {
            return Err(Failure::Because("it cannot be mapped"));
        }
        Ok(context.report(format_args!("dma_map_{name}"), counter::median(&counts), 1, "instructions")?)
    });
    // It came from there.
    let _ = pages.free(block);
    result
}
