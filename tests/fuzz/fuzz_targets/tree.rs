// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a device tree: what the firmware does with it before there is a page allocator.
//!
//! The corpus begins with the fixtures: `tests/all.sh fuzz` compiles them.
#![no_main]

#[path = "../../../bsp/tests/common/firmware.rs"]
mod firmware;

use std::cell::RefCell;

use bsp::info::BootInfo;
use libfuzzer_sys::fuzz_target;

thread_local! {
    /// One for all runs, as it is large; reading forgets the tree before.
    static INFO: RefCell<Box<BootInfo>> = RefCell::new(Box::new(BootInfo::new()));
}

fuzz_target!(|blob: &[u8]| {
    // A refusal is a good end.
    INFO.with_borrow_mut(|info| drop(firmware::boot(blob, info)));
});
