// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of tables that are not linked, kept in the tables themselves: nothing is allocated to free or to plan.

use super::TableSource;
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::arch::Arch;

/// Tables that are unlinked, chained through their first entries: a value that a walker takes for nothing.
#[derive(Debug, Default)]
pub(super) struct TableChain {
    first: Option<PhysAddr>,
}

impl TableChain {
    pub(super) const EMPTY: Self = Self { first: None };

    /// # Safety
    ///
    /// `table` is a table that `arch` can reach, and the caller's alone but for walkers.
    pub(super) unsafe fn push<A: Arch>(&mut self, arch: &A, table: PhysAddr) {
        // Page-aligned: bit 0 is clear. Bit 1 tells frame 0 from the end of the chain.
        let link = self.first.map_or(0, |next| next.as_raw() | 2);
        // SAFETY: the caller's promise; the new value is invalid, so there is nothing to break.
        unsafe { arch.store_descriptor(table, 0, link) };
        self.first = Some(table);
    }

    pub(super) fn pop<A: Arch>(&mut self, arch: &A) -> Option<PhysAddr> {
        let table = self.first?;
        // SAFETY: tables in the chain are reachable by `push`.
        let link = unsafe { arch.load_descriptor(table, 0) };
        self.first = (link != 0).then_some(PhysAddr::new_saturating(link & !(PAGE_SIZE - 1)));
        Some(table)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The frames of all tables, back to `source`.
    pub(super) fn give_back<A: Arch>(mut self, arch: &A, source: &mut impl TableSource) {
        while let Some(table) = self.pop(arch) {
            source.give_back(table);
        }
    }
}
