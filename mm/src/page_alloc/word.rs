// SPDX-License-Identifier: MIT OR Apache-2.0
//! One word of 64 frames: a bit for each free block in it, at the block's first frame. CPUs meet here without a lock.
//!
//! Zero says nothing by itself: the word may be handed out in full, or not be hoarded at all. So a block is put only
//! into a word that has others; whoever finds zero goes the long way, under its lane's lock, where it is known which
//! it is. [`empty`] leaves zero behind under that lock, and from then on no `put` succeeds any more: a put that came
//! before it is in what `empty` returned.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::atomic::AtomicU64;

/// Takes the lowest block, and returns what was there before. What the block's last owner did to it has happened
/// before.
#[inline(always)]
pub(crate) fn take(word: &AtomicU64) -> u64 {
    let mut bits = word.load(Relaxed);
    while bits != 0 {
        match word.compare_exchange_weak(bits, bits & (bits - 1), Acquire, Relaxed) {
            Ok(before) => return before,
            Err(now) => bits = now,
        }
    }
    0
}

/// Takes the `count` lowest blocks, or all.
pub(super) fn take_many(word: &AtomicU64, count: usize) -> u64 {
    let mut bits = word.load(Relaxed);
    while bits != 0 {
        let taken = lowest(bits, count);
        match word.compare_exchange_weak(bits, bits & !taken, Acquire, Relaxed) {
            Ok(_) => return taken,
            Err(now) => bits = now,
        }
    }
    0
}

/// Puts blocks into a word that has others, and none of them. Otherwise nothing is changed.
#[inline(always)]
pub(crate) fn put(word: &AtomicU64, blocks: u64) -> bool {
    let mut bits = word.load(Relaxed);
    while bits != 0 && bits & blocks == 0 {
        match word.compare_exchange_weak(bits, bits | blocks, Release, Relaxed) {
            Ok(_) => return true,
            Err(now) => bits = now,
        }
    }
    false
}

/// Puts a block into a word that is hoarded, under its lane's lock. Returns what was there before: if that has the
/// block, nothing has changed.
pub(super) fn put_locked(word: &AtomicU64, block: u64) -> u64 {
    word.fetch_or(block, Release)
}

/// The same into a word that has none. `false`, and nothing has changed, if it has some.
#[inline(always)]
pub(super) fn put_first_locked(word: &AtomicU64, block: u64) -> bool {
    // By the lock nobody else puts into a word without blocks, and there is nothing to take.
    let is_empty = word.load(Relaxed) == 0;
    if is_empty {
        word.store(block, Release);
    }
    is_empty
}

/// The same for many blocks, none of which is there; `None` if one is, and then nothing has changed.
pub(super) fn put_many_locked(word: &AtomicU64, blocks: u64) -> Option<u64> {
    let mut bits = word.load(Relaxed);
    while bits & blocks == 0 {
        match word.compare_exchange_weak(bits, bits | blocks, Release, Relaxed) {
            Ok(before) => return Some(before),
            Err(now) => bits = now,
        }
    }
    None
}

/// Fills a word that nobody else knows of, or no longer.
pub(super) fn fill(word: &AtomicU64, blocks: u64) {
    word.store(blocks, Release);
}

/// Takes all blocks, under the lane's lock.
pub(super) fn empty(word: &AtomicU64) -> u64 {
    word.swap(0, Acquire)
}

/// Whether a block is there at the moment.
pub(super) fn is_populated(word: &AtomicU64) -> bool {
    word.load(Relaxed) != 0
}

/// The blocks that are there at the moment.
pub(super) fn bits(word: &AtomicU64) -> u64 {
    word.load(Relaxed)
}

/// How many blocks are there at the moment.
pub(super) fn count(word: &AtomicU64) -> u32 {
    word.load(Relaxed).count_ones()
}

/// The `count` lowest bits that are set.
fn lowest(bits: u64, count: usize) -> u64 {
    if count >= 64 {
        return bits;
    }
    // The common case is a run of neighbours.
    let first = bits.trailing_zeros();
    if (bits >> first).trailing_ones() as usize >= count {
        return ((1 << count) - 1) << first;
    }
    let rest = (0..count).fold(bits, |rest, _| rest & rest.wrapping_sub(1));
    bits & !rest
}
