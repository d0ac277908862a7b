// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model itself: each wrong sequence is reported, the right one beside it is not. A hand-made tree of four
//! tables, so that nothing of `pgtable` helps.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use mm::addr::{PhysAddr, VirtAddr};
use mm::arch::model::frames::Frames;
use mm::arch::model::{Installed, Machine, Model, Violation};
use mm::arch::{Arch, Dsb, MmuFeatures, Tlbi};

const VIRT: u64 = 0xffff_8000_0000_0000;
const PAGE: u64 = 0x60_0000_0000_0703;
const BLOCK: u64 = PAGE & !2;
const CONTIGUOUS: u64 = 1 << 52;
const READ_ONLY: u64 = 1 << 7;

/// A tree with a level 3 table for `VIRT`; two CPUs.
struct Hand<'a> {
    model: &'a Model,
    frames: &'a Frames<'a>,
    tables: [PhysAddr; 4],
}

fn by_hand(machine: Machine, test: impl FnOnce(&Hand<'_>)) {
    let model = Model::new(machine);
    let frames = Frames::new(&model);
    let tables = core::array::from_fn(|_| frames.take().unwrap());
    let hand = Hand { model: &model, frames: &frames, tables };
    for table in tables {
        // SAFETY: a frame of the model.
        unsafe { model.zero_table(table) };
    }
    model.publish_tables();
    hand.store(0, 256, tables[1].as_raw() | 3);
    hand.store(1, 0, tables[2].as_raw() | 3);
    hand.store(2, 0, tables[3].as_raw() | 3);
    model.publish_tables();
    model.install(tables[0], Installed::Upper);
    test(&hand);
}

impl Hand<'_> {
    fn store(&self, table: usize, index: usize, descriptor: u64) {
        // SAFETY: a table of the model.
        unsafe { self.model.store_descriptor(self.tables[table], index, descriptor) };
    }

    fn flush(&self, op: Tlbi, operand: u64) {
        self.model.dsb(Dsb::InnerShareableStores);
        self.model.tlbi(op, operand);
        self.model.dsb(Dsb::InnerShareable);
        self.model.isb();
    }

    fn found(&self) -> Option<Violation> {
        self.model.take_reports().into_iter().next().map(|report| report.violation)
    }

    fn can_be_reached(&self, cpu: usize, page: u64) -> bool {
        self.model.expect_unmapped(cpu, VirtAddr::new(VIRT + page * 0x1000));
        self.found().is_some()
    }
}

fn page_operand(page: u64) -> u64 {
    (VIRT >> 12 & ((1 << 44) - 1)) + page
}

fn two_cpus() -> Machine {
    Machine { frames: 16, ..Machine::default() }
}

#[test]
fn an_invalidate_reaches_who_it_says_when_it_is_complete() {
    by_hand(two_cpus(), |hand| {
        let model = hand.model;
        let refill = || {
            hand.store(3, 5, 0x8000_0000 | PAGE);
            model.publish_tables();
            hand.store(3, 5, 0);
            model.dsb(Dsb::InnerShareableStores);
        };
        refill();
        assert!(hand.can_be_reached(0, 5) && hand.can_be_reached(1, 5), "nothing was invalidated");
        model.tlbi(Tlbi::PageAnyAsid, page_operand(5));
        assert!(hand.can_be_reached(1, 5), "no DSB yet");
        model.dsb(Dsb::InnerShareableStores);
        assert!(hand.can_be_reached(1, 5), "a DSB for stores does not wait for it");
        model.dsb(Dsb::NonShareable);
        assert!(hand.can_be_reached(1, 5), "nor one for this CPU, for the other");
        model.dsb(Dsb::InnerShareable);
        assert!(!hand.can_be_reached(1, 5));
        assert!(hand.can_be_reached(0, 5), "instructions under way, until an ISB");
        model.isb();
        assert!(!hand.can_be_reached(0, 5));
        refill();
        hand.flush(Tlbi::AllLocal, 0);
        assert!(!hand.can_be_reached(0, 5) && hand.can_be_reached(1, 5), "local");
        hand.flush(Tlbi::All, 0);
        assert!(!hand.can_be_reached(1, 5));
    });
}

#[test]
fn an_invalidate_before_the_write_is_seen_is_in_vain() {
    by_hand(two_cpus(), |hand| {
        hand.store(3, 5, 0x8000_0000 | PAGE);
        hand.model.publish_tables();
        hand.store(3, 5, 0);
        hand.model.tlbi(Tlbi::PageAnyAsid, page_operand(5));
        hand.model.dsb(Dsb::InnerShareable);
        hand.model.isb();
        assert!(hand.can_be_reached(1, 5), "the walker could still read the old entry");
    });
}

