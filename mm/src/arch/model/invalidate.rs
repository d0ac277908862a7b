// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLB invalidates, read from the instruction's fields as a core would (Arm ARM C5.5).
//!
//! Where the architecture gives no guarantee (a level hint that does not fit, a reserved field that is not zero),
//! the instruction does nothing: the worst that a core may do.

extern crate std;

use std::vec::Vec;

use super::cached::{Installed, Leaf, Walk, level_size};
use super::state::State;
use super::{Model, Violation};
use crate::addr::PAGE_SIZE;
use crate::arch::Tlbi;

/// What an invalidate matches.
#[derive(Clone, Copy, Debug)]
struct Scope {
    el2: bool,
    /// `None`: every ASID.
    asid: Option<u16>,
    /// First address and bytes; `None`: every address.
    range: Option<(u64, u64)>,
    /// Not walk-cache entries.
    last_level_only: bool,
    /// Entries of this level alone.
    level: Option<u8>,
    /// By ASID as a whole: global entries stay.
    keeps_global: bool,
}

impl Scope {
    /// `None` if the instruction need not have any effect; `Err` if it is wrong on this machine.
    fn decode(op: Tlbi, operand: u64, ttl: bool, tlb_range: bool) -> Result<Option<Self>, ()> {
        let el2 = op.op1() == 4;
        let everything =
            Self { el2, asid: None, range: None, last_level_only: false, level: None, keeps_global: false };
        let by_range = matches!(op.crm(), 2 | 6);
        let asid = (operand >> 48) as u16;
        let any_asid = el2 || op.op2() & 2 != 0;
        let last_level_only = op.op2() & 4 != 0;
        match op.op2() {
            0 => return Ok(Some(everything)),
            2 => return Ok(Some(Self { asid: Some(asid), keeps_global: true, ..everything })),
            _ => {}
        }
        if any_asid && asid != 0 {
            return Err(());
        }
        let sign_extend = |value: u64, bits: u32| ((value << (64 - bits)) as i64 >> (64 - bits)) as u64;
        let (range, level) = if by_range {
            if !tlb_range {
                return Err(());
            }
            let (granule, scale, number) = (operand >> 46 & 3, operand >> 44 & 3, operand >> 39 & 31);
            if granule != 1 {
                return Ok(None);
            }
            let pages = (number + 1) << (5 * scale + 1);
            ((sign_extend(operand & ((1 << 37) - 1), 37) << 12, pages * PAGE_SIZE), operand >> 37 & 3)
        } else {
            let hint = operand >> 44 & 15;
            if hint != 0 && (!ttl || hint >> 2 != 1) {
                return if ttl { Ok(None) } else { Err(()) };
            }
            ((sign_extend(operand & ((1 << 44) - 1), 44) << 12, PAGE_SIZE), hint & 3)
        };
        let level = (level != 0).then_some(level as u8);
        let asid = (!any_asid).then_some(asid);
        Ok(Some(Self { asid, range: Some(range), last_level_only, level, ..everything }))
    }

    fn touches(&self, virt: u64, size: u64) -> bool {
        self.range.is_none_or(|(first, bytes)| virt <= first + (bytes - 1) && first <= virt + (size - 1))
    }

    fn matches_leaf(&self, leaf: &Leaf) -> bool {
        let asid = match (self.asid, leaf.space) {
            (None, _) => true,
            (Some(_), _) if leaf.is_global() => !self.keeps_global,
            (Some(asid), Installed::Asid(own)) => asid == own,
            (Some(_), _) => false,
        };
        let level = self.level.is_none_or(|level| level == leaf.level);
        self.el2 == leaf.space.is_el2() && asid && level && self.touches(leaf.virt, leaf.size)
    }

    fn matches_walk(&self, walk: &Walk) -> bool {
        let asid = match (self.asid, walk.space) {
            (None, _) => true,
            (Some(asid), Installed::Asid(own)) => asid == own,
            (Some(_), _) => false,
        };
        let size = level_size(walk.level) * 512;
        let wanted = !walk.is_root && !self.last_level_only && self.level.is_none();
        wanted && self.el2 == walk.space.is_el2() && asid && self.touches(walk.virt, size)
    }
}

impl State {
    pub(super) fn tlbi(&mut self, model: &Model, issuer: usize, op: Tlbi, operand: u64) {
        self.step += 1;
        self.counts.tlbi += 1;
        let features = self.features();
        let Ok(scope) = Scope::decode(op, operand, self.has_ttl(), features.tlb_range) else {
            return self.report(issuer, Violation::BadInvalidate { op, operand });
        };
        let Some(scope) = scope else { return };
        let broadcast = matches!(op.crm(), 2 | 3);
        for cpu in 0..self.cpus() {
            if broadcast || cpu == issuer {
                self.mark(cpu, issuer, &scope);
                self.revive(model, cpu);
            }
        }
    }

    /// What the invalidate hits is gone at the issuer's next DSB.
    fn mark(&mut self, cpu: usize, issuer: usize, scope: &Scope) {
        let state = &mut self.cpu[cpu];
        // What this CPU's pipeline has used is waited for as well, by another's DSB.
        let leaves = state.leaves.values_mut().flatten().chain(&mut state.late_leaves);
        leaves.filter(|leaf| scope.matches_leaf(leaf)).for_each(|leaf| leaf.dying |= 1 << issuer);
        let walks = state.walks.iter_mut().chain(&mut state.late_walks);
        walks.filter(|walk| scope.matches_walk(walk)).for_each(|walk| walk.dying |= 1 << issuer);
    }

    /// A walker fetches again what it can still find, from the upper levels down.
    fn revive(&mut self, model: &Model, cpu: usize) {
        for level in 1..=3 {
            for n in 0..self.cpu[cpu].walks.len() {
                let walk = self.cpu[cpu].walks[n];
                if walk.level == level && walk.dying != 0 && self.can_refind_walk(model, cpu, &walk) {
                    self.cpu[cpu].walks[n].dying = 0;
                }
            }
        }
        let dying: Vec<Leaf> =
            self.cpu[cpu].leaves.values().flatten().filter(|leaf| leaf.dying != 0).copied().collect();
        for leaf in dying {
            if self.can_refind_leaf(model, cpu, &leaf) {
                let known = self.cpu[cpu].leaves.get_mut(&leaf.virt).into_iter().flatten().find(|l| **l == leaf);
                known.unwrap().dying = 0;
            }
        }
    }
}
