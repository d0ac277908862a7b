// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that read and write RAM by themselves: what the tree says of how they see it.

use arrayvec::ArrayVec;

use super::DmaWindow;

/// The ones that there are drivers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MasterKind {
    /// A slot of virtio's MMIO transport, which may be empty.
    VirtioMmio,
    /// The DMA engine of the Raspberry Pi 1 to 4.
    Bcm2835Dma {
        /// Its channels that the CPU may use, a bit each.
        channels: u32,
    },
}

/// How RAM looks from a bus: the entries of the nearest `dma-ranges`; none if it looks as to the CPU.
pub type DmaWindows = ArrayVec<DmaWindow, 4>;

/// A device that is a master of a bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Master {
    /// What it is.
    pub kind: MasterKind,
    /// CPU address of its registers.
    pub base: u64,
    /// Bytes of them.
    pub size: u64,
    /// Whether it sees the CPU's caches: `dma-coherent`, of itself or of a bus above it.
    pub is_coherent: bool,
    /// How it sees RAM: index into [`BootInfo::dma_buses`](super::BootInfo::dma_buses).
    pub bus: u8,
}
