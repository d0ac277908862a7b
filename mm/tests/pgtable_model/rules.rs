// SPDX-License-Identifier: MIT OR Apache-2.0
//! One rule, one test: what must happen for each kind of change, and how many barriers it takes.

use mm::addr::VirtAddr;
use mm::arch::model::frames::Frames;
use mm::arch::model::{Counts, Machine, Model};
use mm::arch::{Arch, MmuFeatures};
use mm::pgtable::{Access, Attributes, Change, MapError, MemoryType, Piece, Regime};
use mm::tlb::{Event, Gather, Tlb};

use super::machine::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn with_bench(machine: Machine, regime: Regime, test: impl FnOnce(&mut Bench<'_>)) {
    let model = Model::new(machine);
    let frames = Frames::new(&model);
    let mut bench = Bench::new(&model, &frames, regime);
    test(&mut bench);
    bench.check(machine.cpus);
    bench.tear_down();
}

fn spent(model: &Model, before: Counts) -> (u64, u64, u64) {
    let now = model.counts();
    (now.dsb - before.dsb, now.isb - before.isb, now.tlbi - before.tlbi)
}

#[test]
fn a_mapping_can_be_used_at_once_by_the_cpu_that_made_it() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 0x1000, Attributes::DATA).unwrap();
        bench.map(VIRT + 0x20_0000, PHYS + 0x20_0000, 2 * MIB, Attributes::DATA).unwrap();
        bench.map(VIRT + GIB, PHYS + GIB, GIB / 512, Attributes::RODATA).unwrap();
    });
}

#[test]
fn barriers_come_once_a_batch() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        let model = bench.model;
        let before = model.counts();
        bench.map(VIRT, PHYS, 0x1000, Attributes::DATA).unwrap();
        assert_eq!(spent(model, before), (2, 1, 0), "tables before they are linked, then all");
        let before = model.counts();
        bench.map(VIRT + 0x2000, PHYS + 0x3000, 500 * 0x1000, Attributes::DATA).unwrap();
        assert_eq!(spent(model, before), (1, 1, 0));
        let before = model.counts();
        let unmapped = bench.unmap(VIRT + 0x2000, 500 * 0x1000).unwrap();
        assert_eq!(spent(model, before), (1, 0, 0));
        let before = model.counts();
        bench.flush(unmapped);
        assert_eq!(spent(model, before), (1, 1, 500));
    });
}

#[test]
fn regression_an_empty_unmap_says_nothing_about_an_earlier_one_of_its_range() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        bench.map(VIRT + 0x5000, PHYS, 0x1000, Attributes::DATA).unwrap();
        bench.map(VIRT + 0x8000, PHYS, 0x1000, Attributes::DATA).unwrap();
        let first = bench.unmap(VIRT, 0x6000).unwrap();
        let nothing = bench.unmap(VIRT, 0x6000).unwrap();
        assert_eq!((first.pages(), nothing.pages()), (1, 0));
        let before = bench.model.counts();
        bench.flush_beside(nothing, core::slice::from_ref(&first));
        assert_eq!(spent(bench.model, before), (0, 0, 0));
        bench.flush(first);
    });
}

#[test]
fn a_long_flush_is_one_invalidate() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        let model = bench.model;
        bench.map(VIRT, PHYS + 0x1000, 600 * 0x1000, Attributes::DATA).unwrap();
        let unmapped = bench.unmap(VIRT, 600 * 0x1000).unwrap();
        let before = model.counts();
        bench.flush(unmapped);
        // One DSB more: whoever unmaps now must see that this flush has begun. No model of the MMU can tell.
        assert_eq!(spent(model, before), (2, 1, 1));
        assert_eq!(bench.tlb.counters().get(Event::RemoteFlushAll), 1);
    });
}

#[test]
fn a_block_is_one_invalidate_and_a_group_is_sixteen() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        let model = bench.model;
        for (size, invalidates) in [(2 * MIB, 1), (64 << 10, 16), (32 * MIB, 16), (GIB, 1)] {
            let virt = VIRT + GIB;
            // The plain map would be too large for these: the tree alone.
            let mut source = bench.frames;
            bench.tree.map(va(virt), pa(PHYS), size, Attributes::DATA, &mut source).unwrap();
            let unmapped = bench.tree.unmap(va(virt), size, &bench.tlb, &mut source).unwrap();
            assert_eq!(unmapped.pages(), size / 4096);
            let before = model.counts();
            unmapped.flush(&bench.tlb).release();
            assert_eq!(spent(model, before), (1, 1, invalidates), "{size:#x}");
            model.expect_unmapped(1, va(virt + size - 1));
            bench.trim(virt, size);
        }
    });
}

