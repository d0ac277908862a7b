// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `word.rs` on one thread; apart from it, since loom takes that file as it is.

use super::atomic::AtomicU64;
use super::word::*;

#[test]
fn blocks_are_put_only_beside_others_and_once() {
    let word = AtomicU64::new(0);
    assert!(!put(&word, 1));
    assert_eq!(put_locked(&word, 4), 0);
    assert!(put(&word, 1) && !put(&word, 4) && put(&word, 8));
    assert_eq!((take(&word), take(&word)), (0b1101, 0b1100));
    assert_eq!(empty(&word), 8);
    assert_eq!(take(&word), 0);
}

#[test]
fn many_are_the_lowest() {
    let word = AtomicU64::new(0xf0f0);
    assert_eq!(take_many(&word, 3), 0x70);
    assert_eq!(take_many(&word, 64), 0xf080);
    assert_eq!(take_many(&word, 64), 0);
    fill(&word, u64::MAX);
    assert_eq!(take_many(&word, 64), u64::MAX);
}
