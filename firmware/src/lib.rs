// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Quire firmware as a library, so that the console and every on-target test boot the same way.
//!
//! The boot order, and the file that tells each step:
//!
//! 1. `boot/entry.S`: Image header, EL3/EL2 to EL1, boot tables, MMU on, `.bss` cleared
//! 2. `boot.rs`: find and read the device tree, open the console, then the rest in order
//! 3. `memory.rs`: RAM from the tree, the kernel's own map, the page allocator
//! 4. `smp.rs`: interrupts (`irq.rs`), the tick, threads, and all other CPUs
//! 5. `console.rs`: commands from `run=` and from the keyboard
//!
//! A program gives its main function to `entry!`, in `boot.rs`.
#![cfg_attr(target_os = "none", no_std)]

/// The target that the firmware is built for.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

pub mod fault;
pub mod features;
pub mod line;
pub mod log;
pub mod pipe;
pub mod symbols;

#[cfg(target_os = "none")]
pub mod allocators;
#[cfg(target_os = "none")]
pub mod backtrace;
#[cfg(target_os = "none")]
mod bench;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod devices;
#[cfg(target_os = "none")]
pub mod dma;
#[cfg(target_os = "none")]
pub mod exception;
#[cfg(target_os = "none")]
pub mod fatal;
#[cfg(target_os = "none")]
pub mod irq;
#[cfg(target_os = "none")]
mod keys;
#[cfg(target_os = "none")]
pub mod kvmalloc;
#[cfg(target_os = "none")]
pub mod layout;
#[cfg(target_os = "none")]
pub mod memory;
pub mod modules;
#[cfg(target_os = "none")]
pub mod options;
#[cfg(target_os = "none")]
pub mod output;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
mod random;
#[cfg(target_os = "none")]
pub mod rcu;
#[cfg(target_os = "none")]
pub mod slab;
#[cfg(target_os = "none")]
pub mod smp;
#[cfg(target_os = "none")]
pub mod soak;
#[cfg(target_os = "none")]
pub mod stack;
#[cfg(target_os = "none")]
pub mod stacks;
#[cfg(target_os = "none")]
pub mod sync;
#[cfg(target_os = "none")]
pub mod test_vmalloc;
#[cfg(target_os = "none")]
pub mod thread;
#[cfg(target_os = "none")]
pub mod tick;
#[cfg(target_os = "none")]
pub mod time;
#[cfg(target_os = "none")]
mod top;
#[cfg(target_os = "none")]
pub mod translate;
#[cfg(target_os = "none")]
pub mod vmalloc;
#[cfg(target_os = "none")]
mod window;
