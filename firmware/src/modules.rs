// SPDX-License-Identifier: MIT OR Apache-2.0
//! Test modules, by Linux's names: `modprobe NAME KEY=VALUE...` on the console; on the command line `NAME.KEY=VALUE`, or a
//! bare `NAME`, runs them before the console. As Linux's, they do not stay.

#[cfg(target_os = "none")]
mod garbage;
#[cfg(target_os = "none")]
mod ktap;
#[cfg(any(target_os = "none", test))]
mod memblock;
#[cfg(target_os = "none")]
mod meminit;
#[cfg(target_os = "none")]
mod page_alloc;
#[cfg(target_os = "none")]
mod registry;
#[cfg(target_os = "none")]
mod slub;
#[cfg(target_os = "none")]
mod torture;

#[cfg(target_os = "none")]
pub use self::registry::{MAX_PARAMETERS, Module, Values, accepts, all, find, requested};

/// A test: its name, and what is wrong if something is.
#[cfg(any(target_os = "none", test))]
type Case = (&'static str, fn() -> Result<(), &'static str>);

/// For a test: `Ok` if `holds`.
#[cfg(any(target_os = "none", test))]
const fn check(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}
