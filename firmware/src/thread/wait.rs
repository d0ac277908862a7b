// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wait queues: threads that wait for something to become true.

use core::sync::atomic::{AtomicBool, Ordering};

use super::list::List;
use super::{current, make_ready, schedule};
use crate::cpu;
use crate::sync::{self, Lock, masked, watch};

/// Threads that wait for the same thing.
#[derive(Debug)]
pub struct WaitQueue(Lock<List>);

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// A queue without threads.
    #[must_use]
    pub const fn new() -> Self {
        Self(Lock::new(sync::WAIT_QUEUE, List::new()))
    }

    /// Waits until `condition` is true. It is looked at under the queue's lock, so that a wake-up that comes between the
    /// look and the wait is not lost; and again after each wake-up.
    pub fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        watch::must_hold_nothing("waits for a thread");
        masked(|| {
            let cpu = cpu::this();
            loop {
                let mut waiters = self.0.lock();
                if condition() {
                    return;
                }
                match current(cpu) {
                    Some(thread) => waiters.push(thread),
                    None => {
                        // No threads yet: whoever makes it true is an interrupt handler, or another CPU.
                        drop(waiters);
                        core::hint::spin_loop();
                        continue;
                    }
                }
                drop(waiters);
                schedule(cpu);
            }
        });
    }

    /// Wakes the thread that has waited longest, if any waits. From anywhere, interrupt handlers included.
    pub fn wake_one(&self) {
        let thread = self.0.lock().pop();
        if let Some(thread) = thread {
            make_ready(thread);
        }
    }

    /// Wakes every thread that waits.
    pub fn wake_all(&self) {
        let mut waiters = self.0.lock();
        while let Some(thread) = waiters.pop() {
            make_ready(thread);
        }
    }

    /// Sets `flag` and wakes everybody. A waiter that finds the flag set may take the queue away at once: the opening of
    /// the lock is the last that happens to it here.
    pub(super) fn close(&self, flag: &AtomicBool) {
        let mut waiters = self.0.lock();
        flag.store(true, Ordering::Release);
        while let Some(thread) = waiters.pop() {
            make_ready(thread);
        }
    }
}
