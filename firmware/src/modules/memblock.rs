// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot-time allocator's cases, on an instance of their own; names as in Linux's `tools/testing/memblock`. The same
//! run on the host, under Miri too.

extern crate alloc;

use alloc::boxed::Box;

use mm::addr::{PhysAddr, PhysRange};
use mm::memblock::{Direction, Memblock, MemblockError, Request, ReserveFlags, Tag};

use super::{Case, check};

const MIB: u64 = 1 << 20;
/// Where the RAM of these tests begins.
const BASE: u64 = 1 << 30;
const WHO: Tag = Tag(1);
const FULL: &str = "an error where there is room";

pub(super) const CASES: [Case; 14] = [
    ("memblock_initialization_check", initialization),
    ("memblock_add_disjoint_check", add_disjoint),
    ("memblock_add_overlap_check", add_overlap),
    ("memblock_add_within_check", add_within),
    ("memblock_add_between_check", add_between),
    ("memblock_add_near_max_check", add_near_max),
    ("memblock_add_many_check", add_many),
    ("memblock_reserve_overlap_check", reserve_overlap),
    ("memblock_free_within_check", free_within),
    ("memblock_remove_check", remove),
    ("alloc_top_down_check", alloc_top_down),
    ("alloc_bottom_up_check", alloc_bottom_up),
    ("alloc_limit_check", alloc_limit),
    ("alloc_no_memory_check", alloc_no_memory),
];

fn range(start: u64, bytes: u64) -> PhysRange {
    let start = PhysAddr::new_saturating(start);
    PhysRange::new(start, PhysAddr::new_saturating(start.as_raw() + bytes)).unwrap_or_default()
}

/// 64 MiB of RAM, on the heap: an instance is too large for some stacks.
fn machine() -> Result<Box<Memblock>, &'static str> {
    let mut memblock = Box::new(Memblock::new());
    memblock.add(range(BASE, 64 * MIB), 0).map_err(|_| FULL)?;
    Ok(memblock)
}

fn free_bytes(memblock: &Memblock) -> u64 {
    memblock.ledger().free_bytes
}

fn initialization() -> Result<(), &'static str> {
    let memblock = Box::new(Memblock::new());
    check(memblock.memory().is_empty() && memblock.reserved().is_empty(), "a new one is not empty")?;
    check(memblock.free_ranges().next().is_none(), "a new one has free memory")
}

fn add_disjoint() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    memblock.add(range(BASE / 2, MIB), 0).map_err(|_| FULL)?;
    check(memblock.memory().len() == 2, "not two regions")?;
    check(memblock.memory().first().is_some_and(|first| first.range.start().as_raw() == BASE / 2), "not sorted")
}

fn add_overlap() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    let added = memblock.add(range(BASE + 60 * MIB, 8 * MIB), 0).map_err(|_| FULL)?;
    check(added.overlap_bytes == 4 * MIB, "the overlap is told wrong")?;
    check(memblock.memory().len() == 1 && free_bytes(&memblock) == 68 * MIB, "overlapping regions are not one")
}

fn add_within() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    memblock.add(range(BASE + MIB, MIB), 0).map_err(|_| FULL)?;
    memblock.add(range(BASE, 64 * MIB), 0).map_err(|_| FULL)?;
    check(memblock.memory().len() == 1 && free_bytes(&memblock) == 64 * MIB, "what is there already counts twice")
}

fn add_between() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    memblock.add(range(BASE + 65 * MIB, MIB), 0).map_err(|_| FULL)?;
    memblock.add(range(BASE + 64 * MIB, MIB), 0).map_err(|_| FULL)?;
    check(memblock.memory().len() == 1, "three that touch are not one")
}

fn add_near_max() -> Result<(), &'static str> {
    let mut memblock = Box::new(Memblock::new());
    memblock.add(range(PhysAddr::LIMIT - 2 * MIB, 4 * MIB), 0).map_err(|_| FULL)?;
    check(memblock.memory().len() == 1, "memory at the end of all addresses is lost")?;
    check(memblock.memory().first().is_some_and(|last| last.range.end().as_raw() <= PhysAddr::LIMIT), "it wraps")
}

