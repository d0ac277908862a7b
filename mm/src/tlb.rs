// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making CPUs forget: broadcast TLB invalidation, and the types that see to it that it is not forgotten itself.
//!
//! ```text
//!   PageTable::unmap ---> Unmapped ---flush---> Quiescent ---release---> pages and addresses may be used again
//!                         no walker finds it,   no CPU can
//!                         TLBs may hold it      reach it
//! ```
//!
//! An [`Unmapped`] carries whatever must not be touched too early (its payload: pages, an area); only a
//! [`Quiescent`] gives it out. [`Gather`] flushes many at once, and a whole flush by
//! anybody makes everything quiescent that was unmapped before it began ([`Tlb::try_quiesce`]).
//!
//! *Rules met* (Arm ARM D8.16.2, K11.5.3): table writes are waited for by `DSB ISHST` in `unmap`, before the
//! value exists; invalidates are broadcast in the Inner Shareable domain, their operands masked; one
//! `DSB ISH; ISB` closes a batch. *Choice:* by page while that takes few instructions; by range where
//! FEAT_TLBIRANGE is there; beyond [`Tlb::max_ops`] everything at once.

mod counters;
mod gather;
pub mod operand;

use core::sync::atomic::{AtomicU64, Ordering};

pub use self::counters::{Counters, Event};
pub use self::gather::{Flushed, Gather, Held};
use crate::addr::VirtAddr;
use crate::arch::{Arch, Dsb, MmuFeatures, Tlbi};
use crate::pgtable::{Regime, level_size};

/// Invalidates by page or range that a flush issues at most; what needs more takes one whole invalidate.
///
/// Linux has the same figure on arm64 (`MAX_DVM_OPS`). What it trades: each invalidate is a message to every CPU;
/// a whole one makes each CPU walk again for what it still uses, at most as often as its TLB has entries (1,280
/// on a Cortex-A72).
pub const DEFAULT_MAX_OPS: u64 = 512;

/// What a flush has to cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first address.
    pub start: VirtAddr,
    /// Bytes.
    pub size: u64,
    /// Level of the smallest leaves in it: an invalidate for each of them is enough. Of a contiguous group, each
    /// member counts.
    pub level: u8,
    /// Tables were unlinked too, so that walk caches must forget.
    pub tables: bool,
}

/// The TLBs of all CPUs. One for a machine.
#[derive(Debug)]
pub struct Tlb<A> {
    arch: A,
    features: MmuFeatures,
    max_ops: u64,
    /// Whole flushes that have begun, and the latest of those that are complete; of EL1 and of EL2.
    begun: [AtomicU64; 2],
    completed: [AtomicU64; 2],
    /// Numbers that tell one [`Gather`] from another.
    gathers: AtomicU64,
    counters: Counters,
}

impl<A: Arch> Tlb<A> {
    /// The TLBs of the machine that `arch` stands for.
    pub fn new(arch: A) -> Self {
        let features = arch.mmu_features();
        Self::with_features(arch, features)
    }

    /// The same, with less than the hardware has: where cores differ, or to test.
    pub const fn with_features(arch: A, features: MmuFeatures) -> Self {
        let [begun, completed] = [const { [AtomicU64::new(0), AtomicU64::new(EL2)] }; 2];
        let gathers = AtomicU64::new(0);
        Self { arch, features, max_ops: DEFAULT_MAX_OPS, begun, completed, gathers, counters: Counters::new() }
    }

    /// The same with another limit, see [`DEFAULT_MAX_OPS`].
    #[must_use]
    pub fn with_max_ops(self, max_ops: u64) -> Self {
        Self { max_ops, ..self }
    }

    /// The most invalidates of one flush.
    #[must_use]
    pub const fn max_ops(&self) -> u64 {
        self.max_ops
    }

    /// What is used of the MMUs' abilities.
    #[must_use]
    pub const fn features(&self) -> MmuFeatures {
        self.features
    }

    /// What was done so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Invalidates `span` on all CPUs and waits for it.
    #[inline(never)]
    pub(crate) fn flush_span(&self, regime: Regime, span: &Span) {
        self.flush_spans(regime, core::array::from_ref(span));
    }