#[test]
fn only_what_the_operand_names_is_invalidated() {
    for ttl in [true, false] {
        by_hand(Machine { ttl, ..two_cpus() }, |hand| {
            hand.store(3, 5, 0x8000_0000 | PAGE);
            hand.model.publish_tables();
            hand.store(3, 5, 0);
            hand.flush(Tlbi::PageAnyAsid, page_operand(6));
            assert!(hand.can_be_reached(1, 5), "another page");
            // The sign bits of the address get into the level hint, or further.
            hand.flush(Tlbi::PageAnyAsid, 0xf << 44 | page_operand(5));
            assert_eq!(hand.found().is_some(), !ttl, "reserved bits, where there is no hint");
            assert!(hand.can_be_reached(1, 5), "a hint that does not fit");
            hand.flush(Tlbi::PageAnyAsid, (VIRT >> 12) + 5);
            assert!(hand.found().is_some(), "reserved bits");
            assert!(hand.can_be_reached(1, 5));
            hand.flush(Tlbi::LastLevelPageAnyAsid, page_operand(5));
            assert!(!hand.can_be_reached(1, 5));
        });
    }
}

#[test]
fn ranges_are_undefined_without_the_feature() {
    // Two pages from page 4 on: SCALE 0, NUM 0.
    let operand = (1 << 46) | ((VIRT >> 12 & ((1 << 37) - 1)) + 4);
    by_hand(two_cpus(), |hand| {
        hand.flush(Tlbi::RangeAnyAsid, operand);
        assert_eq!(hand.found(), Some(Violation::BadInvalidate { op: Tlbi::RangeAnyAsid, operand }));
    });
    let features = MmuFeatures { tlb_range: true, ..MmuFeatures::default() };
    by_hand(Machine { features, ..two_cpus() }, |hand| {
        for page in 3..8 {
            hand.store(3, page, 0x8000_0000 | PAGE);
        }
        hand.model.publish_tables();
        (3..8).for_each(|page| hand.store(3, page, 0));
        hand.flush(Tlbi::RangeAnyAsid, operand);
        let left: Vec<u64> = (3..8).filter(|&page| hand.can_be_reached(1, page)).collect();
        assert_eq!(left, [3, 6, 7]);
        hand.flush(Tlbi::RangeAnyAsid, operand & !(1 << 46));
        assert!(hand.can_be_reached(1, 3), "another granule");
    });
}

#[test]
fn a_change_without_a_break_is_reported() {
    let at = 0x8000_0000;
    // Output address, memory type, contiguous hint; and permissions, which need none.
    let changes = [(PAGE | (at + 0x1000), true), (PAGE | at | 4, true), (PAGE | at | CONTIGUOUS, true)];
    for (new, wrong) in changes.into_iter().chain([(PAGE | at | READ_ONLY, false)]) {
        by_hand(two_cpus(), |hand| {
            hand.store(3, 0, PAGE | at);
            hand.model.publish_tables();
            hand.store(3, 0, new);
            let is_break = matches!(hand.found(), Some(Violation::BreakBeforeMake { .. }));
            assert_eq!(is_break, wrong, "{new:#x}");
        });
        by_hand(two_cpus(), |hand| {
            hand.store(3, 0, PAGE | at);
            hand.model.publish_tables();
            hand.store(3, 0, 0);
            hand.flush(Tlbi::LastLevelPageAnyAsid, page_operand(0));
            hand.store(3, 0, new);
            hand.model.publish_tables();
            assert_eq!(hand.found(), None, "{new:#x}");
        });
    }
}

#[test]
fn a_break_without_an_invalidate_is_reported() {
    by_hand(two_cpus(), |hand| {
        hand.store(3, 0, PAGE | 0x8000_0000);
        hand.model.publish_tables();
        hand.store(3, 0, 0);
        hand.model.publish_tables();
        hand.store(3, 0, PAGE | 0x9000_0000);
        assert!(matches!(hand.found(), Some(Violation::BreakBeforeMake { .. })));
    });
}

#[test]
fn a_block_and_its_pages_are_never_in_one_tlb() {
    let level_2 = MmuFeatures { bbm_level_2: true, ..MmuFeatures::default() };
    for (features, wrong) in [(MmuFeatures::default(), true), (level_2, false)] {
        by_hand(Machine { features, ..two_cpus() }, |hand| {
            for page in 0..512 {
                hand.store(3, page, PAGE | (0x8000_0000 + page as u64 * 0x1000));
            }
            hand.model.publish_tables();
            hand.store(2, 0, 0);
            hand.flush(Tlbi::All, 0);
            hand.store(2, 0, BLOCK | 0x8000_0000);
            hand.model.publish_tables();
            assert_eq!(hand.found(), None);
            hand.store(2, 0, hand.tables[3].as_raw() | 3);
            assert_eq!(hand.found().is_some(), wrong);
        });
    }
}

