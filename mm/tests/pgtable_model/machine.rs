// SPDX-License-Identifier: MIT OR Apache-2.0
//! A model machine with one tree, its TLBs, and a plain map of what should be where.

use std::collections::BTreeMap;

use mm::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use mm::arch::model::frames::Frames;
use mm::arch::model::{Installed, Machine, Model};
use mm::arch::{Arch, MmuFeatures};
use mm::pgtable::{Access, Asid, Attributes, Change, Descriptor, MapError, PageTable, Regime};
use mm::tlb::{Tlb, Unmapped};

pub(crate) const VIRT: u64 = 0xffff_8000_0000_0000;
pub(crate) const PHYS: u64 = 0x1_0000_0000;

pub(crate) fn va(raw: u64) -> VirtAddr {
    VirtAddr::new(raw)
}

pub(crate) fn pa(raw: u64) -> PhysAddr {
    PhysAddr::new(raw).unwrap()
}

pub(crate) fn machine(cpus: usize, frames: u64) -> Machine {
    Machine { cpus, frames, ..Machine::default() }
}

/// Cores of a kind: what they can do.
pub(crate) fn all_features() -> [MmuFeatures; 3] {
    let plain = MmuFeatures::default();
    [plain, MmuFeatures { tlb_range: true, ..plain }, MmuFeatures { tlb_range: true, bbm_level_2: true, ..plain }]
}

/// What `attributes` are after `change`.
fn changed(attributes: Attributes, change: Change) -> Attributes {
    let access = match (change, attributes.access) {
        (Change::Attributes(new), _) => return new,
        (Change::ReadOnly, Access::ReadWrite) => Access::ReadOnly,
        (Change::ReadWrite, Access::ReadOnly) => Access::ReadWrite,
        (Change::Execute, Access::ReadOnly) => Access::ReadExecute,
        (Change::NoExecute, Access::ReadExecute) => Access::ReadOnly,
        (_, access) => access,
    };
    Attributes { access, ..attributes }
}

/// The tree under test. The frames that it maps to are not the model's own: nobody touches their bytes.
pub(crate) struct Bench<'a> {
    pub(crate) model: &'a Model,
    pub(crate) frames: &'a Frames<'a>,
    pub(crate) tlb: Tlb<&'a Model>,
    pub(crate) tree: PageTable<&'a Model>,
    pub(crate) expected: BTreeMap<u64, (u64, Attributes)>,
    regime: Regime,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(model: &'a Model, frames: &'a Frames<'a>, regime: Regime) -> Self {
        let mut source = frames;
        let tree = PageTable::new(model, regime, &mut source).unwrap();
        let installed = match regime {
            Regime::Upper => Installed::Upper,
            Regime::Lower => Installed::Lower,
            Regime::User(Asid(asid)) => Installed::Asid(asid),
            Regime::El2 => Installed::El2,
        };
        model.install(tree.root(), installed);
        Self { model, frames, tlb: Tlb::new(model), tree, expected: BTreeMap::new(), regime }
    }

    pub(crate) fn map(&mut self, virt: u64, phys: u64, size: u64, attributes: Attributes) -> Result<(), MapError> {
        let mut source = self.frames;
        let result = self.tree.map(va(virt), pa(phys), size, attributes, &mut source);
        if result.is_ok() {
            for offset in (0..size).step_by(PAGE_SIZE as usize) {
                let old = self.expected.insert(virt + offset, (phys + offset, attributes));
                assert_eq!(old, None, "mapped over a mapping");
            }
            self.check_this_cpu(virt, size);
        }
        result
    }

    pub(crate) fn unmap(&mut self, virt: u64, size: u64) -> Result<Unmapped, MapError> {
        let mut source = self.frames;
        let result = self.tree.unmap(va(virt), size, &self.tlb, &mut source);
        if let Ok(unmapped) = &result {
            let before = self.expected.len();
            self.expected.retain(|&at, _| !(virt..virt + size).contains(&at));
            assert_eq!(unmapped.pages(), (before - self.expected.len()) as u64);
        }
        result
    }

    /// Flushes, then everything that was there must be out of reach.
    pub(crate) fn flush(&mut self, unmapped: Unmapped) {
        self.flush_beside(unmapped, &[]);
    }

    /// The same while others wait: an `Unmapped` answers for the pages that it took out itself, and another may have
    /// taken pages out of the same range before.
    pub(crate) fn flush_beside(&mut self, unmapped: Unmapped, others: &[Unmapped]) {
        let (virt, size) = (unmapped.start().as_raw(), unmapped.size());
        unmapped.flush(&self.tlb).release();
        for at in (virt..virt + size).step_by(PAGE_SIZE as usize).take(2048) {
            let waits =
                |other: &Unmapped| (other.start().as_raw()..other.start().as_raw() + other.size()).contains(&at);
            if !self.expected.contains_key(&at) && !others.iter().any(waits) {
                for cpu in 0..self.model.cpus() {
                    self.model.expect_unmapped(cpu, va(at));
                }
            }
        }
    }

    pub(crate) fn change(&mut self, virt: u64, size: u64, change: Change) -> Result<(), MapError> {
        let mut source = self.frames;
        let result = self.tree.change(va(virt), size, change, &self.tlb, &mut source);
        if result.is_ok() {
            self.expected.range_mut(virt..virt + size).for_each(|(_, page)| page.1 = changed(page.1, change));
            // What it does not change may have been mapped by another CPU.
            self.model.isb();
            self.check_this_cpu(virt, size);
        }
        result
    }

    pub(crate) fn trim(&mut self, virt: u64, size: u64) -> u64 {
        let mut source = self.frames;
        self.tree.trim(va(virt), size, &self.tlb, &mut source).unwrap()
    }

    /// The CPU that changed the tables can use them at once.
    fn check_this_cpu(&self, virt: u64, size: u64) {
        let cpu = self.model.cpu();
        let pages: Vec<_> = self.expected.range(virt..virt + size).collect();
        let step = (pages.len() / 64).max(1);
        for (&at, &(phys, attributes)) in pages.into_iter().step_by(step) {
            let like = Descriptor::leaf_of(self.regime, 3, PhysAddr::ZERO, attributes, false).as_raw();
            self.model.expect_mapped(cpu, va(at), pa(phys), like);
        }
    }

    /// Tables, TLBs and the plain map agree, on each CPU once it has synchronized.
    pub(crate) fn check(&self, cpus: usize) {
        self.tree.validate().unwrap();
        for cpu in 0..cpus {
            self.model.on(cpu, || {
                self.model.isb();
                self.check_this_cpu(0, u64::MAX);
            });
        }
        let pages: u64 = self.tree.leaves().map(|leaf| leaf.size() / PAGE_SIZE).sum();
        assert_eq!(pages, self.expected.len() as u64);
        for (&at, &(phys, _)) in &self.expected {
            assert_eq!(self.tree.translate(va(at)), PhysAddr::new(phys), "{at:#x}");
        }
        self.model.assert_clean();
    }

    /// Everything goes, and every table comes back but the root.
    pub(crate) fn tear_down(mut self) {
        let spans: Vec<(u64, u64)> = self.expected.keys().map(|&at| (at, PAGE_SIZE)).collect();
        if let (Some(first), Some(last)) = (spans.first(), spans.last()) {
            let unmapped = self.unmap(first.0, last.0 + PAGE_SIZE - first.0).unwrap();
            self.flush(unmapped);
        }
        self.trim(self.regime.base().as_raw(), 1 << 48);
        assert_eq!(self.frames.in_use(), 1);
        self.model.assert_clean();
    }
}
