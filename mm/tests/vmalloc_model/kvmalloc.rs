// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kvmalloc` on the model: random requests keep their content wherever they move, and all memory comes back.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::arch::Arch;
use mm::arch::model::Model;
use mm::gfp::Gfp;
use mm::kvmalloc::{KvRequest, Kvmalloc};
use mm::slab::{Settings, Slab, ZERO_SIZE};
use proptest::prelude::*;

use super::machine::{Machine, Source};

const FRAMES: u64 = 2048;

type ModelSlab = Slab<'static, Model, &'static Source>;

fn slab(machine: &Machine) -> &'static ModelSlab {
    let base = mm::arch::model::Machine::default().base.as_raw();
    let span = PhysRange::clipped(base, FRAMES * PAGE_SIZE, PhysAddr::new_saturating(u64::MAX)).0;
    let tags: Vec<_> = (0..ModelSlab::nr_tags(span)).map(|_| AtomicU16::new(0)).collect();
    let settings = Settings::new(FRAMES * PAGE_SIZE, 4, |fault| panic!("{fault}"));
    Box::leak(Box::new(Slab::new(machine.model, machine.source, span, tags.leak(), settings).unwrap()))
}

/// An object, what it should hold, and its alignment.
struct Object {
    at: NonNull<u8>,
    bytes: usize,
    align: usize,
    mark: u8,
}

/// Calls `act` with each byte that is looked at: the first and last of the object and of each page.
fn bytes_of(machine: &Machine, object: &Object, mut act: impl FnMut(usize, *mut u8)) {
    let page = PAGE_SIZE as usize;
    let ends = (0..object.bytes).step_by(page).flat_map(|at| [at, (at + page - 1).min(object.bytes - 1)]);
    for at in ends {
        let virt = VirtAddr::new(object.at.addr().get() as u64 + at as u64);
        let place = match machine.vmalloc.contains(virt) {
            true => machine.model.direct_map(machine.vmalloc.translate(virt).unwrap()),
            false => object.at.as_ptr().wrapping_add(at),
        };
        act(at, place);
    }
}

fn write(machine: &Machine, object: &Object) {
    // SAFETY: a byte of an object that is ours.
    bytes_of(machine, object, |at, place| unsafe { place.write(object.mark ^ (at / 64) as u8) });
}

fn check(machine: &Machine, object: &Object, bytes: usize, mark: u8) {
    bytes_of(machine, object, |at, place| {
        // The last byte of the shorter of the two was the last of a page once, or was not written.
        if at + 1 < bytes && (at % PAGE_SIZE as usize == 0 || (at + 1) % PAGE_SIZE as usize == 0) {
            // SAFETY: a byte of an object that is ours.
            assert_eq!(unsafe { place.read() }, mark ^ (at / 64) as u8, "byte {at} of {}", object.bytes);
        }
    });
}

/// The model's direct map is aligned to a page only.
fn is_aligned(machine: &Machine, at: NonNull<u8>, align: usize) -> bool {
    let is_area = machine.vmalloc.contains(VirtAddr::new(at.addr().get() as u64));
    at.addr().get().is_multiple_of(if is_area { align } else { align.min(PAGE_SIZE as usize) })
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize, usize),
    Resize(usize, usize),
    Free(usize),
    /// From now on blocks are that small at most: the slab has nothing larger.
    Largest(u64),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1..6000usize, 1..60_000usize, 1..3_000_000usize, Just(5 << 20)]
}

fn step() -> impl Strategy<Value = Step> {
    let align = prop_oneof![6 => 0..6usize, 1 => 10..16usize].prop_map(|log| 1 << log);
    prop_oneof![
        3 => (size(), align).prop_map(|(bytes, align)| Step::Alloc(bytes, align)),
        4 => (any::<usize>(), prop_oneof![9 => size(), 1 => Just(0)]).prop_map(|(at, bytes)| Step::Resize(at, bytes)),
        2 => any::<usize>().prop_map(Step::Free),
        1 => prop_oneof![Just(0), Just(1), Just(10)].prop_map(Step::Largest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "many frames")]
    fn objects_keep_their_content_on_the_way_between_both(steps in proptest::collection::vec(step(), 1..60)) {
        let machine = Machine::new(FRAMES);
        let slab = slab(&machine);
        let both = Kvmalloc::new(slab, machine.vmalloc);
        let mut objects: Vec<Object> = Vec::new();
        for (step, mark) in steps.into_iter().zip(1..) {
            match step {
                Step::Largest(order) => machine.source.largest.store(order, Ordering::Relaxed),
                Step::Alloc(bytes, align) => {
                    let request = KvRequest { align, ..KvRequest::new(bytes, Gfp::KERNEL) };
                    if let Ok(at) = both.alloc(&request) {
                        prop_assert!(is_aligned(&machine, at, align));
                        let object = Object { at, bytes, align, mark };
                        write(&machine, &object);
                        objects.push(object);
                    }
                }
                Step::Resize(index, bytes) => {
                    let Some(index) = index.checked_rem(objects.len()) else { continue };
                    let old = objects.swap_remove(index);
                    let request = KvRequest { align: old.align, ..KvRequest::new(bytes, Gfp::KERNEL) };
                    // SAFETY: the test's own object.
                    match unsafe { both.realloc(Some(old.at), &request) } {
                        Ok(at) if bytes == 0 => prop_assert_eq!(at, ZERO_SIZE),
                        Ok(at) => {
                            prop_assert!(is_aligned(&machine, at, old.align));
                            let new = Object { at, bytes, align: old.align, mark };
                            check(&machine, &new, old.bytes.min(bytes), old.mark);
                            write(&machine, &new);
                            objects.push(new);
                        }
                        Err(_) => {
                            check(&machine, &old, old.bytes, old.mark);
                            objects.push(old);
                        }
                    }
                }
                Step::Free(index) => {
                    let Some(index) = index.checked_rem(objects.len()) else { continue };
                    let old = objects.swap_remove(index);
                    check(&machine, &old, old.bytes, old.mark);
                    // SAFETY: the test's own object.
                    prop_assert_eq!(unsafe { both.free(old.at) }, Ok(()));
                }
            }
            prop_assert!(machine.vmalloc.validate());
        }
        for object in objects {
            check(&machine, &object, object.bytes, object.mark);
            // SAFETY: the test's own object.
            prop_assert_eq!(unsafe { both.free(object.at) }, Ok(()));
        }
        machine.vmalloc.purge();
        prop_assert_eq!(machine.vmalloc.usage().pages, 0);
        slab.reclaim();
        prop_assert_eq!(slab.info().large_pages, 0);
        prop_assert_eq!(slab.nr_faults(), 0);
    }
}

/// An address of vmalloc that is no area is refused, and changes nothing.
#[test]
fn no_area_is_no_object() {
    let machine = Machine::new(FRAMES);
    let both = Kvmalloc::new(slab(&machine), machine.vmalloc);
    let object = both.alloc(&KvRequest::new(5 << 20, Gfp::KERNEL)).unwrap();
    let inside = NonNull::new(object.as_ptr().wrapping_add(PAGE_SIZE as usize)).unwrap();
    // SAFETY: no object: that is what is tested.
    assert!(unsafe { both.free(inside) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { both.realloc(Some(inside), &KvRequest::new(100, Gfp::KERNEL)) }.is_err());
    // SAFETY: the test's own object.
    assert_eq!(unsafe { both.free(object) }, Ok(()));
    // SAFETY: no object any more: that is what is tested.
    assert!(unsafe { both.free(object) }.is_err());
}
