// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of addresses, frames and ranges.

use super::*;

#[test]
fn clipping_accounts_for_every_byte() {
    let limit = PhysAddr::new(0x1_0000).unwrap();
    for (base, size, kept) in [
        (0, 0x1000, 0x1000),
        (0xf000, 0x2000, 0x1000),
        (0x1_0000, 0x1000, 0),
        (0x2_0000, 0x1000, 0),
        (u64::MAX, u64::MAX, 0),
        (0, u64::MAX, 0x1_0000),
    ] {
        let (range, lost) = PhysRange::clipped(base, size, limit);
        assert_eq!((range.size(), lost), (kept, size - kept), "{base:#x}+{size:#x}");
    }
}

#[test]
fn order_for_bytes_is_the_smallest_that_holds_them() {
    assert_eq!(Order::for_bytes(0), Some(Order::ZERO));
    assert_eq!(Order::for_bytes(1), Some(Order::ZERO));
    assert_eq!(Order::for_bytes(4096), Some(Order::ZERO));
    assert_eq!(Order::for_bytes(4097), Order::new(1));
    assert_eq!(Order::for_bytes(4 << 20), Some(Order::MAX));
    assert_eq!(Order::for_bytes((4 << 20) + 1), None);
    assert_eq!(Order::for_bytes(u64::MAX), None);
}

#[test]
fn frames_inside_and_touched_round_opposite_ways() {
    let r = |s, e| PhysRange::new(PhysAddr::new(s).unwrap(), PhysAddr::new(e).unwrap()).unwrap();
    assert_eq!(r(0x1001, 0x3fff).frames_inside(), r(0x2000, 0x3000));
    assert_eq!(r(0x1001, 0x3fff).frames_touched(), r(0x1000, 0x4000));
    assert!(r(0x1001, 0x1fff).frames_inside().is_empty());
    assert!(r(0x1001, 0x1001).frames_touched().is_empty());
}

#[test]
fn around_a_hole_are_its_two_sides() {
    let r = |s, e| PhysRange::new(PhysAddr::new(s).unwrap(), PhysAddr::new(e).unwrap()).unwrap();
    let around = |hole| r(10, 20).around(hole).collect::<Vec<_>>();
    assert_eq!(around(r(12, 15)), [r(10, 12), r(15, 20)]);
    assert_eq!(around(r(5, 15)), [r(15, 20)]);
    assert_eq!(around(r(15, 25)), [r(10, 15)]);
    assert_eq!(around(r(10, 20)), []);
    for elsewhere in [r(0, 10), r(20, 30), r(15, 15)] {
        assert_eq!(around(elsewhere), [r(10, 20)]);
    }
    assert_eq!(r(10, 10).around(r(0, 5)).count(), 0);
}

#[test]
fn addresses_print_what_they_are() {
    assert_eq!(format!("{:?}", PhysAddr::new(0x4008_0000).unwrap()), "pa:0x0000_0000_4008_0000");
    assert_eq!(format!("{:?}", Pfn::new(16).unwrap()), "pfn:0x10");
}
