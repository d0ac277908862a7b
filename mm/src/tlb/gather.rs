// SPDX-License-Identifier: MIT OR Apache-2.0
//! One flush for many: what was unmapped is collected, and its payloads wait.

use core::sync::atomic::Ordering;

use super::{Span, Tlb, Unmapped};
use crate::addr::VirtAddr;
use crate::arch::Arch;
use crate::pgtable::Regime;

/// Spans that are kept apart; then everything is flushed.
const SPANS: usize = 8;

/// Collects what was unmapped from trees of one regime. Payloads do not fit in here: they are handed back locked,
/// as [`Held`], and opened by the [`Flushed`] of their own flush.
#[must_use = "what was unmapped must be flushed before it can be used again"]
#[derive(Debug)]
pub struct Gather {
    number: u64,
    regime: Regime,
    spans: [Span; SPANS],
    used: usize,
    overflown: bool,
}

/// A payload that waits for the flush of its [`Gather`].
#[derive(Debug)]
pub struct Held<T> {
    gather: u64,
    payload: T,
}

/// Proof that a [`Gather`] was flushed. It borrows nothing, and opens what was held for that flush.
#[derive(Debug)]
pub struct Flushed {
    gather: u64,
}

impl Gather {
    /// Nothing yet, to be flushed by `tlb`.
    pub fn new<A: Arch>(tlb: &Tlb<A>, regime: Regime) -> Self {
        let nothing = Span { start: VirtAddr::new(0), size: 0, level: 3, tables: false };
        let number = tlb.gathers.fetch_add(1, Ordering::Relaxed);
        Self { number, regime, spans: [nothing; SPANS], used: 0, overflown: false }
    }

    /// Adds what was unmapped. Ranges that touch become one.
    ///
    /// # Errors
    ///
    /// The value back, if it is of another regime.
    pub fn add<T>(&mut self, unmapped: Unmapped<T>) -> Result<Held<T>, Unmapped<T>> {
        if unmapped.regime != self.regime {
            return Err(unmapped);
        }
        if !unmapped.is_nothing() {
            self.add_span(unmapped.span);
        }
        Ok(Held { gather: self.number, payload: unmapped.payload })
    }

    fn add_span(&mut self, span: Span) {
        let first = span.start.as_raw();
        // The last byte, not the end: that of the last page does not fit.
        let last = first + (span.size - 1);
        let touches = |own: &&mut Span| {
            let own_first = own.start.as_raw();
            let own_last = own_first + (own.size - 1);
            own.level == span.level && own_first <= last.saturating_add(1) && first <= own_last.saturating_add(1)
        };
        if let Some(own) = self.spans.iter_mut().take(self.used).find(touches) {
            let own_last = own.start.as_raw() + (own.size - 1);
            own.start = own.start.min(span.start);
            own.size = own_last.max(last) - own.start.as_raw() + 1;
        } else if let Some(free) = self.spans.get_mut(self.used) {
            *free = span;
            self.used += 1;
        } else {
            self.overflown = true;
        }
    }

    /// Makes all CPUs forget what was added, and waits until they have.
    pub fn flush<A: Arch>(self, tlb: &Tlb<A>) -> Flushed {
        if self.overflown {
            tlb.flush_everything(self.regime);
        } else if let Some(spans @ [_, ..]) = self.spans.get(..self.used) {
            tlb.flush_spans(self.regime, spans);
        }
        Flushed { gather: self.number }
    }
}

impl Flushed {
    /// What was held for this flush.
    ///
    /// # Errors
    ///
    /// The value back, if it waits for another one.
    pub fn open<T>(&self, held: Held<T>) -> Result<T, Held<T>> {
        if held.gather == self.gather { Ok(held.payload) } else { Err(held) }
    }
}
