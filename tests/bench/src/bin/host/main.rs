// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's side of the benchmarks.
//!
//! ```text
//!   host run BARE_ELF OUT.jsonl [quick] [NAME..]   measures everything, each allocator in a process of its own,
//!                                                  and prints the tables; only peers that have NAME in their name
//!   host table OUT.jsonl                           prints the tables once more
//!   host list                                      the allocators: kind and name
//!   host KIND NAME time|count|memory [GROUPS]      measures one; KIND is frames, objects, or these with mt- before
//! ```

mod clock;
mod memory;
mod run;
mod table;
mod threads;

use std::time::Duration;

use bench::frames::{self, Frames, Locked, SharedFrames};
use bench::objects::{self, Objects, SharedObjects};
use bench::ours::{QuirePages, QuireSlab, RawBuddy};
use bench::peers::{frames as pf, host as ph, objects as po};
use clock::{Clock, Mode, Samples};
use memory::{Region, heap_bytes};

#[global_allocator]
static HEAP: memory::Heap = memory::Heap;

/// What to do with one allocator.
struct Job {
    mode: Mode,
    groups: String,
    repetitions: usize,
}

impl Job {
    fn clock(&self, peer: &'static str) -> Clock {
        Clock::new(self.mode, peer, &self.groups, self.repetitions)
    }

    /// How long to wait for undisturbed samples.
    fn patience(&self) -> Duration {
        Duration::from_secs(3 * self.repetitions as u64)
    }
}

/// `F64` manages 64 GiB.
fn run_frames<F: Frames, F64: Frames>(job: &Job) {
    let mut clock = job.clock(F::NAME);
    let region = Region::new(frames::GIB * 4096 + F::extra_bytes(frames::GIB));
    if job.mode == Mode::Memory {
        if F::NAME != "null" {
            frames::run_memory::<F, _>(&mut clock, region.base(), frames::GIB, heap_bytes);
        }
    } else {
        frames::run::<F, _>(&mut clock, region.base(), frames::GIB, "1g", true);
        frames::run::<F, _>(&mut clock, region.base(), frames::GIB / 8, "128m", false);
        frames::run_init::<F, _>(&mut clock, region.base(), frames::GIB, "1g");
        if let Some(large) = Region::try_new(64 * frames::GIB * 4096 + F64::extra_bytes(64 * frames::GIB)) {
            frames::run_init::<F64, _>(&mut clock, large.base(), 64 * frames::GIB, "64g");
        }
    }
    clock.samples.print();
}

fn run_objects<O: Objects>(job: &Job) {
    let mut clock = job.clock(O::NAME);
    let region = Region::new(objects::ARENA);
    // SAFETY: the region is the allocator's alone.
    unsafe {
        if job.mode == Mode::Memory {
            objects::run_memory::<O, _>(&mut clock, region.base(), objects::ARENA);
        } else {
            if O::IN_ARENA {
                region.touch();
            }
            objects::run::<O, _>(&mut clock, region.base(), objects::ARENA);
        }
    }
    clock.samples.print();
}

fn run_shared_frames<F: SharedFrames>(job: &Job) {
    let mut samples = Samples::new(F::NAME);
    threads::run_frames::<F>(&mut samples, job.patience());
    samples.print();
}

fn run_shared_objects<O: SharedObjects>(job: &Job) {
    let mut samples = Samples::new(O::NAME);
    threads::run_objects::<O>(&mut samples, job.patience());
    samples.print();
}

type Runner = (&'static str, &'static str, fn(&Job));

fn frames_runner<F: Frames, F64: Frames>() -> Runner {
    ("frames", F::NAME, run_frames::<F, F64>)
}

fn objects_runner<O: Objects>() -> Runner {
    ("objects", O::NAME, run_objects::<O>)
}

fn shared_frames_runner<F: SharedFrames>() -> Runner {
    ("mt-frames", F::NAME, run_shared_frames::<F>)
}

fn shared_objects_runner<O: SharedObjects>() -> Runner {
    ("mt-objects", O::NAME, run_shared_objects::<O>)
}

/// All allocators, ours first. Single-threaded ones are behind a spin lock for threads, as kernels use them.
fn runners() -> Vec<Runner> {
    vec![
        frames_runner::<QuirePages, QuirePages>(),
        frames_runner::<RawBuddy, RawBuddy>(),
        frames_runner::<pf::Null, pf::Null>(),
        frames_runner::<pf::BuddyAlloc, pf::BuddyAlloc>(),
        frames_runner::<pf::BuddySlab, pf::BuddySlab>(),
        frames_runner::<pf::Bitmap1M, pf::Bitmap16M>(),
        frames_runner::<pf::FrameAllocator, pf::FrameAllocator>(),
        frames_runner::<pf::BuddyHeap, pf::BuddyHeap>(),
        frames_runner::<pf::FreeList, pf::FreeList>(),
        objects_runner::<QuireSlab>(),
        objects_runner::<po::Null>(),
        objects_runner::<po::SlabRs>(),
        objects_runner::<po::Talc>(),
        objects_runner::<po::Rlsf>(),
        objects_runner::<po::Dl>(),
        objects_runner::<po::LinkedList>(),
        objects_runner::<po::Embedded>(),
        objects_runner::<po::Pico>(),
        objects_runner::<po::Good>(),
        objects_runner::<po::BuddyHeap>(),
        objects_runner::<po::BuddyAlloc>(),
        objects_runner::<ph::Mimalloc>(),
        objects_runner::<ph::Glibc>(),
        shared_frames_runner::<QuirePages>(),
        shared_frames_runner::<Locked<RawBuddy>>(),
        shared_frames_runner::<Locked<pf::Bitmap1M>>(),
        shared_frames_runner::<Locked<pf::BuddySlab>>(),
        shared_frames_runner::<Locked<pf::FrameAllocator>>(),
        shared_objects_runner::<QuireSlab>(),
        shared_objects_runner::<objects::Locked<po::Talc>>(),
        shared_objects_runner::<objects::Locked<po::Rlsf>>(),
        shared_objects_runner::<objects::Locked<po::LinkedList>>(),
        shared_objects_runner::<ph::Mimalloc>(),
        shared_objects_runner::<ph::Glibc>(),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["run", bare, out, options @ ..] => run::run(bare, out, options),
        ["table", out] => table::print(out),
        ["list"] => runners().iter().for_each(|(kind, name, _)| println!("{kind} {name}")),
        [kind, name, mode, options @ ..] => {
            let mode = match *mode {
                "count" => Mode::Count,
                "memory" => Mode::Memory,
                _ => Mode::Time,
            };
            let repetitions = std::env::var("BENCH_REPETITIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
            let job = Job { mode, groups: options.join(","), repetitions };
            match runners().into_iter().find(|runner| (runner.0, runner.1) == (*kind, *name)) {
                Some((_, _, run)) => run(&job),
                None => panic!("no {kind} {name}: see `host list`"),
            }
        }
        _ => {
            eprintln!("host run BARE_ELF OUT.jsonl [quick] [NAME..] | table OUT.jsonl | list | KIND NAME MODE [GROUPS]")
        }
    }
}
