// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several CPUs at once: one unmaps, another flushes, a third maps; in every order of a few switches, and at random.

use std::sync::Mutex;

use mm::addr::PhysAddr;
use mm::arch::model::frames::Frames;
use mm::arch::model::sched::{Program, Schedule, every_schedule};
use mm::arch::model::{Installed, Model};
use mm::pgtable::{Attributes, PageTable, Regime};
use mm::sync::{IrqSpinLock, Rank};
use mm::tlb::{Tlb, Unmapped};

use super::machine::*;

/// What the CPUs share.
struct Shared<'a> {
    model: &'a Model,
    frames: &'a Frames<'a>,
    tlb: Tlb<&'a Model>,
    tree: IrqSpinLock<PageTable<&'a Model>>,
    /// Unmapped by one, to be flushed by another.
    waiting: Mutex<Vec<Unmapped<((), PhysAddr)>>>,
}

impl<'a> Shared<'a> {
    fn new(model: &'a Model, frames: &'a Frames<'a>) -> Self {
        let mut source = frames;
        let tree = PageTable::new(model, Regime::Upper, &mut source).unwrap();
        model.install(tree.root(), Installed::Upper);
        let tree = IrqSpinLock::new(Rank::PAGE_TABLE, tree);
        Self { model, frames, tlb: Tlb::new(model), tree, waiting: Mutex::new(Vec::new()) }
    }

    fn locked<R>(&self, body: impl FnOnce(&mut PageTable<&'a Model>) -> R) -> R {
        body(&mut self.tree.lock(&self.model))
    }

    /// Maps a frame of its own.
    fn map(&self, virt: u64) {
        let frame = self.frames.take().unwrap();
        let mut source = self.frames;
        self.locked(|tree| tree.map(va(virt), frame, 0x1000, Attributes::DATA, &mut source)).unwrap();
    }

    fn unmap(&self, virt: u64) -> Unmapped<((), PhysAddr)> {
        let mut source = self.frames;
        self.locked(|tree| {
            let frame = tree.translate(va(virt)).unwrap();
            tree.unmap(va(virt), 0x1000, &self.tlb, &mut source).unwrap().with(frame)
        })
    }

    /// The frame goes back: the model looks whether anybody can reach it.
    fn flush_and_free(&self, unmapped: Unmapped<((), PhysAddr)>) {
        let quiescent = self.tlb.try_quiesce(unmapped).unwrap_or_else(|unmapped| unmapped.flush(&self.tlb));
        self.frames.give(quiescent.release().1);
    }

    fn trim(&self) {
        let mut source = self.frames;
        self.locked(|tree| tree.trim(va(VIRT), 4 << 20, &self.tlb, &mut source)).unwrap();
    }
}

fn with_shared(schedule: &mut Schedule, programs: impl for<'a, 'b> FnOnce(&'b Shared<'a>) -> Vec<Program<'b>>) {
    let model = Model::new(machine(3, 16));
    let frames = Frames::new(&model);
    let shared = Shared::new(&model, &frames);
    shared.map(VIRT);
    shared.map(VIRT + 0x1000);
    schedule.run(&model, programs(&shared));
    let left = std::mem::take(&mut *shared.waiting.lock().unwrap());
    left.into_iter().for_each(|unmapped| shared.flush_and_free(unmapped));
    shared.locked(|tree| tree.validate()).unwrap();
    let reports = model.take_reports();
    assert!(reports.is_empty(), "schedule {:?}: {reports:#x?}", schedule.taken());
}

fn switches(usual: usize) -> usize {
    let wanted = std::env::var("PGTABLE_SWITCHES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(if cfg!(miri) { 1 } else { usual })
}

#[test]
fn a_whole_flush_covers_exactly_what_was_unmapped_before_it() {
    let orders = every_schedule(switches(2), |schedule| {
        with_shared(schedule, |shared| {
            Vec::from([
                Box::new(|| shared.flush_and_free(shared.unmap(VIRT))) as Program<'_>,
                Box::new(|| shared.tlb.flush_everything(Regime::Upper)),
                Box::new(|| shared.flush_and_free(shared.unmap(VIRT + 0x1000))),
            ])
        });
    });
    println!("{orders} orders");
}

#[test]
fn one_unmaps_and_another_flushes() {
    let orders = every_schedule(switches(2), |schedule| {
        with_shared(schedule, |shared| {
            Vec::from([
                Box::new(|| {
                    let unmapped = shared.unmap(VIRT);
                    shared.waiting.lock().unwrap().push(unmapped);
                }) as Program<'_>,
                Box::new(|| {
                    let unmapped = shared.waiting.lock().unwrap().pop();
                    unmapped.into_iter().for_each(|unmapped| shared.flush_and_free(unmapped));
                    shared.map(VIRT + 0x20_0000);
                }),
                Box::new(|| shared.trim()),
            ])
        });
    });
    println!("{orders} orders");
}

#[test]
fn random_orders_of_many_operations_are_sound() {
    let seeds = if cfg!(miri) { 1 } else { 40 };
    for seed in 1..=seeds {
        let mut schedule = Schedule::random(seed);
        with_shared(&mut schedule, |shared| {
            (0..3)
                .map(|cpu: u64| {
                    Box::new(move || {
                        // Addresses of its own, in tables that all share.
                        let base = VIRT + 0x20_0000 + cpu * 0x2000;
                        for round in 0..if cfg!(miri) { 1 } else { 6 } {
                            shared.map(base);
                            shared.map(base + 0x20_0000);
                            shared.flush_and_free(shared.unmap(base));
                            match (round + cpu) % 3 {
                                0 => shared.tlb.flush_everything(Regime::Upper),
                                1 => shared.trim(),
                                _ => {}
                            }
                            shared.flush_and_free(shared.unmap(base + 0x20_0000));
                        }
                    }) as Program<'_>
                })
                .collect()
        });
    }
}