fn add_many() -> Result<(), &'static str> {
    let mut memblock = Box::new(Memblock::new());
    for number in 0..mm::memblock::MAX_MEMORY as u64 {
        memblock.add(range(BASE + 2 * number * MIB, MIB), 0).map_err(|_| FULL)?;
    }
    let before = free_bytes(&memblock);
    let refused = memblock.add(range(BASE / 2, MIB), 0);
    check(matches!(refused, Err(MemblockError::MemoryFull { .. })), "one too many is no error")?;
    check(free_bytes(&memblock) == before, "an error changed something")
}

fn reserve_overlap() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    let none = ReserveFlags::empty();
    memblock.reserve(range(BASE, 2 * MIB), WHO, none).map_err(|_| FULL)?;
    let taken = memblock.reserve(range(BASE + MIB, 2 * MIB), Tag(2), none).map_err(|_| FULL)?;
    check(taken.already_bytes == MIB, "the overlap is told wrong")?;
    let owner = memblock.owner_of(PhysAddr::new_saturating(BASE + MIB)).map(|owner| owner.tag);
    check(owner == Some(WHO), "the first owner lost its bytes")?;
    check(free_bytes(&memblock) == 61 * MIB, "the sum is wrong")
}

fn free_within() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    memblock.reserve(range(BASE, 8 * MIB), WHO, ReserveFlags::empty()).map_err(|_| FULL)?;
    let freed = memblock.release(range(BASE + 2 * MIB, MIB)).map_err(|_| FULL)?;
    check(freed == MIB && memblock.reserved().len() == 2, "a hole in a reservation does not leave two")?;
    check(free_bytes(&memblock) == 57 * MIB, "the sum is wrong")
}

fn remove() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    let mut dropped = 0;
    let bytes = memblock.clip(range(BASE + MIB, 62 * MIB), |region| dropped += region.range.size());
    check(bytes == 2 * MIB && dropped == bytes, "what is dropped is told wrong")?;
    check(free_bytes(&memblock) == 62 * MIB, "the sum is wrong")
}

fn alloc_top_down() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    let got = memblock.alloc(Request::new(MIB, WHO)).map_err(|_| FULL)?;
    check(got == range(BASE + 63 * MIB, MIB), "not the highest free memory")?;
    memblock.reserve(range(BASE + 62 * MIB, MIB / 2), WHO, ReserveFlags::empty()).map_err(|_| FULL)?;
    let got = memblock.alloc(Request::new(MIB, WHO)).map_err(|_| FULL)?;
    check(got == range(BASE + 61 * MIB, MIB), "a hole that is too small is taken")
}

fn alloc_bottom_up() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    memblock.reserve(range(BASE, 1), WHO, ReserveFlags::empty()).map_err(|_| FULL)?;
    let got = memblock.alloc(Request::new(100, WHO).align(MIB).direction(Direction::BottomUp)).map_err(|_| FULL)?;
    check(
        got.start().as_raw() == BASE + MIB && got.size() == mm::addr::PAGE_SIZE,
        "not the lowest whole frame that fits",
    )
}

fn alloc_limit() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    let got = memblock.alloc(Request::new(MIB, WHO).within(range(BASE + 8 * MIB, 2 * MIB))).map_err(|_| FULL)?;
    check(got == range(BASE + 9 * MIB, MIB), "not within the limits")?;
    let got = memblock.alloc(Request::new(2 * MIB, WHO).within(range(BASE + 8 * MIB, 2 * MIB)));
    check(matches!(got, Err(MemblockError::NoSpace { .. })), "more than there is within the limits")
}

fn alloc_no_memory() -> Result<(), &'static str> {
    let mut memblock = machine()?;
    check(memblock.alloc(Request::new(65 * MIB, WHO)).is_err(), "more than there is")?;
    check(matches!(memblock.alloc(Request::new(0, WHO)), Err(MemblockError::ZeroSize)), "nothing was had")?;
    let crooked = memblock.alloc(Request::new(MIB, WHO).align(3));
    check(matches!(crooked, Err(MemblockError::BadAlign(3))), "an alignment of 3")?;
    check(free_bytes(&memblock) == 64 * MIB, "an error took memory")
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_cases_hold_on_the_host() {
        for (name, case) in super::CASES {
            assert_eq!(case(), Ok(()), "{name}");
        }
    }
}