    /// The same for several. Of one, as an array, nothing is looped over.
    #[inline(always)]
    fn flush_spans<'s>(&self, regime: Regime, spans: impl IntoIterator<Item = &'s Span> + Copy) {
        let ops: u64 = spans.into_iter().map(|span| operand::count(span, self.features.tlb_range)).sum();
        if ops > self.max_ops {
            self.flush_everything(regime);
            return;
        }
        self.counters.add(Event::RemoteFlush, 1);
        self.counters.add(Event::RemoteFlushOne, ops);
        for span in spans {
            operand::each(&self.arch, span, regime, self.features.tlb_range);
        }
        self.complete();
    }

    /// Makes all CPUs forget everything of this regime; of one address space only, if that is what it names.
    /// Everything that was unmapped before this is called is quiescent when it returns: of EL1, in all address spaces
    /// too, if it names none.
    pub fn flush_everything(&self, regime: Regime) {
        self.counters.add(Event::RemoteFlush, 1);
        self.counters.add(Event::RemoteFlushAll, 1);
        let (op, operand) = operand::everything(regime);
        if matches!(regime, Regime::User(_)) {
            self.arch.tlbi(op, operand);
            return self.complete();
        }
        let [begun, completed] = self.generations(regime);
        let generation = begun.fetch_add(1, Ordering::SeqCst) + 1;
        // Whoever has not seen the new generation has finished its table writes: the store above is complete
        // before the invalidate begins.
        self.arch.dsb(Dsb::InnerShareableStores);
        self.arch.tlbi(op, operand);
        self.complete();
        completed.fetch_max(generation, Ordering::SeqCst);
    }

    /// Makes this CPU forget everything of EL1&0: before it uses tables for the first time.
    pub fn flush_local(&self) {
        self.counters.add(Event::LocalFlushAll, 1);
        self.arch.dsb(Dsb::NonShareableStores);
        self.arch.tlbi(Tlbi::AllLocal, 0);
        self.arch.dsb(Dsb::NonShareable);
        self.arch.isb();
    }

    fn complete(&self) {
        self.arch.dsb(Dsb::InnerShareable);
        self.arch.isb();
    }

    const fn generations(&self, regime: Regime) -> [&AtomicU64; 2] {
        let ([begun, begun_el2], [completed, completed_el2]) = (&self.begun, &self.completed);
        if matches!(regime, Regime::El2) { [begun_el2, completed_el2] } else { [begun, completed] }
    }

    /// To be taken after the table writes are complete.
    pub(crate) fn stamp(&self, regime: Regime) -> Stamp {
        let [begun, _] = self.generations(regime);
        Stamp(begun.load(Ordering::SeqCst))
    }

    /// Whether a whole flush has begun since `stamp`, and is complete.
    #[must_use]
    pub fn is_past(&self, stamp: Stamp) -> bool {
        let [completed, completed_el2] = &self.completed;
        let completed = if stamp.0 & EL2 != 0 { completed_el2 } else { completed };
        completed.load(Ordering::SeqCst) > stamp.0
    }

    /// Gives what was unmapped out if a whole flush has happened since, without another one.
    ///
    /// # Errors
    ///
    /// The value back: it must still be flushed.
    pub fn try_quiesce<T>(&self, unmapped: Unmapped<T>) -> Result<Quiescent<T>, Unmapped<T>> {
        if unmapped.is_nothing() || self.is_past(unmapped.stamp) {
            Ok(unmapped.into_quiescent())
        } else {
            Err(unmapped)
        }
    }
}

/// Marks the stamps of EL2, whose flushes are not those of EL1.
const EL2: u64 = 1 << 63;

/// A moment in the order of whole flushes of EL1, those of all address spaces included; or of EL2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stamp(u64);

impl Stamp {
    /// As a word beside what it is about.
    pub(crate) const fn into_word(self) -> u64 {
        self.0
    }

    /// What [`into_word`](Self::into_word) made of it.
    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }
}

/// What is no longer mapped, while CPUs may still hold translations of it.
#[must_use = "what was unmapped must be flushed before it can be used again"]
#[derive(Debug)]
pub struct Unmapped<T = ()> {
    pub(crate) regime: Regime,
    pub(crate) span: Span,
    pub(crate) pages: u64,
    pub(crate) stamp: Stamp,
    pub(crate) payload: T,
}

impl<T> Unmapped<T> {
    /// The first address.
    #[must_use]
    pub const fn start(&self) -> VirtAddr {
        self.span.start
    }

    /// Bytes of address space.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.span.size
    }

    /// Pages that were mapped there.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// When it was unmapped, in the order of whole flushes.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Ties `payload` to it: what must wait for the flush too.
    pub fn with<U>(self, payload: U) -> Unmapped<(T, U)> {
        let Self { regime, span, pages, stamp, payload: own } = self;
        Unmapped { regime, span, pages, stamp, payload: (own, payload) }
    }

    /// Makes all CPUs forget it, and waits until they have.
    #[inline]
    pub fn flush<A: Arch>(self, tlb: &Tlb<A>) -> Quiescent<T> {
        if !self.is_nothing() {
            tlb.flush_span(self.regime, &self.span);
        }
        self.into_quiescent()
    }

    const fn is_nothing(&self) -> bool {
        self.pages == 0
    }

    fn into_quiescent(self) -> Quiescent<T> {
        Quiescent { start: self.span.start, size: self.span.size, payload: self.payload }
    }
}

/// What no CPU can reach any more.
#[must_use = "holds what was tied to it"]
#[derive(Debug)]
pub struct Quiescent<T = ()> {
    start: VirtAddr,
    size: u64,
    payload: T,
}

impl<T> Quiescent<T> {
    /// The first address: it may be mapped again.
    #[must_use]
    pub const fn start(&self) -> VirtAddr {
        self.start
    }

    /// Bytes of address space.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What was tied to it.
    pub fn release(self) -> T {
        self.payload
    }
}

impl Span {
    /// The bytes that one invalidate by page covers here.
    #[inline(always)]
    const fn step(&self) -> u64 {
        level_size(self.level as usize)
    }
}
