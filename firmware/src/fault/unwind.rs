// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who called whom: the chain of frame records (AAPCS64 6.4.6), each checked before it is read.
//!
//! ```text
//!   x29 --> [ caller's x29 | return address ]      a record, on the stack of the function that made it
//!             |
//!             +--> [ ... | ... ]                   higher up, since stacks grow down
//! ```
//!
//! The chain may lead from one stack to another, as from a handler's to the interrupted one, but never back: so it
//! ends, whatever the memory holds.

use core::fmt;
use core::ops::Range;

/// Most records that are followed: more than a stack that overflows by recursion has.
const MAX_FRAMES: usize = 1024;
/// Most stacks that a chain may lead through.
const MAX_STACKS: usize = 4;

/// The stacks, and how to look at them.
pub trait Stacks {
    /// The bounds of the stack that `address` lies in, if code runs on one there.
    fn stack_of(&self, address: u64) -> Option<Range<u64>>;

    /// Reads a frame record: 16 bytes at an address that is a multiple of 8, inside a stack.
    fn record(&self, address: u64) -> Option<[u64; 2]>;
}

/// Why there is no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The first function of all.
    Bottom,
    /// The frame pointer is misaligned, or lies in no stack.
    NoStack(u64),
    /// It leads back down, or to a stack that was left before.
    Backwards(u64),
    /// The stack is not mapped there.
    Unreadable(u64),
    /// There are more, but enough were seen.
    TooMany,
}

/// The return addresses, innermost first. Complexity: constant for each; there are at most 1024.
#[derive(Debug)]
pub struct Unwind<S> {
    stacks: S,
    record: u64,
    left: usize,
    /// Stacks that the chain was on; the current one is the last.
    seen: [Range<u64>; MAX_STACKS],
    nr_seen: usize,
    end: Option<End>,
}

impl<S: Stacks> Unwind<S> {
    /// Begins at the record that `frame_pointer` (x29) points to.
    pub const fn new(stacks: S, frame_pointer: u64) -> Self {
        const NONE: Range<u64> = 0..0;
        Self { stacks, record: frame_pointer, left: MAX_FRAMES, seen: [NONE; MAX_STACKS], nr_seen: 0, end: None }
    }

    /// Why it ended, once it has.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether the chain may go on at `record`. Higher up on the same stack, or on one that it was not on yet.
    fn check(&mut self, record: u64) -> Result<(), End> {
        let stack = self.stacks.stack_of(record).filter(|stack| record.is_multiple_of(8) && stack.end - record >= 16);
        let stack = stack.ok_or(End::NoStack(record))?;
        let seen = self.seen.get_mut(..self.nr_seen).unwrap_or_default();
        match seen.split_last_mut() {
            // What lies below the last record is left behind.
            Some((current, _)) if current.end == stack.end => {
                if record < current.start {
                    return Err(End::Backwards(record));
                }
                current.start = record + 16;
                return Ok(());
            }
            Some((_, earlier)) if earlier.iter().any(|range| range.end == stack.end) => {
                return Err(End::Backwards(record));
            }
            _ => {}
        }
        let slot = self.seen.get_mut(self.nr_seen).ok_or(End::TooMany)?;
        *slot = record + 16..stack.end;
        self.nr_seen += 1;
        Ok(())
    }

    fn step(&mut self) -> Result<u64, End> {
        if self.record == 0 {
            return Err(End::Bottom);
        }
        self.left = self.left.checked_sub(1).ok_or(End::TooMany)?;
        self.check(self.record)?;
        let [next, address] = self.stacks.record(self.record).ok_or(End::Unreadable(self.record))?;
        self.record = next;
        Ok(address)
    }
}

