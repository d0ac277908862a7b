// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings of a moment: from all CPUs, undone by any, with the flushes that they need.

use std::sync::atomic::Ordering;

use mm::addr::{Order, PAGE_SIZE, Pfn, VirtAddr};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::slab::PageSource;
use mm::tlb::Event;
use mm::vmalloc::{BadArea, Config, Kind, MOST_RAM_PAGES, VmallocError};

use crate::machine::{CPUS, Machine, Random, config};

fn machine() -> Machine {
    Machine::with(2048, Config { lazy_pages: 1 << 20, ..config(2048) })
}

fn block(machine: &Machine, order: usize) -> (PageBlock, Vec<Pfn>) {
    let block = machine.source.take(Order::new(order).unwrap(), Gfp::KERNEL).unwrap();
    let first = block.pfn().as_raw();
    let frames = (0..1 << order).rev().map(|n| Pfn::new(first + n).unwrap()).collect();
    (block, frames)
}

fn map(machine: &Machine, frames: &[Pfn]) -> VirtAddr {
    map_on(machine, 0, frames)
}

fn map_on(machine: &Machine, cpu: usize, frames: &[Pfn]) -> VirtAddr {
    machine.model.on(cpu, || {
        // SAFETY: the frames are ours, and are given back behind a purge only.
        let virt = unsafe { machine.vmalloc.map_ram(frames, 7) }.unwrap();
        for (n, frame) in (0..).zip(frames) {
            machine.expect(cpu, VirtAddr::new(virt.as_raw() + n * PAGE_SIZE), frame.addr());
        }
        virt
    })
}

fn check(machine: &Machine, virt: VirtAddr, frames: &[Pfn]) {
    for (n, frame) in frames.iter().enumerate() {
        let at = VirtAddr::new(virt.as_raw() + n as u64 * PAGE_SIZE + 40);
        assert_eq!(machine.vmalloc.translate(at), frame.addr().checked_add(40));
    }
}

/// Everything that was mapped was undone: gives the frames back, which the model watches.
fn end(machine: &Machine, block: PageBlock) {
    machine.vmalloc.purge();
    machine.source.give(block);
    assert!(machine.vmalloc.validate());
    machine.model.assert_clean();
}

#[test]
fn a_mapping_leads_to_its_frames_until_it_is_undone() {
    let machine = machine();
    let (block, frames) = block(&machine, 6);
    for count in [1, 2, 17, 64] {
        let virt = map(&machine, &frames[..count]);
        check(&machine, virt, &frames[..count]);
        machine.vmalloc.unmap_ram(virt, count).unwrap();
        assert_eq!(machine.vmalloc.translate(virt), None);
    }
    assert_eq!(machine.tlb.counters().get(Event::RemoteFlush), 0);
    let window = machine.vmalloc.areas().next().unwrap();
    assert_eq!((window.kind, window.pages), (Kind::Ram, 0));
    assert_eq!(machine.vmalloc.unmap(window.start), Err(BadArea::Kind(window.start)));
    end(&machine, block);
}

#[test]
fn what_is_no_mapping_is_refused() {
    let machine = machine();
    let (block, frames) = block(&machine, 3);
    let virt = map(&machine, &frames);
    let behind = map(&machine, &frames[..1]);
    let at = |offset: u64| VirtAddr::new(virt.as_raw() + offset);
    let undo = |virt, pages| machine.vmalloc.unmap_ram(virt, pages);
    assert_eq!(undo(at(8), 8), Err(BadArea::Address(at(8))));
    assert_eq!(undo(at(PAGE_SIZE), 7), Err(BadArea::None(at(PAGE_SIZE))));
    for wrong in [1, 7, 9, 10, 64] {
        assert_eq!(undo(virt, wrong), Err(BadArea::Length(virt)), "{wrong}");
    }
    for wrong in [0, 65, usize::MAX] {
        assert_eq!(undo(virt, wrong), Err(BadArea::Address(virt)), "{wrong}");
    }
    check(&machine, virt, &frames);
    undo(virt, 8).unwrap();
    assert_eq!(undo(virt, 8), Err(BadArea::None(virt)));
    check(&machine, behind, &frames[..1]);
    undo(behind, 1).unwrap();
    // A block that was never made, and nowhere.
    assert_eq!(undo(at(64 << 20), 1), Err(BadArea::None(at(64 << 20))));
    assert_eq!(undo(VirtAddr::new(0), 1), Err(BadArea::Address(VirtAddr::new(0))));
    end(&machine, block);
}

