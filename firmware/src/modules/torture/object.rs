// SPDX-License-Identifier: MIT OR Apache-2.0
//! An object of some allocator, and the words in it that only its owner knows.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use mm::addr::{Order, PAGE_SIZE, PhysAddr};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::pgtable::Attributes;

use super::super::garbage::{cache_alloc, cache_free, kfree, kmalloc};
use super::{Plan, SHORTAGES, WRONG};
use crate::kvmalloc::{kvfree, kvmalloc, kvrealloc};
use crate::slab::slab;
use crate::vmalloc::{vfree, vmalloc_with, vrealloc};
use crate::{memory, println};

/// Bytes of an object of the cache.
pub(super) const CACHED: usize = 192;
/// Between two words in a large object.
const STRIDE: usize = 512;

/// Where it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Pages,
    Kmalloc,
    Cache,
    Vmalloc,
    Kvmalloc,
}

/// An object, which its holder alone may use.
#[derive(Debug)]
pub(super) struct Object {
    memory: NonNull<u8>,
    bytes: usize,
    kind: Kind,
    salt: u64,
}

// SAFETY: it is the only one that leads to its memory, which every CPU can use.
unsafe impl Send for Object {}

fn direct(block: &PageBlock) -> Option<NonNull<u8>> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(memory::direct_map(block.pfn().addr()).as_raw() as usize))
}

/// Sizes with a long tail: most are small.
const fn size(random: u64, largest_log2: u64) -> usize {
    let log2 = 3 + random % (largest_log2 - 2);
    (1 << log2) + (random >> 32) as usize % (1 << log2)
}

impl Object {
    /// Takes one, if there is memory.
    pub(super) fn take(plan: &Plan, choice: u64, size: u64) -> Option<Self> {
        let gfp = match choice >> 8 & 7 {
            0 => Gfp::ATOMIC,
            1 => Gfp::NOWAIT,
            2 => Gfp::KERNEL | Gfp::ZERO,
            _ => Gfp::KERNEL,
        };
        let kinds = [Kind::Pages, Kind::Kmalloc, Kind::Kmalloc, Kind::Cache, Kind::Vmalloc, Kind::Kvmalloc];
        let kind = kinds.get((choice >> 16) as usize % kinds.len()).copied()?;
        Self::of(plan, kind, gfp | Gfp::NOWARN, size, choice)
    }

    /// The same for a handler: small, and never waiting.
    pub(super) fn take_in_interrupt(plan: &Plan, choice: u64, size: u64) -> Option<Self> {
        let kinds = [Kind::Pages, Kind::Kmalloc, Kind::Kmalloc, Kind::Cache, Kind::Vmalloc];
        let kind = kinds.get((choice >> 16) as usize % kinds.len()).copied()?;
        // Little at a time, or a tick would take longer than until the next.
        Self::of(plan, kind, Gfp::ATOMIC | Gfp::NOWARN, size & !0xff, choice)
    }

