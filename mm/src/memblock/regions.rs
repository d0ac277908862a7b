// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sorted array of regions that never overlap, and that are joined where they can be.

use crate::addr::{PhysAddr, PhysRange};

/// Something with a place, that can be cut and joined.
pub(super) trait Region: Copy {
    /// What an unused slot holds.
    const EMPTY: Self;

    fn range(&self) -> PhysRange;

    /// The same, elsewhere.
    fn with_range(self, range: PhysRange) -> Self;

    /// Whether the two are one region if they touch.
    fn may_join(&self, other: &Self) -> bool;
}

/// At most `N` regions, lowest first.
#[derive(Debug)]
pub(super) struct Regions<T, const N: usize> {
    len: usize,
    slots: [T; N],
}

impl<T: Region, const N: usize> Regions<T, N> {
    pub(super) const fn new() -> Self {
        Self { len: 0, slots: [T::EMPTY; N] }
    }

    pub(super) fn as_slice(&self) -> &[T] {
        self.slots.get(..self.len).unwrap_or_default()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len >= N
    }

    /// The region that holds `addr`.
    pub(super) fn find(&self, addr: PhysAddr) -> Option<T> {
        let region = *self.as_slice().get(self.first_ending_above(addr))?;
        region.range().contains(addr).then_some(region)
    }

    /// Adds what of `new` is not covered yet. Returns the bytes that were; `None`, and no change, if
    /// there are too few slots.
    pub(super) fn fill(&mut self, new: T) -> Option<u64> {
        let range = new.range();
        if !self.has_slots_for(&new) {
            return None;
        }
        let mut covered = range.size();
        let mut at = range.start();
        while let Some((index, gap)) = self.next_gap(at, range.end()) {
            self.insert_joined(index, new.with_range(gap))?;
            covered -= gap.size();
            at = gap.end();
        }
        Some(covered)
    }

    /// Cuts `range` out of all regions, tells each piece, and returns how many bytes that were. One
    /// slot must be free if [`Regions::would_split`].
    pub(super) fn remove(&mut self, range: PhysRange, mut removed: impl FnMut(T)) -> u64 {
        let mut bytes = 0;
        let mut index = self.first_ending_above(range.start());
        while let Some(region) = self.as_slice().get(index).copied() {
            let Some(piece) = region.range().intersection(range) else {
                break;
            };
            bytes += piece.size();
            removed(region.with_range(piece));
            let mut rests = region.range().around(piece);
            match rests.next() {
                Some(rest) => {
                    self.replace(index, region.with_range(rest));
                    index += 1;
                }
                None => self.remove_at(index),
            }
            for rest in rests {
                let inserted = self.insert_at(index, region.with_range(rest));
                debug_assert!(inserted.is_some(), "the caller has seen to a free slot");
            }
        }
        bytes
    }

    /// Whether removing `range` leaves two ends of one region.
    pub(super) fn would_split(&self, range: PhysRange) -> bool {
        let region = self.as_slice().get(self.first_ending_above(range.start()));
        !range.is_empty()
            && region.is_some_and(|region| region.range().start() < range.start() && range.end() < region.range().end())
    }

    /// Index of the first region that reaches beyond `addr`.
    fn first_ending_above(&self, addr: PhysAddr) -> usize {
        self.as_slice().partition_point(|region| region.range().end() <= addr)
    }

    /// The first uncovered stretch in `at..end`, and the index of the region behind it.
    fn next_gap(&self, mut at: PhysAddr, end: PhysAddr) -> Option<(usize, PhysRange)> {
        let mut index = self.first_ending_above(at);
        while at < end {
            let next = self.as_slice().get(index).map(|region| region.range());
            match next {
                Some(next) if next.start() <= at => at = next.end(),
                Some(next) => {
                    return PhysRange::new(at, end.min(next.start())).map(|gap| (index, gap));
                }
                None => return PhysRange::new(at, end).map(|gap| (index, gap)),
            }
            index += 1;
        }
        None
    }

    /// Counts slots as [`Regions::fill`] goes along, which a bridged gap gives back.
    fn has_slots_for(&self, new: &T) -> bool {
        let (mut taken, mut given) = (self.len, 0);
        let mut at = new.range().start();
        while let Some((index, gap)) = self.next_gap(at, new.range().end()) {
            let (left, right) = self.joins(index, &new.with_range(gap));
            taken += 1;
            given += usize::from(left.is_some()) + usize::from(right.is_some());
            if taken > N + given {
                return false;
            }
            at = gap.end();
        }
        true
    }

    /// Where `region`, about to be inserted at `index`, starts and ends together with the left and
    /// the right neighbour that it continues.
    fn joins(&self, index: usize, region: &T) -> (Option<PhysAddr>, Option<PhysAddr>) {
        let regions = self.as_slice();
        let left = index.checked_sub(1).and_then(|left| regions.get(left));
        let left = left.filter(|left| left.may_join(region)).map(T::range);
        let right = regions.get(index);
        let right = right.filter(|right| right.may_join(region)).map(T::range);
        (
            left.filter(|left| left.end() == region.range().start()).map(PhysRange::start),
            right.filter(|right| right.start() == region.range().end()).map(PhysRange::end),
        )
    }

    fn insert_joined(&mut self, index: usize, region: T) -> Option<()> {
        let (left, right) = self.joins(index, &region);
        let start = left.unwrap_or(region.range().start());
        let end = right.unwrap_or(region.range().end());
        let joined = region.with_range(PhysRange::new(start, end)?);
        match (left, right) {
            (None, None) => self.insert_at(index, joined)?,
            (None, Some(_)) => self.replace(index, joined),
            (Some(_), _) => self.replace(index - 1, joined),
        }
        if left.is_some() && right.is_some() {
            self.remove_at(index);
        }
        Some(())
    }

    fn replace(&mut self, index: usize, region: T) {
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = region;
        }
    }

    /// `None` if all slots are in use.
    fn insert_at(&mut self, index: usize, region: T) -> Option<()> {
        let tail = self.slots.get_mut(index..=self.len)?;
        tail.copy_within(..tail.len() - 1, 1);
        *tail.first_mut()? = region;
        self.len += 1;
        Some(())
    }

    fn remove_at(&mut self, index: usize) {
        if let Some(tail) = self.slots.get_mut(index..self.len) {
            tail.copy_within(1.., 0);
            self.len -= 1;
        }
    }
}
