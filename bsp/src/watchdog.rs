// SPDX-License-Identifier: MIT OR Apache-2.0
//! The watchdog of the BCM2835 family's power management block, which resets the Raspberry Pi, and halts it too.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::ReadWrite;

register_structs! {
    /// The power management block, as far as its watchdog goes.
    Registers {
        (0x00 => _reserved),
        (0x1c => reset_control: ReadWrite<u32>),
        (0x20 => reset_status: ReadWrite<u32>),
        (0x24 => timeout: ReadWrite<u32>),
        (0x28 => @END),
    }
}

/// Must be in the top byte of every write to the block.
const PASSWORD: u32 = 0x5a00_0000;
/// Reset control: what happens when the time is up, and that it is a full reset.
const CONFIGURATION: u32 = 0x30;
const FULL_RESET: u32 = 0x20;
/// Reset status: the partition to boot from, in every other bit of twelve. 63 means not to boot at all.
const PARTITION: u32 = 0x555;
/// The counter has 20 bits and runs at 65,536 Hz.
const TICKS_PER_SECOND: u32 = 1 << 16;
const MAX_TICKS: u32 = 0xf_ffff;
/// Enough for the write to arrive.
const AT_ONCE: u32 = 10;

/// The longest time that the watchdog can wait, in milliseconds.
pub const MAX_MS: u32 = MAX_TICKS / (TICKS_PER_SECOND / 1000);

/// The watchdog.
#[derive(Debug)]
pub struct Watchdog {
    base: usize,
}

impl Watchdog {
    /// The watchdog whose power management block is mapped at `base`.
    ///
    /// # Safety
    ///
    /// The block is mapped there as Device memory for as long as the value lives.
    #[must_use]
    pub const unsafe fn new(base: usize) -> Self {
        Self { base }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new` was promised the mapping, and the registers are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.base) }
    }

    /// Resets the machine in `ms` milliseconds, unless [`stop`](Self::stop) or another start comes first. At most
    /// [`MAX_MS`].
    pub fn start(&mut self, ms: u32) {
        let ticks = (u64::from(ms) * u64::from(TICKS_PER_SECOND) / 1000).clamp(AT_ONCE.into(), MAX_TICKS.into());
        self.arm(ticks as u32);
    }

    /// Lets the machine run on.
    pub fn stop(&mut self) {
        let control = self.registers().reset_control.get() & 0x00ff_ffff & !CONFIGURATION;
        self.registers().reset_control.set(PASSWORD | control);
    }

    /// Resets the machine, which boots again.
    pub fn reset(&mut self) {
        let status = self.registers().reset_status.get() & 0x00ff_ffff & !PARTITION;
        self.registers().reset_status.set(PASSWORD | status);
        self.arm(AT_ONCE);
    }

    /// Resets the machine into a firmware that does not boot: the least power that it can have.
    pub fn halt(&mut self) {
        let status = self.registers().reset_status.get() & 0x00ff_ffff;
        self.registers().reset_status.set(PASSWORD | status | PARTITION);
        self.arm(AT_ONCE);
    }

    fn arm(&self, ticks: u32) {
        let registers = self.registers();
        registers.timeout.set(PASSWORD | ticks);
        let control = registers.reset_control.get() & 0x00ff_ffff & !CONFIGURATION;
        registers.reset_control.set(PASSWORD | control | FULL_RESET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of ordinary memory: it keeps what is written.
    fn after(action: impl FnOnce(&mut Watchdog)) -> [u32; 3] {
        let mut block = [0_u32; 10];
        block[7..].copy_from_slice(&[0x0000_0102, 0x0000_1001, 0]);
        let base = (&raw mut block).expose_provenance();
        // SAFETY: the block is as large as the registers, aligned, and lives until the end of this function.
        let mut watchdog = unsafe { Watchdog::new(base) };
        action(&mut watchdog);
        // SAFETY: the array above; volatile, since it was written behind the compiler's back.
        let block = unsafe { (&raw const block).read_volatile() };
        [block[7], block[8], block[9]]
    }

    #[test]
    fn a_reset_clears_the_partition_and_a_halt_sets_it() {
        assert_eq!(after(Watchdog::reset), [0x5a00_0122, 0x5a00_1000, 0x5a00_000a]);
        assert_eq!(after(Watchdog::halt), [0x5a00_0122, 0x5a00_1555, 0x5a00_000a]);
    }

    #[test]
    fn times_are_in_milliseconds_and_bounded() {
        assert_eq!(after(|watchdog| watchdog.start(1000))[2], 0x5a01_0000);
        assert_eq!(after(|watchdog| watchdog.start(0))[2], 0x5a00_000a);
        assert_eq!(after(|watchdog| watchdog.start(u32::MAX))[2], 0x5a0f_ffff);
        assert!((15_000..17_000).contains(&MAX_MS));
        assert_eq!(after(Watchdog::stop)[0], 0x5a00_0102);
    }
}
