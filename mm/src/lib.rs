// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory manager.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod arch;
pub mod buddy;
pub mod memblock;
pub mod pgtable;
pub mod report;
pub mod zone;
