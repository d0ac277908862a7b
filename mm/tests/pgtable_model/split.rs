// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live blocks of the direct map are split while the others are stopped, with the table reached by a fixmap.

use mm::arch::model::frames::Frames;
use mm::arch::model::{Machine, Model};
use mm::pgtable::{Attributes, Change, MapError, Regime};

use super::machine::*;

const DIRECT: u64 = 0xffff_0000_0000_0000;
const FIXMAP: u64 = 0xffff_ffff_9000_0000;
const MIB: u64 = 1 << 20;

/// A direct map of all model memory and 32 MiB around it, as blocks; and a table for the fixmap.
fn with_direct_map(machine: Machine, test: impl FnOnce(&mut Bench<'_>)) {
    let model = Model::new(machine);
    let frames = Frames::new(&model);
    let mut bench = Bench::new(&model, &frames, Regime::Upper);
    let base = machine.base.as_raw();
    let range = mm::addr::VirtRange::new(va(DIRECT), va(DIRECT + (1 << 47))).unwrap();
    model.exempt(range);
    bench.map(DIRECT + base, base, 34 * MIB, Attributes::DATA).unwrap();
    bench.map(FIXMAP + 0x1000, PHYS, 0x1000, Attributes::DEVICE).unwrap();
    test(&mut bench);
    bench.check(machine.cpus);
}

fn change_live(bench: &mut Bench<'_>, virt: u64, size: u64, change: Change) -> Result<(), MapError> {
    let mut source = bench.frames;
    // SAFETY: nobody runs but this; the fixmap has a table and is free.
    let result = unsafe { bench.tree.change_live(va(virt), size, change, va(FIXMAP), &bench.tlb, &mut source) };
    if let (Ok(()), Change::Attributes(attributes)) = (result, change) {
        for at in (virt..virt + size).step_by(4096) {
            bench.expected.get_mut(&at).unwrap().1 = attributes;
        }
    }
    result
}

#[test]
fn pages_of_the_direct_map_become_read_only_and_back() {
    for features in all_features() {
        with_direct_map(Machine { features, ..machine(4, 64) }, |bench| {
            let base = DIRECT + Machine::default().base.as_raw();
            for (at, size) in [(0x5000, 0x2000), (3 * MIB, 0x1000), (33 * MIB, 2 * 0x1000), (MIB, 2 * MIB)] {
                change_live(bench, base + at, size, Change::Attributes(Attributes::RODATA)).unwrap();
                bench.check(4);
            }
            change_live(bench, base, 34 * MIB, Change::Attributes(Attributes::DATA)).unwrap();
        });
    }
}

#[test]
fn whole_blocks_change_without_stopping_anybody() {
    with_direct_map(machine(4, 64), |bench| {
        let base = DIRECT + Machine::default().base.as_raw();
        let tables = bench.frames.in_use();
        change_live(bench, base + 32 * MIB, 2 * MIB, Change::Attributes(Attributes::RODATA)).unwrap();
        change_live(bench, base, 32 * MIB, Change::Attributes(Attributes::RODATA)).unwrap();
        assert_eq!(bench.frames.in_use(), tables);
    });
}

#[test]
fn a_split_without_tables_changes_nothing() {
    with_direct_map(machine(2, 64), |bench| {
        let base = DIRECT + Machine::default().base.as_raw();
        bench.frames.limit(0);
        let result = change_live(bench, base + MIB, 0x1000, Change::Attributes(Attributes::RODATA));
        assert_eq!(result, Err(MapError::NoTable));
        bench.frames.limit(u64::MAX);
        bench.check(2);
        change_live(bench, base + MIB, 0x1000, Change::Attributes(Attributes::RODATA)).unwrap();
    });
}

#[test]
fn a_fixmap_in_use_is_refused() {
    with_direct_map(machine(2, 64), |bench| {
        let base = DIRECT + Machine::default().base.as_raw();
        let mut split = |fixmap| {
            let mut source = bench.frames;
            // SAFETY: nobody runs but this.
            unsafe { bench.tree.split_stopped(va(base + MIB), 0x1000, va(fixmap), &bench.tlb, &mut source) }
        };
        assert_eq!(split(FIXMAP + 0x1000), Err(MapError::AlreadyMapped(va(FIXMAP + 0x1000))));
        // Without tables of its own it gets some.
        assert_eq!(split(FIXMAP - (1 << 30)), Ok(()));
    });
}
