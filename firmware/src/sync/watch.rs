// SPDX-License-Identifier: MIT OR Apache-2.0
//! Watching over locks: are they taken in order, how long are they held, does a wait ever end?
//!
//! Each CPU keeps a list of the locks it holds. Only it writes the list, with interrupts masked; others read it when
//! they report whom they wait for. Unwatched, a lock costs one load and one branch more than nothing.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use mm::sync::{LockId, Rank};

use super::name;
use crate::cpu::{self, PerCpu};
use crate::{smp, time};

/// Most locks that a CPU is seen to hold at once; more are taken unseen.
const DEPTH: usize = 8;
/// Ranks go from 0 to 63.
const RANKS: usize = 64;
/// A wait that lasts so long will not end.
const WAIT_LIMIT_MS: u32 = 10_000;

static WATCHED: AtomicBool = AtomicBool::new(cfg!(debug_assertions));
static LIMIT_MS: AtomicU32 = AtomicU32::new(WAIT_LIMIT_MS);

/// Whether locks are watched.
#[inline(always)]
pub fn is_on() -> bool {
    WATCHED.load(Ordering::Relaxed)
}

/// Begins to watch.
pub fn start() {
    if !is_on() {
        // What was held when the watch ended has been released unseen.
        cpu::all().for_each(|cpu| cpu.watch.depth.store(0, Ordering::Relaxed));
        WATCHED.store(true, Ordering::Relaxed);
    }
}

/// Ends to watch.
pub fn stop() {
    WATCHED.store(false, Ordering::Relaxed);
}

/// Sets how long a lock may be waited for; 10 s unless a test is in a hurry.
pub fn set_wait_limit(ms: u32) {
    LIMIT_MS.store(ms, Ordering::Relaxed);
}

/// What a CPU holds, and the longest it ever held.
#[derive(Debug)]
pub(crate) struct Watch {
    depth: AtomicUsize,
    held: [Held; DEPTH],
    /// The longest section under a lock of each rank, in counter ticks.
    longest: [AtomicU32; RANKS],
    /// When the wait at hand began.
    waiting_since: AtomicU64,
}

#[derive(Debug)]
struct Held {
    address: AtomicUsize,
    rank: AtomicU8,
    since: AtomicU64,
}

impl Held {
    fn lock(&self) -> Option<LockId> {
        let rank = Rank::new(self.rank.load(Ordering::Relaxed))?;
        Some(LockId { rank, address: self.address.load(Ordering::Relaxed) })
    }
}

impl Watch {
    pub(crate) const fn new() -> Self {
        Self {
            depth: AtomicUsize::new(0),
            held: [const { Held { address: AtomicUsize::new(0), rank: AtomicU8::new(0), since: AtomicU64::new(0) } };
                DEPTH],
            longest: [const { AtomicU32::new(0) }; RANKS],
            waiting_since: AtomicU64::new(0),
        }
    }

    /// The locks that the CPU holds, the latest last.
    fn locks(&self) -> impl DoubleEndedIterator<Item = LockId> {
        let depth = self.depth.load(Ordering::Relaxed);
        self.held.iter().take(depth).filter_map(Held::lock)
    }

    fn push(&self, lock: LockId) {
        let depth = self.depth.load(Ordering::Relaxed);
        if let Some(slot) = self.held.get(depth) {
            slot.address.store(lock.address, Ordering::Relaxed);
            slot.rank.store(lock.rank.as_u8(), Ordering::Relaxed);
            slot.since.store(time::ticks(), Ordering::Relaxed);
            self.depth.store(depth + 1, Ordering::Relaxed);
        }
    }

    /// Forgets the lock. One that was taken before the watch began is not there.
    fn pop(&self, lock: LockId) {
        let depth = self.depth.load(Ordering::Relaxed);
        let Some(top) = depth.checked_sub(1).and_then(|top| self.held.get(top)) else { return };
        if top.lock() == Some(lock) {
            let ticks = time::ticks().saturating_sub(top.since.load(Ordering::Relaxed));
            if let Some(longest) = self.longest.get(usize::from(lock.rank.as_u8())) {
                longest.fetch_max(u32::try_from(ticks).unwrap_or(u32::MAX), Ordering::Relaxed);
            }
            self.depth.store(depth - 1, Ordering::Relaxed);
        }
    }

    /// Rank and nanoseconds of the longest section under each rank that was ever held.
    pub(crate) fn longest(&self) -> impl Iterator<Item = (Rank, u64)> {
        self.longest.iter().enumerate().filter_map(|(rank, ticks)| {
            let ticks = ticks.load(Ordering::Relaxed);
            let rank = Rank::new(rank as u8).filter(|_| ticks != 0)?;
            Some((rank, time::to_ns(u64::from(ticks))))
        })
    }

