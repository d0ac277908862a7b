// SPDX-License-Identifier: MIT OR Apache-2.0
//! The DMA engine of the Raspberry Pi 1 to 4: copies memory by itself, told by control blocks in memory.
//!
//! ```text
//!   channel   control and status | address of the control block | ...
//!   control block (32 bytes, aligned)   how, from, to, bytes, strides, next
//! ```
//!
//! All addresses are the engine's own. Source: BCM2835 ARM Peripherals, chapter 4.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::ReadWrite;
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {u32,
    Status [
        RESET OFFSET(31) NUMBITS(1) [],
        ABORT OFFSET(30) NUMBITS(1) [],
        ERROR OFFSET(8) NUMBITS(1) [],
        END OFFSET(1) NUMBITS(1) [],
        ACTIVE OFFSET(0) NUMBITS(1) []
    ]
}

register_structs! {
    Registers {
        (0x00 => status: ReadWrite<u32, Status::Register>),
        (0x04 => block: ReadWrite<u32>),
        (0x08 => @END),
    }
}

/// Bytes from one channel's registers to the next one's.
const STRIDE: usize = 0x100;

/// Words of a control block.
pub const BLOCK_WORDS: usize = 8;
/// What a control block's address is a multiple of.
pub const BLOCK_ALIGN: usize = 32;
/// Most bytes of a copy: those of the smaller channels.
pub const MAX_BYTES: u32 = 0xffff;

/// Transfer information: both addresses go up; wait until what is written has arrived.
const SOURCE_INCREMENT: u32 = 1 << 8;
const DESTINATION_INCREMENT: u32 = 1 << 4;
const WAIT_RESPONSE: u32 = 1 << 3;

/// The control block that copies `bytes` from one address of the engine to another, and is the last.
#[must_use]
pub const fn copy_block(from: u32, to: u32, bytes: u32) -> [u32; BLOCK_WORDS] {
    [SOURCE_INCREMENT | DESTINATION_INCREMENT | WAIT_RESPONSE, from, to, bytes, 0, 0, 0, 0]
}

/// What a channel does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It copies.
    Busy,
    /// It is done.
    Done,
    /// It met an error.
    Failed,
}

/// A channel.
#[derive(Debug)]
pub struct Channel {
    base: usize,
}

impl Channel {
    /// Channel `number` of the engine whose registers are mapped at `base`.
    ///
    /// # Safety
    ///
    /// They are mapped there as Device memory for as long as the value lives, the channel is there, and nobody else uses it.
    #[must_use]
    pub const unsafe fn new(base: usize, number: usize) -> Self {
        Self { base: base + number * STRIDE }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new` was promised the mapping, and the registers are cells.
        unsafe { &*core::ptr::with_exposed_provenance(self.base) }
    }

    /// Begins with the control block at `block`, the engine's address.
    ///
    /// # Safety
    ///
    /// A control block is there, as the engine sees memory, and it leads to memory that the engine may read or write until
    /// the channel is done or stopped.
    pub unsafe fn start(&mut self, block: u32) {
        self.stop();
        self.registers().status.write(Status::END::SET);
        self.registers().block.set(block);
        // Whatever was written before must be in memory first.
        #[cfg(all(target_arch = "aarch64", target_os = "none"))]
        aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
        self.registers().status.modify(Status::ACTIVE::SET);
    }

    /// What became of it.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let status = self.registers().status.extract();
        if status.is_set(Status::ERROR) {
            Progress::Failed
        } else if status.is_set(Status::ACTIVE) || !status.is_set(Status::END) {
            Progress::Busy
        } else {
            Progress::Done
        }
    }

    /// Ends whatever it does.
    pub fn stop(&mut self) {
        self.registers().status.write(Status::RESET::SET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_one_block_that_goes_up_on_both_sides() {
        assert_eq!(copy_block(0xc000_1000, 0xc000_2000, 64), [0x118, 0xc000_1000, 0xc000_2000, 64, 0, 0, 0, 0]);
    }
}
