// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every sequence of a few operations on a few addresses, on two CPUs.

use mm::arch::Arch;
use mm::arch::model::frames::Frames;
use mm::arch::model::{Machine, Model};
use mm::pgtable::{Attributes, Change, Regime};
use mm::tlb::Unmapped;

use super::machine::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Map(u64, u64),
    Unmap(u64, u64),
    ReadOnly(u64, u64),
    Trim,
    Flush,
    FlushAll,
}

/// A page, a group, a block; parts of them; and both CPUs by turns.
const OPS: [Op; 11] = [
    Op::Map(0x3000, 0x1000),
    Op::Map(0, 0x1_0000),
    Op::Map(0, 0x20_0000),
    Op::Unmap(0x3000, 0x1000),
    Op::Unmap(0, 0x1_0000),
    Op::Unmap(0, 0x20_0000),
    Op::ReadOnly(0x3000, 0x1000),
    Op::ReadOnly(0, 0x1_0000),
    Op::Trim,
    Op::Flush,
    Op::FlushAll,
];

fn run(sequence: &[Op], machine: Machine) {
    let model = Model::new(machine);
    let frames = Frames::new(&model);
    let mut bench = Bench::new(&model, &frames, Regime::Upper);
    let mut waiting: Vec<Unmapped> = Vec::new();
    for (n, &op) in sequence.iter().enumerate() {
        model.on(n % 2, || match op {
            Op::Map(at, size) => {
                let (virt, end) = (VIRT + at, VIRT + at + size);
                let meets = |w: &Unmapped| virt < w.start().as_raw() + w.size() && w.start().as_raw() < end;
                if !waiting.iter().any(meets) {
                    let _ = bench.map(virt, PHYS + at, size, Attributes::DATA);
                }
            }
            Op::Unmap(at, size) => waiting.push(bench.unmap(VIRT + at, size).unwrap()),
            Op::ReadOnly(at, size) => {
                let _ = bench.change(VIRT + at, size, Change::Attributes(Attributes::RODATA));
            }
            Op::Trim => drop(bench.trim(VIRT, 0x20_0000)),
            Op::Flush => waiting.drain(..).for_each(|unmapped| bench.flush(unmapped)),
            Op::FlushAll => bench.tlb.flush_everything(Regime::Upper),
        });
        let reports = model.take_reports();
        assert!(reports.is_empty(), "{sequence:?} at {n}: {reports:#x?}");
    }
    model.isb();
    waiting.into_iter().for_each(|unmapped| bench.flush(unmapped));
    bench.check(2);
    bench.tear_down();
}

#[test]
fn every_short_sequence_is_sound() {
    let length = match std::env::var("PGTABLE_LENGTH").ok().and_then(|text| text.parse().ok()) {
        Some(length) => length,
        None if cfg!(miri) => 1,
        None => 3,
    };
    let total = (OPS.len() as u64).pow(length);
    for number in 0..total {
        let digits = (0..length).map(|n| number / (OPS.len() as u64).pow(n) % OPS.len() as u64);
        let sequence: Vec<Op> = digits.map(|digit| OPS[digit as usize]).collect();
        for features in all_features().into_iter().step_by(2) {
            run(&sequence, Machine { features, ..machine(2, 16) });
        }
    }
    println!("{total} sequences of {length}");
}
