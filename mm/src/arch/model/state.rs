// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each CPU could have cached, and how table writes and barriers change that.
//!
//! *Invariant:* for each CPU, whatever a walk could find now, from the root or from any cached walk entry, is in
//! the set; so after a write only the written entry needs to be looked at, and after an invalidate only what it
//! hit.

extern crate std;

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

use super::cached::{ADDRESS, ATTRIBUTES, CONTIGUOUS, Installed, Leaf, PERMISSIONS, TABLE, VALID, Walk, level_size};
use super::frames::GARBAGE_FRAME;
use super::{MODEL_CPUS, Machine, Model, Report, Violation};
use crate::addr::{PAGE_SIZE, PhysRange, VirtRange};
use crate::arch::{Dsb, MmuFeatures};

/// How often each instruction ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Descriptor writes.
    pub stores: u64,
    /// DSB, of whatever kind.
    pub dsb: u64,
    /// ISB.
    pub isb: u64,
    /// TLBI, of whatever kind.
    pub tlbi: u64,
}

/// A value that walkers of some CPUs may still read.
#[derive(Clone, Copy, Debug)]
struct Old {
    value: u64,
    storer: usize,
    seen_by: u64,
}

/// What is known of one entry's word in memory.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// In the order in which they were stored.
    olds: Vec<Old>,
    /// When its value became the only one, for each CPU.
    definite: [u64; MODEL_CPUS],
}

#[derive(Debug, Default)]
pub(super) struct Cpu {
    /// By first address.
    pub(super) leaves: BTreeMap<u64, Vec<Leaf>>,
    pub(super) walks: Vec<Walk>,
    /// Invalidated, but this CPU's pipeline may have used them before its next ISB.
    pub(super) late_leaves: Vec<Leaf>,
    pub(super) late_walks: Vec<Walk>,
    last_isb: u64,
}

/// All state of a [`Model`] besides memory.
pub(super) struct State {
    pub(super) cpu: Vec<Cpu>,
    machine: Machine,
    entries: BTreeMap<u64, Entry>,
    pending: BTreeSet<u64>,
    free: BTreeSet<u64>,
    exempt: Vec<VirtRange>,
    stopped: bool,
    pub(super) step: u64,
    pub(super) counts: Counts,
    pub(super) reports: Vec<Report>,
}

impl State {
    pub(super) fn new(machine: Machine) -> Self {
        assert!((1..=MODEL_CPUS).contains(&machine.cpus), "1 to {MODEL_CPUS} CPUs");
        Self {
            cpu: (0..machine.cpus).map(|_| Cpu::default()).collect(),
            machine,
            entries: BTreeMap::new(),
            pending: BTreeSet::new(),
            free: BTreeSet::new(),
            exempt: Vec::new(),
            stopped: false,
            step: 1,
            counts: Counts::default(),
            reports: Vec::new(),
        }
    }

    pub(super) fn cpus(&self) -> usize {
        self.cpu.len()
    }

    pub(super) const fn features(&self) -> MmuFeatures {
        self.machine.features
    }

    pub(super) const fn has_ttl(&self) -> bool {
        self.machine.ttl
    }

    pub(super) fn exempt(&mut self, range: VirtRange) {
        self.exempt.push(range);
    }

    pub(super) fn report(&mut self, cpu: usize, violation: Violation) {
        // The first one tells the story; the others are its echo.
        if self.reports.len() < 16 {
            self.reports.push(Report { cpu, step: self.step, violation });
        }
    }

    pub(super) fn install(&mut self, model: &Model, cpu: usize, root: u64, space: Installed) {
        let walk = Walk { space, virt: space.base(), level: 0, table: root, is_root: true, dying: 0 };
        self.add_walk(model, cpu, walk);
    }

    pub(super) fn uninstall(&mut self, cpu: usize, root: u64) {
        self.cpu[cpu].walks.retain(|walk| !(walk.is_root && walk.table == root));
    }

    pub(super) fn stop_others(&mut self, stopped: bool) {
        self.stopped = stopped;
        // Going on, they return from an exception, which synchronizes.
        let step = self.step;
        self.cpu.iter_mut().for_each(|cpu| cpu.synchronize(step));
    }

    /// Values that a walker of `cpu` may read at `address`.
    fn visible(&self, model: &Model, cpu: usize, address: u64) -> Vec<u64> {
        let mut values = Vec::from([model.read(address)]);
        if let Some(entry) = self.entries.get(&address) {
            values.extend(entry.olds.iter().filter(|old| old.seen_by >> cpu & 1 != 0).map(|old| old.value));
        }
        values
    }

