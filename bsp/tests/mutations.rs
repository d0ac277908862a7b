// SPDX-License-Identifier: MIT OR Apache-2.0
//! Good trees, broken at random: the reader refuses or reads each one, and never panics or hangs.
//!
//! `cargo test` tries 100,000 trees. More, or others:
//!
//! ```sh
//! MUTATIONS=1000000 cargo test -p bsp --test mutations -- --nocapture
//! MUTATIONS=1 MUTATION_SEED=12345 cargo test -p bsp --test mutations     # the one that a failure names
//! ```
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

mod common;
#[path = "common/firmware.rs"]
mod firmware;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bsp::info::BootInfo;

const TREES: [&str; 8] = ["rpi4-8gb", "rpi3", "numa", "reserved", "console", "absurd", "overlap", "covered"];
/// A tree is read in well under a millisecond: one that takes so long hangs.
const HUNG: Duration = Duration::from_secs(30);

/// xorshift64* (Vigna 2016), begun with splitmix64 so that neighbouring seeds have nothing in common.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ state >> 31) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A tree, and where its properties are.
struct Tree {
    blob: Vec<u8>,
    /// Offset of each property: token, length of the value, name, value.
    properties: Vec<usize>,
}

impl Tree {
    fn new(name: &str) -> Self {
        let blob = common::blob(name);
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        let mut properties = Vec::new();
        let mut at = word(8);
        loop {
            match word(at) {
                1 => at += 4 + (blob[at + 4..].iter().position(|byte| *byte == 0).unwrap() + 1).next_multiple_of(4),
                3 => {
                    properties.push(at);
                    at += 12 + word(at + 4).next_multiple_of(4);
                }
                9 => return Self { blob, properties },
                _ => at += 4,
            }
        }
    }
}

/// Numbers that hurt.
const WORDS: [u32; 12] = [0, 1, 2, 3, 4, 9, 0x28, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_fffc, u32::MAX];

/// Changes what one to six properties say, but not where they are: the reader gets to see it.
fn change_values(tree: &Tree, random: &mut Random) -> Vec<u8> {
    let mut blob = tree.blob.clone();
    for _ in 0..=random.below(6) {
        let (property, other) = (random.one_of(&tree.properties), random.one_of(&tree.properties));
        let length = u32::from_be_bytes(blob[property + 4..property + 8].try_into().unwrap()) as usize;
        let value = property + 12;
        match random.below(4) {
            // Another property's name: a list where a number should be, a path where cells should be.
            0 => blob.copy_within(other + 8..other + 12, property + 8),
            1 if length >= 4 => {
                let at = value + random.below(length / 4) * 4;
                blob[at..at + 4].copy_from_slice(&random.one_of(&WORDS).to_be_bytes());
            }
            2 if length >= 4 => {
                let at = value + random.below(length / 4) * 4;
                let bits = random.next() as u32 & random.next() as u32;
                let word = u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) ^ bits;
                blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
            _ if length > 0 => blob[value + random.below(length)] = random.next() as u8,
            _ => {}
        }
    }
    blob
}

