// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `frame.rs` on one thread; apart from it, since loom takes that file as it is.

use super::frame::*;

#[test]
fn an_empty_frame_is_one_free_block() {
    let marks = Marks::empty(FIRST);
    assert!(marks.is_start(FIRST) && marks.is_free(FIRST));
    assert_eq!(marks.end(FIRST), GRANULES);
    assert_eq!((FIRST, ROOM), (12, 500));
}

#[test]
fn a_block_ends_where_the_next_begins_wherever_that_is() {
    let step = if cfg!(miri) { 61 } else { 1 };
    for at in (FIRST + 1..GRANULES).step_by(step) {
        let marks = Marks::empty(FIRST);
        marks.set_start(at);
        assert_eq!((marks.end(FIRST), marks.end(at), marks.before(at)), (at, GRANULES, FIRST), "{at}");
        for behind in (at + 1..GRANULES).step_by(step) {
            assert_eq!(marks.before(behind), at);
        }
        marks.clear_start(at);
        assert_eq!(marks.end(FIRST), GRANULES);
    }
}

#[test]
fn nothing_free_lies_before_the_first_block() {
    for first in [FIRST, FIRST + 4] {
        let marks = Marks::empty(first);
        (first + 2..GRANULES).step_by(2).for_each(|at| marks.set_start(at));
        (first..GRANULES).step_by(2).for_each(|at| marks.set_free(at));
        for at in FIRST..=first {
            let before = marks.before(at);
            assert!(before < FIRST && !marks.is_free(before), "{at} {before}");
        }
    }
}

#[test]
fn free_marks_of_neighbours_two_granules_apart_are_their_own() {
    let marks = Marks::empty(FIRST);
    for at in (FIRST..GRANULES).step_by(2) {
        marks.set_free(at);
        assert!(marks.is_free(at));
        assert!(at + 2 >= GRANULES || at == FIRST - 2 || !marks.is_free(at + 2) || at + 2 == FIRST);
    }
    (FIRST..GRANULES).step_by(4).for_each(|at| marks.set_used(at));
    assert!((FIRST..GRANULES).step_by(2).all(|at| marks.is_free(at) == ((at - FIRST) % 4 == 2)));
}