#[test]
fn a_split_in_place_is_flushed_at_once() {
    // With FEAT_BBM level 2 nothing is broken; no TLB keeps the block for long all the same.
    let features = MmuFeatures { bbm_level_2: true, ..MmuFeatures::default() };
    with_bench(Machine { features, ..machine(2, 32) }, Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 2 * MIB, Attributes::DATA).unwrap();
        let before = bench.model.counts();
        let unmapped = bench.unmap(VIRT + 0x5000, 0x1000).unwrap();
        // The new table; the entry and its flush; then the page.
        assert_eq!(spent(bench.model, before), (4, 1, 1));
        bench.flush(unmapped);
    });
}

#[test]
fn ranges_are_used_where_the_hardware_has_them() {
    let features = MmuFeatures { tlb_range: true, ..MmuFeatures::default() };
    with_bench(Machine { features, ..machine(2, 32) }, Regime::Upper, |bench| {
        let model = bench.model;
        // 2 * 2^0 * k, 2 * 2^5 * k and one odd page, from 1 page to more than a table.
        for pages in [1, 2, 3, 31, 63, 64, 65, 511, 513, 1024] {
            bench.map(VIRT, PHYS + 0x1000, pages * 0x1000, Attributes::DATA).unwrap();
            let unmapped = bench.unmap(VIRT, pages * 0x1000).unwrap();
            let before = model.counts();
            bench.flush(unmapped);
            assert!(spent(model, before).2 <= 4, "{pages} pages took {:?}", spent(model, before));
        }
    });
}

#[test]
fn an_unmapped_page_is_still_in_reach_until_it_is_flushed() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 0x1000, Attributes::DATA).unwrap();
        let unmapped = bench.unmap(VIRT, 0x1000).unwrap();
        // The model must see what the type prevents: this test would be worth nothing otherwise.
        bench.model.expect_unmapped(1, va(VIRT));
        assert_eq!(bench.model.take_reports().len(), 1);
        bench.flush(unmapped);
        bench.model.expect_unmapped(1, va(VIRT));
    });
}

#[test]
fn a_part_of_a_contiguous_group_can_be_unmapped() {
    for features in all_features() {
        with_bench(Machine { features, ..machine(2, 32) }, Regime::Upper, |bench| {
            bench.map(VIRT, PHYS, 64 << 10, Attributes::DATA).unwrap();
            let unmapped = bench.unmap(VIRT + 0x3000, 0x2000).unwrap();
            bench.flush(unmapped);
            bench.check(2);
            assert_eq!(bench.tree.leaves().filter(|leaf| leaf.descriptor.is_contiguous()).count(), 0);
        });
    }
}

#[test]
fn a_part_of_a_block_can_be_unmapped() {
    for features in all_features() {
        with_bench(Machine { features, ..machine(2, 32) }, Regime::Upper, |bench| {
            bench.map(VIRT, PHYS, 34 * MIB, Attributes::DATA).unwrap();
            // Inside a block of the 32 MiB group, across its end, and at its very beginning.
            for (at, size) in [(MIB, 0x5000), (32 * MIB - 0x1000, 0x2000), (0, 0x1000)] {
                let unmapped = bench.unmap(VIRT + at, size).unwrap();
                bench.flush(unmapped);
                bench.check(2);
            }
        });
    }
}

#[test]
fn a_part_of_a_gigabyte_can_be_unmapped() {
    let model = Model::new(machine(2, 32));
    let frames = Frames::new(&model);
    let mut bench = Bench::new(&model, &frames, Regime::Upper);
    let mut source = &frames;
    bench.tree.map(va(VIRT), pa(GIB * 8), GIB, Attributes::DATA, &mut source).unwrap();
    let at = VIRT + 300 * MIB + 0x7000;
    let unmapped = bench.tree.unmap(va(at), 0x1000, &bench.tlb, &mut source).unwrap();
    let quiescent = unmapped.flush(&bench.tlb);
    quiescent.release();
    for probe in [VIRT, at - 1, at + 0x1000, VIRT + GIB - 1] {
        assert_eq!(bench.tree.translate(va(probe)), Some(pa(GIB * 8 + (probe - VIRT))));
    }
    model.expect_unmapped(0, va(at));
    model.expect_unmapped(1, va(at));
    bench.tree.validate().unwrap();
    model.assert_clean();
}

