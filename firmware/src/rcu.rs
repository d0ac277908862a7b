// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's grace periods: what is given to [`kfree_rcu`] is freed by the ticks, without anybody's help.
//!
//! A reader keeps interrupts masked while it holds a pointer to a shared object, as [`read`] does. The tick is an
//! interrupt, so wherever one is taken its CPU reads nothing: it is a quiescent state. Each CPU takes part from the moment
//! that it has a tick; one without is not waited for, and must not read.

use core::ptr::NonNull;

use mm::rcu::{Rcu, RcuHead};

use crate::cpu::hardware;
use crate::kvmalloc::both;
use crate::smp::{self, CpuSet};
use crate::sync;

static RCU: Rcu = Rcu::new();

/// This CPU has a tick from now on.
pub(crate) fn start_cpu() {
    RCU.online(hardware());
}

/// In the tick of this CPU. O(objects whose time has come).
pub(crate) fn tick() {
    if let Ok(both) = both() {
        RCU.quiescent(hardware(), &both);
    }
}

/// Reads shared objects: none that `reader` finds within reach is freed before it returns. Interrupts are masked
/// meanwhile, so it should be short.
pub fn read<R>(reader: impl FnOnce() -> R) -> R {
    sync::masked(reader)
}

/// Returns when every reader that began before is through: each CPU takes a call in between. Not with interrupts masked.
pub fn synchronize() {
    smp::call(CpuSet::online(), &|_| {});
}

/// Frees an object of the machine's slab or vmalloc when nobody can read it any more: two ticks of every CPU from now at most, a
/// tick more if others wait already.
///
/// # Safety
///
/// 1. `head` lies in the object at `object`, which came from the machine's slab or vmalloc and is out of reach of new
///    readers.
/// 2. Nothing but readers within [`read`] uses the object from now on, and they leave the head alone.
pub unsafe fn kfree_rcu(object: NonNull<u8>, head: NonNull<RcuHead>) {
    // SAFETY: the caller's promise; `tick` polls with both.
    unsafe { RCU.defer(hardware(), object, head) };
}

/// Objects that wait for the end of a grace period.
#[must_use]
pub fn nr_waiting() -> usize {
    RCU.nr_waiting(hardware())
}