    /// Forgets all maxima.
    pub(crate) fn reset(&self) {
        self.longest.iter().for_each(|longest| longest.store(0, Ordering::Relaxed));
    }
}

/// See [`Arch::lock_wanted`](mm::arch::Arch::lock_wanted).
#[cold]
pub(crate) fn wanted(lock: LockId) {
    let cpu = cpu::this();
    for held in cpu.watch.locks() {
        if held.address == lock.address {
            break_off(Violation::Twice { cpu: cpu.number(), lock });
        }
        if held.rank >= lock.rank {
            break_off(Violation::Order { cpu: cpu.number(), held: held.rank, wanted: lock.rank });
        }
    }
}

/// See [`Arch::lock_waiting`](mm::arch::Arch::lock_waiting). Watched or not.
#[cold]
pub(crate) fn waiting(lock: LockId, round: u64) {
    let cpu = cpu::this();
    if smp::serve_while_waiting() || round == 0 {
        // What was served, a long stay in the parking lot perhaps, is not the lock's time.
        cpu.watch.waiting_since.store(time::ticks(), Ordering::Relaxed);
    }
    let since = cpu.watch.waiting_since.load(Ordering::Relaxed);
    if time::has_passed(since, u64::from(LIMIT_MS.load(Ordering::Relaxed))) {
        let holds = |other: &&'static PerCpu| other.watch.locks().any(|held| held == lock);
        let holder = cpu::all().find(holds).map(PerCpu::number);
        break_off(Violation::Stuck { cpu: cpu.number(), lock, holder });
    }
}

/// See [`Arch::lock_taken`](mm::arch::Arch::lock_taken).
#[cold]
pub(crate) fn taken(lock: LockId) {
    cpu::this().watch.push(lock);
}

/// See [`Arch::lock_taken_at_once`](mm::arch::Arch::lock_taken_at_once).
#[cold]
pub(crate) fn taken_at_once(lock: LockId) {
    wanted(lock);
    taken(lock);
}

/// See [`Arch::lock_released`](mm::arch::Arch::lock_released).
#[cold]
pub(crate) fn released(lock: LockId) {
    cpu::this().watch.pop(lock);
}

/// Ends the machine if this CPU holds a lock: it is about to wait for others, who may want that lock.
pub(crate) fn must_hold_nothing(what: &'static str) {
    let cpu = cpu::this();
    if let Some(held) = cpu.watch.locks().next_back().filter(|_| is_on()) {
        break_off(Violation::Waits { cpu: cpu.number(), held: held.rank, what });
    }
}

/// A rule of locks that was broken.
#[derive(Clone, Copy, Debug)]
enum Violation {
    Order { cpu: usize, held: Rank, wanted: Rank },
    Twice { cpu: usize, lock: LockId },
    Waits { cpu: usize, held: Rank, what: &'static str },
    Stuck { cpu: usize, lock: LockId, holder: Option<usize> },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Order { cpu, held, wanted } => write!(
                f,
                "lock order: CPU {cpu} holds a lock of rank {} ({}) and wants one of rank {} ({})",
                held.as_u8(),
                name(held),
                wanted.as_u8(),
                name(wanted)
            ),
            Self::Twice { cpu, lock } => write!(
                f,
                "lock taken twice: CPU {cpu} holds the lock of rank {} ({}) at {:#x} and wants it again",
                lock.rank.as_u8(),
                name(lock.rank),
                lock.address
            ),
            Self::Waits { cpu, held, what } => write!(
                f,
                "lock held while waiting: CPU {cpu} holds a lock of rank {} ({}) and {what}",
                held.as_u8(),
                name(held)
            ),
            Self::Stuck { cpu, lock, holder } => {
                write!(
                    f,
                    "lock stuck: CPU {cpu} waits for the lock of rank {} ({}) at {:#x}",
                    lock.rank.as_u8(),
                    name(lock.rank),
                    lock.address
                )?;
                match holder {
                    Some(holder) => write!(f, ", which CPU {holder} holds"),
                    None if is_on() => f.write_str(", which nobody is seen to hold"),
                    None => f.write_str("; irqsoff on, or a debug build, would tell who holds it"),
                }
            }
        }
    }
}

/// The end. The report may need the very lock that it is about.
#[cold]
fn break_off(violation: Violation) -> ! {
    stop();
    #[expect(clippy::panic, reason = "a broken rule of locks is the machine's panic")]
    {
        panic!("{violation}");
    }
}
