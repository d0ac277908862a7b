// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quire's allocators beside the Rust allocators that one would take otherwise, on one set of workloads.
//!
//! The same code runs in two places. The host measures time, with one thread and with two, and memory; a
//! bare-metal image under QEMU counts AArch64 instructions exactly.
//!
//! ```text
//!   rng        the numbers that all workloads are made from
//!   meter      what a workload is measured with
//!   frames     workloads on page frames, and the trait they need
//! ```
#![no_std]

extern crate alloc;

pub mod frames;
pub mod meter;
pub mod ours;
pub mod rng;
