// SPDX-License-Identifier: MIT OR Apache-2.0
//! The orderings of grace periods, in every interleaving: what is freed is never read afterwards.
#![cfg(not(miri))]
#![allow(dead_code, unreachable_pub, reason = "the module is the library's own, built with other atomics")]

#[path = "../src/rcu/grace.rs"]
mod grace;

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use grace::Grace;

struct Shared {
    grace: Grace<2>,
    /// Which of two objects readers are to look at.
    current: AtomicUsize,
    /// Whether the first object is still there. Loom sees to it that no read races with the free.
    first: loom::cell::UnsafeCell<bool>,
}

// SAFETY: loom checks the accesses of the cell.
unsafe impl Sync for Shared {}

#[test]
fn no_reader_sees_an_object_that_was_freed() {
    loom::model(|| {
        let seen = [atomic::AtomicU64::new(0), atomic::AtomicU64::new(0)];
        let shared = Arc::new(Shared {
            grace: Grace::new(seen, atomic::AtomicU64::new(0)),
            current: AtomicUsize::new(0),
            first: loom::cell::UnsafeCell::new(true),
        });
        shared.grace.online(0);
        shared.grace.online(1);
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for _ in 0..2 {
                    if shared.current.load(Ordering::Acquire) == 0 {
                        // SAFETY: loom reports a race.
                        shared.first.with(|first| assert!(unsafe { *first }, "a freed object was read"));
                    }
                    shared.grace.quiescent(1);
                }
            })
        };
        // Out of reach, then a grace period, then the free.
        shared.current.store(1, Ordering::Release);
        shared.grace.begin();
        shared.grace.quiescent(0);
        if shared.grace.is_over() {
            // SAFETY: the same.
            shared.first.with_mut(|first| unsafe { *first = false });
        }
        reader.join().unwrap();
    });
}

#[test]
fn a_period_ends_when_all_that_take_part_have_passed() {
    loom::model(|| {
        let seen = [atomic::AtomicU64::new(0), atomic::AtomicU64::new(0)];
        let grace = Grace::<2>::new(seen, atomic::AtomicU64::new(0));
        grace.online(0);
        grace.online(1);
        grace.begin();
        assert!(!grace.is_over());
        grace.quiescent(0);
        assert!(!grace.is_over());
        grace.offline(1);
        assert!(grace.is_over());
        grace.online(1);
        assert!(grace.is_over());
        grace.begin();
        grace.quiescent(1);
        assert!(!grace.is_over());
        grace.quiescent(0);
        assert!(grace.is_over());
    });
}
