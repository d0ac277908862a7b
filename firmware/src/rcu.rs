// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's grace periods: what is given to [`kfree_rcu`] is freed by the ticks, without anybody's help.
//!
//! A reader keeps interrupts masked while it holds a pointer to a shared object, as [`read`] does. The tick is an
//! interrupt, so wherever one is taken its CPU reads nothing: it is a quiescent state. Each CPU takes part from the moment
//! that it has a tick; one without is not waited for, and must not read.

use core::ptr::NonNull;

use mm::rcu::{BATCH, Rcu, RcuHead};

use crate::cpu::hardware;
use crate::kvmalloc::both;
use crate::smp::{self, CpuSet};
use crate::sync;

static RCU: Rcu = Rcu::new();

/// While more than this many wait, each that comes frees some itself: a tick frees few, so that it is short.
const MANY: usize = 16 * BATCH;

/// This CPU has a tick from now on.
pub(crate) fn start_cpu() {
    RCU.online(hardware());
}

/// In the tick of this CPU. Frees [`BATCH`] objects at most.
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
/// tick more if others wait already, and those before it are freed first. If a great many wait, frees up to [`BATCH`] of
/// those that nobody can read any more. Not with a lock held.
///
/// # Safety
///
/// 1. `head` lies in the object at `object`, which came from the machine's slab or vmalloc and is out of reach of new
///    readers.
/// 2. Nothing but readers within [`read`] uses the object from now on, and they leave the head alone.
pub unsafe fn kfree_rcu(object: NonNull<u8>, head: NonNull<RcuHead>) {
    // SAFETY: the caller's promise; `tick` polls with both.
    let waiting = unsafe { RCU.defer(hardware(), object, head) };
    if waiting > MANY
        && let Ok(both) = both()
    {
        RCU.poll(hardware(), &both);
    }
}

/// Objects that wait for the end of a grace period.
#[must_use]
pub fn nr_waiting() -> usize {
    RCU.nr_waiting(hardware())
}
