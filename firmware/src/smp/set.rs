// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of CPUs: a bit for each number.

use core::sync::atomic::Ordering;

use super::ONLINE;
use crate::cpu;

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuSet(u64);

impl CpuSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// CPU `number`; nobody if there can be no such number.
    #[must_use]
    pub const fn single(number: usize) -> Self {
        if number < u64::BITS as usize { Self(1 << number) } else { Self(0) }
    }

    /// Every CPU that has come up.
    #[must_use]
    pub fn online() -> Self {
        Self(ONLINE.load(Ordering::Acquire))
    }

    /// Every CPU that has come up, but this one.
    #[must_use]
    pub fn others() -> Self {
        Self::online().without(cpu::this().number())
    }

    /// The set whose members are the bits that are set.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// A bit for each member.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Without CPU `number`.
    #[must_use]
    pub const fn without(self, number: usize) -> Self {
        Self(self.0 & !Self::single(number).0)
    }

    /// The members that are in `other` too.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether CPU `number` is a member.
    #[must_use]
    pub const fn contains(self, number: usize) -> bool {
        self.0 & Self::single(number).0 != 0
    }

    /// The member that comes after `number`, the first if there is none behind it; `None` without members.
    #[must_use]
    pub fn after(self, number: usize) -> Option<usize> {
        self.iter().find(|member| *member > number).or_else(|| self.iter().next())
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let number = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (number < u64::BITS).then_some(number as usize)
        })
    }
}
