// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers that look random, the same in each run.

/// Marsaglia's xorshift64 with the shifts 13, 7, 17 ("Xorshift RNGs", 2003). The seed is not 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generator(u64);

impl Generator {
    #[inline(always)]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline(always)]
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