    /// `storer` wrote `value` over `old`.
    pub(super) fn stored(&mut self, model: &Model, storer: usize, address: u64, old: u64, value: u64) {
        self.step += 1;
        self.counts.stores += 1;
        let seen_by = (1 << self.cpus()) - 1;
        let entry = self.entries.entry(address).or_default();
        // Once is enough, or what is never published would grow for ever.
        entry.olds.retain(|known| known.value != old || known.storer != storer);
        entry.olds.push(Old { value: old, storer, seen_by });
        self.pending.insert(address);
        let (table, index) = (address & !(PAGE_SIZE - 1), address % PAGE_SIZE / 8);
        for cpu in 0..self.cpus() {
            let walks: Vec<Walk> = self.cpu[cpu].walks.iter().filter(|walk| walk.table == table).copied().collect();
            for walk in walks {
                self.found(model, cpu, walk, index, value);
            }
        }
    }

    /// A walker of `cpu` may read `value` in entry `index` of `walk`'s table.
    fn found(&mut self, model: &Model, cpu: usize, walk: Walk, index: u64, value: u64) {
        if value & VALID == 0 {
            return;
        }
        let entry = walk.table + index * 8;
        let virt = walk.virt + index * level_size(walk.level);
        if value & ADDRESS == GARBAGE_FRAME {
            return self.report(cpu, Violation::Garbage { entry });
        }
        let is_table = walk.level < 3 && value & TABLE != 0;
        if is_table {
            let table = value & ADDRESS;
            return self.add_walk(
                model,
                cpu,
                Walk { virt, level: walk.level + 1, table, is_root: false, dying: 0, ..walk },
            );
        }
        let misplaced = value & ADDRESS & (level_size(walk.level) - 1) != 0;
        if walk.level == 0 || walk.level == 3 && value & TABLE == 0 || misplaced {
            return self.report(cpu, Violation::BadDescriptor { entry, descriptor: value });
        }
        let size = level_size(walk.level);
        let descriptor = value & (ADDRESS | ATTRIBUTES | PERMISSIONS | CONTIGUOUS);
        let leaf = Leaf { space: walk.space, virt, size, level: walk.level, descriptor, dying: 0 };
        self.add_leaf(cpu, leaf);
        if value & CONTIGUOUS != 0 {
            // One TLB entry for the group, made from this member alone.
            let group = size * 16;
            let descriptor = descriptor & !(ADDRESS & (group - 1));
            self.add_leaf(cpu, Leaf { virt: virt & !(group - 1), size: group, descriptor, ..leaf });
        }
    }

    fn add_walk(&mut self, model: &Model, cpu: usize, walk: Walk) {
        let known = self.cpu[cpu].walks.iter_mut().find(|w| Walk { dying: 0, ..**w } == walk);
        if let Some(known) = known {
            // What can be found through it is in the set already.
            known.dying = 0;
            return;
        }
        if self.free.contains(&walk.table) || !model.has(walk.table) {
            return self.report(cpu, Violation::WalkOutside { frame: walk.table });
        }
        self.cpu[cpu].walks.push(walk);
        for index in 0..512 {
            for value in self.visible(model, cpu, walk.table + index * 8) {
                self.found(model, cpu, walk, index, value);
            }
        }
    }

    fn add_leaf(&mut self, cpu: usize, leaf: Leaf) {
        let features = self.features();
        if let Some(known) = self.cpu[cpu].leaves.get_mut(&leaf.virt).into_iter().flatten().find(|l| l.same(&leaf)) {
            known.dying = 0;
            return;
        }
        let conflict = self.cpu[cpu].leaves_near(leaf.virt, leaf.size).find(|l| l.conflicts(&leaf, features)).copied();
        if let Some(other) = conflict {
            let descriptors = (other.descriptor, leaf.descriptor);
            self.report(cpu, Violation::BreakBeforeMake { virt: leaf.virt.max(other.virt), descriptors });
        }
        self.cpu[cpu].leaves.entry(leaf.virt).or_default().push(leaf);
        let first = leaf.descriptor & ADDRESS;
        if !self.is_exempt(leaf.virt)
            && let Some(&frame) = self.free.range(first..first + leaf.size).next()
        {
            self.report(cpu, Violation::FrameReachable { virt: leaf.virt, frame });
        }
    }

    fn is_exempt(&self, virt: u64) -> bool {
        self.exempt.iter().any(|range| (range.start().as_raw()..range.end().as_raw()).contains(&virt))
    }

