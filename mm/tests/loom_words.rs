// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps that CPUs take on a word without a lock, in every interleaving and with every value that the memory model
//! of C11 allows a load to see. The code is the allocator's; the zone around it is a few lines here.
#![cfg(not(miri))]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::AtomicU64;
}

#[expect(dead_code, reason = "counts and bulk calls are not tested here")]
#[path = "../src/page_alloc/word.rs"]
mod word;

#[path = "../src/page_alloc/claim.rs"]
mod claim;

use atomic::AtomicU64;

/// One word of a zone: four blocks, each with some memory.
struct World {
    word: AtomicU64,
    zone: Mutex<Zone>,
    memory: [UnsafeCell<u64>; 4],
}

struct Zone {
    is_hoarded: bool,
    /// What the buddy allocator has of this word.
    free: u64,
}

impl World {
    /// A hoarded word in which these blocks are free.
    fn new(free: u64) -> Arc<Self> {
        let memory = [(); 4].map(|()| UnsafeCell::new(0));
        let zone = Mutex::new(Zone { is_hoarded: true, free: 0 });
        Arc::new(Self { word: AtomicU64::new(free), zone, memory })
    }

    /// Takes a block and uses it.
    fn take(&self) -> Option<u64> {
        let before = word::take(&self.word);
        let bit = before & before.wrapping_neg();
        (bit != 0).then(|| {
            self.use_block(bit);
            bit
        })
    }

    /// Loom finds it if nothing orders this after the last use of the block by somebody else.
    fn use_block(&self, bit: u64) {
        let cell = self.memory.get(bit.trailing_zeros() as usize).unwrap();
        // SAFETY: the block is the caller's alone, which is what is tested.
        cell.with_mut(|value| unsafe { *value += 1 });
    }

    /// Frees a block; whether it was not free already.
    fn free(&self, bit: u64) -> bool {
        if word::put(&self.word, bit) {
            return true;
        }
        let mut zone = self.zone.lock().unwrap();
        let before = if zone.is_hoarded { word::put_locked(&self.word, bit) } else { zone.free };
        if !zone.is_hoarded && before & bit == 0 {
            zone.free |= bit;
        }
        before & bit == 0
    }

    fn release(&self) {
        let mut zone = self.zone.lock().unwrap();
        if zone.is_hoarded {
            zone.is_hoarded = false;
            zone.free |= word::empty(&self.word);
        }
    }

    /// After all: what is free, in the zone once it is released.
    fn all_free(&self) -> u64 {
        self.release();
        assert_eq!(word::bits(&self.word), 0);
        self.zone.lock().unwrap().free
    }
}

fn spawn<T: 'static>(world: &Arc<World>, run: impl FnOnce(&World) -> T + 'static) -> thread::JoinHandle<T> {
    let world = Arc::clone(world);
    thread::spawn(move || run(&world))
}

#[test]
fn blocks_freed_while_their_word_is_released_are_not_lost() {
    loom::model(|| {
        let world = World::new(0b100);
        let threads = [0b001, 0b010].map(|bit| {
            spawn(&world, move |world| {
                world.use_block(bit);
                assert!(world.free(bit));
            })
        });
        world.release();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(world.all_free(), 0b111);
    });
}

#[test]
fn a_block_is_in_one_hand_at_a_time() {
    loom::model(|| {
        let world = World::new(0b01);
        let owner = spawn(&world, |world| {
            world.use_block(0b10);
            assert!(world.free(0b10));
        });
        let taker = spawn(&world, |world| world.take().unwrap_or(0) | world.take().unwrap_or(0));
        let taken = world.take().unwrap_or(0);
        owner.join().unwrap();
        let others = taker.join().unwrap();
        assert_eq!(taken & others, 0);
        assert_eq!(taken | others | world.all_free(), 0b11);
    });
}

#[test]
fn of_two_who_free_the_same_block_one_is_refused() {
    loom::model(|| {
        let world = World::new(0b10);
        let other = spawn(&world, |world| world.free(0b01));
        let releaser = spawn(&world, World::release);
        let mine = world.free(0b01);
        assert!(mine ^ other.join().unwrap());
        releaser.join().unwrap();
        assert_eq!(world.all_free(), 0b11);
    });
}

#[test]
fn a_released_word_is_taken_from_no_more() {
    loom::model(|| {
        let world = World::new(0b11);
        let taker = spawn(&world, |world| world.take().unwrap_or(0));
        world.release();
        let free = world.zone.lock().unwrap().free;
        assert_eq!(word::take(&world.word), 0);
        assert_eq!(taker.join().unwrap() | free, 0b11);
        assert_eq!(world.all_free(), free);
    });
}

#[test]
fn a_word_with_blocks_waits_or_is_in_a_hand() {
    loom::model(|| {
        // An empty word that waits, as somebody has taken from it meanwhile.
        let world = Arc::new((World::new(0), AtomicU64::new(1)));
        let owner = Arc::clone(&world);
        let owner = thread::spawn(move || {
            let (world, marks) = &*owner;
            world.use_block(1);
            let _zone = world.zone.lock().unwrap();
            assert!(word::put_first_locked(&world.word, 1));
            claim::mark(marks, 1, true);
        });
        let claimers = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            move || {
                let (world, marks) = &*world;
                claim::claim(marks, 1).then(|| world.take()).flatten()
            }
        });
        let [mine, other] = claimers;
        let other = thread::spawn(other);
        let taken = [mine(), other.join().unwrap()];
        owner.join().unwrap();
        let (world, marks) = &*world;
        let nr_taken = taken.iter().flatten().count();
        let waits = claim::mark(marks, 1, false) == 1;
        assert!(nr_taken == 1 || nr_taken == 0 && waits, "the word is forgotten");
        assert_eq!(word::bits(&world.word) == 0, nr_taken == 1);
    });
}
