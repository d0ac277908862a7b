// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one step of a free without a lock that looks at what other CPUs change: how long an object of the packed heap is,
//! and so which array it has, from the register of its frame. In every interleaving with what happens to its neighbours, and
//! with every value that the memory model of C11 allows a load to see. The register is the slab's; around it is what the heap
//! does under its lock.
#![cfg(not(miri))]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Mutex};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU16, Ordering};

    pub(crate) fn four(halfwords: &[AtomicU16; 4]) -> u64 {
        halfwords.iter().rev().fold(0, |word, half| word << 16 | u64::from(half.load(Ordering::Relaxed)))
    }
}

/// What `register.rs` takes from the crate.
mod addr {
    pub(crate) const PAGE_SIZE: u64 = 4096;
}

#[expect(dead_code, reason = "not all of it is tested here")]
#[path = "../src/slab/register.rs"]
mod register;

use atomic::Ordering;
use register::{FIRST_LARGE, Register};

/// A frame's register and the heap's lock.
struct World {
    register: Register,
    lock: Mutex<()>,
    /// Where an object begins that one CPU hands to another; 0 for none.
    handed: AtomicUsize,
}

/// Granules at which objects begin: one in use, and those right before and behind it.
const BEFORE: usize = FIRST_LARGE;
const MINE: usize = 60;
const BEHIND: usize = 96;
/// Their granules.
const SHORT: usize = 36;
const SHORTER: usize = 33;

impl World {
    fn new() -> Arc<Self> {
        let world = Self { register: Register::default(), lock: Mutex::new(()), handed: AtomicUsize::new(0) };
        world.register.set(MINE, SHORT);
        Arc::new(world)
    }

    /// What `Heap::alloc` does, with a look at what lies around.
    fn alloc(&self, granule: usize, nr: usize) {
        let _held = self.lock.lock().unwrap();
        assert!(self.register.start_from(granule) >= granule + nr);
        self.register.set(granule, nr);
    }

    /// What `Heap::free` does. Returns the free block.
    fn free(&self, granule: usize) -> (usize, usize) {
        let _held = self.lock.lock().unwrap();
        let nr = self.register.get(granule * 8);
        self.register.clear(granule);
        (self.register.end_before(granule), self.register.start_from(granule + nr))
    }

    /// What a free without the lock finds.
    fn granules(&self, granule: usize) -> usize {
        self.register.get(0x4000_0000 + granule * 8)
    }
}

fn spawn(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || run(&world))
}

#[test]
fn an_object_in_use_has_its_length_whatever_becomes_of_its_neighbours() {
    loom::model(|| {
        let world = World::new();
        let other = spawn(&world, |world| {
            for neighbour in [BEFORE, BEHIND] {
                world.alloc(neighbour, SHORTER);
                let (from, to) = world.free(neighbour);
                assert!((from, to) == (BEFORE, MINE) || (from, to) == (BEHIND, 512));
            }
        });
        assert_eq!(world.granules(MINE), SHORT);
        assert_eq!((world.granules(MINE - 1), world.granules(MINE + 1)), (0, 0));
        other.join().unwrap();
    });
}

#[test]
fn whoever_is_handed_an_object_knows_its_length_while_others_come() {
    loom::model(|| {
        let world = World::new();
        let maker = spawn(&world, |world| {
            world.alloc(BEHIND, SHORTER);
            // Release: what was noted goes with the object.
            world.handed.store(BEHIND, Ordering::Release);
        });
        let neighbour = spawn(&world, |world| world.alloc(BEFORE, SHORTER));
        if world.handed.load(Ordering::Acquire) == BEHIND {
            assert_eq!(world.granules(BEHIND), SHORTER);
            assert_eq!(world.free(BEHIND), (BEHIND, 512));
        }
        maker.join().unwrap();
        neighbour.join().unwrap();
        assert_eq!((world.granules(BEFORE), world.granules(MINE)), (SHORTER, SHORT));
    });
}

#[test]
fn an_object_that_changes_its_length_takes_it_along() {
    loom::model(|| {
        let world = World::new();
        // The owner changes it, and then hands it on.
        let owner = spawn(&world, |world| {
            let held = world.lock.lock().unwrap();
            world.register.set(MINE, SHORTER);
            drop(held);
            world.handed.store(MINE, Ordering::Release);
        });
        if world.handed.load(Ordering::Acquire) == MINE {
            assert_eq!(world.granules(MINE), SHORTER);
        }
        owner.join().unwrap();
    });
}