#[test]
fn one_member_of_a_contiguous_group_stands_for_all() {
    by_hand(two_cpus(), |hand| {
        for page in 0..16 {
            hand.store(3, page, PAGE | CONTIGUOUS | (0x8000_0000 + page as u64 * 0x1000));
        }
        hand.model.publish_tables();
        hand.store(3, 5, 0);
        hand.flush(Tlbi::LastLevelPageAnyAsid, page_operand(5));
        assert!(hand.can_be_reached(1, 5), "its neighbours still say so");
        (0..16).for_each(|page| hand.store(3, page, 0));
        hand.flush(Tlbi::LastLevelPageAnyAsid, page_operand(5));
        assert!(!hand.can_be_reached(1, 5));
        assert!(hand.can_be_reached(1, 6), "a core may hold the members one by one");
    });
    by_hand(two_cpus(), |hand| {
        // Out of step: the group's entry would lead elsewhere.
        hand.store(3, 1, PAGE | CONTIGUOUS | 0x8000_0000);
        assert!(matches!(hand.found(), Some(Violation::BreakBeforeMake { .. })));
    });
}

#[test]
fn an_unlinked_table_is_walked_until_walk_caches_forget() {
    by_hand(two_cpus(), |hand| {
        hand.store(2, 0, 0);
        hand.flush(Tlbi::LastLevelPageAnyAsid, page_operand(0));
        hand.frames.give(hand.tables[3]);
        let frame = hand.tables[3].as_raw();
        assert_eq!(hand.found(), Some(Violation::TableReachable { frame }), "last level only");
    });
    by_hand(two_cpus(), |hand| {
        hand.store(2, 0, 0);
        hand.flush(Tlbi::PageAnyAsid, page_operand(511));
        hand.frames.give(hand.tables[3]);
        assert_eq!(hand.found(), None);
    });
}

#[test]
fn a_table_must_be_seen_clear_before_it_is_linked() {
    by_hand(two_cpus(), |hand| {
        let table = hand.frames.take().unwrap();
        // SAFETY: a frame of the model.
        unsafe { hand.model.zero_table(table) };
        hand.store(2, 1, table.as_raw() | 3);
        assert!(matches!(hand.found(), Some(Violation::Garbage { .. })));
    });
    by_hand(two_cpus(), |hand| {
        hand.store(2, 1, hand.frames.take().unwrap().as_raw() | 3);
        hand.model.publish_tables();
        assert!(matches!(hand.found(), Some(Violation::Garbage { .. })), "not cleared at all");
    });
    by_hand(two_cpus(), |hand| {
        hand.store(2, 1, 0x7777_7000 | 3);
        assert_eq!(hand.found(), Some(Violation::WalkOutside { frame: 0x7777_7000 }));
    });
}

#[test]
fn a_frame_is_freed_when_nobody_can_reach_it() {
    by_hand(two_cpus(), |hand| {
        let frame = hand.frames.take().unwrap();
        hand.store(3, 7, PAGE | frame.as_raw());
        hand.model.publish_tables();
        hand.frames.give(frame);
        let reachable = Violation::FrameReachable { virt: VIRT + 0x7000, frame: frame.as_raw() };
        assert_eq!(hand.found(), Some(reachable.clone()));
        hand.store(3, 7, 0);
        hand.flush(Tlbi::All, 0);
        hand.store(3, 7, PAGE | frame.as_raw());
        assert_eq!(hand.found(), Some(reachable), "mapped after it was freed");
    });
}

#[test]
fn a_mapping_can_be_used_after_dsb_and_isb() {
    by_hand(two_cpus(), |hand| {
        let usable = |cpu| {
            hand.model.expect_mapped(cpu, VirtAddr::new(VIRT + 0x1010), PhysAddr::new(0x8000_0010).unwrap(), PAGE);
            hand.found().is_none()
        };
        hand.store(3, 1, PAGE | 0x8000_0000);
        assert!(!usable(0), "no DSB");
        hand.model.isb();
        assert!(!usable(0), "an ISB does not wait for stores");
        hand.model.dsb(Dsb::NonShareableStores);
        hand.model.isb();
        assert!(usable(0), "enough for this CPU");
        hand.model.on(1, || hand.model.isb());
        assert!(!usable(1), "not for the other");
        hand.model.dsb(Dsb::InnerShareableStores);
        assert!(!usable(1), "which may have looked before, until its own ISB");
        hand.model.on(1, || hand.model.isb());
        assert!(usable(1));
        hand.store(3, 1, PAGE | READ_ONLY | 0x8000_0000);
        hand.model.publish_tables();
        assert!(!usable(1), "either permission");
    });
}

