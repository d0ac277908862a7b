// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allocators that only the host has: what is possible with an operating system beneath.

use alloc::boxed::Box;
use core::alloc::Layout;

use super::objects::layout;
use crate::objects::{Objects, SharedObjects};

extern crate std;

/// Both traits over two functions of a layout.
macro_rules! host {
    ($(#[$doc:meta])* $type:ident, $name:literal, $alloc:path, $free:path) => {
        $(#[$doc])*
        pub struct $type;

        impl Objects for $type {
            const NAME: &'static str = $name;
            const IN_ARENA: bool = false;

            unsafe fn new(_: *mut u8, _: usize) -> Option<Box<Self>> {
                Some(Box::new(Self))
            }

            #[inline]
            unsafe fn alloc(&mut self, size: usize, align: usize) -> *mut u8 {
                $alloc(layout(size, align))
            }

            #[inline]
            unsafe fn free(&mut self, object: *mut u8, size: usize, align: usize) {
                // SAFETY: the caller's promise.
                unsafe { $free(object, layout(size, align)) };
            }
        }

        impl SharedObjects for $type {
            const NAME: &'static str = $name;

            unsafe fn new(_: *mut u8, _: usize) -> Option<Box<Self>> {
                Some(Box::new(Self))
            }

            #[inline]
            unsafe fn alloc(&self, size: usize, align: usize) -> *mut u8 {
                $alloc(layout(size, align))
            }

            #[inline]
            unsafe fn free(&self, object: *mut u8, size: usize, align: usize) {
                // SAFETY: the caller's promise.
                unsafe { $free(object, layout(size, align)) };
            }
        }
    };
}

#[inline(always)]
fn system_alloc(layout: Layout) -> *mut u8 {
    // SAFETY: not of size 0.
    unsafe { std::alloc::GlobalAlloc::alloc(&std::alloc::System, layout) }
}

/// # Safety
///
/// As `GlobalAlloc::dealloc`.
#[inline(always)]
unsafe fn system_free(object: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise.
    unsafe { std::alloc::GlobalAlloc::dealloc(&std::alloc::System, object, layout) };
}

#[inline(always)]
fn mi_alloc(layout: Layout) -> *mut u8 {
    // SAFETY: any size will do. Aligned to 16 at least.
    unsafe { libmimalloc_sys::mi_malloc(layout.size()).cast() }
}

/// # Safety
///
/// `object` came from [`mi_alloc`].
#[inline(always)]
unsafe fn mi_free(object: *mut u8, _: Layout) {
    // SAFETY: the caller's promise.
    unsafe { libmimalloc_sys::mi_free(object.cast()) };
}

host! {
    /// The C library's.
    Glibc, "glibc", system_alloc, system_free
}
host! {
    /// mi_malloc itself; the crate's own GlobalAlloc takes a slower entry.
    Mimalloc, "mimalloc", mi_alloc, mi_free
}
