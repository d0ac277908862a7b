// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `make top` shows: the state of memory as records, again and again, for a program at the other end of the line.
//!
//! `top=MS` on the command line starts a thread on the last CPU that sends a *sample* every so many milliseconds: zones,
//! where in them what is free, caches, vmalloc, flushes, and an end. `firmware/tools/top.rs` reads them by their words.
//! Records go out only with `log=defmt`. A sample looks at a zone with its lock held, as `fragmap` does.

use mm::report::Cell;
use mm::vmalloc::Vmalloc;

use crate::boot::Machine;
use crate::log::records::record;
use crate::smp::CpuSet;
use crate::{memory, pr_warn, slab, thread, vmalloc};

/// Parts of a zone that a sample tells apart: what fits into a record, and on a thread's stack.
const CELLS: usize = 128;

/// Starts to send samples every `ms` milliseconds, for good.
#[cold]
#[inline(never)]
pub(crate) fn start(machine: &'static Machine, ms: u64) {
    let cpu = CpuSet::online().iter().last().unwrap_or(0);
    let run = move || {
        let mut number = 0;
        loop {
            sample(machine, number);
            number += 1;
            thread::sleep(ms);
        }
    };
    match thread::spawn_on::<_, ()>(cpu, run) {
        Ok(handle) => core::mem::forget(handle),
        Err(error) => pr_warn!("top: {error}"),
    }
}

/// Sends one.
fn sample(machine: &'static Machine, number: u64) {
    let pages = machine.memory.pages;
    for (index, zone) in pages.info().iter().flatten().enumerate() {
        record!(
            info,
            "top: zone {=usize} node {=u32} {=str} managed {=u64} free {=u64} blocks {}",
            index,
            zone.node,
            zone.kind.name(),
            zone.managed_pages,
            zone.free_pages,
            zone.nr_free.as_slice()
        );
        let mut cells = [Cell::default(); CELLS];
        let count = pages.survey(index, &mut cells).unwrap_or(0);
        let bytes = cells.map(Cell::to_byte);
        record!(info, "top: map {=usize} {=[u8]}", index, bytes.get(..count).unwrap_or_default());
    }
    record!(info, "top: hoarded {=u64}", pages.hoarded_pages());
    for cache in slab::slab().into_iter().flat_map(|slab| slab.caches()).filter(|cache| cache.slabs != 0) {
        record!(
            info,
            "top: cache {=str} active {=usize} objects {=usize} size {=usize} slabs {=usize} pages {=usize}",
            cache.name,
            cache.active_objects,
            cache.objects,
            cache.object_size,
            cache.slabs,
            cache.pages_per_slab
        );
    }
    let usage = vmalloc::get().map(Vmalloc::usage).unwrap_or_default();
    record!(
        info,
        "top: vmalloc areas {=u64} pages {=u64} lazy {=u64} tags {=u64}",
        usage.areas,
        usage.pages,
        usage.lazy_pages,
        usage.tag_frames
    );
    for (name, count) in memory::tlb().counters().iter() {
        record!(info, "top: tlb {=str} {=u64}", name, count);
    }
    record!(info, "top: end {=u64}", number);
}