#[test]
fn a_long_mapping_is_an_area() {
    let machine = machine();
    let (block, frames) = block(&machine, 7);
    let virt = map(&machine, &frames);
    assert!(frames.len() > MOST_RAM_PAGES);
    check(&machine, virt, &frames);
    assert_eq!(machine.vmalloc.find(virt).unwrap().kind, Kind::Map);
    machine.vmalloc.unmap_ram(virt, frames.len()).unwrap();
    // SAFETY: that is no frame.
    assert_eq!(unsafe { machine.vmalloc.map_ram(&[], 0) }, Err(VmallocError::Zero));
    end(&machine, block);
}

#[test]
fn without_memory_for_a_block_there_is_an_area_or_an_error() {
    for left in 0..16 {
        let machine = machine();
        let (block, frames) = block(&machine, 0);
        machine.source.left.store(left, Ordering::Relaxed);
        // SAFETY: as in `map`.
        if let Ok(virt) = unsafe { machine.vmalloc.map_ram(&frames, 0) } {
            check(&machine, virt, &frames);
            machine.vmalloc.unmap_ram(virt, 1).unwrap();
        } else {
            assert!(left < 10, "{left}");
        }
        machine.source.left.store(u64::MAX, Ordering::Relaxed);
        end(&machine, block);
    }
}

#[test]
fn all_cpus_map_and_undo_what_others_mapped() {
    let machine = machine();
    let (block, frames) = block(&machine, 7);
    let (mut random, mut live) = (Random(5), Vec::new());
    for step in 0..if cfg!(miri) { 40 } else { 1500 } {
        let cpu = random.below(CPUS as u64) as usize;
        if live.len() < 12 && random.below(2) == 0 {
            let count = if random.below(2) == 0 { 1 + random.below(4) } else { 40 + random.below(25) } as usize;
            let start = random.below((frames.len() - count) as u64) as usize;
            let frames = &frames[start..start + count];
            live.push((map_on(&machine, cpu, frames), frames));
        } else if !live.is_empty() {
            let (virt, frames) = live.swap_remove(random.below(live.len() as u64) as usize);
            check(&machine, virt, frames);
            machine.model.on(cpu, || machine.vmalloc.unmap_ram(virt, frames.len())).unwrap();
        }
        if step % 300 == 299 {
            machine.vmalloc.purge();
        }
    }
    let flushes = machine.tlb.counters().get(Event::RemoteFlushAll);
    for (virt, frames) in live {
        check(&machine, virt, frames);
        machine.vmalloc.unmap_ram(virt, frames.len()).unwrap();
    }
    assert!(cfg!(miri) || flushes >= 5, "{flushes}");
    end(&machine, block);
}

#[test]
fn many_mappings_share_a_flush_and_use_addresses_again() {
    let machine = machine();
    let (block, frames) = block(&machine, 6);
    let rounds = if cfg!(miri) { 20 } else { 600 };
    for _ in 0..rounds {
        let virt = map(&machine, &frames);
        machine.vmalloc.unmap_ram(virt, frames.len()).unwrap();
    }
    // 16 blocks of 512 pages for each.
    let flushes = machine.tlb.counters().get(Event::RemoteFlushAll);
    assert_eq!(flushes, if cfg!(miri) { 0 } else { 600 / (8 * 16) });
    end(&machine, block);
}
