// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workloads on objects.
//!
//! Each successful allocation is followed by one store of eight bytes to its start; the alignment asked for is 8. One
//! operation is one alloc or one free, but a pair counts as one.
//!
//! | label | what |
//! |---|---|
//! | `pair.SIZE` | one object out and in again, on a fresh arena |
//! | `pairlive.SIZE` | the same while the objects live that the first 100,000 steps of `mixed` leave |
//! | `batch.SIZE.*` | 10,000 objects out, then back in the same, the reverse, or a random order |
//! | `mixed` | a slot-toggle trace of log-uniform sizes, 8 to 4095 bytes: 2000 slots, a million steps |
//! | `mem.*` | the smallest arena in which a trace completes; its peak of live bytes over that is the efficiency |

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;
use core::ptr::null_mut;

use crate::meter::{Meter, repeat};
use crate::rng::{Rng, SEED, Step, log_size, tiny_size, trace};

/// Bytes of the arena that the timed workloads run in.
pub const ARENA: usize = 256 << 20;
/// Sizes of the pairs.
pub const PAIR_SIZES: [usize; 19] =
    [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192];
/// Sizes of the batches.
pub const BATCH_SIZES: [usize; 4] = [16, 64, 256, 1024];
/// Objects in a batch.
pub const BATCH: usize = 10_000;
/// Slots of the mixed trace.
pub const SLOTS: u32 = 2000;
/// Alignment asked for.
pub const ALIGN: usize = 8;

/// An allocator of objects in one arena.
pub trait Objects {
    /// As the tables call it.
    const NAME: &'static str;
    /// The length of an arena is a multiple of this.
    const GRAIN: usize = 64;
    /// Whether it lives in the arena that it is given, and not on the host's heap.
    const IN_ARENA: bool = true;

    /// An allocator in an arena; `None` if that is too small.
    ///
    /// # Safety
    ///
    /// `base` is aligned to 2 MiB, and the bytes from there on are the allocator's for as long as it lives.
    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>>;

    /// A new object; null if there is no memory.
    ///
    /// # Safety
    ///
    /// `size` is not 0, and `align` a power of two.
    unsafe fn alloc(&mut self, size: usize, align: usize) -> *mut u8;

    /// Gives an object back.
    ///
    /// # Safety
    ///
    /// It came from [`alloc`](Objects::alloc) of this allocator with this size and alignment.
    unsafe fn free(&mut self, object: *mut u8, size: usize, align: usize);
}

/// An allocator that several threads use.
pub trait SharedObjects: Sync {
    /// As the tables call it.
    const NAME: &'static str;

    /// As [`Objects::new`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>>;

    /// As [`Objects::alloc`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn alloc(&self, size: usize, align: usize) -> *mut u8;

    /// As [`Objects::free`].
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn free(&self, object: *mut u8, size: usize, align: usize);
}

/// An allocator for one thread behind a spin lock.
pub struct Locked<O>(spin::mutex::SpinMutex<Box<O>>);

// SAFETY: whoever holds the lock is the only one to use the allocator and what it points to.
unsafe impl<O> Sync for Locked<O> {}

impl<O: Objects> SharedObjects for Locked<O> {
    const NAME: &'static str = O::NAME;

    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>> {
        // SAFETY: the caller's promise.
        let allocator = unsafe { O::new(base, bytes) }?;
        Some(Box::new(Self(spin::mutex::SpinMutex::new(allocator))))
    }

    unsafe fn alloc(&self, size: usize, align: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.lock().alloc(size, align) }
    }

    unsafe fn free(&self, object: *mut u8, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.0.lock().free(object, size, align) };
    }
}

/// An object that is out.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Null for an empty slot.
    pub object: *mut u8,
    /// What was asked for.
    pub size: usize,
}

/// So many empty slots.
pub fn empty_slots(slots: u32) -> Vec<Held> {
    vec![Held { object: null_mut(), size: 0 }; slots as usize]
}

/// The steps of `mixed`.
pub fn mixed_trace(steps: usize) -> Vec<Step> {
    trace(SLOTS, steps, SEED, log_size)
}

/// Allocates and writes to the object.
#[inline(always)]
fn alloc<O: Objects>(allocator: &mut O, size: usize, value: u64) -> *mut u8 {
    // SAFETY: sizes of the workloads are from 8 up.
    let object = unsafe { allocator.alloc(size, ALIGN) };
    if !object.is_null() {
        // SAFETY: a new object of at least eight bytes, aligned to eight.
        unsafe { object.cast::<u64>().write_volatile(value) };
    }
    object
}

