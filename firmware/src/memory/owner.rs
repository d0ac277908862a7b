// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who owns a reserved byte: the meaning of memblock's tags.

use core::fmt;

use bsp::info::BootInfo;
use mm::memblock::Tag;

use crate::layout::Image;

/// The owner of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A section of the image, by its number in [`Image::sections`].
    Section(u16),
    /// The device tree where the loader put it, until it is copied.
    LoaderTree,
    /// Our compact copy of the device tree.
    DeviceTree,
    /// The kernel's translation tables.
    Tables,
    /// The page allocator's metadata.
    PageAllocator,
    /// The slab's metadata.
    Slab,
    /// Memory for devices, mapped uncached.
    CoherentPool,
    /// The contiguous memory area, until it is lent.
    Cma,
    /// The initial ram disk.
    Initrd,
    /// Where cores wait for their entry point.
    SpinTable,
    /// What `memtest=` found to be bad.
    BadRam,
    /// A static reservation of the tree, by its number in [`BootInfo::reserved`].
    Tree(u16),
    /// A reservation that the tree leaves us to place, by its number in [`BootInfo::dynamic`].
    Dynamic(u16),
}

const SECTIONS: u16 = 0x100;
const TREE: u16 = 0x1000;
const DYNAMIC: u16 = 0x2000;

impl Owner {
    /// What memblock calls it.
    #[must_use]
    pub const fn tag(self) -> Tag {
        Tag(match self {
            Self::LoaderTree => 1,
            Self::DeviceTree => 2,
            Self::Tables => 3,
            Self::PageAllocator => 4,
            Self::Initrd => 5,
            Self::SpinTable => 6,
            Self::Slab => 7,
            Self::BadRam => 8,
            Self::CoherentPool => 9,
            Self::Cma => 10,
            Self::Section(index) => SECTIONS + index,
            Self::Tree(index) => TREE + index,
            Self::Dynamic(index) => DYNAMIC + index,
        })
    }

    /// The owner that memblock calls `tag`.
    #[must_use]
    pub const fn of(tag: Tag) -> Option<Self> {
        Some(match tag.0 {
            1 => Self::LoaderTree,
            2 => Self::DeviceTree,
            3 => Self::Tables,
            4 => Self::PageAllocator,
            5 => Self::Initrd,
            6 => Self::SpinTable,
            7 => Self::Slab,
            8 => Self::BadRam,
            9 => Self::CoherentPool,
            10 => Self::Cma,
            SECTIONS..TREE => Self::Section(tag.0 - SECTIONS),
            TREE..DYNAMIC => Self::Tree(tag.0 - TREE),
            DYNAMIC.. => Self::Dynamic(tag.0 - DYNAMIC),
            _ => return None,
        })
    }

    /// Whether the firmware itself needs the bytes, rather than the tree wanting them left alone.
    #[must_use]
    pub const fn is_own(self) -> bool {
        !matches!(self, Self::Tree(_) | Self::Dynamic(_) | Self::Initrd | Self::SpinTable | Self::BadRam)
    }
}

/// Writes the name of a tag's owner.
pub(crate) fn write_name(info: &BootInfo, tag: Tag, w: &mut impl fmt::Write) -> fmt::Result {
    match Owner::of(tag) {
        Some(Owner::Section(index)) => {
            let sections = Image::at(mm::addr::PhysAddr::ZERO).sections();
            let name = sections.get(usize::from(index)).map_or("?", |section| section.name);
            write!(w, "kernel {name}")
        }
        Some(Owner::LoaderTree) => w.write_str("device tree as loaded"),
        Some(Owner::DeviceTree) => w.write_str("device tree"),
        Some(Owner::Tables) => w.write_str("translation tables"),
        Some(Owner::PageAllocator) => w.write_str("page allocator"),
        Some(Owner::Slab) => w.write_str("slab"),
        Some(Owner::CoherentPool) => w.write_str("coherent pool"),
        Some(Owner::Cma) => w.write_str("contiguous memory area"),
        Some(Owner::Initrd) => w.write_str("initrd"),
        Some(Owner::BadRam) => w.write_str("bad RAM"),
        Some(Owner::SpinTable) => w.write_str("spin table"),
        Some(Owner::Tree(index)) => w.write_str(info.reserved.get(usize::from(index)).map_or("?", |entry| &entry.name)),
        Some(Owner::Dynamic(index)) => {
            w.write_str(info.dynamic.get(usize::from(index)).map_or("?", |entry| &entry.name))
        }
        None => write!(w, "tag {}", tag.0),
    }
}

/// The name of a tag's owner, to be printed.
pub(crate) struct OwnerName<'a>(pub(crate) &'a BootInfo, pub(crate) Tag);

impl fmt::Display for OwnerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self.0, self.1, f)
    }
}
