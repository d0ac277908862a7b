// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `register.rs` on one thread; apart from it, since loom takes that file as it is.

use super::frame::GRANULES;
use super::register::*;

const BASE: usize = 0x4000_0000;

#[test]
fn an_object_is_found_by_its_first_byte_alone() {
    let register = Register::default();
    assert_eq!((size_of::<Register>(), FIRST_LARGE), (32, 4));
    for (granule, nr) in [(4, 32), (31, 508 - 31), (36, 100), (255, 33), (480, 32)] {
        register.set(granule, nr);
        for addr in 0..4096 {
            assert_eq!(register.get(BASE + addr), if addr == granule * 8 { nr } else { 0 }, "{granule} {addr}");
        }
        register.clear(granule);
        assert_eq!(register.get(BASE + granule * 8), 0);
    }
}

#[test]
fn what_lies_between_two_objects_is_free_wherever_they_are() {
    let step = if cfg!(miri) { 61 } else { 3 };
    for one in (FIRST_LARGE..=GRANULES - 2 * LEAST_LARGE).step_by(step) {
        for two in (one + LEAST_LARGE..=GRANULES - LEAST_LARGE).step_by(step) {
            let register = Register::default();
            let (nr_one, nr_two) = ((two - one).min(LEAST_LARGE + 9), GRANULES - two);
            register.set(one, nr_one);
            register.set(two, nr_two);
            assert_eq!((register.start_from(FIRST_LARGE), register.start_from(one + nr_one)), (one, two));
            assert_eq!(register.start_from(GRANULES), GRANULES);
            assert_eq!((register.end_before(one), register.end_before(two)), (FIRST_LARGE, one + nr_one));
            let free = (0..GRANULES).filter(|granule| register.is_free(*granule));
            assert!(free.eq((FIRST_LARGE..one).chain(one + nr_one..two)), "{one} {two}");
        }
    }
}

#[test]
fn a_frame_without_objects_is_free_from_the_first_granule_to_the_last() {
    let register = Register::default();
    assert_eq!((register.start_from(FIRST_LARGE), register.end_before(GRANULES - 1)), (GRANULES, FIRST_LARGE));
    assert!((0..GRANULES).all(|granule| register.is_free(granule) == (granule >= FIRST_LARGE)));
    assert!((0..4096).all(|addr| register.get(BASE + addr) == 0));
}
