// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traces and shuffles, the same that Linux was measured with.

use crate::random::Generator;

/// Where the generator starts.
pub(super) const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a trace works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    pub(super) slots: u64,
    pub(super) operations: u64,
    /// Makes the value of an operation from its random number; it has 16 bits.
    pub(super) value: fn(u64) -> u64,
    /// FNV-1a over the entries, with the default seed, slots and operations.
    pub(super) hash: u64,
}

impl Trace {
    /// Writes the entries, `slot << 16 | value`, and returns their hash.
    pub(super) fn fill(&self, seed: u64, entries: &mut [u32]) -> u64 {
        let mut generator = Generator::new(seed);
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for entry in entries {
            let random = generator.next();
            let slot = (random >> 40) % self.slots;
            *entry = (slot << 16 | (self.value)(random)) as u32;
            hash = (hash ^ u64::from(*entry)).wrapping_mul(0x100_0000_01b3);
        }
        hash
    }
}

/// Fisher-Yates, from the end.
pub(super) fn shuffle<T>(seed: u64, items: &mut [T]) {
    let mut generator = Generator::new(seed);
    for at in (1..items.len()).rev() {
        items.swap(at, (generator.next() % (at as u64 + 1)) as usize);
    }
}
