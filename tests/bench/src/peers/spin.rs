// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lock that buddy-slab-allocator asks of the kernel that it is linked into: the least that one would do. The
//! workloads here never take it, but it must be there.

use core::panic::Location;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use ax_sync::interface::{AcquireResult, ContextState, LockMetadata, SpinOps};

struct Spin;

#[ax_crate_interface::impl_interface]
impl SpinOps for Spin {
    fn acquire(
        lock: &AtomicBool,
        _metadata: &LockMetadata,
        _address: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> ContextState {
        while lock.swap(true, Acquire) {
            core::hint::spin_loop();
        }
        ContextState::new(0, 0)
    }

    fn try_acquire(
        lock: &AtomicBool,
        _metadata: &LockMetadata,
        _address: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> AcquireResult {
        AcquireResult::new(!lock.swap(true, Acquire), ContextState::new(0, 0))
    }

    fn release(lock: &AtomicBool, _address: usize, _context: u8, _state: ContextState) {
        lock.store(false, Release);
    }

    fn force_release(lock: &AtomicBool, _address: usize, _context: u8) {
        lock.store(false, Release);
    }

    fn is_locked(lock: &AtomicBool) -> bool {
        lock.load(Relaxed)
    }
}
