// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thread and two on one allocator: million operations a second.
//!
//! | label | what each thread does |
//! |---|---|
//! | `mt.ppair0`, `mt.ppair9` | 20,000 pairs of a block |
//! | `mt.pbulk0` | 10,000 single frames out, then in again |
//! | `mt.pmixed` | 50,000 steps of the mixed trace over `F/12` slots of its own, then what is left |
//! | `mt.pair64` | 50,000 pairs of 64 bytes |
//! | `mt.mixed` | 50,000 steps of the mixed trace of objects, then what is left |
//! | `mt.crossfree64` | 10,000 objects out, then those in that the other thread took, its own if it is alone; twice |
//!
//! On a machine that others use too, threads wait for a CPU. A sample counts only if each thread had one for 95 % of
//! its time, by its own clock against the wall's, and they ran side by side for 80 % of it.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use bench::frames::{self, SharedFrames};
use bench::objects::{self, SharedObjects};
use bench::rng::{SEED, Step, geometric_order, trace};

use crate::clock::Samples;
use crate::memory::Region;

/// Samples wanted of each figure. Runs are short, to fit between the time slices of whoever else is there.
const WANTED: usize = 15;

fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the given value.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs `work` on so many threads at once. Nanoseconds from the first start to the last end, if the machine was ours.
fn together(threads: usize, work: impl Fn(usize) + Sync) -> Option<f64> {
    let barrier = Barrier::new(threads);
    let run = |thread: usize| {
        barrier.wait();
        let (start, cpu) = (Instant::now(), thread_time());
        work(thread);
        (start, Instant::now(), thread_time() - cpu)
    };
    let runs: Vec<_> = std::thread::scope(|scope| {
        let run = &run;
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let first = runs.iter().map(|(start, ..)| *start).min()?;
    let last = runs.iter().map(|(_, end, _)| *end).max()?;
    let wall = last - first;
    let undisturbed = runs.iter().all(|(start, end, cpu)| *cpu >= (*end - *start).mul_f64(0.95));
    let side_by_side = runs.iter().all(|(_, end, _)| *end - first >= wall.mul_f64(0.8));
    (undisturbed && side_by_side).then_some(wall.as_nanos() as f64)
}

/// Takes samples until there are enough of each label, or time is up. The first round warms up.
fn sample(samples: &mut Samples, patience: Duration, mut round: impl FnMut(&mut dyn FnMut(&str, usize, Option<f64>))) {
    let start = Instant::now();
    round(&mut |_, _, _| {});
    while samples.fewest() < WANTED && start.elapsed() < patience {
        round(&mut |label, operations, nanoseconds| {
            samples.gated(label, nanoseconds.map(|nanoseconds| operations as f64 * 1e3 / nanoseconds));
        });
    }
}

/// Frames.
pub(crate) fn run_frames<F: SharedFrames>(samples: &mut Samples, patience: Duration) {
    const PAIRS: usize = 20_000;
    const STEPS: usize = 50_000;
    let region = Region::new(frames::GIB * 4096 + F::extra_bytes(frames::GIB));
    let allocator = F::new(region.base(), frames::GIB);
    let allocator = &*allocator;
    let slots = frames::GIB as u32 / 12;
    let traces = [0, 1].map(|thread| trace(slots, STEPS, SEED ^ thread, geometric_order));
    sample(samples, patience, |put| {
        for threads in [1, 2] {
            for (name, order) in [("ppair0", 0), ("ppair9", 9)] {
                let time = together(threads, |_| {
                    for _ in 0..PAIRS {
                        let frame = black_box(allocator.alloc(order)).unwrap();
                        allocator.free(frame, order);
                    }
                });
                put(&format!("mt.{name}.t{threads}"), threads * PAIRS, time);
            }
            let time = together(threads, |_| {
                let taken: Vec<usize> = (0..frames::BATCH).map(|_| allocator.alloc(0).unwrap()).collect();
                taken.into_iter().for_each(|frame| allocator.free(frame, 0));
            });
            put(&format!("mt.pbulk0.t{threads}"), threads * frames::BATCH, time);
            let time = together(threads, |thread| replay_frames(allocator, slots, &traces[thread]));
            put(&format!("mt.pmixed.t{threads}"), threads * STEPS, time);
        }
    });
}

fn replay_frames<F: SharedFrames>(allocator: &F, slots: u32, steps: &[Step]) {
    let mut held: Vec<Option<(usize, u32)>> = vec![None; slots as usize];
    for step in steps {
        let slot = &mut held[step.slot as usize];
        match step.alloc {
            None => {
                if let Some((frame, order)) = slot.take() {
                    allocator.free(frame, order);
                }
            }
            Some(order) => *slot = allocator.alloc(order).map(|frame| (frame, order)),
        }
    }
    held.into_iter().flatten().for_each(|(frame, order)| allocator.free(frame, order));
}

/// A pointer that may go to another thread, as objects do.
#[derive(Clone, Copy)]
struct Object(*mut u8);

// SAFETY: an object is used by one thread at a time.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

/// Objects.
pub(crate) fn run_objects<O: SharedObjects>(samples: &mut Samples, patience: Duration) {
    const PAIRS: usize = 50_000;
    const STEPS: usize = 50_000;
    const ROUNDS: usize = 2;
    let region = Region::new(objects::ARENA);
    region.touch();
    // SAFETY: the region is the allocator's until the end.
    let allocator = unsafe { O::new(region.base(), objects::ARENA) }.expect("the arena is large enough");
    let allocator = &*allocator;
    let take = |size: usize, value: u64| {
        // SAFETY: not of size 0.
        let object = unsafe { allocator.alloc(size, objects::ALIGN) };
        assert!(!object.is_null(), "out of memory");
        // SAFETY: new, of eight bytes at least, aligned to eight.
        unsafe { object.cast::<u64>().write_volatile(value) };
        object
    };
    // SAFETY: called with what `take` gave, once.
    let give = |object: *mut u8, size: usize| unsafe { allocator.free(object, size, objects::ALIGN) };
    let traces = [0, 1].map(|thread| trace(objects::SLOTS, STEPS, SEED ^ thread, bench::rng::log_size));
    sample(samples, patience, |put| {
        for threads in [1, 2] {
            let time = together(threads, |_| {
                for turn in 0..PAIRS as u64 {
                    give(black_box(take(64, turn)), 64);
                }
            });
            put(&format!("mt.pair64.t{threads}"), threads * PAIRS, time);
            let time = together(threads, |thread| {
                let mut held: Vec<Option<(Object, usize)>> = vec![None; objects::SLOTS as usize];
                for step in &traces[thread] {
                    let slot = &mut held[step.slot as usize];
                    match step.alloc {
                        None => {
                            if let Some((object, size)) = slot.take() {
                                give(object.0, size);
                            }
                        }
                        Some(size) => *slot = Some((Object(take(size as usize, 1)), size as usize)),
                    }
                }
                held.into_iter().flatten().for_each(|(object, size)| give(object.0, size));
            });
            put(&format!("mt.mixed.t{threads}"), threads * STEPS, time);
        }
        // Its barriers sleep, so how long a thread had a CPU says nothing here.
        for threads in [1, 2] {
            let exchange = [const { std::sync::Mutex::new(Vec::new()) }; 2];
            let barrier = Barrier::new(threads);
            let start = Instant::now();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (exchange, barrier, take, give) = (&exchange, &barrier, &take, &give);
                    scope.spawn(move || {
                        for _ in 0..ROUNDS {
                            let mine = (0..objects::BATCH).map(|_| Object(take(64, 1))).collect();
                            *exchange[thread].lock().unwrap() = mine;
                            barrier.wait();
                            let others: Vec<Object> =
                                std::mem::take(&mut *exchange[threads - 1 - thread].lock().unwrap());
                            others.into_iter().for_each(|object| give(object.0, 64));
                            barrier.wait();
                        }
                    });
                }
            });
            let operations = 2 * threads * ROUNDS * objects::BATCH;
            let time = start.elapsed().as_nanos() as f64;
            put(&format!("mt.crossfree64.t{threads}"), operations, Some(time));
        }
    });
}