#[inline(never)]
fn pairs<O: Objects>(allocator: &mut O, size: usize, turns: u64) {
    for turn in 0..turns {
        let object = black_box(alloc(allocator, size, turn));
        // SAFETY: from the line above; every allocator has room for one object.
        unsafe { allocator.free(object, size, ALIGN) };
    }
}

/// Returns how many allocations failed.
#[inline(never)]
fn replay<O: Objects>(allocator: &mut O, slots: &mut [Held], steps: &[Step]) -> u64 {
    let mut failed = 0;
    for step in steps {
        let slot = &mut slots[step.slot as usize];
        match step.alloc {
            None => free_slot(allocator, slot),
            Some(size) => {
                let object = alloc(allocator, size as usize, u64::from(size));
                failed += u64::from(object.is_null());
                *slot = Held { object, size: size as usize };
            }
        }
    }
    failed
}

#[inline(always)]
fn free_slot<O: Objects>(allocator: &mut O, slot: &mut Held) {
    if !slot.object.is_null() {
        // SAFETY: slots hold what was allocated, with its size, and are emptied here.
        unsafe { allocator.free(slot.object, slot.size, ALIGN) };
        slot.object = null_mut();
    }
}

/// Everything that is timed.
///
/// # Safety
///
/// As [`Objects::new`], for `bytes` at `base`.
pub unsafe fn run<O: Objects, M: Meter>(meter: &mut M, base: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    let mut allocator = unsafe { O::new(base, bytes) }.expect("an arena this large is enough");
    let allocator = &mut *allocator;
    let turns = meter.turns();
    if meter.wants("pair") {
        for size in PAIR_SIZES {
            repeat(meter, &format!("pair.{size}"), turns, || pairs(allocator, black_box(size), turns));
        }
    }
    let mut slots = empty_slots(SLOTS);
    let steps = mixed_trace(meter.steps());
    if meter.wants("pairlive") {
        replay(allocator, &mut slots, &steps[..100_000]);
        for size in PAIR_SIZES {
            repeat(meter, &format!("pairlive.{size}"), turns, || pairs(allocator, black_box(size), turns));
        }
        slots.iter_mut().for_each(|slot| free_slot(allocator, slot));
    }
    if meter.wants("batch") {
        for size in BATCH_SIZES {
            for order in ["same", "reverse", "shuffled"] {
                run_batch(meter, allocator, black_box(size), order);
            }
        }
    }
    if meter.wants("mixed") {
        let mut failed = 0;
        for repetition in 0..=meter.repetitions() {
            if repetition > 0 {
                meter.begin();
            }
            failed += replay(allocator, &mut slots, &steps);
            if repetition > 0 {
                meter.end("mixed", steps.len() as u64);
            }
            slots.iter_mut().for_each(|slot| free_slot(allocator, slot));
        }
        meter.value("mixed.fails", failed as f64);
    }
}

fn run_batch<O: Objects, M: Meter>(meter: &mut M, allocator: &mut O, size: usize, order: &str) {
    let mut back: Vec<u32> = (0..BATCH as u32).collect();
    match order {
        "reverse" => back.reverse(),
        "shuffled" => Rng(SEED).shuffle(&mut back),
        _ => {}
    }
    let mut objects = vec![null_mut(); BATCH];
    let mut failed = 0_u64;
    for repetition in 0..=meter.repetitions() {
        if repetition > 0 {
            meter.begin();
        }
        for (value, object) in (0..).zip(&mut objects) {
            *object = alloc(allocator, size, value);
            failed += u64::from(object.is_null());
        }
        if repetition > 0 {
            meter.end(&format!("batch.{size}.{order}.alloc"), BATCH as u64);
            meter.begin();
        }
        for index in &back {
            let object = objects[*index as usize];
            if !object.is_null() {
                // SAFETY: allocated above, each freed once.
                unsafe { allocator.free(object, size, ALIGN) };
            }
        }
        if repetition > 0 {
            meter.end(&format!("batch.{size}.{order}.free"), BATCH as u64);
        }
    }
    if failed > 0 {
        meter.value(&format!("batch.{size}.{order}.fails"), failed as f64);
    }
}

