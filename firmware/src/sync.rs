// SPDX-License-Identifier: MIT OR Apache-2.0
//! The locks of the firmware: `mm`'s [`IrqSpinLock`] on this machine's hardware.
//!
//! A lock is held with interrupts masked, so that handlers can take it too, and CPUs take locks in ascending order of
//! [`Rank`]. While they are *watched* (always in a debug build, else from `irqsoff on`; see [`watch`]) a CPU that
//! breaks the order, or takes a lock that it holds, ends the machine with a report, and the time that locks are held is
//! measured. A wait that does not end is reported always.
//!
//! ```text
//!   8 vmalloc space  16 tables  24 slab  32 zone  40 per-CPU      mm's own
//!   48 wait queues  52 threads that can run  54 keys              may be taken under all of those
//!   56 interrupt controller  63 console                           so that one can always print
//! ```

pub mod watch;

use mm::sync::{IrqGuard, IrqSpinLock, Rank};

use crate::cpu::{self, Hardware};

/// The received keys.
pub const KEYS: Rank = rank(54);
/// A queue of threads that wait for something.
pub const WAIT_QUEUE: Rank = rank(48);
/// The threads of a CPU that can run, and those that sleep.
pub const RUN_QUEUE: Rank = rank(52);
/// The set-up of the interrupt controller.
pub const INTERRUPTS: Rank = rank(56);
/// The console and the log.
pub const CONSOLE: Rank = rank(63);

const fn rank(number: u8) -> Rank {
    match Rank::new(number) {
        Some(rank) => rank,
        None => Rank::PER_CPU,
    }
}

/// What a rank is called in reports.
#[must_use]
pub fn name(rank: Rank) -> &'static str {
    match rank {
        Rank::SPACE => "vmalloc space",
        Rank::PAGE_TABLE => "translation tables",
        Rank::SLAB => "slab",
        Rank::ZONE => "zone",
        Rank::LANE => "lane",
        Rank::PER_CPU => "per-CPU data",
        KEYS => "keys",
        WAIT_QUEUE => "wait queue",
        RUN_QUEUE => "run queue",
        INTERRUPTS => "interrupt controller",
        CONSOLE => "console",
        _ => "unnamed",
    }
}

/// A value behind a spin lock that is held with interrupts masked.
#[derive(Debug)]
pub struct Lock<T>(IrqSpinLock<T>);

/// Opens its lock when dropped, on the CPU that took it.
pub type Guard<'a, T> = IrqGuard<'a, T, Hardware>;

impl<T> Lock<T> {
    /// An open lock.
    #[must_use]
    pub const fn new(rank: Rank, value: T) -> Self {
        Self(IrqSpinLock::new(rank, value))
    }

    /// Masks interrupts, then waits for the lock.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.0.lock(cpu::hardware())
    }

    /// Takes the lock if it is open.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock(cpu::hardware())
    }

    /// Opens the lock by force, for a machine that is about to end.
    ///
    /// # Safety
    ///
    /// The holder never runs again.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: the caller's promise is the one that this asks for.
        unsafe { self.0.force_unlock() };
    }
}

/// Runs `body` with interrupts masked on this CPU.
#[inline]
pub fn masked<R>(body: impl FnOnce() -> R) -> R {
    use mm::arch::Arch;

    let state = cpu::hardware().mask_interrupts();
    let result = body();
    // SAFETY: the state was taken above, on this CPU: threads do not move.
    unsafe { cpu::hardware().restore_interrupts(state) };
    result
}
