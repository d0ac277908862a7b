// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why an area could not be had, or not be given back.
#![forbid(unsafe_code)]

use core::fmt;

use super::block::NoTags;
use super::space::SpaceError;
use crate::addr::VirtAddr;
use crate::pgtable::MapError;

/// Why there is no area. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmallocError {
    /// Nothing was asked for.
    Zero,
    /// More than the machine has, or than an area can be.
    TooLarge(u64),
    /// An alignment that is no power of two, or above 1 GiB.
    Alignment(u64),
    /// RAM that is not mapped as ordinary memory: the direct map has it as that already.
    Attributes,
    /// No frames for the area, its tables or its tags.
    NoMemory,
    /// No run of free addresses is long enough.
    NoSpace,
    /// The mapping was refused.
    Map(MapError),
    /// What was to be changed is no area, or not of a kind that can be.
    Area(BadArea),
}

impl From<NoTags> for VmallocError {
    fn from(NoTags: NoTags) -> Self {
        Self::NoMemory
    }
}

impl From<SpaceError> for VmallocError {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::NoSpace => Self::NoSpace,
            SpaceError::NoTags => Self::NoMemory,
        }
    }
}

impl From<MapError> for VmallocError {
    fn from(error: MapError) -> Self {
        if error == MapError::NoTable { Self::NoMemory } else { Self::Map(error) }
    }
}

impl From<BadArea> for VmallocError {
    fn from(error: BadArea) -> Self {
        Self::Area(error)
    }
}

impl fmt::Display for VmallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("vmalloc: nothing was asked for"),
            Self::TooLarge(bytes) => write!(f, "vmalloc: {bytes} bytes are more than there are"),
            Self::Alignment(align) => write!(f, "vmalloc: an alignment of {align} cannot be had"),
            Self::Attributes => f.write_str("vmalloc: RAM can be mapped as normal memory only"),
            Self::NoMemory => f.write_str("vmalloc: out of memory"),
            Self::NoSpace => f.write_str("vmalloc: no free address range is long enough"),
            Self::Map(error) => write!(f, "vmalloc: {error}"),
            Self::Area(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for VmallocError {}

/// An address that is no area's first, or an area of another kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadArea {
    /// Outside of this address space, or not at a page.
    Address(VirtAddr),
    /// No area begins there: it was freed, or never was one.
    None(VirtAddr),
    /// What begins there is longer or shorter than that.
    Length(VirtAddr),
    /// It must be given back as it was made: `free` for what `alloc` made, `unmap` for what `map` made.
    Kind(VirtAddr),
}

impl fmt::Display for BadArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(virt) => write!(f, "vmalloc: {virt:?} is no address of an area"),
            Self::None(virt) => write!(f, "vmalloc: no area begins at {virt:?}: freed twice?"),
            Self::Length(virt) => write!(f, "vmalloc: the mapping at {virt:?} is not that long"),
            Self::Kind(virt) => write!(f, "vmalloc: the area at {virt:?} is of another kind"),
        }
    }
}

impl core::error::Error for BadArea {}
