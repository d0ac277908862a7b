// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fast paths, with interrupts masked: what a back end has that knows no other way.
//!
//! They are the bodies of the methods of [`Arch`] by these names. A back end that has others does the same to the
//! arrays, objects and marks, and undivided for everything that runs on its CPU.

use super::front::{Front, Fronts};
use super::table::{NONE, Tag};
use crate::arch::{Arch, Arrays};

/// Does something with this CPU's arrays, interrupts masked.
#[inline(always)]
pub(super) fn with_fronts<A: Arch + ?Sized, R>(arch: &A, arrays: &Arrays, run: impl FnOnce(Fronts) -> R) -> R {
    let state = arch.mask_interrupts();
    // SAFETY: interrupts are masked, and the block is this CPU's.
    let result = run(unsafe { Fronts::new(arch.local(arrays)) });
    // SAFETY: the state was taken above.
    unsafe { arch.restore_interrupts(state) };
    result
}

/// [`Arch::pop`].
#[inline(always)]
pub(crate) fn pop<A: Arch + ?Sized>(arch: &A, arrays: &Arrays, tag: u32) -> *mut u8 {
    with_fronts(arch, arrays, |fronts| pop_from(fronts.front_at(tag as usize)))
}

/// [`Arch::pop_sized`].
#[inline(always)]
pub(crate) fn pop_sized<A: Arch + ?Sized>(arch: &A, arrays: &Arrays, step: usize) -> *mut u8 {
    with_fronts(arch, arrays, |fronts| pop_from(fronts.by_size(step)))
}

/// [`Arch::push`].
///
/// # Safety
///
/// As there.
#[inline(always)]
pub(crate) unsafe fn push<A: Arch + ?Sized>(arch: &A, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
    // SAFETY: the caller's promise.
    with_fronts(arch, arrays, |fronts| unsafe { push_to(fronts.front_at(tag as usize), object, fronts.table().key()) })
}

/// [`Arch::push_sized`].
///
/// # Safety
///
/// As there.
#[inline(always)]
pub(crate) unsafe fn push_sized<A: Arch + ?Sized>(arch: &A, arrays: &Arrays, object: *mut u8, step: usize) -> bool {
    // SAFETY: the caller's promise.
    with_fronts(arch, arrays, |fronts| unsafe { push_to(fronts.by_size(step), object, fronts.table().key()) })
}

/// [`Arch::push_checked`].
///
/// # Safety
///
/// As there.
#[inline(always)]
pub(crate) unsafe fn push_checked<A: Arch + ?Sized>(arch: &A, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
    with_fronts(arch, arrays, |fronts| {
        let table = fronts.table();
        let mine = table.tag(object.addr()).map(u32::from) == Some(tag);
        // SAFETY: the caller's promise.
        mine && unsafe { push_to(fronts.front_at(tag as usize), object, table.key()) }
    })
}

/// [`Arch::push_by_frame`].
///
/// # Safety
///
/// As there.
#[inline(always)]
pub(crate) unsafe fn push_by_frame<A: Arch + ?Sized>(arch: &A, arrays: &Arrays, object: *mut u8) -> Result<(), Tag> {
    with_fronts(arch, arrays, |fronts| {
        let table = fronts.table();
        let Some(tag) = table.tag(object.addr()) else { return Err(NONE) };
        // SAFETY: the caller's promise.
        if unsafe { push_to(fronts.front(tag), object, table.key()) } { Ok(()) } else { Err(tag) }
    })
}

/// Takes the top of an array and wipes the mark that it was free.
#[inline(always)]
pub(super) fn pop_from(front: Front) -> *mut u8 {
    let object = front.pop();
    if !object.is_null() {
        // SAFETY: a free object of eight bytes at least, aligned to eight.
        unsafe { object.cast::<usize>().write(0) };
    }
    object
}

/// Puts a free object into its array and marks it; false if the array is full, or if the object is marked already.
///
/// # Safety
///
/// `object` can be read and written, and if it is an object of that array's cache, nothing uses it from now on.
#[inline(always)]
pub(super) unsafe fn push_to(front: Front, object: *mut u8, key: usize) -> bool {
    if front.is_full() {
        return false;
    }
    let mark = object.addr() ^ key;
    // Miri knows uninitialised memory, which this may read.
    // SAFETY: the caller's promise.
    if !cfg!(miri) && unsafe { object.cast::<usize>().read() } == mark {
        return false;
    }
    front.push(object);
    // SAFETY: the caller's promise.
    unsafe { object.cast::<usize>().write(mark) };
    true
}
