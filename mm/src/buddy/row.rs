// SPDX-License-Identifier: MIT OR Apache-2.0
//! A row of up to 64 units, a bit each, set while free; and the buddies in it, which need no bits of their own.
//!
//! A free *run of level `l`* is `2^l` free units at a multiple of `2^l`. Free buddies have merged as soon as
//! both their bits are set: the blocks that are free are the runs that lie in no run of a higher level, and
//! any of them is found with a shift and an AND a level.
//!
//! ```text
//!   row       1 1 1 1 0 1 1 1      unit 0 on the right
//!   level 0   x x x x . x x x
//!   level 1   x   x   .   x        bit 0 of each pair: both are set
//!   level 2   x       .            bit 0 of each four; so the free blocks are 1 of level 2, 1 of level 1, 1 of 0
//! ```

/// Units of a run: its bits, at the bottom. Level 0 to 6.
#[inline(always)]
pub(super) const fn ones(level: u32) -> u64 {
    !0 >> (64 - (1 << level))
}

/// That many bits, 1 to 64, at the bottom.
#[inline(always)]
pub(super) const fn ones_up_to(count: u32) -> u64 {
    !0 >> (64 - count)
}

/// The units where a run of this level may begin.
#[inline(always)]
const fn begins(level: u32) -> u64 {
    match level {
        0 => !0,
        1 => 0x5555_5555_5555_5555,
        2 => 0x1111_1111_1111_1111,
        3 => 0x0101_0101_0101_0101,
        4 => 0x0001_0001_0001_0001,
        5 => 0x0000_0001_0000_0001,
        _ => 1,
    }
}

/// The first units of all free runs of a level.
#[inline(always)]
pub(super) const fn runs(row: u64, level: u32) -> u64 {
    let mut runs = row;
    let mut below = 0;
    while below < level {
        runs &= runs >> (1 << below);
        below += 1;
    }
    runs & begins(level)
}

/// The first units of all free runs of the next level, given those of `level`.
#[inline(always)]
pub(super) const fn next_runs(runs: u64, level: u32) -> u64 {
    runs & runs >> (1 << level) & begins(level + 1)
}

/// The first units of the free blocks of a level: of runs whose buddy is not free.
#[inline(always)]
pub(super) const fn blocks(row: u64, level: u32) -> u64 {
    let larger = runs(row, level + 1);
    runs(row, level) & !(larger | larger << (1 << level))
}

/// The level of the largest free block. The row is not empty.
#[inline(always)]
pub(super) const fn largest(row: u64) -> u32 {
    let mut runs = row;
    let mut level = 0;
    while level < 6 {
        runs = next_runs(runs, level);
        if runs == 0 {
            break;
        }
        level += 1;
    }
    level
}

/// The level of the block that the run of `level` at `unit`, free by now, is in: below `end`, or `end`.
#[inline(always)]
pub(super) const fn block_around(row: u64, unit: u32, level: u32, end: u32) -> u32 {
    let mut runs = runs(row, level);
    let mut level = level;
    while level < end {
        runs &= runs >> (1 << level);
        if runs >> (unit >> (level + 1) << (level + 1)) & 1 == 0 {
            break;
        }
        level += 1;
    }
    level
}

/// Adds the free blocks of a row to those of each level.
pub(super) fn count_blocks(row: u64, counts: &mut [u64]) {
    let mut runs_here = row.count_ones();
    for (level, count) in (0..).zip(counts) {
        if runs_here == 0 {
            break;
        }
        let runs_above = if level < 6 { runs(row, level + 1).count_ones() } else { 0 };
        *count += u64::from(runs_here - 2 * runs_above);
        runs_here = runs_above;
    }
}

/// The lowest unit of a row that is not empty.
#[inline(always)]
pub(super) const fn lowest(row: u64) -> u32 {
    row.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks as (unit, level), by halving.
    fn split(row: u64, unit: u32, level: u32, found: &mut Vec<(u32, u32)>) {
        let bits = row >> unit & ones(level);
        if bits == ones(level) {
            found.push((unit, level));
        } else if bits != 0 {
            split(row, unit, level - 1, found);
            split(row, unit + (1 << (level - 1)), level - 1, found);
        }
    }

    #[test]
    fn blocks_are_what_halving_finds() {
        let mut row = 0x9e37_79b9_7f4a_7c15_u64;
        for turn in 0..if cfg!(miri) { 16 } else { 2000 } {
            row ^= row << 13;
            row ^= row >> 7;
            row ^= row << 17;
            // Denser and denser.
            let row = (0..turn % 8).fold(row, |dense, by| dense | row.rotate_left(7 * by));
            let mut expected = Vec::new();
            split(row, 0, 6, &mut expected);
            expected.sort_by_key(|(unit, level)| (*level, *unit));
            let mut found = Vec::new();
            for level in 0..=6 {
                let starts = if level == 6 { runs(row, 6) } else { blocks(row, level) };
                found.extend((0..64).filter(|unit| starts >> unit & 1 != 0).map(|unit| (unit, level)));
            }
            assert_eq!(found, expected);
            assert_eq!(Some(largest(row)), expected.last().map(|(_, level)| *level));
            for (unit, level) in expected {
                for inner in 0..=level {
                    assert_eq!(block_around(row, unit + (1 << level) - (1 << inner), inner, 6), level);
                }
            }
        }
    }
}