/// The most live bytes of a trace.
fn peak(steps: &[Step], slots: u32) -> usize {
    let mut sizes = vec![0; slots as usize];
    let (mut live, mut most) = (0, 0);
    for step in steps {
        let size = &mut sizes[step.slot as usize];
        live -= *size;
        *size = step.alloc.unwrap_or(0) as usize;
        live += *size;
        most = most.max(live);
    }
    most
}

/// A small board: 2000 objects live, then 20,000 times one of them goes and another comes.
fn tiny_trace() -> (u32, Vec<Step>) {
    const LIVE: u32 = 2000;
    let mut rng = Rng(SEED);
    let mut steps: Vec<Step> = (0..LIVE).map(|slot| Step { slot, alloc: Some(tiny_size(&mut rng)) }).collect();
    for _ in 0..20_000 {
        let slot = rng.below(LIVE);
        steps.push(Step { slot, alloc: None });
        steps.push(Step { slot, alloc: Some(tiny_size(&mut rng)) });
    }
    (LIVE, steps)
}

/// A spike: 20,000 small objects come, 90 % of them go again, then larger ones come until as much is live as 95 % of
/// what was.
fn spike_trace() -> (u32, Vec<Step>) {
    const SPIKE: u32 = 20_000;
    let mut rng = Rng(SEED);
    let sizes: Vec<u32> = (0..SPIKE).map(|_| tiny_size(&mut rng)).collect();
    let mut steps: Vec<Step> = (0..).zip(&sizes).map(|(slot, size)| Step { slot, alloc: Some(*size) }).collect();
    let most: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
    let mut order: Vec<u32> = (0..SPIKE).collect();
    rng.shuffle(&mut order);
    let mut live = most;
    for slot in order.into_iter().take(18_000) {
        live -= u64::from(sizes[slot as usize]);
        steps.push(Step { slot, alloc: None });
    }
    let mut slot = SPIKE;
    while live < most * 95 / 100 {
        let size = 4 * tiny_size(&mut rng);
        live += u64::from(size);
        steps.push(Step { slot, alloc: Some(size) });
        slot += 1;
    }
    (slot, steps)
}

/// Whether a trace completes in an arena of this size.
///
/// # Safety
///
/// As [`Objects::new`].
unsafe fn completes<O: Objects>(base: *mut u8, bytes: usize, slots: u32, steps: &[Step]) -> bool {
    // SAFETY: the caller's promise.
    match unsafe { O::new(base, bytes) } {
        Some(mut allocator) => replay(&mut *allocator, &mut empty_slots(slots), steps) == 0,
        None => false,
    }
}

/// The smallest arenas, found by halving.
///
/// # Safety
///
/// As [`Objects::new`], for `bytes` at `base`.
pub unsafe fn run_memory<O: Objects, M: Meter>(meter: &mut M, base: *mut u8, bytes: usize) {
    if !O::IN_ARENA || !meter.wants("mem") {
        return;
    }
    // SAFETY: the caller's promise.
    let control = size_of_val(&*unsafe { O::new(base, bytes) }.expect("an arena this large is enough"));
    let traces = [("tiny", tiny_trace()), ("mixed", (SLOTS, mixed_trace(200_000))), ("spike", spike_trace())];
    for (name, (slots, steps)) in &traces {
        let most = peak(steps, *slots);
        // SAFETY: never more than `bytes`.
        let fits = |grains: usize| unsafe { completes::<O>(base, grains * O::GRAIN, *slots, steps) };
        let (mut too_small, mut enough) = (most / 2 / O::GRAIN, bytes / O::GRAIN);
        if !fits(enough) {
            meter.value(&format!("mem.{name}.arena"), -1.0);
            continue;
        }
        // Up from below: allocators that touch all of their arena stay quick.
        let mut next = most.div_ceil(O::GRAIN);
        while next < enough && !fits(next) {
            too_small = next;
            next = next * 5 / 4 + 1;
        }
        enough = enough.min(next);
        while enough - too_small > 1 {
            let middle = too_small.midpoint(enough);
            if fits(middle) {
                enough = middle;
            } else {
                too_small = middle;
            }
        }
        let arena = enough * O::GRAIN;
        meter.value(&format!("mem.{name}.arena"), arena as f64);
        meter.value(&format!("mem.{name}.efficiency"), most as f64 / (arena + control) as f64);
    }
}
