// SPDX-License-Identifier: MIT OR Apache-2.0
//! The example is `firmware.rs`, for the bare-metal target; on the host there is nothing to do.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod firmware;

#[cfg(not(target_os = "none"))]
fn main() {}
