// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loader is `loader.S`: before the MMU is on there is only assembly.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("loader.S"));

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here is Rust, so nothing panics.
    loop {}
}

#[cfg(not(target_os = "none"))]
fn main() {}