#[test]
fn permissions_change_without_a_break() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        let model = bench.model;
        bench.map(VIRT, PHYS, 2 * MIB + (64 << 10), Attributes::DATA).unwrap();
        let before = model.counts();
        bench.change(VIRT + 2 * MIB, 64 << 10, Change::Attributes(Attributes::RODATA)).unwrap();
        assert_eq!(spent(model, before), (2, 2, 16), "one of the ISBs is the bench's own");
        bench.change(VIRT, 2 * MIB, Change::Attributes(Attributes::RODATA)).unwrap();
        bench.check(2);
        bench.change(VIRT, 2 * MIB + (64 << 10), Change::Attributes(Attributes::TEXT)).unwrap();
        bench.check(2);
        // A part of each: both are split.
        bench.change(VIRT + 0x5000, 2 * MIB, Change::Attributes(Attributes::RODATA)).unwrap();
    });
}

#[test]
fn memory_types_change_by_break_before_make() {
    let uncached = Attributes { memory: MemoryType::NormalNonCacheable, access: Access::ReadWrite };
    for features in all_features() {
        with_bench(Machine { features, ..machine(2, 32) }, Regime::Upper, |bench| {
            bench.map(VIRT, PHYS, 4 * MIB + (64 << 10), Attributes::DATA).unwrap();
            bench.change(VIRT + 2 * MIB, 2 * MIB, Change::Attributes(uncached)).unwrap();
            bench.check(2);
            bench.change(VIRT + MIB, 2 * MIB, Change::Attributes(uncached)).unwrap();
            bench.check(2);
            bench.change(VIRT + 4 * MIB + 0x2000, 0x3000, Change::Attributes(uncached)).unwrap();
            bench.change(VIRT, 4 * MIB + (64 << 10), Change::Attributes(Attributes::DATA)).unwrap();
        });
    }
}

#[test]
fn the_set_memory_family_keeps_write_and_execute_apart() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 0x4000, Attributes::DATA).unwrap();
        let refused = |at| Err(MapError::WritableAndExecutable(va(at)));
        assert_eq!(bench.change(VIRT, 0x4000, Change::Execute), refused(VIRT));
        bench.change(VIRT, 0x1000, Change::ReadOnly).unwrap();
        assert_eq!(bench.change(VIRT, 0x4000, Change::Execute), refused(VIRT + 0x1000));
        let leaf = |bench: &Bench<'_>| bench.tree.lookup(va(VIRT)).unwrap().descriptor;
        assert!(!leaf(bench).is_executable(), "a refused change has changed something");
        bench.change(VIRT, 0x1000, Change::Execute).unwrap();
        assert!(leaf(bench).is_executable() && !leaf(bench).is_writable());
        assert_eq!(bench.change(VIRT, 0x1000, Change::ReadWrite), refused(VIRT));
        bench.change(VIRT, 0x1000, Change::NoExecute).unwrap();
        bench.change(VIRT, 0x1000, Change::ReadWrite).unwrap();
        assert_eq!(bench.change(VIRT, 0x5000, Change::ReadOnly), Err(MapError::NotMapped(va(VIRT + 0x4000))));
    });
}

#[test]
fn what_is_set_invalid_is_out_of_reach_and_can_come_back() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 0x1_0000, Attributes::DATA).unwrap();
        let saved = bench.expected.clone();
        bench.expected.retain(|&at, _| !(VIRT + 0x4000..VIRT + 0x6000).contains(&at));
        bench.change(VIRT + 0x4000, 0x2000, Change::Valid(false)).unwrap();
        bench.model.expect_unmapped(1, va(VIRT + 0x4000));
        bench.check(2);
        // The addresses are taken all the same.
        let taken = bench.map(VIRT + 0x4000, PHYS, 0x1000, Attributes::DATA);
        assert_eq!(taken, Err(MapError::AlreadyMapped(va(VIRT + 0x4000))));
        bench.expected = saved;
        bench.change(VIRT + 0x4000, 0x2000, Change::Valid(true)).unwrap();
    });
}

