// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies by the Raspberry Pi's DMA engine, which neither sees the caches nor reaches more than the first GiB.

use core::fmt;

use bsp::dma_engine::{BLOCK_ALIGN, BLOCK_WORDS, Channel, MAX_BYTES, Progress, copy_block};
use bsp::info::MasterKind;
use mm::addr::PhysAddr;
use mm::dma::{Attrs, Device, Direction, DmaAddr, DmaError, DmaPool, PoolSpec};
use mm::gfp::Gfp;

use super::{KernelMapper, mapper, masters, release, spec};
use crate::boot::{self, Machine};
use crate::vmalloc::{ioremap, iounmap};

/// How long a copy may take.
const TIMEOUT_NS: u64 = 1_000_000_000;

/// Why nothing was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineError {
    /// The machine has no engine, or no channel of it is ours.
    None,
    /// Its registers cannot be mapped.
    Registers,
    /// The memory cannot be given to it.
    Memory(DmaError),
    /// It takes whole words of four bytes.
    Words,
    /// It reports an error, or does not end.
    Failed,
}

impl From<DmaError> for EngineError {
    fn from(error: DmaError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no DMA engine for us"),
            Self::Registers => f.write_str("the DMA engine's registers cannot be mapped"),
            Self::Memory(error) => error.fmt(f),
            Self::Words => f.write_str("the DMA engine takes whole words"),
            Self::Failed => f.write_str("the DMA engine failed"),
        }
    }
}

/// Copies between two buffers, at most [`MAX_BYTES`] of them, by the engine alone. For a test of what lies between it and
/// memory: a CPU copies so few bytes faster.
///
/// # Errors
///
/// [`EngineError`].
pub fn copy(machine: &'static Machine, from: &[u8], to: &mut [u8]) -> Result<(), EngineError> {
    let mapper = mapper().ok_or(EngineError::None)?;
    let (master, channels) = masters(machine.info, |kind| matches!(kind, MasterKind::Bcm2835Dma { .. }))
        .find_map(|master| match master.kind {
            MasterKind::Bcm2835Dma { channels } if channels != 0 => Some((master, channels)),
            _ => None,
        })
        .ok_or(EngineError::None)?;
    let phys = PhysAddr::new(master.base).ok_or(EngineError::Registers)?;
    // SAFETY: the tree says that registers are there, which nobody else has mapped.
    let registers = unsafe { ioremap(phys, master.size) }.map_err(|_| EngineError::Registers)?;
    // SAFETY: mapped as Device memory until the end; the tree leaves this channel to us, and there is no other driver.
    let mut channel =
        unsafe { Channel::new(registers.as_ptr().expose_provenance(), channels.trailing_zeros() as usize) };
    let result = match mapper.add_device(&spec(machine.info, master, "bcm2835-dma")) {
        Ok(device) => {
            let result = copy_by(mapper, &device, &mut channel, from, to);
            channel.stop();
            release(device);
            result
        }
        Err(error) => Err(error.into()),
    };
    // SAFETY: the channel is used no more.
    unsafe { iounmap(registers) };
    result
}

fn copy_by(
    mapper: &'static KernelMapper,
    device: &Device,
    channel: &mut Channel,
    from: &[u8],
    to: &mut [u8],
) -> Result<(), EngineError> {
    let bytes = from.len().min(to.len()) as u64;
    if bytes > u64::from(MAX_BYTES) {
        return Err(DmaError::TooLarge(bytes).into());
    }
    // QEMU's engine takes words, and never ends where there is no whole number of them.
    if !bytes.is_multiple_of(4) {
        return Err(EngineError::Words);
    }
    let spec = PoolSpec { size: (BLOCK_WORDS * 4) as u64, align: BLOCK_ALIGN as u64, boundary: 0 };
    let pool = DmaPool::new(mapper, device, &spec)?;
    let block = pool.alloc(Gfp::KERNEL)?;
    let (source, target) = (core::ptr::NonNull::from_ref(from).cast(), core::ptr::NonNull::from_mut(to).cast());
    // SAFETY: borrowed for as long as the engine has it, which only reads.
    let copied = unsafe { mapper.map_single(device, source, bytes, Direction::ToDevice, Attrs::empty()) };
    let copied = copied.and_then(|from| {
        // SAFETY: borrowed mutably for as long as the engine has it.
        let mapped = unsafe { mapper.map_single(device, target, bytes, Direction::FromDevice, Attrs::empty()) };
        let done = mapped.and_then(|to| {
            let done = run(channel, block.pointer.cast(), block.addr, [from, to], bytes);
            // SAFETY: the engine is done, or stopped.
            unsafe { mapper.unmap(device, to, bytes, Direction::FromDevice, Attrs::empty())? };
            Ok(done)
        });
        // SAFETY: as above.
        unsafe { mapper.unmap(device, from, bytes, Direction::ToDevice, Attrs::empty())? };
        done
    });
    pool.free(block)?;
    copied?
}

/// Writes the control block and waits for the engine.
fn run(
    channel: &mut Channel,
    block: core::ptr::NonNull<[u32; BLOCK_WORDS]>,
    addr: DmaAddr,
    [from, to]: [DmaAddr; 2],
    bytes: u64,
) -> Result<(), EngineError> {
    let word = |addr: DmaAddr| u32::try_from(addr.as_raw()).map_err(|_| EngineError::Failed);
    // SAFETY: coherent memory of that size, ours alone.
    unsafe { block.write_volatile(copy_block(word(from)?, word(to)?, bytes as u32)) };
    // SAFETY: the block is written, and what it leads to is the engine's until it is unmapped.
    unsafe { channel.start(word(addr)?) };
    let start = boot::uptime_ns();
    loop {
        match channel.progress() {
            Progress::Done => return Ok(()),
            Progress::Busy if boot::uptime_ns() - start < TIMEOUT_NS => core::hint::spin_loop(),
            Progress::Busy | Progress::Failed => {
                channel.stop();
                return Err(EngineError::Failed);
            }
        }
    }
}
