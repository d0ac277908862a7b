// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cache is destroyed while other CPUs go through all caches, in every interleaving: none is looked at when it is freed.
//! What says who looks is the slab's; the table is a word.
#![cfg(not(miri))]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU16};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU16, Ordering, fence};
}

#[path = "../src/slab/looking.rs"]
mod looking;

use atomic::Ordering;
use looking::Looking;

/// A table of one cache, and its descriptor.
struct World {
    looking: Looking<1>,
    is_there: AtomicBool,
    /// Whether the descriptor is still memory. Loom sees to it that no look at it races with the free.
    descriptor: UnsafeCell<bool>,
}

const TAG: u16 = 1;

impl World {
    fn look(&self) {
        let _ = self.looking.at(0, TAG, || {
            if self.is_there.load(Ordering::Acquire) {
                // SAFETY: loom reports a race.
                self.descriptor.with(|is_memory| assert!(unsafe { *is_memory }, "a freed cache is looked at"));
            }
        });
    }

    fn destroy(&self) {
        self.is_there.swap(false, Ordering::AcqRel);
        while self.looking.is_at(TAG) {
            thread::yield_now();
        }
        // SAFETY: as above.
        self.descriptor.with_mut(|is_memory| unsafe { *is_memory = false });
    }
}

#[test]
fn nobody_looks_at_a_cache_that_is_freed() {
    loom::model(|| {
        let world = Arc::new(World {
            looking: Looking::new([AtomicU16::new(0)]),
            is_there: AtomicBool::new(true),
            descriptor: UnsafeCell::new(true),
        });
        let looker = {
            let world = Arc::clone(&world);
            thread::spawn(move || (0..2).for_each(|_| world.look()))
        };
        world.destroy();
        looker.join().unwrap();
    });
}
