// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts that allocate, wherever in an allocation they come. Linux has calls of their own for those, which give up
//! where a lock is held; here whoever holds one has interrupts masked, so it is `kmalloc` and `kfree` themselves. Linux
//! samples with a counter of the CPU; here it is interrupted by the tick, and by another CPU as often as it can.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use mm::gfp::Gfp;
use spin::Once;

use super::super::check;
use super::super::garbage::{fill, is_all, kfree, kmalloc};
use super::{NO_MEMORY, the_slab};
use crate::cpu::{self, PerCpu};
use crate::slab::{KernelSlab, slab};
use crate::smp::{self, CpuSet};
use crate::{println, rcu, thread, tick};

/// Objects in use at once, and how often all are taken and freed.
const OBJECTS: usize = 1000;
const ROUNDS: usize = 1000;

/// The CPU that is interrupted; none if it has no such number.
static SAMPLED: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;
/// What the interrupts hold.
static HELD: [AtomicPtr<u8>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];
static CALLBACKS: AtomicUsize = AtomicUsize::new(0);
static FAILURES: AtomicUsize = AtomicUsize::new(0);
static IS_BROKEN: AtomicBool = AtomicBool::new(false);

/// Of an array, of the heap and of pages.
const fn size_at(index: usize) -> usize {
    64 << (index & 7)
}

/// What an interrupt does: takes an object, and frees the one that was taken some interrupts before.
fn sample() {
    let Some(slab) = slab() else { return };
    let index = CALLBACKS.fetch_add(1, Ordering::Relaxed) % HELD.len();
    let Some(place) = HELD.get(index) else { return };
    let object = kmalloc(slab, size_at(index), Gfp::ATOMIC);
    match object {
        // SAFETY: a new object of that size.
        Some(object) => unsafe { fill(object, size_at(index)) },
        None => {
            FAILURES.fetch_add(1, Ordering::Relaxed);
        }
    }
    give(slab, place, index, object);
}

/// Frees what a place holds, and puts another object there.
fn give(slab: &KernelSlab, place: &AtomicPtr<u8>, index: usize, other: Option<NonNull<u8>>) {
    let other = other.map_or(ptr::null_mut(), NonNull::as_ptr);
    if let Some(object) = NonNull::new(place.swap(other, Ordering::AcqRel)) {
        // SAFETY: an object of that size, filled, which was in the place alone.
        if !unsafe { is_all(object, size_at(index), 0xa5) } {
            IS_BROKEN.store(true, Ordering::Relaxed);
        }
        // SAFETY: the same.
        unsafe { kfree(slab, object) };
    }
}

fn at_tick(data: &'static PerCpu) {
    if SAMPLED.load(Ordering::Relaxed) == data.number() {
        sample();
    }
}

/// Interrupts that CPU until it is over.
fn interrupt(cpu: usize) {
    while SAMPLED.load(Ordering::Relaxed) == cpu {
        smp::call(CpuSet::single(cpu), &|_| sample());
    }
}

pub(super) fn kmalloc_kfree_nolock() -> Result<(), &'static str> {
    let slab = the_slab()?;
    let (faults, me) = (slab.nr_faults(), cpu::this().number());
    static HOOK: Once<bool> = Once::new();
    HOOK.call_once(|| tick::on_tick(at_tick));
    CALLBACKS.store(0, Ordering::Relaxed);
    FAILURES.store(0, Ordering::Relaxed);
    IS_BROKEN.store(false, Ordering::Relaxed);
    SAMPLED.store(me, Ordering::Relaxed);
    let other = CpuSet::online().without(me).iter().next();
    let other = other.and_then(|other| thread::spawn_on(other, move || interrupt(me)).ok());
    let result = (0..ROUNDS).try_for_each(|round| cycle(slab, round));
    SAMPLED.store(NOBODY, Ordering::Relaxed);
    if let Some(other) = other {
        other.join();
    }
    // No tick is in its share any more.
    rcu::synchronize();
    HELD.iter().enumerate().for_each(|(index, place)| give(slab, place, index, None));
    let (callbacks, failures) = (CALLBACKS.load(Ordering::Relaxed), FAILURES.load(Ordering::Relaxed));
    println!("    # callback_count: {callbacks}, alloc_ok: {}, alloc_fail: {failures}", callbacks - failures);
    result?;
    check(!IS_BROKEN.load(Ordering::Relaxed), "an object of an interrupt was somebody else's too")?;
    check(callbacks > 0 || !tick::is_running(), "no interrupt came")?;
    check(slab.nr_faults() == faults, "a fault was reported")
}

/// Takes all objects and frees them. Each leads to the one before, and knows its number.
fn cycle(slab: &KernelSlab, round: usize) -> Result<(), &'static str> {
    type Link = (Option<NonNull<u8>>, usize);
    let (mut last, mut taken) = (None, 0);
    while taken < OBJECTS {
        let Some(object) = kmalloc(slab, super::SIZE, Gfp::KERNEL) else { break };
        taken += 1;
        // SAFETY: a new object, large enough and aligned.
        unsafe { object.cast::<Link>().write((last, taken + round)) };
        last = Some(object);
    }
    let (mut is_whole, mut left) = (true, taken);
    while let Some(object) = last.filter(|_| is_whole) {
        // SAFETY: written above.
        let (before, number) = unsafe { object.cast::<Link>().read() };
        is_whole = number == left + round;
        left -= 1;
        // SAFETY: taken above.
        unsafe { kfree(slab, object) };
        last = before;
    }
    check(is_whole && left == 0, "an object was somebody else's too")?;
    check(taken == OBJECTS, NO_MEMORY)
}
