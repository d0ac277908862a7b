// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory manager.
#![cfg_attr(not(test), no_std)]

pub mod addr;
