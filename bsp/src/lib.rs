// SPDX-License-Identifier: MIT OR Apache-2.0
//! The board.
#![cfg_attr(not(test), no_std)]
