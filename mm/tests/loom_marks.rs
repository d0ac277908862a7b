// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one step of a free without a lock that looks at what other CPUs change: how long an object of the packed heap is, from
//! the marks of its frame. In every interleaving with what happens to its neighbours, and with every value that the memory
//! model of C11 allows a load to see. The marks are the slab's; around them is what the heap does under its lock.
#![cfg(not(miri))]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Mutex};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

/// What `frame.rs` takes from the crate.
mod addr {
    pub(crate) const PAGE_SIZE: u64 = 4096;
}

#[expect(dead_code, reason = "not all of it is tested here")]
#[path = "../src/slab/frame.rs"]
mod frame;

use atomic::Ordering;
use frame::{FIRST, GRANULES, LEAST, Marks};

/// A frame of the heap. Blocks that touch the word's end, so that a look at a length needs two words and their summary.
struct World {
    marks: Marks,
    lock: Mutex<()>,
    /// Where an object begins that one CPU hands to another; 0 for none.
    handed: AtomicUsize,
}

/// An object in use, and one right behind it.
const MINE: usize = 61;
const BEHIND: usize = 67;
const BEHIND_ENDS: usize = 130;

impl World {
    /// `[ free | MINE in use | free ]`
    fn new() -> Arc<Self> {
        let world = Self { marks: Marks::empty(), lock: Mutex::new(()), handed: AtomicUsize::new(0) };
        world.marks.set_start(MINE);
        world.marks.set_start(BEHIND);
        world.marks.set_free(BEHIND);
        Arc::new(world)
    }

    /// Takes the beginning of a free block, as `Heap::alloc` does.
    fn alloc(&self, start: usize, nr: usize) {
        let _held = self.lock.lock().unwrap();
        let end = self.marks.end(start);
        assert!(self.marks.is_free(start) && start + nr <= end);
        self.marks.set_used(start);
        if end - (start + nr) >= LEAST {
            self.marks.set_start(start + nr);
            self.marks.set_free(start + nr);
        }
    }

    /// Frees a block and merges it with its free neighbours, as `Heap::free` does.
    fn free(&self, start: usize) {
        let _held = self.lock.lock().unwrap();
        let mut start = start;
        let end = self.marks.end(start);
        if end < GRANULES && self.marks.is_free(end) {
            self.marks.clear_start(end);
            self.marks.set_used(end);
        }
        if start > FIRST && self.marks.is_free(self.marks.before(start)) {
            let before = self.marks.before(start);
            self.marks.clear_start(start);
            start = before;
        }
        self.marks.set_free(start);
    }

    /// Granules of an object in use, as `granules_at` finds them.
    fn length(&self, start: usize) -> Option<usize> {
        if self.marks.is_free(start) { None } else { self.marks.length(start) }
    }
}

fn spawn(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || run(&world))
}

#[test]
fn an_object_in_use_is_as_long_as_it_is_whatever_becomes_of_its_neighbours() {
    loom::model(|| {
        let world = World::new();
        let other = spawn(&world, |world| {
            world.alloc(BEHIND, BEHIND_ENDS - BEHIND);
            world.free(BEHIND);
        });
        assert_eq!(world.length(MINE), Some(BEHIND - MINE));
        other.join().unwrap();
    });
}

#[test]
fn an_object_before_it_comes_and_goes_without_being_seen() {
    loom::model(|| {
        let world = World::new();
        let other = spawn(&world, |world| {
            world.alloc(FIRST, MINE - FIRST);
            world.free(FIRST);
        });
        assert_eq!(world.length(MINE), Some(BEHIND - MINE));
        other.join().unwrap();
    });
}

#[test]
fn whoever_is_handed_an_object_knows_its_length_while_others_come() {
    loom::model(|| {
        let world = World::new();
        let maker = spawn(&world, |world| {
            world.alloc(BEHIND, BEHIND_ENDS - BEHIND);
            // Release: what was marked goes with the object.
            world.handed.store(BEHIND, Ordering::Release);
        });
        // Other bits of the same words.
        let neighbour = spawn(&world, |world| world.alloc(FIRST, 40));
        if world.handed.load(Ordering::Acquire) == BEHIND {
            assert_eq!(world.length(BEHIND), Some(BEHIND_ENDS - BEHIND));
            world.free(BEHIND);
        }
        maker.join().unwrap();
        neighbour.join().unwrap();
        let expected = if world.marks.is_free(BEHIND) { GRANULES } else { BEHIND_ENDS };
        assert_eq!(world.marks.end(BEHIND), expected);
        assert_eq!((world.length(FIRST), world.length(MINE)), (Some(40), Some(BEHIND - MINE)));
    });
}
