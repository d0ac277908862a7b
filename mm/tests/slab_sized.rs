// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects that are freed by their size: whatever an object went through before, the next that is asked for from its
//! array gets one that is long enough and aligned.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod support;

use std::ptr::NonNull;

use mm::gfp::Gfp;
use mm::slab::{Fault, MIN_ALIGN};
use support::{HostSlab, MODES, Machine, settings};

#[expect(clippy::panic, reason = "nothing here is a fault")]
fn none(fault: &Fault) {
    panic!("{fault}");
}

/// An object of so many bytes, which has them, at a multiple of what was promised.
fn alloc(slab: &HostSlab<'_>, bytes: usize, align: usize) -> NonNull<u8> {
    let object = slab.kmalloc_aligned(bytes, align, Gfp::KERNEL).unwrap();
    check(slab, object, bytes, align);
    object
}

fn check(slab: &HostSlab<'_>, object: NonNull<u8>, bytes: usize, align: usize) {
    // SAFETY: an object in use.
    let usable = unsafe { slab.ksize(object) }.unwrap();
    assert!(usable >= bytes, "{bytes} bytes were asked for, and there are {usable}");
    let natural = if bytes.is_power_of_two() { bytes.min(4096) } else { MIN_ALIGN };
    assert!(object.addr().get().is_multiple_of(align.max(natural)), "{bytes} bytes at {object:?}");
}

fn free(slab: &HostSlab<'_>, object: NonNull<u8>, bytes: usize, align: usize) {
    // SAFETY: an object of this slab that the test gives up, of that size.
    unsafe { slab.kfree_sized(object, bytes, align) };
}

/// Numbers that look random (Knuth's MMIX generator).
fn numbers() -> impl FnMut(usize) -> usize {
    let mut state = 1_u64;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

#[test]
fn an_object_is_as_long_and_aligned_as_the_array_it_was_freed_to() {
    for &mode in MODES {
        let machine = Machine::new(1 << 10);
        let slab = machine.slab(settings(mode, none));
        let mut below = numbers();
        let mut live = Vec::new();
        for round in 0..if cfg!(miri) { 60 } else { 30_000 } {
            let mut size = || {
                // As many next to the powers of two as anywhere else.
                let (any, near) = (1 + below(4200), (512 << below(4)) + 4 - below(16));
                if below(2) == 0 { any } else { near }
            };
            let (before, after) = (size(), size());
            let align = [1, 8, 8, 8, 16, 64, 512][below(7)];
            let object = alloc(&slab, before, align);
            // SAFETY: an object in use.
            let object = unsafe { slab.krealloc_aligned(object, after, align, Gfp::KERNEL) }.unwrap();
            check(&slab, object, after, align);
            live.push((object, after, align));
            // Some stay for a while, so that frames are neither full nor empty.
            if live.len() > 1 + round / 100 % 50 {
                for _ in 0..2.min(live.len()) {
                    let (object, bytes, align) = live.swap_remove(below(live.len()));
                    free(&slab, object, bytes, align);
                    // The largest object of the same array, and one of the next.
                    for bytes in [bytes.next_multiple_of(8), bytes + 8] {
                        let next = alloc(&slab, bytes, MIN_ALIGN);
                        free(&slab, next, bytes, MIN_ALIGN);
                    }
                }
            }
        }
        live.into_iter().for_each(|(object, bytes, align)| free(&slab, object, bytes, align));
    }
}

#[test]
fn powers_of_two_come_from_their_own_frames_when_others_have_room_and_memory_is_out() {
    for &mode in MODES {
        let machine = Machine::new(64);
        let slab = machine.slab(settings(mode, none));
        // The arrays stay, where there are any.
        free(&slab, alloc(&slab, 300, MIN_ALIGN), 300, MIN_ALIGN);
        slab.reclaim();
        let before = slab.pages();
        let own: Vec<_> = (0..64).map(|_| alloc(&slab, 512, MIN_ALIGN)).collect();
        // Frames that are full of others, of which pairs are freed: there is room for aligned objects of 512 bytes.
        let mut others = Vec::new();
        while let Ok(object) = slab.kmalloc(648, Gfp::KERNEL) {
            others.push(object);
        }
        others.sort_unstable();
        for pair in others.chunks(3) {
            pair.iter().take(2).for_each(|object| free(&slab, *object, 648, MIN_ALIGN));
        }
        slab.reclaim();
        let mut even = Vec::new();
        while let Ok(object) = slab.kmalloc(512, Gfp::KERNEL) {
            check(&slab, object, 512, MIN_ALIGN);
            even.push(object);
        }
        even.iter().chain(&own).for_each(|object| free(&slab, *object, 512, MIN_ALIGN));
        others.chunks(3).filter_map(|three| three.get(2)).for_each(|object| free(&slab, *object, 648, MIN_ALIGN));
        slab.reclaim();
        assert_eq!(slab.pages(), before, "{mode}");
    }
}
