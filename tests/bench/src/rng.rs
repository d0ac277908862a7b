// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reproducible numbers, sizes and traces.

use alloc::vec;
use alloc::vec::Vec;

/// Seeds everything where nothing else is said.
pub const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Marsaglia's xorshift64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number, never 0.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to `n` less one, out of the high half.
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// Fisher and Yates, from the end.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

/// 8 to 4095 bytes, each power of two as likely as any other.
pub fn log_size(rng: &mut Rng) -> u32 {
    let octave = 3 + rng.below(9);
    (1 << octave) + rng.below(1 << octave)
}

/// 8 to 1023 bytes as a small firmware asks for, 90 on average.
pub fn tiny_size(rng: &mut Rng) -> u32 {
    let mut left = rng.below(100);
    let mut octave = 3;
    for weight in [10, 26, 26, 19, 13, 5, 1] {
        if left < weight {
            break;
        }
        left -= weight;
        octave += 1;
    }
    (1 << octave) + rng.below(1 << octave)
}

/// Order 0 to 10, each half as likely as the one below it.
pub fn geometric_order(rng: &mut Rng) -> u32 {
    ((rng.next_u64() >> 32) as u32 | 1 << 10).trailing_zeros()
}

/// One step of a trace.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Where the block is kept.
    pub slot: u32,
    /// What to allocate; `None` frees.
    pub alloc: Option<u32>,
}

/// Each step picks a slot, and fills it if it is empty or empties it if it is full. Half of the slots are full
/// before long.
pub fn trace(slots: u32, steps: usize, seed: u64, mut size: impl FnMut(&mut Rng) -> u32) -> Vec<Step> {
    let mut rng = Rng(seed);
    let mut used = vec![false; slots as usize];
    let step = |_| {
        let slot = rng.below(slots);
        let used = &mut used[slot as usize];
        *used = !*used;
        Step { slot, alloc: used.then(|| size(&mut rng)) }
    };
    (0..steps).map(step).collect()
}
