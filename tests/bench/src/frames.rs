// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workloads on page frames.
//!
//! Nothing touches the frames themselves. One operation is one alloc or one free, but a pair counts as one. Orders
//! go to 10; `F` is the number of frames.
//!
//! | label | what |
//! |---|---|
//! | `ppair.K` | one block of order `K` out and in again, nothing else out |
//! | `ppairhalf.K` | the same in the state that `pmixed` starts from |
//! | `pbatch.10k.*` | 10,000 single frames out, then back in the same, the reverse, or a random order |
//! | `pbatch.fill.*` | all frames out, then back in random order |
//! | `pbulk.*` | single frames by 64, all free at first or in the state that `pmixed` starts from; back in the same order |
//! | `pmixed.*` | a slot-toggle trace of geometric orders at half occupancy: `F/6` slots, a million steps |
//! | `pinit.*` | constructed over `F` frames, and the first frame out |
//! | `pfrag.*` | blocks of order 9 that are left when 90 % of single frames went back, and after rounds of churn |
//! | `pmem.*` | bytes of metadata a frame |

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;

use crate::meter::{Meter, repeat};
use crate::rng::{Rng, SEED, Step, geometric_order, trace};

/// Frames in 1 GiB.
pub const GIB: usize = 1 << 18;
/// Single frames in a batch.
pub const BATCH: usize = 10_000;

/// An allocator of page frames, which are numbered from 0.
pub trait Frames {
    /// As the tables call it.
    const NAME: &'static str;
    /// Its free is linear in what is free: whole-memory fills would take hours.
    const LINEAR: bool = false;
    /// An allocator of `frames` frames, all free. At `base`, 1 GiB aligned, lie so many frames and
    /// [`extra_bytes`](Frames::extra_bytes) more; allocators that keep their state elsewhere ignore it.
    fn new(base: *mut u8, frames: usize) -> Box<Self>;
    /// What it needs at `base` besides the frames.
    fn extra_bytes(_frames: usize) -> usize {
        0
    }
    /// The first frame of a block of `2^order`.
    fn alloc(&mut self, order: u32) -> Option<usize>;
    /// Gives a block back.
    fn free(&mut self, frame: usize, order: u32);
    /// Takes as many blocks as `frames` has room for; one by one if it has no better way.
    fn alloc_bulk(&mut self, order: u32, frames: &mut [usize]) {
        for frame in frames {
            *frame = self.alloc(order).unwrap_or(NONE);
        }
    }
    /// Gives blocks back.
    fn free_bulk(&mut self, order: u32, frames: &[usize]) {
        for frame in frames.iter().filter(|frame| **frame != NONE) {
            self.free(*frame, order);
        }
    }
    /// Bytes of metadata that are not on the heap of the process.
    fn metadata_bytes(&self) -> usize;
}

/// An allocator that several threads use.
pub trait SharedFrames: Sync {
    /// As the tables call it.
    const NAME: &'static str;
    /// As [`Frames::new`].
    fn new(base: *mut u8, frames: usize) -> Box<Self>;
    /// As [`Frames::extra_bytes`].
    fn extra_bytes(_frames: usize) -> usize {
        0
    }
    /// As [`Frames::alloc`].
    fn alloc(&self, order: u32) -> Option<usize>;
    /// As [`Frames::free`].
    fn free(&self, frame: usize, order: u32);
}

/// An allocator for one thread behind a spin lock.
pub struct Locked<F>(spin::mutex::SpinMutex<Box<F>>);

// SAFETY: whoever holds the lock is the only one to use the allocator and what it points to.
unsafe impl<F> Sync for Locked<F> {}

impl<F: Frames> SharedFrames for Locked<F> {
    const NAME: &'static str = F::NAME;

    fn new(base: *mut u8, frames: usize) -> Box<Self> {
        Box::new(Self(spin::mutex::SpinMutex::new(F::new(base, frames))))
    }

    fn extra_bytes(frames: usize) -> usize {
        F::extra_bytes(frames)
    }

    fn alloc(&self, order: u32) -> Option<usize> {
        self.0.lock().alloc(order)
    }

    fn free(&self, frame: usize, order: u32) {
        self.0.lock().free(frame, order);
    }
}

const NONE: usize = usize::MAX;

/// A block that is out.
#[derive(Clone, Copy, Debug)]
struct Held {
    frame: usize,
    order: u32,
}

#[inline(never)]
fn pairs<F: Frames>(frames: &mut F, order: u32, turns: u64) {
    for _ in 0..turns {
        let frame = black_box(frames.alloc(order).unwrap_or(NONE));
        frames.free(frame, order);
    }
}

