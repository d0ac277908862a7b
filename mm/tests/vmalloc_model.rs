// SPDX-License-Identifier: MIT OR Apache-2.0
//! vmalloc on the MMU model: several CPUs whose TLBs keep whatever they may, and frames whose return the model watches.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "vmalloc_model/kvmalloc.rs"]
mod kvmalloc;
#[path = "vmalloc_model/limits.rs"]
mod limits;
#[path = "vmalloc_model/machine.rs"]
mod machine;
#[path = "vmalloc_model/mapping.rs"]
mod mapping;
#[path = "vmalloc_model/ram.rs"]
mod ram;
#[path = "vmalloc_model/random.rs"]
mod random;
#[path = "vmalloc_model/regions.rs"]
mod regions;
#[path = "vmalloc_model/reuse.rs"]
mod reuse;
#[path = "vmalloc_model/vrealloc.rs"]
mod vrealloc;
