// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one step of a free without a lock that looks at what other CPUs change: which array an object of the packed heap has,
//! from the notes of its frame. In every interleaving with what happens to its neighbours, and with every value that the
//! memory model of C11 allows a load to see. The notes are the slab's; around them is what the heap does under its lock.
#![cfg(not(miri))]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Mutex};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU16, Ordering};
}

/// What `frame.rs` takes from the crate.
mod addr {
    pub(crate) const PAGE_SIZE: u64 = 4096;
}

#[expect(dead_code, reason = "not all of it is tested here")]
#[path = "../src/slab/frame.rs"]
mod frame;

use atomic::Ordering;
use frame::{FIRST, GRANULE, NOTES, Notes};

/// A frame's notes and the heap's lock.
struct World {
    notes: Notes,
    lock: Mutex<()>,
    /// Where an object begins that one CPU hands to another; 0 for none.
    handed: AtomicUsize,
}

/// Granules at which objects begin: one in use, and those right before and behind it.
const BEFORE: usize = FIRST + NOTES;
const MINE: usize = 60;
const BEHIND: usize = 96;
/// Arrays.
const NONE: u8 = 1;
const SMALL: u8 = 2;
const LARGE: u8 = 3;

impl World {
    fn new() -> Arc<Self> {
        let world = Self { notes: Notes::all(NONE), lock: Mutex::new(()), handed: AtomicUsize::new(0) };
        world.notes.set(MINE, SMALL);
        Arc::new(world)
    }

    /// What `Heap::alloc` and `Heap::free` note.
    fn note(&self, granule: usize, array: u8) {
        let _held = self.lock.lock().unwrap();
        self.notes.set(granule, array);
    }

    /// What a free finds.
    fn array(&self, granule: usize) -> Option<u8> {
        self.notes.get(0x4000_0000 + granule * GRANULE)
    }
}

fn spawn(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || run(&world))
}

#[test]
fn an_object_in_use_has_its_array_whatever_becomes_of_its_neighbours() {
    loom::model(|| {
        let world = World::new();
        let other = spawn(&world, |world| {
            for neighbour in [BEFORE, BEHIND] {
                world.note(neighbour, LARGE);
                world.note(neighbour, NONE);
            }
        });
        assert_eq!(world.array(MINE), Some(SMALL));
        assert_eq!((world.array(MINE - 1), world.array(MINE + 1)), (None, None));
        other.join().unwrap();
    });
}

#[test]
fn whoever_is_handed_an_object_knows_its_array_while_others_come() {
    loom::model(|| {
        let world = World::new();
        let maker = spawn(&world, |world| {
            world.note(BEHIND, LARGE);
            // Release: what was noted goes with the object.
            world.handed.store(BEHIND, Ordering::Release);
        });
        let neighbour = spawn(&world, |world| world.note(BEFORE, SMALL));
        if world.handed.load(Ordering::Acquire) == BEHIND {
            assert_eq!(world.array(BEHIND), Some(LARGE));
            world.note(BEHIND, NONE);
        }
        maker.join().unwrap();
        neighbour.join().unwrap();
        assert_eq!((world.array(BEFORE), world.array(MINE)), (Some(SMALL), Some(SMALL)));
    });
}

#[test]
fn an_object_that_changes_its_size_changes_its_array() {
    loom::model(|| {
        let world = World::new();
        // The owner changes it, and then hands it on.
        let owner = spawn(&world, |world| {
            world.note(MINE, NONE);
            world.note(MINE, LARGE);
            world.handed.store(MINE, Ordering::Release);
        });
        if world.handed.load(Ordering::Acquire) == MINE {
            assert_eq!(world.array(MINE), Some(LARGE));
        }
        owner.join().unwrap();
    });
}
