// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of large objects: no two objects begin in the same 256 bytes, whatever becomes of them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper may fail loudly")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use mm::gfp::Gfp;
use mm::slab::{Fault, FaultKind, Settings};
use support::{HostSlab, Machine, settings};

thread_local! {
    static FAULTS: RefCell<Vec<FaultKind>> = const { RefCell::new(Vec::new()) };
}

fn quiet(mode: &str) -> Settings {
    settings(mode, |fault| panic!("{fault}"))
}

fn alloc(slab: &HostSlab<'_>, bytes: usize) -> NonNull<u8> {
    slab.kmalloc(bytes, Gfp::KERNEL).unwrap()
}

fn free(slab: &HostSlab<'_>, object: NonNull<u8>) {
    // SAFETY: a test's own object, or one that is to be refused.
    unsafe { slab.kfree(object) };
}

fn size(slab: &HostSlab<'_>, object: NonNull<u8>) -> Option<usize> {
    // SAFETY: a test's own object, or none.
    unsafe { slab.ksize(object) }
}

fn resize(slab: &HostSlab<'_>, object: NonNull<u8>, bytes: usize) -> NonNull<u8> {
    // SAFETY: a test's own object.
    unsafe { slab.krealloc(Some(object), bytes, Gfp::KERNEL) }.unwrap()
}

#[test]
fn a_large_object_that_becomes_small_keeps_the_256_bytes_that_it_begins_in() {
    let machine = Machine::new(64);
    let slab = machine.slab(quiet("tiny"));
    let first = alloc(&slab, 2000);
    for bytes in [1000, 300, 40, 1] {
        assert_eq!(resize(&slab, first, bytes), first);
        assert_eq!(size(&slab, first), Some(bytes.max(256).next_multiple_of(8)));
    }
    // What it gave back is whole: as many objects fit behind it as in 4064 - 256 bytes.
    let behind: Vec<_> = (0..14).map(|_| alloc(&slab, 260)).collect();
    assert_eq!(slab.info().heap_pages, 1);
    assert!(behind.iter().all(|object| size(&slab, *object) == Some(264)));
    // It grows where it is when the one behind it is gone.
    let next = *behind.iter().min().unwrap();
    free(&slab, next);
    assert_eq!(resize(&slab, first, 500), first);
    behind.into_iter().filter(|object| *object != next).chain([first]).for_each(|object| free(&slab, object));
    assert_eq!(machine.pages.taken(), 0);
}

#[test]
fn an_object_has_all_of_a_frame_but_for_32_bytes() {
    for mode in ["tiny", "default"] {
        let machine = Machine::new(256);
        let slab = machine.slab(quiet(mode));
        let largest = alloc(&slab, 4064);
        assert_eq!((size(&slab, largest), largest.addr().get() % 4096), (Some(4064), 32), "{mode}");
        let page = alloc(&slab, 4065);
        assert_eq!((size(&slab, page), page.addr().get() % 4096), (Some(4096), 0), "{mode}");
        [largest, page].into_iter().for_each(|object| free(&slab, object));
    }
}

#[test]
fn what_is_no_object_is_told_from_what_is_free() {
    let machine = Machine::new(64);
    let slab = machine.slab(settings("tiny", |fault: &Fault| FAULTS.with(|kinds| kinds.borrow_mut().push(fault.kind))));
    let objects: Vec<_> = (0..4).map(|_| alloc(&slab, 800)).collect();
    let freed = objects[1];
    free(&slab, freed);
    let at = |object: NonNull<u8>, offset: usize| object.map_addr(|addr| addr.checked_add(offset).unwrap());
    let frame = objects[0].map_addr(|addr| (addr.get() & !4095).try_into().unwrap());
    for (wrong, kind) in [
        (freed, FaultKind::DoubleFree),
        (at(freed, 256), FaultKind::DoubleFree),
        (at(freed, 4), FaultKind::NotAnObject),
        (at(objects[2], 8), FaultKind::NotAnObject),
        (at(objects[2], 256), FaultKind::NotAnObject),
        (frame, FaultKind::NotAnObject),
        (at(frame, 24), FaultKind::NotAnObject),
    ] {
        assert_eq!(size(&slab, wrong), None);
        free(&slab, wrong);
        assert_eq!(FAULTS.with(|kinds| kinds.borrow_mut().pop()), Some(kind), "{wrong:?}");
    }
    [0, 2, 3].into_iter().for_each(|index| free(&slab, objects[index]));
    assert_eq!((machine.pages.taken(), FAULTS.with(|kinds| kinds.borrow().len())), (0, 0));
}

#[test]
fn small_and_large_objects_share_frames_when_there_are_no_others() {
    for mode in ["tiny", "one group", "default"] {
        let machine = Machine::new(256);
        let slab = machine.slab(quiet(mode));
        let mut live: Vec<_> = [100, 600, 3000, 100].map(|bytes| (alloc(&slab, bytes), bytes)).into();
        machine.pages.left.store(0, Ordering::Relaxed);
        for bytes in [700, 100, 300, 60, 24, 8].into_iter().cycle() {
            match slab.kmalloc(bytes, Gfp::KERNEL) {
                Ok(object) => live.push((object, bytes)),
                Err(_) if bytes == 8 => break,
                Err(_) => {}
            }
        }
        assert!(mode != "tiny" || live.len() > 20, "{mode}: {}", live.len());
        // Nobody has memory that is another's.
        let mut places = BTreeMap::new();
        for (object, bytes) in &live {
            assert!(size(&slab, *object).unwrap() >= *bytes, "{mode}");
            places.insert(object.addr().get(), size(&slab, *object).unwrap());
        }
        assert_eq!(places.len(), live.len());
        assert!(places.iter().zip(places.keys().skip(1)).all(|((at, bytes), next)| at + bytes <= *next), "{mode}");
        live.into_iter().for_each(|(object, _)| free(&slab, object));
        assert_eq!(slab.validate(), 0);
    }
}

#[test]
fn in_an_arena_large_objects_fill_frames_of_small_ones_first() {
    let pages = |mode| {
        let machine = Machine::new(64);
        let slab = machine.slab(quiet(mode));
        let objects = [100, 1000, 1500].map(|bytes| alloc(&slab, bytes));
        let taken = machine.pages.taken();
        objects.into_iter().for_each(|object| free(&slab, object));
        assert_eq!(machine.pages.taken(), 0);
        taken
    };
    assert_eq!((pages("one group"), pages("tiny")), (1, 2));
}
