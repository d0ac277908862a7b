// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests themselves: what each loop does is what Linux's does.

use core::ptr::NonNull;

use mm::addr::{PAGE_SIZE, Pfn};
use mm::gfp::Gfp;
use mm::percpu::{PerCpu, PerCpuPtr};
use mm::pgtable::Attributes;
use mm::rcu::RcuHead;

use super::{Outcome, Test, Worker};
use crate::slab::slab;
use crate::smp;
use crate::vmalloc::{
    self, vfree, vm_map_ram, vm_unmap_aliases, vm_unmap_ram, vmalloc, vmalloc_with, vrealloc, vzalloc,
};
use crate::{rcu, thread};

/// In the order of the mask's bits.
pub(super) const TESTS: [Test; 13] = [
    Test { name: "fix_size_alloc_test", run: fix_size },
    Test { name: "full_fit_alloc_test", run: full_fit },
    Test { name: "long_busy_list_alloc_test", run: long_busy_list },
    Test { name: "random_size_alloc_test", run: random_size },
    Test { name: "fix_align_alloc_test", run: fix_align },
    Test { name: "random_size_align_alloc_test", run: random_size_align },
    Test { name: "align_shift_alloc_test", run: align_shift },
    Test { name: "pcpu_alloc_test", run: pcpu },
    Test { name: "kvfree_rcu_1_arg_vmalloc_test", run: rcu_without_head },
    Test { name: "kvfree_rcu_2_arg_vmalloc_test", run: rcu_with_head },
    Test { name: "vm_map_ram_test", run: map_ram },
    Test { name: "no_block_alloc_test", run: no_block },
    Test { name: "vrealloc_test", run: realloc },
];

/// Writes the first byte, and frees; `false` if there was no memory.
fn touch_and_free<E>(memory: Result<NonNull<u8>, E>) -> bool {
    let Ok(memory) = memory else { return false };
    // SAFETY: just allocated, at least a byte.
    unsafe { memory.write_volatile(0) };
    // SAFETY: nobody else knows of it.
    unsafe { vfree(memory) };
    true
}

fn pages(worker: &Worker) -> u64 {
    worker.parameters.nr_pages.max(1) * PAGE_SIZE
}

fn fix_size(worker: &mut Worker) -> Outcome {
    let bytes = pages(worker);
    // Large descriptors are used by themselves; asked for, even a size that would do without is aligned for them.
    let align = if worker.parameters.use_huge { bytes.next_power_of_two().min(2 << 20) } else { PAGE_SIZE };
    worker.each(|_| {
        if align == PAGE_SIZE {
            touch_and_free(vmalloc(bytes))
        } else {
            touch_and_free(vmalloc_with(bytes, align, Gfp::KERNEL, Attributes::DATA))
        }
    })
}

/// Areas of a page each that a test keeps; freed with it.
struct Kept {
    list: NonNull<u8>,
    count: usize,
}

impl Kept {
    /// Room for `count` areas.
    fn new(count: usize) -> Option<Self> {
        let list = vzalloc((count * size_of::<usize>()) as u64).ok()?;
        Some(Self { list, count })
    }

    fn slot(&self, at: usize) -> *mut Option<NonNull<u8>> {
        self.list.cast::<Option<NonNull<u8>>>().as_ptr().wrapping_add(at.min(self.count - 1))
    }

    /// Takes an area for slot `at`.
    fn fill(&self, at: usize) -> bool {
        let memory = vmalloc(PAGE_SIZE).ok();
        // SAFETY: a slot of this list, which is zeros (`None`) or was written here.
        unsafe { self.slot(at).write(memory) };
        memory.is_some()
    }

    /// Frees the area of slot `at`, if there is one.
    fn free(&self, at: usize) {
        // SAFETY: as above.
        let memory = unsafe { self.slot(at).replace(None) };
        // SAFETY: it was this list's, and is in no slot any more.
        memory.into_iter().for_each(|memory| unsafe { vfree(memory) });
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        (0..self.count).for_each(|at| self.free(at));
        // SAFETY: nobody else knows of it.
        unsafe { vfree(self.list) };
    }
}

fn full_fit(worker: &mut Worker) -> Outcome {
    let holes = (usize::BITS - smp::nr_online().leading_zeros()) as usize * ((32 << 20) / PAGE_SIZE as usize);
    let Some(kept) = Kept::new(2 * holes) else { return Outcome::Failed };
    if !(0..2 * holes).all(|at| kept.fill(at)) {
        return Outcome::Failed;
    }
    (0..holes).for_each(|at| kept.free(2 * at + 1));
    worker.each(|_| touch_and_free(vmalloc(PAGE_SIZE)))
}

fn long_busy_list(worker: &mut Worker) -> Outcome {
    const BUSY: usize = 15_000;
    let Some(kept) = Kept::new(BUSY) else { return Outcome::Failed };
    if !(0..BUSY).all(|at| kept.fill(at)) {
        return Outcome::Failed;
    }
    worker.each(|_| {
        let (large, small) = (vmalloc(100 * PAGE_SIZE), vmalloc(PAGE_SIZE));
        let large = touch_and_free(large);
        touch_and_free(small) && large
    })
}

fn random_size(worker: &mut Worker) -> Outcome {
    worker.each(|worker| touch_and_free(vmalloc((worker.next() % 100 + 1) * PAGE_SIZE)))
}

fn aligned(bytes: u64, align: u64) -> bool {
    touch_and_free(vmalloc_with(bytes, align, Gfp::KERNEL | Gfp::ZERO, Attributes::DATA))
}

