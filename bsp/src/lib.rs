// SPDX-License-Identifier: MIT OR Apache-2.0
//! What board is it, and how does one talk to it?
//!
//! - [`dt`] reads the device tree into plain data, [`info::BootInfo`]; the only place where a tree is parsed.
//! - [`cmdline`] takes the command line apart, [`console`] chooses the serial port.
//! - [`uart`] drives it, behind the traits of `embedded-io`; [`irq`] drives the interrupt controller.
//! - [`delay`], [`dma_engine`], [`gpio`], [`led`], [`mailbox`] and [`watchdog`] are other drivers, behind the traits of `embedded-hal`
//!   where it has one.
//! - [`board`] knows what little can be said of a board that comes without a tree.
//!
//! Everything but the drivers runs on the host: `cargo run -p bsp --example memmap -- FILE.dtb`.
#![cfg_attr(not(test), no_std)]

pub mod board;
pub mod cache;
pub mod cmdline;
pub mod console;
pub mod delay;
pub mod dma_engine;
pub mod dt;
pub mod gpio;
pub mod info;
pub mod irq;
pub mod led;
pub mod mailbox;
pub mod uart;
pub mod watchdog;
