// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mobility: which allocations may be moved or given back, and so share a chunk with their like.
//!
//! Every chunk of 1024 frames has a type. An allocation takes from chunks of its own type, then makes a
//! chunk that is free as a whole its own, and only then *falls back* to chunks of another type. So
//! pages that stay for ever gather in few chunks, and the others can become whole again.

/// The type of an allocation, and of a chunk; in the order of Linux's `pagetypeinfo`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum Mobility {
    /// Stays where it is until it is freed: what the kernel itself uses.
    #[default]
    Unmovable,
    /// Its owner can move it to other frames.
    Movable,
    /// Its owner can give it back when asked: caches.
    Reclaimable,
    /// A reserve: only requests for this type take from such chunks.
    HighAtomic,
    /// Part of a contiguous memory area: lent to what moves, until the area wants it back.
    Cma,
    /// Set aside: nothing is allocated there, and what is freed stays there.
    Isolate,
}

impl Mobility {
    /// Number of types.
    pub const COUNT: usize = 6;
    /// The first so many share the chunks that are free as a whole, and fall back to each other.
    pub(super) const ORDINARY: usize = 3;
    /// All types.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Unmovable, Self::Movable, Self::Reclaimable, Self::HighAtomic, Self::Cma, Self::Isolate];

    /// As Linux's `pagetypeinfo` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unmovable => "Unmovable",
            Self::Movable => "Movable",
            Self::Reclaimable => "Reclaimable",
            Self::HighAtomic => "HighAtomic",
            Self::Cma => "CMA",
            Self::Isolate => "Isolate",
        }
    }

    /// As an index into [`Mobility::ALL`].
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self as usize
    }

    /// Where requests of this type fall back to, the most like first (Linux's table); movable ones borrow from a
    /// contiguous memory area before that.
    pub(super) const fn fallbacks(self) -> &'static [Self] {
        match self {
            Self::Unmovable => &[Self::Reclaimable, Self::Movable],
            Self::Movable => &[Self::Reclaimable, Self::Unmovable],
            Self::Reclaimable => &[Self::Unmovable, Self::Movable],
            Self::HighAtomic | Self::Cma | Self::Isolate => &[],
        }
    }
}