fn fix_align(worker: &mut Worker) -> Outcome {
    /// Twice Linux's THREAD_ALIGN.
    const ALIGN: u64 = 32 << 10;
    worker.each(|_| aligned(5 * PAGE_SIZE, ALIGN))
}

fn random_size_align(worker: &mut Worker) -> Outcome {
    worker.each(|worker| {
        let random = worker.next() & 0xff;
        aligned((random % 10 + 1) * PAGE_SIZE, 1 << (random % 23))
    })
}

fn align_shift(_: &mut Worker) -> Outcome {
    let all = (0..u64::BITS).all(|shift| aligned(PAGE_SIZE, 1 << shift));
    if all { Outcome::Passed } else { Outcome::ExpectedFailure }
}

fn pcpu(worker: &mut Worker) -> Outcome {
    let Some(slab) = slab() else { return Outcome::Failed };
    let count = worker.parameters.nr_pcpu_objects as usize;
    let Ok(list) = vzalloc((count * size_of::<Option<PerCpuPtr>>()) as u64) else { return Outcome::Failed };
    let slot = |at: usize| list.cast::<Option<PerCpuPtr>>().as_ptr().wrapping_add(at);
    let areas = PerCpu::new(slab, smp::nr_online());
    let mut all = true;
    for at in 0..count {
        let bytes = (worker.next() % 1024 + 1) as usize;
        let object = areas.alloc(bytes, 2 << (worker.next() % 11), Gfp::KERNEL).ok();
        all &= object.is_some();
        // SAFETY: a slot of the list.
        unsafe { slot(at).write(object) };
    }
    for at in 0..count {
        // SAFETY: written above.
        let object = unsafe { slot(at).read() };
        if let Some(object) = object {
            // SAFETY: it comes from there, and nobody uses it.
            all &= unsafe { areas.free(object) };
        }
    }
    // SAFETY: nobody else knows of it.
    unsafe { vfree(list) };
    if all { Outcome::Passed } else { Outcome::Failed }
}

/// Waits for the end of all readers, and frees.
fn rcu_without_head(worker: &mut Worker) -> Outcome {
    worker.each(|_| {
        let memory = vmalloc(PAGE_SIZE);
        rcu::synchronize();
        touch_and_free(memory)
    })
}

/// Leaves it to the ticks to free it.
fn rcu_with_head(worker: &mut Worker) -> Outcome {
    /// Ticks that are waited for memory, should all of it wait for them.
    const MOST_WAITS: u32 = 20;
    worker.each(|_| {
        let Some(memory) = (0..MOST_WAITS).find_map(|wait| {
            if wait > 0 {
                thread::sleep(10);
            }
            vmalloc(PAGE_SIZE).ok()
        }) else {
            return false;
        };
        let head = memory.cast::<RcuHead>();
        // SAFETY: just allocated: room for a head, aligned to a page.
        unsafe { head.write(RcuHead::new()) };
        // SAFETY: an area of the machine's, which nobody else knows of, and its head.
        unsafe { rcu::kfree_rcu(memory, head) };
        true
    })
}

fn map_ram(worker: &mut Worker) -> Outcome {
    const MOST: usize = 64;
    let (Some(vmalloc), count) = (vmalloc::get(), (worker.parameters.nr_pages.max(1) as usize).min(MOST)) else {
        return Outcome::Failed;
    };
    let mut frames = [Pfn::default(); MOST];
    let Some(frames) = frames.get_mut(..count) else { return Outcome::Failed };
    let taken = vmalloc.source().alloc_bulk(Gfp::KERNEL, frames);
    let outcome = if taken < count {
        Outcome::Failed
    } else {
        worker.each(|_| {
            // SAFETY: the frames are ours; nobody keeps a pointer to the mapping.
            let Ok(first) = (unsafe { vm_map_ram(frames) }) else { return false };
            // SAFETY: mapped a moment ago.
            unsafe { first.write_volatile(1) };
            // SAFETY: as above.
            unsafe { vm_unmap_ram(first, count) };
            true
        })
    };
    vm_unmap_aliases();
    let freed = vmalloc.source().free_bulk(frames.get(..taken).unwrap_or_default());
    if freed.is_ok() { outcome } else { Outcome::Failed }
}

fn no_block(worker: &mut Worker) -> Outcome {
    let bytes = pages(worker);
    let outcome = worker.each(|worker| {
        let gfp = if worker.next() & 1 == 0 { Gfp::ATOMIC } else { Gfp::NOWAIT };
        touch_and_free(vmalloc_with(bytes, PAGE_SIZE, gfp, Attributes::DATA))
    });
    if outcome == Outcome::Failed { Outcome::ExpectedFailure } else { outcome }
}

fn realloc(worker: &mut Worker) -> Outcome {
    const MARK: u8 = 0x5a;
    worker.each(|_| {
        // SAFETY: from nothing.
        let Ok(Some(mut memory)) = (unsafe { vrealloc(None, PAGE_SIZE, Gfp::KERNEL) }) else { return false };
        // SAFETY: ours, at least a byte.
        unsafe { memory.write_volatile(MARK) };
        let mut fine = true;
        for bytes in [4 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE / 2, PAGE_SIZE] {
            // SAFETY: the old address is forgotten.
            match unsafe { vrealloc(Some(memory), bytes, Gfp::KERNEL) } {
                Ok(Some(moved)) => memory = moved,
                _ => fine = false,
            }
            // SAFETY: as above.
            fine &= unsafe { memory.read_volatile() } == MARK;
        }
        // SAFETY: nobody else knows of it.
        unsafe { vfree(memory) };
        fine
    })
}