#[test]
fn a_whole_flush_makes_quiescent_what_was_unmapped_before() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 0x2000, Attributes::DATA).unwrap();
        let early = bench.unmap(VIRT, 0x1000).unwrap().with("payload");
        let Err(early) = bench.tlb.try_quiesce(early) else { panic!("nobody has flushed") };
        bench.tlb.flush_everything(Regime::Upper);
        let late = bench.unmap(VIRT + 0x1000, 0x1000).unwrap();
        let Ok(quiescent) = bench.tlb.try_quiesce(early) else { panic!("a whole flush has happened") };
        let ((), payload) = quiescent.release();
        assert_eq!(payload, "payload");
        bench.model.expect_unmapped(0, va(VIRT));
        bench.model.expect_unmapped(1, va(VIRT));
        let Err(late) = bench.tlb.try_quiesce(late) else { panic!("unmapped after the flush") };
        bench.flush(late);
    });
}

#[test]
fn many_are_flushed_as_one() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        for apart in [0x1000, 0x2000] {
            for count in [1, 8, 9, 20] {
                let mut gather = Gather::new(&bench.tlb, Regime::Upper);
                let mut held = Vec::new();
                for n in 0..count {
                    bench.map(VIRT + n * apart, PHYS + n * 0x1000, 0x1000, Attributes::DATA).unwrap();
                }
                // Downwards, and upwards: ranges grow at both ends.
                let order = |n: u64| if apart == 0x1000 && count % 2 == 0 { n } else { count - 1 - n };
                for n in (0..count).map(order) {
                    let unmapped = bench.unmap(VIRT + n * apart, 0x1000).unwrap().with(n);
                    held.push(gather.add(unmapped).unwrap());
                }
                let before = bench.model.counts();
                let flushed = gather.flush(&bench.tlb);
                assert_eq!(spent(bench.model, before).1, 1);
                let opened: u64 = held.into_iter().map(|held| flushed.open(held).unwrap().1).sum();
                assert_eq!(opened, count * (count - 1) / 2);
                for n in 0..count {
                    bench.model.expect_unmapped(1, va(VIRT + n * apart));
                }
            }
        }
    });
}

#[test]
fn one_flush_does_not_open_what_waits_for_another() {
    with_bench(machine(1, 32), Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 0x1000, Attributes::DATA).unwrap();
        let unmapped = bench.unmap(VIRT, 0x1000).unwrap();
        let mut gather = Gather::new(&bench.tlb, Regime::Upper);
        let held = gather.add(unmapped).unwrap();
        let other = Gather::new(&bench.tlb, Regime::Upper).flush(&bench.tlb);
        let held = other.open(held).unwrap_err();
        let flushed = gather.flush(&bench.tlb);
        assert!(flushed.open(held).is_ok());
    });
}

#[test]
fn tables_are_given_back_when_no_walker_can_be_in_them() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        bench.map(VIRT, PHYS, 0x1000, Attributes::DATA).unwrap();
        bench.map(VIRT + 3 * MIB, PHYS, 0x1000, Attributes::DATA).unwrap();
        assert_eq!(bench.frames.in_use(), 5);
        let unmapped = bench.unmap(VIRT, 0x1000).unwrap();
        bench.flush(unmapped);
        assert_eq!(bench.trim(VIRT, 0x1000), 1);
        assert_eq!(bench.frames.in_use(), 4);
        let unmapped = bench.unmap(VIRT, 4 * MIB).unwrap();
        bench.flush(unmapped);
        bench.trim(VIRT, 4 * MIB);
        assert_eq!(bench.frames.in_use(), 1, "three levels at once");
        // A block fits where the table was.
        bench.map(VIRT, PHYS, 2 * MIB, Attributes::DATA).unwrap();
    });
}

#[test]
fn a_new_cpu_forgets_what_it_was_born_with() {
    let model = Model::new(machine(2, 32));
    let frames = Frames::new(&model);
    let bench = Bench::new(&model, &frames, Regime::Upper);
    let before = model.counts();
    model.on(1, || bench.tlb.flush_local());
    assert_eq!(spent(&model, before), (2, 1, 1));
    assert_eq!(bench.tlb.counters().get(Event::LocalFlushAll), 1);
    model.assert_clean();
}

#[test]
fn running_out_of_tables_in_the_middle_changes_nothing() {
    // A range across the end of a 512 GiB entry needs six tables; each number below that fails.
    for limit in 0..=6 {
        with_bench(machine(2, 32), Regime::Upper, |bench| {
            let at = VIRT + (1 << 39) - 0x1000;
            bench.frames.limit(limit);
            let result = bench.map(at, PHYS, 0x2000, Attributes::DATA);
            bench.frames.limit(u64::MAX);
            if limit < 6 {
                assert_eq!(result, Err(MapError::NoTable), "{limit}");
                assert_eq!(bench.frames.in_use(), 1);
            } else {
                result.unwrap();
            }
        });
    }
}

