// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong. Nothing has changed then, and nothing is lost.
#![forbid(unsafe_code)]

use core::fmt;

use super::device::DmaAddr;
use crate::addr::PhysAddr;

/// Why memory was not allocated, mapped, synchronised or given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaError {
    /// Nothing was asked for.
    Zero,
    /// More bytes than a device gets in one piece.
    TooLarge(u64),
    /// No memory for it: neither in the pools nor, if the caller may wait, beyond.
    NoMemory,
    /// No room for another mapping to be remembered.
    NoRecord,
    /// The device does not reach this memory, and there is none for it that it does.
    Unreachable(PhysAddr),
    /// No RAM can be addressed so.
    Mask(u64),
    /// More devices, or pools, than there is room for.
    TooMany,
    /// Not all of it is RAM that the direct map shows.
    NotRam(PhysAddr),
    /// The device may write what another mapping has in use, which begins here; or the other way about.
    Overlap(PhysAddr),
    /// Nothing is mapped or allocated there.
    NotMapped(DmaAddr),
    /// It is of another device.
    WrongDevice(DmaAddr),
    /// It has so many bytes, and others were named.
    WrongSize {
        /// Of the mapping.
        mapped: u64,
        /// By the caller.
        given: u64,
    },
    /// It was mapped for another direction.
    WrongDirection(DmaAddr),
    /// The pointer and the device's address are not of the same memory.
    WrongPointer(DmaAddr),
    /// So many allocations and mappings of the device are left.
    InUse(usize),
    /// Alignment or boundary is no power of two, or does not fit the size.
    Layout,
    /// What should be uncached cannot be made so.
    Attributes(PhysAddr),
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Zero => f.write_str("nothing was asked for"),
            Self::TooLarge(size) => write!(f, "{size} bytes are more than can be had in one piece"),
            Self::NoMemory => f.write_str("out of memory for devices"),
            Self::NoRecord => f.write_str("out of memory to remember another mapping"),
            Self::Unreachable(phys) => write!(f, "the device does not reach {phys:?}"),
            Self::Mask(mask) => write!(f, "no memory has an address within {mask:#x}"),
            Self::TooMany => f.write_str("too many devices or pools"),
            Self::NotRam(phys) => write!(f, "{phys:?} is no RAM of the direct map"),
            Self::Overlap(phys) => write!(f, "it overlaps the mapping at {phys:?}, and a device writes there"),
            Self::NotMapped(addr) => write!(f, "nothing is mapped at {addr:?}"),
            Self::WrongDevice(addr) => write!(f, "what is at {addr:?} is of another device"),
            Self::WrongSize { mapped, given } => write!(f, "{mapped} bytes are there, not {given}"),
            Self::WrongDirection(addr) => write!(f, "what is at {addr:?} was mapped for another direction"),
            Self::WrongPointer(addr) => write!(f, "the pointer is not to what is at {addr:?}"),
            Self::InUse(count) => write!(f, "{count} allocations or mappings are left"),
            Self::Layout => f.write_str("alignment or boundary does not fit the size"),
            Self::Attributes(phys) => write!(f, "{phys:?} cannot be mapped uncached"),
        }
    }
}

impl core::error::Error for DmaError {}