    /// Whether a walk of `cpu` can still find what is cached as `leaf`.
    pub(super) fn can_refind_leaf(&self, model: &Model, cpu: usize, leaf: &Leaf) -> bool {
        // Any member of the group will do, for an entry of the whole group.
        let members = leaf.size / level_size(leaf.level);
        (0..members).any(|n| {
            let virt = leaf.virt + n * level_size(leaf.level);
            self.entries_for(cpu, leaf.space, virt, leaf.level).any(|entry| {
                self.visible(model, cpu, entry).into_iter().any(|value| {
                    let bits = value & (ADDRESS | ATTRIBUTES | PERMISSIONS | CONTIGUOUS) & !(ADDRESS & (leaf.size - 1));
                    let is_leaf = value & VALID != 0 && (leaf.level == 3 || value & TABLE == 0);
                    is_leaf && bits == leaf.descriptor
                })
            })
        })
    }

    pub(super) fn can_refind_walk(&self, model: &Model, cpu: usize, walk: &Walk) -> bool {
        self.entries_for(cpu, walk.space, walk.virt, walk.level - 1).any(|entry| {
            let leads = |value: u64| value & (VALID | TABLE) == VALID | TABLE && value & ADDRESS == walk.table;
            self.visible(model, cpu, entry).into_iter().any(leads)
        })
    }

    /// The entries of `level` that translate `virt`, in every table that `cpu` may take for the right one.
    fn entries_for(&self, cpu: usize, space: Installed, virt: u64, level: u8) -> impl Iterator<Item = u64> {
        let right =
            move |walk: &&Walk| walk.space == space && walk.level == level && walk.dying == 0 && walk.covers(virt);
        self.cpu[cpu]
            .walks
            .iter()
            .filter(right)
            .map(move |walk| walk.table + (virt - walk.virt) / level_size(level) * 8)
    }

    pub(super) fn dsb(&mut self, cpu: usize, kind: Dsb) {
        self.step += 1;
        self.counts.dsb += 1;
        let (domain, types) = (kind as u8 >> 2, kind as u8 & 3);
        let everywhere = domain != 0b01;
        if types & 0b10 != 0 {
            let seen = if everywhere { u64::MAX } else { 1 << cpu };
            self.publish(cpu, seen);
        }
        if types == 0b11 {
            for other in 0..self.cpus() {
                if everywhere || other == cpu {
                    let own = other == cpu;
                    self.cpu[other].forget(1 << cpu, own);
                }
            }
        }
    }

    /// Walkers of the CPUs in `seen` read nothing older than the latest store of `storer`.
    fn publish(&mut self, storer: usize, seen: u64) {
        let (step, cpus) = (self.step, self.cpus());
        let entries = &mut self.entries;
        self.pending.retain(|address| {
            let Some(entry) = entries.get_mut(address) else { return false };
            let Some(last) = entry.olds.iter().rposition(|old| old.storer == storer) else { return true };
            entry.olds.iter_mut().take(last + 1).for_each(|old| old.seen_by &= !seen);
            for cpu in (0..cpus).filter(|cpu| seen >> cpu & 1 != 0) {
                entry.definite[cpu] = step;
            }
            entry.olds.retain(|old| old.seen_by != 0);
            !entry.olds.is_empty()
        });
    }

    pub(super) fn isb(&mut self, cpu: usize) {
        self.step += 1;
        self.counts.isb += 1;
        self.cpu[cpu].synchronize(self.step);
    }

    pub(super) fn release(&mut self, range: PhysRange) {
        let (start, end) = (range.start().as_raw(), range.end().as_raw());
        for cpu in 0..self.cpus() {
            let state = &self.cpu[cpu];
            let touches = |leaf: &&Leaf| {
                let first = leaf.descriptor & ADDRESS;
                first < end && start < first + leaf.size && !self.is_exempt(leaf.virt)
            };
            let leaf = state.leaves.values().flatten().chain(&state.late_leaves).find(touches).copied();
            let inside = |walk: &&Walk| (start..end).contains(&walk.table);
            let walk = state.walks.iter().chain(&state.late_walks).find(inside).copied();
            if let Some(leaf) = leaf {
                self.report(cpu, Violation::FrameReachable { virt: leaf.virt, frame: start });
            }
            if let Some(walk) = walk {
                self.report(cpu, Violation::TableReachable { frame: walk.table });
            }
        }
        self.free.extend((start..end).step_by(PAGE_SIZE as usize));
    }

    pub(super) fn take(&mut self, range: PhysRange) {
        for frame in (range.start().as_raw()..range.end().as_raw()).step_by(PAGE_SIZE as usize) {
            self.free.remove(&frame);
            // Its words hold something new, which nobody could have read before.
            let words: Vec<u64> = self.entries.range(frame..frame + PAGE_SIZE).map(|(&address, _)| address).collect();
            for address in words {
                self.entries.remove(&address);
                self.pending.remove(&address);
            }
        }
    }

