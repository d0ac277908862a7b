// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the two lists.

use super::*;

fn r(start: u64, end: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start).unwrap(), PhysAddr::new(end).unwrap()).unwrap()
}

/// `size` bytes in every second page, so that nothing joins.
fn apart(index: usize) -> PhysRange {
    let start = index as u64 * 2 * PAGE_SIZE;
    r(start, start + PAGE_SIZE)
}

const NONE: ReserveFlags = ReserveFlags::empty();

#[test]
fn banks_in_any_order_join_and_their_overlap_is_told() {
    let mut memblock = Memblock::new();
    assert_eq!(memblock.add(r(0x3000, 0x5000), 0).unwrap().overlap_bytes, 0);
    assert_eq!(memblock.add(r(0x1000, 0x2000), 0).unwrap().overlap_bytes, 0);
    assert_eq!(memblock.add(r(0x1800, 0x3800), 0).unwrap().overlap_bytes, 0x1000);
    assert_eq!(memblock.memory(), [MemoryRegion { range: r(0x1000, 0x5000), node: 0 }]);
    assert_eq!(memblock.add(r(0x4000, 0x6000), 1).unwrap().overlap_bytes, 0x1000);
    let nodes: Vec<_> = memblock.memory().iter().map(|m| (m.range, m.node)).collect();
    assert_eq!(nodes, [(r(0x1000, 0x5000), 0), (r(0x5000, 0x6000), 1)]);
}

#[test]
fn the_first_owner_keeps_a_byte() {
    let mut memblock = Memblock::new();
    assert_eq!(memblock.reserve(r(10, 20), Tag(1), NONE).unwrap().already_bytes, 0);
    assert_eq!(memblock.reserve(r(5, 30), Tag(2), NONE).unwrap().already_bytes, 10);
    assert_eq!(memblock.reserved().len(), 3);
    assert_eq!(memblock.owner_of(r(19, 20).start()).unwrap().tag, Tag(1));
    assert_eq!(memblock.owner_of(r(20, 20).start()).unwrap().tag, Tag(2));
    assert_eq!(memblock.owner_of(r(30, 30).start()), None);
}

#[test]
fn full_lists_refuse_without_change_but_still_join() {
    let mut memblock = Memblock::new();
    for index in 0..MAX_RESERVED {
        memblock.reserve(apart(index), Tag(0), NONE).unwrap();
    }
    for index in 0..MAX_MEMORY {
        memblock.add(apart(index), 0).unwrap();
    }
    let (memory, reserved) = (memblock.memory().to_vec(), memblock.reserved().to_vec());
    let beyond = apart(MAX_RESERVED);
    assert_eq!(memblock.add(beyond, 0), Err(MemblockError::MemoryFull { range: beyond }));
    let full = Err(MemblockError::ReservedFull { range: beyond });
    assert_eq!(memblock.reserve(beyond, Tag(0), NONE), full);
    let middle = r(0x2100, 0x2200);
    assert_eq!(memblock.release(middle), Err(MemblockError::ReservedFull { range: middle }));
    let keep = r(0x4800, 0x4900);
    let limited = memblock.limit(0x1100, keep, |_| ());
    assert_eq!(limited, Ok(MAX_MEMORY as u64 * PAGE_SIZE - 0x1200));
    assert_eq!(memblock.memory().len(), 3);
    assert_ne!(memblock.memory(), memory);
    assert_eq!(memblock.reserved(), reserved);
    let joined = memblock.reserve(r(0, 0x5000), Tag(0), NONE).unwrap();
    assert_eq!(joined.already_bytes, 3 * PAGE_SIZE);
    assert_eq!(memblock.reserved().len(), MAX_RESERVED - 2);
}

#[test]
fn the_limit_keeps_the_image_wherever_it_lies() {
    let mut memblock = Memblock::new();
    memblock.add(r(0, 0x10_0000), 0).unwrap();
    memblock.add(r(0x20_0000, 0x40_0000), 0).unwrap();
    let mut held = Vec::new();
    let bytes = memblock.limit(0x8_0000, r(0x30_0000, 0x31_0000), |m| held.push(m.range));
    assert_eq!(bytes, Ok(0x27_0000));
    let kept: Vec<_> = memblock.memory().iter().map(|m| m.range).collect();
    assert_eq!(kept, [r(0, 0x8_0000), r(0x30_0000, 0x31_0000)]);
    assert_eq!(held, [r(0x8_0000, 0x10_0000), r(0x20_0000, 0x30_0000), r(0x31_0000, 0x40_0000)]);
    assert_eq!(memblock.limit(u64::MAX, PhysRange::EMPTY, |_| ()), Ok(0));
}

#[test]
fn allocations_come_from_the_end_that_was_asked_for() {
    let mut memblock = Memblock::new();
    memblock.add(r(0x1000, 0x10_0800), 0).unwrap();
    let request = Request::new(1, Tag(7));
    assert_eq!(memblock.alloc(request), Ok(r(0xf_f000, 0x10_0000)));
    let low = request.direction(Direction::BottomUp);
    assert_eq!(memblock.alloc(low), Ok(r(0x1000, 0x2000)));
    assert_eq!(memblock.alloc(low.align(0x1_0000)), Ok(r(0x1_0000, 0x1_1000)));
    let within = request.within(r(0x1_0800, 0x1_2800)).align(8);
    assert_eq!(memblock.alloc(within), Ok(r(0x1_1000, 0x1_2000)));
    assert_eq!(memblock.reserved_bytes(Tag(7)), 4 * PAGE_SIZE);
    assert_eq!(memblock.alloc(within), Err(MemblockError::NoSpace { size: 1, align: 8, largest_hole: 0 }));
    let huge = Request::new(u64::MAX, Tag(0));
    assert!(matches!(memblock.alloc(huge), Err(MemblockError::NoSpace { .. })));
    assert_eq!(memblock.alloc(Request::new(0, Tag(0))), Err(MemblockError::ZeroSize));
    assert_eq!(memblock.alloc(huge.align(3)), Err(MemblockError::BadAlign(3)));
}

#[test]
fn errors_name_what_was_asked() {
    let error = MemblockError::NoSpace { size: 0x2000, align: 0x1000, largest_hole: 0x1000 };
    assert_eq!(error.to_string(), "no free memory for 0x2000 bytes aligned to 0x1000: largest hole 0x1000");
    assert_eq!(MemblockError::BadAlign(3).to_string(), "alignment 0x3 is no power of two");
}

#[test]
fn the_listing_shows_both_arrays() {
    let mut memblock = Memblock::new();
    memblock.add(r(0x4000_0000, 0x6000_0000), 0).unwrap();
    memblock.reserve(r(0x4020_0000, 0x4020_0801), Tag(3), NONE).unwrap();
    memblock.reserve(r(0x5000_0000, 0x5000_1000), Tag(4), ReserveFlags::NOMAP).unwrap();
    let mut text = String::new();
    memblock
        .dump(&mut text, |tag, w| {
            w.push_str(if tag == Tag(3) { "kernel" } else { "secure" });
            Ok(())
        })
        .unwrap();
    assert_eq!(
        text,
        "memblock: memory 0x20000000 bytes, free 0x1fffe000, reserved 0x1801, lost to rounding 0x7ff\n\
         \x20  memory[0]\t[0x0000000040000000-0x000000005fffffff], 0x20000000 bytes node 0\n\
         \x20reserved[0]\t[0x0000000040200000-0x0000000040200800], 0x801 bytes kernel\n\
         \x20reserved[1]\t[0x0000000050000000-0x0000000050000fff], 0x1000 bytes secure no-map\n"
    );
}