impl<S: Stacks> Iterator for Unwind<S> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.end.is_some() {
            return None;
        }
        match self.step() {
            // The very first function has no caller.
            Ok(0) if self.record == 0 => self.end = Some(End::Bottom),
            Ok(address) => return Some(address),
            Err(end) => self.end = Some(end),
        }
        None
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bottom => f.write_str("the first function of all"),
            Self::NoStack(at) => write!(f, "frame pointer {at:#018x} lies in no stack"),
            Self::Backwards(at) => write!(f, "frame pointer {at:#018x} leads back"),
            Self::Unreadable(at) => write!(f, "frame pointer {at:#018x} is not mapped"),
            Self::TooMany => f.write_str("there are more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Stacks of one size, and the records in them.
    struct Fake {
        stacks: Vec<u64>,
        size: u64,
        records: BTreeMap<u64, [u64; 2]>,
    }

    impl Stacks for &Fake {
        fn stack_of(&self, address: u64) -> Option<Range<u64>> {
            let mut ranges = self.stacks.iter().map(|start| *start..*start + self.size);
            ranges.find(|range| range.contains(&address))
        }

        fn record(&self, address: u64) -> Option<[u64; 2]> {
            assert!(self.stack_of(address).is_some(), "{address:#x} was read without a check");
            self.records.get(&address).copied()
        }
    }

    fn unwind(stacks: &[u64], records: &[(u64, u64, u64)], from: u64) -> (Vec<u64>, End) {
        unwind_in(stacks, 0x1000, records, from)
    }

    fn unwind_in(stacks: &[u64], size: u64, records: &[(u64, u64, u64)], from: u64) -> (Vec<u64>, End) {
        let records = records.iter().map(|record| (record.0, [record.1, record.2])).collect();
        let fake = Fake { stacks: stacks.to_vec(), size, records };
        let mut unwind = Unwind::new(&fake, from);
        let addresses = unwind.by_ref().collect();
        assert_eq!(unwind.next(), None);
        (addresses, unwind.end().unwrap())
    }

    #[test]
    fn a_chain_is_followed_to_its_bottom() {
        let chain = [(0x1100, 0x1200, 1), (0x1200, 0x1ff0, 2), (0x1ff0, 0, 0)];
        assert_eq!(unwind(&[0x1000], &chain, 0x1100), (vec![1, 2], End::Bottom));
        assert_eq!(unwind(&[0x1000], &[], 0), (vec![], End::Bottom));
    }

    #[test]
    fn a_chain_may_change_stacks_but_not_come_back() {
        let chain = [(0x1100, 0x8100, 1), (0x8100, 0x8200, 2), (0x8200, 0, 3)];
        assert_eq!(unwind(&[0x1000, 0x8000], &chain, 0x1100), (vec![1, 2, 3], End::Bottom));
        let chain = [(0x1100, 0x8100, 1), (0x8100, 0x1200, 2), (0x1200, 0, 3)];
        assert_eq!(unwind(&[0x1000, 0x8000], &chain, 0x1100), (vec![1, 2], End::Backwards(0x1200)));
    }

    #[test]
    fn loops_end() {
        let chain = [(0x1100, 0x1100, 1)];
        assert_eq!(unwind(&[0x1000], &chain, 0x1100), (vec![1], End::Backwards(0x1100)));
        let chain = [(0x1100, 0x1200, 1), (0x1200, 0x1100, 2)];
        assert_eq!(unwind(&[0x1000], &chain, 0x1100), (vec![1, 2], End::Backwards(0x1100)));
        // Records that overlap do not ascend either.
        let chain = [(0x1100, 0x1108, 1)];
        assert_eq!(unwind(&[0x1000], &chain, 0x1100), (vec![1], End::Backwards(0x1108)));
    }

    #[test]
    fn wild_pointers_are_not_followed() {
        for wild in [0xdead_0000, 0x1101, 0x1ff8, u64::MAX, 0x0fff, 0x2000] {
            assert_eq!(unwind(&[0x1000], &[(0x1100, wild, 1)], 0x1100), (vec![1], End::NoStack(wild)), "{wild:#x}");
        }
        assert_eq!(unwind(&[0x1000], &[], 0x1100), (vec![], End::Unreadable(0x1100)));
    }

    #[test]
    fn long_chains_are_cut() {
        let stacks: Vec<_> = (1..5).map(|n| n * 0x1_0000).collect();
        let place = |n: u64| stacks[n as usize / 300] + n % 300 * 16;
        let chain: Vec<_> = (0..1199).map(|n| (place(n), place(n + 1), n)).collect();
        let (addresses, end) = unwind_in(&stacks, 0x2000, &chain, place(0));
        assert_eq!((addresses.len(), end), (MAX_FRAMES, End::TooMany));
        let stacks: Vec<_> = (1..8).map(|n| n * 0x1000).collect();
        let chain: Vec<_> = stacks.iter().map(|start| (*start, start + 0x1000, 7)).collect();
        assert_eq!(unwind(&stacks, &chain, 0x1000), (vec![7; MAX_STACKS], End::TooMany));
    }
}
