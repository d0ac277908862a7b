// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one CPU does: an operation after the other, chosen by a generator of its own.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use mm::addr::Order;
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::sync::Rank;

use super::object::Object;
use super::{HANDED, IS_OVER, IS_PAUSED, OPERATIONS, Plan, SHORTAGES, STILL, THROUGH};
use crate::random::Generator;
use crate::sync::Lock;
use crate::{memory, thread};

/// For the ticks.
static PLAN: Lock<Option<Plan>> = Lock::new(Rank::SLAB, None);

/// What the run that goes on was told.
pub(super) fn plan() -> Option<Plan> {
    *PLAN.lock()
}

/// Runs until it is over, or the CPU has done its operations.
pub(super) fn run(cpu: usize, plan: Plan) {
    *PLAN.lock() = Some(plan);
    let mut random = Generator::new(plan.seed.wrapping_add(cpu as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut slots = Vec::new();
    if slots.try_reserve_exact(plan.slots).is_ok() {
        slots.resize_with(plan.slots, || None);
    }
    let mut operation = 0;
    while !IS_OVER.load(Ordering::Relaxed) && !slots.is_empty() && (plan.ops == 0 || operation < plan.ops) {
        if operation % 64 == 0 {
            OPERATIONS.fetch_add(64, Ordering::Relaxed);
            pause();
            thread::yield_now();
        }
        operation += 1;
        // As many numbers for each operation, whatever comes of it: so the sequence is the seed's alone.
        let (choice, size) = (random.next(), random.next());
        let at = (choice >> 40) as usize % slots.len();
        if let Some(slot) = slots.get_mut(at) {
            step(&plan, slot, choice, size, cpu, operation);
        }
        if plan.hogs && choice & 0xffff == 0 {
            hog(&plan);
        }
    }
    slots.into_iter().flatten().for_each(|object| object.check_and_free(&plan, cpu, operation));
    THROUGH.fetch_add(1, Ordering::SeqCst);
}

fn step(plan: &Plan, slot: &mut Option<Object>, choice: u64, size: u64, cpu: usize, operation: u64) {
    let Some(mut object) = slot.take() else {
        *slot = Object::take(plan, choice, size);
        return;
    };
    match choice % 8 {
        0..3 => {
            object.resize(size, cpu, operation);
            *slot = Some(object);
        }
        3 | 4 => {
            // Somebody else's comes for it, if one is there.
            let handed = HANDED.get((size % HANDED.len() as u64) as usize);
            *slot = match handed {
                Some(handed) => handed.lock().replace(object),
                None => Some(object),
            };
        }
        _ => object.check_and_free(plan, cpu, operation),
    }
}

/// Stands still while all are to.
fn pause() {
    if !IS_PAUSED.load(Ordering::SeqCst) {
        return;
    }
    STILL.fetch_add(1, Ordering::SeqCst);
    while IS_PAUSED.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    STILL.fetch_sub(1, Ordering::SeqCst);
}

/// Takes all the memory that there is, and gives it back.
fn hog(plan: &Plan) {
    let pages = plan.machine.memory.pages;
    let first_word = |block: &PageBlock| -> *mut u64 {
        core::ptr::with_exposed_provenance_mut(memory::direct_map(block.pfn().addr()).as_raw() as usize)
    };
    let mut chain = 0;
    for order in Order::all().rev() {
        while !IS_PAUSED.load(Ordering::SeqCst)
            && let Ok(block) = pages.alloc(Gfp::NOWAIT | Gfp::NOWARN | Gfp::NORETRY, order)
        {
            // SAFETY: a block of ours, in the direct map.
            unsafe { first_word(&block).write(chain) };
            chain = block.into_bits() + 1;
        }
    }
    SHORTAGES.fetch_add(1, Ordering::Relaxed);
    thread::sleep(20);
    while chain != 0 {
        let block = PageBlock::from_bits(chain - 1);
        // SAFETY: written above.
        chain = unsafe { first_word(&block).read() };
        // It is ours, so it is taken back.
        let _ = pages.free(block);
    }
}