/// Returns how many allocations failed.
#[inline(never)]
fn replay<F: Frames>(frames: &mut F, slots: &mut [Held], steps: &[Step]) -> u64 {
    let mut failed = 0;
    for step in steps {
        let slot = &mut slots[step.slot as usize];
        match step.alloc {
            None if slot.frame != NONE => {
                frames.free(slot.frame, slot.order);
                slot.frame = NONE;
            }
            None => {}
            Some(order) => match frames.alloc(order) {
                Some(frame) => *slot = Held { frame, order },
                None => {
                    slot.frame = NONE;
                    failed += 1;
                }
            },
        }
    }
    failed
}

fn drain<F: Frames>(frames: &mut F, slots: &mut [Held]) {
    for slot in slots.iter_mut().filter(|slot| slot.frame != NONE) {
        frames.free(slot.frame, slot.order);
        slot.frame = NONE;
    }
}

fn empty_slots(slots: u32) -> Vec<Held> {
    vec![Held { frame: NONE, order: 0 }; slots as usize]
}

/// How many blocks of order 9 there are. They are back afterwards.
fn count_huge<F: Frames>(frames: &mut F) -> usize {
    let taken: Vec<usize> = core::iter::from_fn(|| frames.alloc(9)).collect();
    for frame in &taken {
        frames.free(*frame, 9);
    }
    taken.len()
}

/// The trace at half occupancy: slots, the steps that lead there, and those that are measured.
fn mixed_trace(frames: usize, steps: usize) -> (u32, Vec<Step>, Vec<Step>) {
    let slots = (frames / 6) as u32;
    let warm = 2 * slots as usize;
    let mut all = trace(slots, warm + steps, SEED ^ 1, geometric_order);
    let measured = all.split_off(warm);
    (slots, all, measured)
}

/// Everything that is timed, over `frames` frames; `full` with pairs and batches too.
pub fn run<F: Frames, M: Meter>(meter: &mut M, base: *mut u8, frames: usize, tag: &str, full: bool) {
    if full && meter.wants("ppair") {
        let mut allocator = F::new(base, frames);
        run_pairs(meter, &mut *allocator, &format!("ppair.{tag}"));
    }
    if full && meter.wants("ppairhalf") {
        let (slots, warm, _) = mixed_trace(frames, 0);
        let mut allocator = F::new(base, frames);
        replay(&mut *allocator, &mut empty_slots(slots), &warm);
        run_pairs(meter, &mut *allocator, &format!("ppairhalf.{tag}"));
    }
    if full && meter.wants("pbatch") {
        let mut allocator = F::new(base, frames);
        for order in ["same", "reverse", "shuffled"] {
            run_batch(meter, &mut *allocator, BATCH, "10k", order);
        }
        if !F::LINEAR {
            run_batch(meter, &mut *allocator, frames, "fill", "shuffled");
        }
    }
    if full && meter.wants("pbulk") {
        let (slots, warm, _) = mixed_trace(frames, 0);
        let mut allocator = F::new(base, frames);
        run_bulk(meter, &mut *allocator, "free");
        replay(&mut *allocator, &mut empty_slots(slots), &warm);
        run_bulk(meter, &mut *allocator, "half");
    }
    if meter.wants("pmixed") {
        run_mixed::<F, M>(meter, base, frames, tag);
    }
}

fn run_pairs<F: Frames, M: Meter>(meter: &mut M, allocator: &mut F, label: &str) {
    let turns = meter.turns();
    for order in 0..=10 {
        repeat(meter, &format!("{label}.{order}"), turns, || pairs(allocator, order, turns));
    }
}

fn run_batch<F: Frames, M: Meter>(meter: &mut M, allocator: &mut F, count: usize, size: &str, order: &str) {
    let mut back: Vec<u32> = (0..count as u32).collect();
    match order {
        "reverse" => back.reverse(),
        "shuffled" => Rng(SEED).shuffle(&mut back),
        _ => {}
    }
    let mut taken = vec![0; count];
    let mut failed = 0;
    for repetition in 0..=meter.repetitions() {
        if repetition > 0 {
            meter.begin();
        }
        for frame in &mut taken {
            *frame = allocator.alloc(0).unwrap_or(NONE);
            failed += u64::from(*frame == NONE);
        }
        if repetition > 0 {
            meter.end(&format!("pbatch.{size}.{order}.alloc"), count as u64);
            meter.begin();
        }
        for index in &back {
            let frame = taken[*index as usize];
            if frame != NONE {
                allocator.free(frame, 0);
            }
        }
        if repetition > 0 {
            meter.end(&format!("pbatch.{size}.{order}.free"), count as u64);
        }
    }
    if failed > 0 {
        meter.value(&format!("pbatch.{size}.{order}.fails"), failed as f64);
    }
}

