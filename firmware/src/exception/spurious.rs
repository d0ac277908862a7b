// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation faults that are none any more.
//!
//! A CPU that maps something in the kernel's half publishes it by DSB, but cannot make another CPU forget that its
//! own walk, begun before, found nothing: that needs an ISB there (Arm ARM D8.2.6). So a translation fault on a
//! kernel address is looked at again, by AT. If the entry is there now, the instruction is simply retried.
//!
//! A fault that comes back again and again is a real one, whatever AT says: the retries of one instruction on
//! one address within a second are bounded.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mm::arch::{Arch, MAX_CPUS};

use crate::cpu::hardware;
use crate::fault::Syndrome;
use crate::{boot, translate};

/// Retries of one instruction on one address within a second. A fault that stays needs less than a second for so
/// many; no program maps something and hands it over so many times.
pub const MAX_RETRIES: u32 = 10_000;
const WINDOW_NS: u64 = 1_000_000_000;

/// The last fault of a CPU that was retried. Only that CPU looks here, with interrupts masked.
struct Last {
    instruction: AtomicU64,
    address: AtomicU64,
    since_ns: AtomicU64,
    retries: AtomicU32,
}

static LAST: [Last; MAX_CPUS] = [const {
    Last {
        instruction: AtomicU64::new(0),
        address: AtomicU64::new(0),
        since_ns: AtomicU64::new(0),
        retries: AtomicU32::new(0),
    }
}; MAX_CPUS];

/// Faults that were retried, on all CPUs.
static RETRIED: AtomicU64 = AtomicU64::new(0);

/// How many translation faults were none any more when they were looked at again, since the machine started.
#[must_use]
pub fn nr_retried() -> u64 {
    RETRIED.load(Ordering::Relaxed)
}

/// Whether the fault of `instruction` on `address` has gone, so that it can be retried. Counts it then.
pub(super) fn is_gone(syndrome: Syndrome, address: u64, instruction: u64) -> bool {
    let is_candidate = syndrome.has_address()
        && syndrome.status().is_some_and(|status| status.is_translation())
        && address >> 48 == 0xffff;
    // AT's own barrier is also what lets the retried instruction see the entry.
    if !is_candidate || translate::for_read(address).page().is_none() {
        return false;
    }
    let Some(last) = LAST.get(hardware().cpu()) else { return false };
    let is_same = last.instruction.swap(instruction, Ordering::Relaxed) == instruction;
    let is_same = last.address.swap(address, Ordering::Relaxed) == address && is_same;
    let now = boot::uptime_ns();
    if !is_same || now.wrapping_sub(last.since_ns.load(Ordering::Relaxed)) > WINDOW_NS {
        last.since_ns.store(now, Ordering::Relaxed);
        last.retries.store(0, Ordering::Relaxed);
    }
    if last.retries.fetch_add(1, Ordering::Relaxed) >= MAX_RETRIES {
        return false;
    }
    RETRIED.fetch_add(1, Ordering::Relaxed);
    true
}