#[test]
fn entries_at_the_wrong_level_are_reported() {
    by_hand(two_cpus(), |hand| {
        let bad = |entry: Option<Violation>| matches!(entry, Some(Violation::BadDescriptor { .. }));
        hand.store(3, 1, BLOCK | 0x8000_0000);
        assert!(bad(hand.found()), "reserved at level 3");
        hand.store(2, 1, BLOCK | 0x8000_1000);
        assert!(bad(hand.found()), "a block that is not aligned");
        hand.store(0, 300, BLOCK);
        assert!(bad(hand.found()), "no blocks at level 0");
    });
}

#[test]
fn live_entries_are_replaced_while_nobody_runs() {
    let setup = |hand: &Hand<'_>, window: u64| {
        // A group of pages, and a page that shows their table.
        for page in 16..32 {
            hand.store(3, page, PAGE | CONTIGUOUS | (0x8000_0000 + page as u64 * 0x1000));
        }
        hand.store(3, window as usize, PAGE | hand.tables[3].as_raw());
        hand.model.publish_tables();
        VirtAddr::new(VIRT + window * 0x1000 + 16 * 8)
    };
    let replace = |hand: &Hand<'_>, at: VirtAddr| {
        // SAFETY: of the model nothing is lost.
        unsafe { hand.model.replace_live(at, 16, PAGE | 0x8001_0000, 0x1000) };
    };
    by_hand(two_cpus(), |hand| {
        let at = setup(hand, 3);
        hand.model.with_others_stopped(&mut || replace(hand, at));
        assert_eq!(hand.found(), None);
    });
    by_hand(two_cpus(), |hand| {
        let at = setup(hand, 3);
        replace(hand, at);
        assert_eq!(hand.found(), Some(Violation::NotStopped));
    });
    by_hand(two_cpus(), |hand| {
        hand.store(3, 1, PAGE | hand.tables[3].as_raw());
        hand.model.publish_tables();
        // The window's own entry is among those that are broken.
        let at = VirtAddr::new(VIRT + 0x1000);
        hand.model.with_others_stopped(&mut || replace(hand, at));
        assert_eq!(hand.found(), Some(Violation::CutOff { virt: at.as_raw() }));
    });
}

#[test]
fn an_invalidate_by_asid_leaves_other_address_spaces_alone() {
    let model = Model::new(two_cpus());
    let frames = Frames::new(&model);
    let not_global = 1 << 11;
    let trees: Vec<[PhysAddr; 4]> = (0..2).map(|_| core::array::from_fn(|_| frames.take().unwrap())).collect();
    let store = |table: PhysAddr, index, descriptor| {
        // SAFETY: a table of the model.
        unsafe { model.store_descriptor(table, index, descriptor) };
    };
    for (asid, tables) in [5_u16, 6].into_iter().zip(&trees) {
        for &table in tables {
            // SAFETY: a frame of the model.
            unsafe { model.zero_table(table) };
        }
        model.publish_tables();
        (0..3).for_each(|level| store(tables[level], 0, tables[level + 1].as_raw() | 3));
        store(tables[3], 1, PAGE | not_global | (0x8000_0000 + u64::from(asid) * 0x1000));
        model.publish_tables();
        model.install(tables[0], Installed::Asid(asid));
    }
    model.assert_clean();
    for (op, operand) in [(Tlbi::Page, 5 << 48 | 1), (Tlbi::Asid, 5 << 48), (Tlbi::LastLevelPage, 5 << 48 | 1)] {
        for tables in &trees {
            store(tables[3], 1, 0);
        }
        model.dsb(Dsb::InnerShareableStores);
        model.tlbi(op, operand);
        model.dsb(Dsb::InnerShareable);
        model.isb();
        model.expect_unmapped(1, VirtAddr::new(0x1000));
        let found = model.take_reports();
        let Some(Violation::WrongOutcome { found, .. }) = found.first().map(|report| &report.violation) else {
            panic!("{op:?} took the other's too")
        };
        assert!(found.contains("0x80006000") && !found.contains("0x80005000"), "{op:?}: {found}");
        for (asid, tables) in [5_u16, 6].into_iter().zip(&trees) {
            store(tables[3], 1, PAGE | not_global | (0x8000_0000 + u64::from(asid) * 0x1000));
        }
        model.publish_tables();
    }
    // A walk-cache entry of an address space has its ASID too.
    store(trees[0][2], 0, 0);
    model.dsb(Dsb::InnerShareableStores);
    model.tlbi(Tlbi::Page, 6 << 48 | 1);
    model.dsb(Dsb::InnerShareable);
    frames.give(trees[0][3]);
    assert!(!model.take_reports().is_empty());
}