/// 64 single frames at once, a hundred times; an operation is one frame.
fn run_bulk<F: Frames, M: Meter>(meter: &mut M, allocator: &mut F, state: &str) {
    const TURNS: usize = 100;
    let mut taken = vec![NONE; TURNS * 64];
    for repetition in 0..=meter.repetitions() {
        if repetition > 0 {
            meter.begin();
        }
        taken.chunks_mut(64).for_each(|frames| allocator.alloc_bulk(0, frames));
        if repetition > 0 {
            meter.end(&format!("pbulk.{state}.alloc"), 64 * TURNS as u64);
            meter.begin();
        }
        taken.chunks(64).for_each(|frames| allocator.free_bulk(0, frames));
        if repetition > 0 {
            meter.end(&format!("pbulk.{state}.free"), 64 * TURNS as u64);
        }
    }
}

fn run_mixed<F: Frames, M: Meter>(meter: &mut M, base: *mut u8, frames: usize, tag: &str) {
    let (slots, warm, measured) = mixed_trace(frames, meter.steps());
    let mut allocator = F::new(base, frames);
    let mut slots = empty_slots(slots);
    replay(&mut *allocator, &mut slots, &warm);
    let mut failed = 0;
    // Counting instructions, the first pass is as good as the second.
    let repetitions = meter.repetitions();
    for repetition in usize::from(repetitions == 1)..=repetitions {
        if repetition > 1 || repetition == 1 && repetitions > 1 {
            drain(&mut *allocator, &mut slots);
            replay(&mut *allocator, &mut slots, &warm);
        }
        if repetition > 0 {
            meter.begin();
        }
        failed += replay(&mut *allocator, &mut slots, &measured);
        if repetition > 0 {
            meter.end(&format!("pmixed.{tag}"), measured.len() as u64);
        }
    }
    let used: u64 = slots.iter().filter(|slot| slot.frame != NONE).map(|slot| 1 << slot.order).sum();
    meter.value(&format!("pmixed.{tag}.fails"), failed as f64);
    meter.value(&format!("pmixed.{tag}.used_frames"), used as f64);
    meter.value(&format!("pmixed.{tag}.order9_left"), count_huge(&mut *allocator) as f64);
}

/// From nothing to the first frame. The allocator is dropped outside the clock.
pub fn run_init<F: Frames, M: Meter>(meter: &mut M, base: *mut u8, frames: usize, tag: &str) {
    if !meter.wants("pinit") {
        return;
    }
    for _ in 0..meter.repetitions() {
        meter.begin();
        let mut allocator = F::new(base, frames);
        black_box(allocator.alloc(0));
        meter.end(&format!("pinit.{tag}"), 1);
    }
}

/// What is left of order 9 when single frames have come and gone, and the size of the metadata. `heap_bytes` says
/// what the process has on its heap, and at most had since it was asked before.
pub fn run_memory<F: Frames, M: Meter>(
    meter: &mut M,
    base: *mut u8,
    frames: usize,
    mut heap_bytes: impl FnMut() -> (usize, usize),
) {
    if !meter.wants("pfrag") {
        return;
    }
    let (before, _) = heap_bytes();
    let mut allocator = F::new(base, frames);
    let own = allocator.metadata_bytes();
    let on_heap = heap_bytes().0 - before - size_of_val(&*allocator);
    meter.value("pmem.bytes_per_frame", (own + on_heap) as f64 / frames as f64);
    if F::LINEAR {
        return;
    }
    let mut taken = Vec::with_capacity(frames + frames / 50);
    let (before, _) = heap_bytes();
    taken.extend(core::iter::from_fn(|| allocator.alloc(0)));
    taken.sort_unstable();
    taken.iter().step_by(2).for_each(|frame| allocator.free(*frame, 0));
    let (_, most) = heap_bytes();
    meter.value("pmem.worst_bytes_per_frame", (own + on_heap + most - before) as f64 / frames as f64);
    drop(allocator);

    let mut allocator = F::new(base, frames);
    let mut rng = Rng(SEED);
    taken.clear();
    taken.extend(core::iter::from_fn(|| allocator.alloc(0)));
    rng.shuffle(&mut taken);
    taken.drain(frames / 10..).for_each(|frame| allocator.free(frame, 0));
    meter.value("pfrag.free90.order9", count_huge(&mut *allocator) as f64);
    for round in 1..=10 {
        rng.shuffle(&mut taken);
        taken.drain(taken.len() / 2..).for_each(|frame| allocator.free(frame, 0));
        while taken.len() < frames / 10 {
            let Some(frame) = allocator.alloc(0) else { break };
            taken.push(frame);
        }
        if matches!(round, 1 | 3 | 10) {
            meter.value(&format!("pfrag.churn{round}.order9"), count_huge(&mut *allocator) as f64);
        }
    }
}
