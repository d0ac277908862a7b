// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocators that Quire is measured against, each behind an adapter of a few lines.

pub mod frames;
#[cfg(not(target_os = "none"))]
pub mod host;
pub mod objects;
mod spin;