    fn of(plan: &Plan, kind: Kind, gfp: Gfp, random: u64, salt: u64) -> Option<Self> {
        let slab = slab()?;
        let (memory, bytes) = match kind {
            Kind::Pages => {
                let order = Order::new((random & 0xff) as usize % 6)?;
                let block = plan.machine.memory.pages.alloc(gfp, order).ok();
                (block.as_ref().and_then(direct), order.bytes() as usize)
            }
            Kind::Kmalloc => {
                let bytes = size(random, 13);
                (kmalloc(slab, bytes, gfp), bytes)
            }
            Kind::Cache => (cache_alloc(slab, plan.cache, gfp), CACHED),
            Kind::Vmalloc => {
                let bytes = size(random, 17);
                let align = PAGE_SIZE << (random >> 56 & 3);
                (vmalloc_with(bytes as u64, align, gfp, Attributes::DATA).ok(), bytes)
            }
            Kind::Kvmalloc => {
                let bytes = size(random, 16);
                (kvmalloc(bytes, gfp).ok(), bytes)
            }
        };
        let Some(memory) = memory else {
            SHORTAGES.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let object = Self { memory, bytes, kind, salt };
        if gfp.contains(Gfp::ZERO) && !object.words().all(|word| object.read(word) == 0) {
            object.complain("not all of it is zero", usize::MAX, 0);
        }
        object.write();
        Some(object)
    }

    /// Offsets of the words that are written: all of a small object, some of a large one, and always the last.
    fn words(&self) -> impl Iterator<Item = usize> + use<> {
        let last = (self.bytes & !7).saturating_sub(8);
        let step = if self.bytes <= STRIDE { 8 } else { STRIDE };
        (0..last).step_by(step).chain(core::iter::once(last))
    }

    fn word(&self, offset: usize) -> *mut u64 {
        self.memory.as_ptr().wrapping_add(offset).cast()
    }

    fn read(&self, offset: usize) -> u64 {
        // SAFETY: a word of ours: objects have 8 bytes at least, and are aligned to that.
        unsafe { self.word(offset).read_volatile() }
    }

    const fn secret(&self, offset: usize) -> u64 {
        self.salt.wrapping_add(offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&self) {
        // SAFETY: as above.
        self.words().for_each(|offset| unsafe { self.word(offset).write_volatile(self.secret(offset)) });
    }

    #[cold]
    #[inline(never)]
    fn complain(&self, what: &str, cpu: usize, operation: u64) {
        WRONG.fetch_add(1, Ordering::Relaxed);
        let (memory, bytes, kind) = (self.memory, self.bytes, self.kind);
        println!(
            "torture: WRONG: CPU {cpu}, operation {operation}: {kind:?} object of {bytes} bytes at {memory:p}: {what}"
        );
    }

    /// Looks at its words, as far as so many bytes reach.
    fn check(&self, within: usize, cpu: usize, operation: u64) {
        let bad = self.words().find(|offset| offset + 8 <= within && self.read(*offset) != self.secret(*offset));
        if let Some(offset) = bad {
            let (found, expected) = (self.read(offset), self.secret(offset));
            self.complain("somebody else wrote to it", cpu, operation);
            println!("torture: at offset {offset} there is {found:#018x} and not {expected:#018x}");
        }
    }

    /// Looks at it, and makes it longer or shorter, moved or not, if its allocator can.
    pub(super) fn resize(&mut self, random: u64, cpu: usize, operation: u64) {
        self.check(self.bytes, cpu, operation);
        let (gfp, object) = (Gfp::KERNEL | Gfp::NOWARN, Some(self.memory));
        let bytes = match self.kind {
            Kind::Pages | Kind::Cache => return,
            Kind::Kmalloc => size(random, 13),
            Kind::Vmalloc | Kind::Kvmalloc => size(random, 17),
        };
        let moved = match self.kind {
            // SAFETY: ours, and the old address is forgotten.
            Kind::Kmalloc => slab().and_then(|slab| unsafe { slab.krealloc(object, bytes, gfp) }.ok()),
            // SAFETY: as above.
            Kind::Vmalloc => unsafe { vrealloc(object, bytes as u64, gfp) }.ok().flatten(),
            // SAFETY: as above.
            _ => unsafe { kvrealloc(object, bytes, gfp) }.ok(),
        };
        let Some(moved) = moved else {
            SHORTAGES.fetch_add(1, Ordering::Relaxed);
            return self.check(self.bytes, cpu, operation);
        };
        let kept = self.bytes.min(bytes);
        self.memory = moved;
        // What was written lies where the old size put it.
        self.check(kept, cpu, operation);
        self.bytes = bytes;
        self.write();
    }

    /// Looks at it, and gives it back.
    pub(super) fn check_and_free(self, plan: &Plan, cpu: usize, operation: u64) {
        self.check(self.bytes, cpu, operation);
        // Whoever still uses it finds these, and not what its next owner may write as well.
        // SAFETY: a word of ours.
        self.words().for_each(|offset| unsafe { self.word(offset).write_volatile(!self.secret(offset)) });
        let Some(slab) = slab() else { return };
        match self.kind {
            Kind::Pages => {
                let phys = self.memory.addr().get() as u64 - memory::direct_map(PhysAddr::ZERO).as_raw();
                let order = Order::for_bytes(self.bytes as u64).unwrap_or_default();
                let block = PageBlock::from_raw(PhysAddr::new_saturating(phys).pfn(), order);
                if plan.machine.memory.pages.free(block).is_err() {
                    self.complain("the page allocator does not take it back", cpu, operation);
                }
            }
            // SAFETY: taken from there, and this was the only way to it.
            Kind::Kmalloc => unsafe { kfree(slab, self.memory) },
            // SAFETY: as above.
            Kind::Cache => unsafe { cache_free(slab, plan.cache, self.memory) },
            // SAFETY: as above.
            Kind::Vmalloc => unsafe { vfree(self.memory) },
            // SAFETY: as above.
            Kind::Kvmalloc => unsafe { kvfree(self.memory) },
        }
    }
}