/// Breaks `blob` in one to four places.
fn mutate(blob: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let length = blob.len();
        match random.below(7) {
            // A bit flips.
            0 => {
                let at = random.below(length);
                blob[at] ^= 1 << random.below(8);
            }
            // A byte changes.
            1 => {
                let at = random.below(length);
                blob[at] = random.next() as u8;
            }
            // A word is smashed with a number that hurts.
            2 => {
                let at = random.below(length / 4) * 4;
                blob[at..at + 4].copy_from_slice(&random.one_of(&WORDS).to_be_bytes());
            }
            // A word is nudged: lengths and offsets that are nearly right.
            3 => {
                let at = random.below(length / 4) * 4;
                let word = u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
                let step = random.one_of(&[1, 4, 8, 16, 0x100, 0x1_0000]);
                let nudged = if random.below(2) == 0 { word.wrapping_add(step) } else { word.wrapping_sub(step) };
                blob[at..at + 4].copy_from_slice(&nudged.to_be_bytes());
            }
            // A header field is edited.
            4 => {
                let at = random.below(10) * 4;
                let value = random.one_of(&[0, 4, 16, 17, 0x28, length as u32 / 2, length as u32, u32::MAX - 3]);
                blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            // A block is copied over another: tokens, names and lists in strange places.
            5 => {
                let size = 4 * (1 + random.below(32));
                let from = random.below(length - size) & !3;
                let to = (40 + random.below(length - size - 40)) & !3;
                blob.copy_within(from..from + size, to);
            }
            // The end is cut off, and the header says so every other time.
            _ => {
                let left = (length - random.below(length / 2)).max(256);
                blob.truncate(left);
                if random.below(2) == 0 {
                    blob[4..8].copy_from_slice(&(left as u32).to_be_bytes());
                }
            }
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// Trees by what became of them: "read", or the kind of error.
type Outcomes = BTreeMap<String, u64>;

/// One mutated tree.
fn try_one(trees: &[Tree], seed: u64, info: &mut BootInfo, outcomes: &mut Outcomes) {
    let mut random = Random::new(seed);
    let tree = &trees[random.below(trees.len())];
    let blob = match random.below(2) {
        0 => change_values(tree, &mut random),
        _ => {
            let mut blob = tree.blob.clone();
            mutate(&mut blob, &mut random);
            blob
        }
    };
    let outcome = match firmware::boot(&blob, info) {
        Ok(()) => "read".to_owned(),
        Err(error) => format!("{error:?}").split(' ').next().unwrap_or_default().to_owned(),
    };
    *outcomes.entry(outcome).or_default() += 1;
}

/// Tries seeds until there are no more; tells in `at` which one it is at.
fn work(trees: &[Tree], next: &AtomicU64, end: u64, at: &AtomicU64) -> Outcomes {
    let mut info = Box::new(BootInfo::new());
    let mut outcomes = Outcomes::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            at.store(u64::MAX, Ordering::Relaxed);
            return outcomes;
        }
        at.store(seed, Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| try_one(trees, seed, &mut info, &mut outcomes)));
        assert!(result.is_ok(), "panicked: MUTATIONS=1 MUTATION_SEED={seed} shows it");
    }
}

#[test]
fn no_mutated_tree_panics_or_hangs() {
    let trees = TREES.map(Tree::new);
    let (first, count) = (number("MUTATION_SEED").unwrap_or(0), number("MUTATIONS").unwrap_or(100_000));
    let (next, end) = (AtomicU64::new(first), first.saturating_add(count));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let at: Vec<_> = (0..workers).map(|_| AtomicU64::new(u64::MAX)).collect();
    let running = AtomicUsize::new(workers);
    let start = Instant::now();

    let outcomes = std::thread::scope(|scope| {
        scope.spawn(|| watch(&at, &running));
        let workers: Vec<_> = at
            .iter()
            .map(|at| {
                let (trees, next, running) = (&trees, &next, &running);
                scope.spawn(move || {
                    let outcomes = catch_unwind(AssertUnwindSafe(|| work(trees, next, end, at)));
                    running.fetch_sub(1, Ordering::Release);
                    outcomes
                })
            })
            .collect();
        let mut all = Outcomes::new();
        for worker in workers {
            let outcomes = worker.join().unwrap().unwrap_or_else(|_| panic!("a tree panicked; its seed is above"));
            outcomes.into_iter().for_each(|(outcome, count)| *all.entry(outcome).or_default() += count);
        }
        all
    });

    println!("{count} mutated trees in {:.1} s: none panicked or hung", start.elapsed().as_secs_f64());
    println!("{outcomes:?}");
    assert_eq!(outcomes.values().sum::<u64>(), count);
    if count >= 10_000 {
        // The mutations are neither so wild that the header check stops all, nor so tame that nothing is wrong.
        assert!(outcomes["read"] > count / 3, "{outcomes:?}");
        for kind in ["BadMagic", "BadSize", "BadVersion", "Truncated", "BadBlock", "BadToken", "BadName"] {
            assert!(outcomes.contains_key(kind), "no {kind} in {outcomes:?}");
        }
    }
}

/// Ends the process if a worker stays at one tree: a thread that hangs cannot be stopped otherwise.
fn watch(at: &[AtomicU64], running: &AtomicUsize) {
    let mut seen: Vec<_> = at.iter().map(|_| (u64::MAX, Instant::now())).collect();
    while running.load(Ordering::Acquire) != 0 {
        std::thread::sleep(Duration::from_millis(20));
        for (at, seen) in at.iter().zip(&mut seen) {
            let seed = at.load(Ordering::Relaxed);
            if seed != seen.0 {
                *seen = (seed, Instant::now());
            } else if seed != u64::MAX && seen.1.elapsed() > HUNG {
                eprintln!("hangs: MUTATIONS=1 MUTATION_SEED={seed} shows it");
                std::process::abort();
            }
        }
    }
}
