// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the machine ends.
//!
//! In QEMU by semihosting, which carries an exit status. Where nobody answers the semihosting call, its `HLT` is an
//! undefined instruction; the exception handler knows it and comes back here, which then does what real
//! machines do: switch off after a program that has ended, and after a failure what `panic=` says. There is no
//! build for the one or the other.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

use aarch64_cpu::asm;
use bsp::info::{BootInfo, Conduit};
use bsp::watchdog::Watchdog;
use qemu_exit::QEMUExit;
use smccc::psci;

use crate::{devices, memory, output, println, translate};

/// `hlt #0xf000`, the semihosting call.
const SEMIHOSTING_CALL: u32 = 0xd45e_0000;

/// What [`off`] and [`reboot`] may use: 0 nothing, 1 PSCI by SMC, 2 PSCI by HVC.
static CONDUIT: AtomicU8 = AtomicU8::new(0);
/// Where the Raspberry Pi's power management block is mapped, or 0.
static WATCHDOG: AtomicU64 = AtomicU64::new(0);
/// `panic=`.
static PANIC_SECONDS: AtomicI32 = AtomicI32::new(0);
/// Why the machine ends: 0 because the program has ended, else 1 more than the number of a [`Failure`].
static ENDING: AtomicU8 = AtomicU8::new(0);

/// What the machine may die of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It did not come up.
    Boot,
    /// An exception that nobody handles.
    Fault,
    /// A program that broke its own rules.
    Panic,
}

impl Failure {
    const ALL: [Self; 3] = [Self::Boot, Self::Fault, Self::Panic];

    /// The status that QEMU ends with: that of a failed command, of a shell's child that was aborted, and of a Rust
    /// program that panicked.
    const fn status(self) -> u32 {
        match self {
            Self::Boot => 1,
            Self::Fault => 134,
            Self::Panic => 101,
        }
    }

    /// How often the activity LED blinks, again and again.
    const fn blinks(self) -> u32 {
        match self {
            Self::Fault => 2,
            Self::Panic => 3,
            Self::Boot => 4,
        }
    }
}

/// Remembers what the tree says about switching off.
pub fn configure(info: &BootInfo) {
    let conduit = match info.psci.as_ref().map(|psci| psci.conduit) {
        Some(Conduit::Smc) => 1,
        Some(Conduit::Hvc) => 2,
        None => 0,
    };
    CONDUIT.store(conduit, Ordering::Relaxed);
}

/// Remembers `panic=`: reboot so many seconds after a failure; at once if negative; never if 0.
pub fn set_panic_seconds(seconds: i32) {
    PANIC_SECONDS.store(seconds, Ordering::Relaxed);
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
    exit_silently(status)
}

/// As [`exit`], where the console may be what has failed.
pub(crate) fn exit_silently(status: u32) -> ! {
    qemu_exit::AArch64::new().exit(status)
}

/// Ends the machine after a failure: QEMU with its status, a real one as `panic=` says.
pub fn fail(failure: Failure) -> ! {
    output::drain();
    fail_silently(failure)
}

/// As [`fail`], where the console may be what has failed.
pub(crate) fn fail_silently(failure: Failure) -> ! {
    let number = Failure::ALL.iter().position(|one| *one == failure).unwrap_or(0);
    ENDING.store(number as u8 + 1, Ordering::Relaxed);
    exit_silently(failure.status())
}

/// Whether the instruction at `address` is the semihosting call.
pub(crate) fn is_semihosting_call(address: u64) -> bool {
    memory::is_text(address) && translate::peek(address) == Some(SEMIHOSTING_CALL)
}

/// Nobody answered the semihosting call: ends the machine that this is.
pub(crate) fn end_for_real() -> ! {
    let number = usize::from(ENDING.load(Ordering::Relaxed));
    match number.checked_sub(1).and_then(|number| Failure::ALL.get(number)) {
        None => off_silently(),
        Some(failure) => after(*failure),
    }
}

/// Does what `panic=` says.
fn after(failure: Failure) -> ! {
    match PANIC_SECONDS.load(Ordering::Relaxed) {
        0 => {
            say(format_args!(
                "quire: halted after a failure; panic=N on the command line would reboot after N seconds"
            ));
            loop {
                devices::signal(failure.blinks());
            }
        }
        seconds @ 1.. => {
            say(format_args!("quire: rebooting in {seconds} seconds"));
            let end = crate::boot::uptime_ns().saturating_add(u64::from(seconds.unsigned_abs()) * 1_000_000_000);
            while crate::boot::uptime_ns() < end {
                devices::signal(failure.blinks());
            }
        }
        _ => {}
    }
    reboot_silently()
}

/// Prints a last line. If that fails, the machine comes back here, and then it is not tried again.
fn say(line: fmt::Arguments<'_>) {
    static SPOKEN: AtomicBool = AtomicBool::new(false);
    if !SPOKEN.swap(true, Ordering::Relaxed) {
        // SAFETY: the machine ends, and whoever held the console has ended with it.
        unsafe { output::steal() };
        println!("{line}");
        output::drain();
    }
}

/// The watchdog, if the machine has one.
fn watchdog() -> Option<Watchdog> {
    let base = WATCHDOG.load(Ordering::Relaxed) as usize;
    // SAFETY: `set_watchdog` was promised that the block is mapped here.
    (base != 0).then(|| unsafe { Watchdog::new(base) })
}

/// Switches the machine off; parks this CPU if it cannot be.
pub fn off() -> ! {
    output::drain();
    off_silently()
}

fn off_silently() -> ! {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => drop(psci::system_off::<smccc::Smc>()),
        2 => drop(psci::system_off::<smccc::Hvc>()),
        _ => {}
    }
    match watchdog() {
        Some(mut watchdog) => watchdog.halt(),
        None => say(format_args!("quire: the machine may be switched off")),
    }
    park()
}

/// Starts the machine anew; parks this CPU if it cannot be.
pub fn reboot() -> ! {
    output::drain();
    reboot_silently()
}

fn reboot_silently() -> ! {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => drop(psci::system_reset::<smccc::Smc>()),
        2 => drop(psci::system_reset::<smccc::Hvc>()),
        _ => {}
    }
    match watchdog() {
        Some(mut watchdog) => watchdog.reset(),
        None => say(format_args!("quire: this machine cannot reset itself")),
    }
    park()
}

fn park() -> ! {
    loop {
        asm::wfe();
    }
}
