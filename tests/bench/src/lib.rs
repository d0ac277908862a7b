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
//!   objects    the same for objects
//!   ours       Quire behind these traits
//!   peers      everybody else
//! ```
//!
//! To measure another allocator, implement [`frames::Frames`] or [`objects::Objects`] for it, and add it to the lists in
//! `src/bin/host/main.rs` and `src/bin/bare.rs`.
#![no_std]

extern crate alloc;

pub mod frames;
pub mod meter;
pub mod objects;
pub mod ours;
pub mod peers;
pub mod rng;