#[test]
fn running_out_of_tables_in_a_split_changes_no_translation() {
    for limit in 0..2 {
        with_bench(machine(2, 32), Regime::Upper, |bench| {
            bench.map(VIRT, PHYS, 4 * MIB, Attributes::DATA).unwrap();
            bench.frames.limit(limit);
            assert!(matches!(bench.unmap(VIRT + MIB, 2 * MIB), Err(MapError::NoTable)));
            let changed = bench.change(VIRT + MIB, 2 * MIB, Change::Attributes(Attributes::RODATA));
            assert_eq!(changed, Err(MapError::NoTable));
            bench.frames.limit(u64::MAX);
            bench.check(2);
        });
    }
}

#[test]
fn pieces_are_one_batch() {
    with_bench(machine(2, 32), Regime::Upper, |bench| {
        let mut source = bench.frames;
        bench.map(VIRT, PHYS, 0x1000, Attributes::DATA).unwrap();
        let pieces = (0..20).map(|n| Piece { phys: pa(PHYS + n * 0x3000), size: 0x1000 });
        let before = bench.model.counts();
        bench.tree.map_pieces(va(VIRT + 0x1000), pieces, Attributes::DATA, &mut source).unwrap();
        assert_eq!(spent(bench.model, before), (1, 1, 0));
        for n in 0..20 {
            bench.expected.insert(VIRT + 0x1000 + n * 0x1000, (PHYS + n * 0x3000, Attributes::DATA));
        }
    });
}

#[test]
fn bad_ranges_are_errors_everywhere() {
    with_bench(machine(1, 8), Regime::Upper, |bench| {
        let mut source = bench.frames;
        let bad = [(VIRT + 1, 0x1000), (VIRT, 1), (0, 0x1000), (VIRT, 1 << 48), (u64::MAX - 0xfff, 0x2000)];
        for (virt, size) in bad {
            assert!(bench.tree.map(va(virt), pa(PHYS), size, Attributes::DATA, &mut source).is_err());
            assert!(bench.tree.unmap(va(virt), size, &bench.tlb, &mut source).is_err());
            assert!(bench.tree.trim(va(virt), size, &bench.tlb, &mut source).is_err());
            assert!(bench.tree.change(va(virt), size, Change::ReadOnly, &bench.tlb, &mut source).is_err());
        }
        // The last page of all has no end that can be named.
        let last = u64::MAX - 0xfff;
        bench.tree.map(va(last), pa(PHYS), 0x1000, Attributes::DATA, &mut source).unwrap();
        bench.tree.change(va(last), 0x1000, Change::ReadOnly, &bench.tlb, &mut source).unwrap();
        let unmapped = bench.tree.unmap(va(last), 0x1000, &bench.tlb, &mut source).unwrap();
        unmapped.flush(&bench.tlb).release();
        bench.model.expect_unmapped(0, va(last));
    });
}

#[test]
fn a_walker_reads_beside_the_writer() {
    let model = Model::new(machine(1, 16));
    let frames = Frames::new(&model);
    let mut bench = Bench::new(&model, &frames, Regime::Upper);
    let walker = bench.tree.walker().by(bench.model);
    bench.map(VIRT, PHYS, 0x1000, Attributes::DATA).unwrap();
    // SAFETY: no table is given back here.
    let leaf = unsafe { walker.lookup(VirtAddr::new(VIRT + 0x10)) };
    assert_eq!(leaf.map(|leaf| leaf.descriptor.address()), Some(pa(PHYS)));
    // SAFETY: as above.
    assert_eq!(unsafe { walker.lookup(VirtAddr::new(VIRT + 0x1000)) }, None);
    model.assert_clean();
}

#[test]
fn a_tlb_without_ranges_pretends_well() {
    // The hardware has them, the software was told not to use them.
    let features = MmuFeatures { tlb_range: true, ..MmuFeatures::default() };
    let model = Model::new(Machine { features, ..machine(1, 16) });
    let tlb = Tlb::with_features(&model, MmuFeatures::default()).with_max_ops(4);
    assert!(!tlb.features().tlb_range);
    assert_eq!(tlb.max_ops(), 4);
    assert!(model.mmu_features().tlb_range);
}
