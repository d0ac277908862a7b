// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces with ASIDs, and EL2.

use mm::arch::model::frames::Frames;
use mm::arch::model::{Installed, Model};
use mm::pgtable::{Access, Asid, Attributes, MemoryType, PageTable, Regime};
use mm::tlb::Tlb;

use super::machine::*;

const USER: Attributes = Attributes { memory: MemoryType::Normal, access: Access::UserReadWrite };

#[test]
fn two_address_spaces_use_one_address() {
    let model = Model::new(machine(2, 32));
    let frames = Frames::new(&model);
    let tlb = Tlb::new(&model);
    let mut source = &frames;
    let mut trees: Vec<_> = [3, 0x1234]
        .into_iter()
        .map(|asid| {
            let tree = PageTable::new(&model, Regime::User(Asid(asid)), &mut source).unwrap();
            model.install(tree.root(), Installed::Asid(asid));
            tree
        })
        .collect();
    for (n, tree) in trees.iter_mut().enumerate() {
        tree.map(va(0x40_0000), pa(PHYS + n as u64 * 0x20_0000), 0x1_1000, USER, &mut source).unwrap();
    }
    // The flush of one leaves the other alone, and reaches its own walk caches.
    let unmapped = trees[0].unmap(va(0x40_0000), 0x1_1000, &tlb, &mut source).unwrap();
    unmapped.flush(&tlb).release();
    let in_use = frames.in_use();
    assert_eq!(trees[0].trim(va(0), 1 << 47, &tlb, &mut source), Ok(3));
    assert_eq!(frames.in_use(), in_use - 3);
    assert_eq!(trees[1].translate(va(0x41_0fff)), Some(pa(PHYS + 0x21_0fff)));
    model.assert_clean();
}

#[test]
fn a_whole_address_space_is_flushed_by_its_asid() {
    let model = Model::new(machine(2, 32));
    let frames = Frames::new(&model);
    let tlb = Tlb::new(&model);
    let mut source = &frames;
    let mut tree = PageTable::new(&model, Regime::User(Asid(9)), &mut source).unwrap();
    model.install(tree.root(), Installed::Asid(9));
    tree.map(va(0x1000), pa(PHYS), 700 * 0x1000, USER, &mut source).unwrap();
    let unmapped = tree.unmap(va(0x1000), 700 * 0x1000, &tlb, &mut source).unwrap();
    let before = model.counts();
    let Err(unmapped) = tlb.try_quiesce(unmapped) else { panic!("nobody has flushed") };
    unmapped.flush(&tlb).release();
    assert_eq!(model.counts().tlbi - before.tlbi, 1);
    for page in 0..700 {
        model.expect_unmapped(1, va(0x1000 + page * 0x1000));
    }
    assert_eq!(tree.trim(va(0), 1 << 47, &tlb, &mut source), Ok(4));
    // Nobody runs it any more: its root may go, once no CPU holds it.
    model.uninstall(0, tree.root());
    model.uninstall(1, tree.root());
    frames.give(tree.root());
    assert_eq!(frames.in_use(), 0);
    model.assert_clean();
}

#[test]
fn a_whole_flush_of_the_kernel_covers_address_spaces_but_not_el2() {
    let model = Model::new(machine(2, 32));
    let frames = Frames::new(&model);
    let mut user = Bench::new(&model, &frames, Regime::User(Asid(9)));
    let mut el2 = Bench::new(&model, &frames, Regime::El2);
    // One value for both, as a machine has it.
    let mut source = &frames;
    user.tree.map(va(0x1000), pa(PHYS), 0x1000, USER, &mut source).unwrap();
    el2.tree.map(va(0x2000), pa(PHYS), 0x1000, Attributes::DATA, &mut source).unwrap();
    let tlb = Tlb::new(&model);
    let user = user.tree.unmap(va(0x1000), 0x1000, &tlb, &mut source).unwrap();
    let el2 = el2.tree.unmap(va(0x2000), 0x1000, &tlb, &mut source).unwrap();
    tlb.flush_everything(Regime::User(Asid(8)));
    let Err(user) = tlb.try_quiesce(user) else { panic!("another address space was flushed") };
    tlb.flush_everything(Regime::Upper);
    let Err(el2) = tlb.try_quiesce(el2) else { panic!("EL1 was flushed") };
    tlb.try_quiesce(user).unwrap().release();
    model.expect_unmapped(1, va(0x1000));
    tlb.flush_everything(Regime::El2);
    tlb.try_quiesce(el2).unwrap().release();
    model.expect_unmapped(1, va(0x2000));
    model.assert_clean();
}

#[test]
fn el2_has_its_own_invalidates() {
    let model = Model::new(machine(2, 32));
    let frames = Frames::new(&model);
    let mut bench = Bench::new(&model, &frames, Regime::El2);
    bench.map(0x4000_0000, PHYS, 0x21_0000, Attributes::DATA).unwrap();
    bench.map(0x8000_0000, PHYS, 0x1000, Attributes::TEXT).unwrap();
    let leaf = bench.tree.lookup(va(0x8000_0000)).unwrap().descriptor;
    assert!(Regime::El2.is_executable(leaf) && !leaf.is_writable());
    assert!(bench.tree.check_wx().first.is_none());
    let unmapped = bench.unmap(0x4000_0000, 0x1_0000).unwrap();
    bench.flush(unmapped);
    bench.check(2);
    bench.tear_down();
}
