// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the machine ends.
//!
//! In QEMU by semihosting, which carries an exit status. Where nobody answers the semihosting call, its
//! `HLT` is an undefined instruction; the exception handler knows it and comes back to [`off`], which tries
//! the ways that real machines have. There is no build for the one or the other.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use aarch64_cpu::asm;
use bsp::info::{BootInfo, Conduit};
use qemu_exit::QEMUExit;
use smccc::psci;
use tock_registers::interfaces::Writeable;
use tock_registers::register_structs;
use tock_registers::registers::ReadWrite;

use crate::{output, println};

/// `hlt #0xf000`, the semihosting call.
pub const SEMIHOSTING_CALL: u32 = 0xd45e_0000;

/// What [`off`] may use: 0 nothing, 1 PSCI by SMC, 2 PSCI by HVC.
static CONDUIT: AtomicU8 = AtomicU8::new(0);
/// Where the Raspberry Pi's watchdog is mapped, or 0.
static WATCHDOG: AtomicU64 = AtomicU64::new(0);

register_structs! {
    /// The power management block of the BCM2835 family, as far as its watchdog goes.
    Watchdog {
        (0x00 => _reserved),
        (0x1c => reset_control: ReadWrite<u32>),
        (0x20 => reset_status: ReadWrite<u32>),
        (0x24 => timeout: ReadWrite<u32>),
        (0x28 => @END),
    }
}

/// Must be in the top byte of every write to the watchdog's block.
const PASSWORD: u32 = 0x5a00_0000;
/// Boot partition 63: the firmware halts instead of booting again.
const HALT: u32 = 0x555;
/// Full reset, when the timeout (here 10 ticks of 16 us) has passed.
const FULL_RESET: u32 = 0x20;
const TICKS: u32 = 10;

/// Remembers what the tree says about switching off.
pub fn configure(info: &BootInfo) {
    let conduit = match info.psci.as_ref().map(|psci| psci.conduit) {
        Some(Conduit::Smc) => 1,
        Some(Conduit::Hvc) => 2,
        None => 0,
    };
    CONDUIT.store(conduit, Ordering::Relaxed);
}

/// Remembers where the watchdog is mapped.
///
/// # Safety
///
/// The registers of a BCM2835-family power management block are mapped at `base`, for good.
pub unsafe fn set_watchdog(base: u64) {
    WATCHDOG.store(base, Ordering::Relaxed);
}

/// Ends QEMU with `status`, or switches the machine off.
pub fn exit(status: u32) -> ! {
    output::drain();
    qemu_exit::AArch64::new().exit(status)
}

/// Switches the machine off; parks this CPU if it cannot be.
pub fn off() -> ! {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => drop(psci::system_off::<smccc::Smc>()),
        2 => drop(psci::system_off::<smccc::Hvc>()),
        _ => {}
    }
    let base = WATCHDOG.load(Ordering::Relaxed);
    if base != 0 {
        // SAFETY: `set_watchdog` was promised that the block is mapped here; the registers are cells.
        let watchdog: &Watchdog = unsafe { &*core::ptr::with_exposed_provenance(base as usize) };
        watchdog.reset_status.set(PASSWORD | HALT);
        watchdog.timeout.set(PASSWORD | TICKS);
        watchdog.reset_control.set(PASSWORD | FULL_RESET);
    } else {
        println!("quire: the machine may be switched off");
        output::drain();
    }
    loop {
        asm::wfe();
    }
}
