// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's slab: made when the page allocator is, as the command line wants it.

use core::sync::atomic::AtomicU16;

use mm::addr::PhysRange;
use mm::page_alloc::Pages;
use mm::slab::{Fault, Settings, SetupError, Slab};

use crate::allocators::SLAB;
use crate::cpu::{Hardware, hardware};
use crate::options::Options;
use crate::pr_err;

/// Where its pages come from.
pub type Source = &'static Pages<'static, Hardware>;
/// Its type.
pub type KernelSlab = Slab<'static, Hardware, Source>;

/// Bytes of metadata for RAM within `span`.
#[must_use]
pub const fn metadata_bytes(span: PhysRange) -> u64 {
    (KernelSlab::nr_tags(span) * size_of::<AtomicU16>()) as u64
}

/// Makes the slab.
///
/// # Errors
///
/// [`SetupError`], if there is not even memory for its own descriptors.
// Apart from its caller, since there is room for this once on the boot stack.
#[inline(never)]
pub(crate) fn start(
    pages: Source,
    span: PhysRange,
    tags: &'static mut [AtomicU16],
    ram_bytes: u64,
    nr_cpus: usize,
    options: &Options<'static>,
) -> Result<&'static KernelSlab, SetupError> {
    let settings = Settings {
        tiny: options.slab_tiny,
        debug: options.slub_debug,
        init_on_alloc: options.fill.on_alloc,
        init_on_free: options.fill.on_free,
        failslab: options.failslab,
        ..Settings::new(ram_bytes, nr_cpus, report)
    };
    SLAB.start(|| Slab::new(hardware(), pages, span, tags, settings))
}

/// The slab, which is there when `boot` is through.
#[must_use]
pub fn slab() -> Option<&'static KernelSlab> {
    SLAB.get()
}

/// Faults go to the log.
fn report(fault: &Fault) {
    pr_err!("{fault}");
}