    /// Everything that an access of `cpu` to `virt` can do. `None` stands for a fault.
    fn outcomes(&self, model: Option<&Model>, cpu: usize, virt: u64) -> Vec<Option<(u64, u64)>> {
        let state = &self.cpu[cpu];
        let cached = state.leaves_near(virt, 1).chain(&state.late_leaves).filter(|leaf| leaf.covers(virt));
        let meaning = |leaf: &Leaf| (leaf.output(virt), leaf.descriptor & (ATTRIBUTES | PERMISSIONS));
        let mut all: Vec<_> = cached.map(|leaf| Some(meaning(leaf))).collect();
        if let Some(model) = model {
            let may_fault = |walk: &Walk| {
                let entry = walk.table + (virt - walk.virt) / level_size(walk.level) * 8;
                let late = self.entries.get(&entry).is_some_and(|e| e.definite[cpu] > state.last_isb);
                late || self.visible(model, cpu, entry).iter().any(|value| value & VALID == 0)
            };
            if state.walks.iter().filter(|walk| walk.covers(virt)).any(may_fault) {
                all.push(None);
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(super) fn expect_mapped(&mut self, model: &Model, cpu: usize, virt: u64, phys: u64, like: u64) {
        let expected = Some((phys, like & (ATTRIBUTES | PERMISSIONS)));
        let found = self.outcomes(Some(model), cpu, virt);
        if found != [expected] {
            let found = words(&found);
            self.report(cpu, Violation::WrongOutcome { virt, found });
        }
    }

    pub(super) fn expect_unmapped(&mut self, cpu: usize, virt: u64) {
        let found = self.outcomes(None, cpu, virt);
        if !found.is_empty() {
            let found = words(&found);
            self.report(cpu, Violation::WrongOutcome { virt, found });
        }
    }

    /// Where the entries at `virt` are in memory.
    pub(super) fn begin_replacing(&mut self, model: &Model, cpu: usize, virt: u64) -> Option<u64> {
        if !self.stopped && self.cpus() > 1 {
            self.report(cpu, Violation::NotStopped);
        }
        let found = self.outcomes(Some(model), cpu, virt);
        if !matches!(found[..], [Some(_)]) {
            self.report(cpu, Violation::CutOff { virt });
        }
        // Goes on as well as it can: whoever waits for the change would wait for ever.
        found.into_iter().flatten().next().map(|(phys, _)| phys)
    }

    /// Checks that the way to the entries at `virt` is as it was.
    pub(super) fn still_reaches(&mut self, model: &Model, cpu: usize, virt: u64, phys: u64) {
        let found = self.outcomes(Some(model), cpu, virt);
        if !matches!(found[..], [Some((at, _))] if at == phys) {
            self.report(cpu, Violation::CutOff { virt });
        }
    }
}

impl Cpu {
    /// Leaves that may cover something of `virt .. virt + size`.
    fn leaves_near(&self, virt: u64, size: u64) -> impl Iterator<Item = &Leaf> {
        // Larger ones begin at or before `virt`, at multiples of their size.
        let larger = [level_size(3), level_size(3) * 16, level_size(2), level_size(2) * 16, level_size(1)];
        let mut starts: Vec<u64> = larger.iter().map(|size| virt & !(size - 1)).collect();
        starts.dedup();
        starts.retain(|&start| start != virt);
        let before = starts.into_iter().filter_map(|start| self.leaves.get(&start)).flatten();
        before.chain(self.leaves.range(virt..=virt + (size - 1)).flat_map(|(_, leaves)| leaves))
    }

    /// Invalidates of `issuer` are complete. On the CPU itself, instructions may be under way that used what they
    /// hit; those of other CPUs have been waited for.
    fn forget(&mut self, issuer: u64, own: bool) {
        if own {
            self.late_leaves.extend(self.leaves.values().flatten().filter(|leaf| leaf.dying & issuer != 0));
            self.late_walks.extend(self.walks.iter().filter(|walk| walk.dying & issuer != 0));
        } else {
            self.late_leaves.retain(|leaf| leaf.dying & issuer == 0);
            self.late_walks.retain(|walk| walk.dying & issuer == 0);
        }
        self.leaves.retain(|_, leaves| {
            leaves.retain(|leaf| leaf.dying & issuer == 0);
            !leaves.is_empty()
        });
        self.walks.retain(|walk| walk.dying & issuer == 0);
    }

    fn synchronize(&mut self, step: u64) {
        self.late_leaves.clear();
        self.late_walks.clear();
        self.last_isb = step;
    }
}

fn words(outcomes: &[Option<(u64, u64)>]) -> String {
    outcomes
        .iter()
        .map(|outcome| match outcome {
            Some((phys, bits)) => format!("to {phys:#x} with {bits:#x}; "),
            None => String::from("fault; "),
        })
        .collect()
}
