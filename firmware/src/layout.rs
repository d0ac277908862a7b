// SPDX-License-Identifier: MIT OR Apache-2.0
//! The virtual memory map, and the image's own sections in it.
//!
//! ```text
//!   TTBR1  0xffff_0000_0000_0000  direct map: RAM at a constant offset, read-write, never executable
//!          0xffff_8000_0000_0000  vmalloc, ioremap, stacks: 512 GiB for each region of CPUs, at most half of them used
//!          0xffff_ffff_8000_0000  the kernel image, W^X
//!          0xffff_ffff_9000_0000  windows: boot-time views, and the console's registers for good
//!          0xffff_ffff_b000_0000  registers of devices
//!   TTBR0  empty (an identity map of one page while booting)
//! ```

use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr, VirtRange};
use mm::pgtable::Attributes;
use mm::vmalloc::{MOST_REGIONS, REGION_STRIDE};

/// Where physical address 0 appears in the direct map.
pub const DIRECT_MAP: u64 = 0xffff_0000_0000_0000;
/// The direct map ends where vmalloc begins: RAM from this address on cannot be reached.
pub const DIRECT_MAP_LIMIT: u64 = 1 << 47;
/// First address of the vmalloc area.
pub const VMALLOC_START: u64 = 0xffff_8000_0000_0000;
/// End of the vmalloc area: half of what lies above the direct map, the rest is room for a KASAN shadow.
pub const VMALLOC_END: u64 = 0xffff_c000_0000_0000;
/// Where the image is linked.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;

const _: () = assert!(VMALLOC_START + MOST_REGIONS as u64 * REGION_STRIDE <= VMALLOC_END);

/// The windows: six level 3 tables' worth of pages that the boot tables leave for Rust to fill.
pub const WINDOWS: u64 = 0xffff_ffff_9000_0000;
/// Device registers that are needed before there is an allocator: one page each.
pub const DEVICE_WINDOW: u64 = WINDOWS;
/// Number of device pages.
pub const DEVICE_PAGES: u64 = 16;
/// The device tree as the loader left it: at most 2 MiB, at any alignment.
pub const TREE_WINDOW: u64 = WINDOWS + DEVICE_PAGES * PAGE_SIZE;
/// Pages for it.
pub const TREE_PAGES: u64 = 513;
/// Frames that become the kernel's own tables and its copy of the device tree, while those are written.
pub const SCRATCH_WINDOW: u64 = TREE_WINDOW + 528 * PAGE_SIZE;
/// Pages for them: the rest of the windows' six tables.
pub const SCRATCH_PAGES: u64 = 6 * 512 - 528 - DEVICE_PAGES;

/// Device registers that are mapped once there is an allocator.
pub const DEVICES: u64 = 0xffff_ffff_b000_0000;
/// End of the device registers.
pub const DEVICES_END: u64 = 0xffff_ffff_f000_0000;

/// Bytes of a fault stack; `linker/image.ld` has the same number.
pub const FAULT_STACK_SIZE: u64 = 16 * 1024;
/// End of the boot CPU's.
pub const FAULT_STACK_END: *const u8 = &raw const __fault_stack_end;
/// A page through which a table is reached while the direct map of it is taken apart. Its place is free once the
/// loader's tree is read.
pub const FIXMAP: u64 = TREE_WINDOW;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __symbols_start: u8;
    static __symbols_end: u8;
    static __rodata_end: u8;
    static __file_end: u8;
    static __data_end: u8;
    static __stack_start: u8;
    static __stack_end: u8;
    static __fault_stack_start: u8;
    static __fault_stack_end: u8;
    static __boot_tables_start: u8;
    static __boot_tables_end: u8;
    static __image_end: u8;
    static boot_tt1: u8;
}

/// One piece of the image.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What the boot log calls it.
    pub name: &'static str,
    /// Where it is linked.
    pub virt: VirtRange,
    /// How the kernel maps it; `None` for what is not mapped: guard pages, and tables used only to boot.
    pub attributes: Option<Attributes>,
}

/// The image as it was loaded.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    phys: PhysAddr,
}

impl Image {
    /// An image that begins at `phys`.
    #[must_use]
    pub const fn at(phys: PhysAddr) -> Self {
        Self { phys }
    }

    /// All of the image, stacks and boot tables included.
    #[must_use]
    pub fn range(self) -> PhysRange {
        self.phys_of(between(&raw const __image_start, &raw const __image_end))
    }

    /// What must never be written, through whatever alias: text and constants.
    #[must_use]
    pub fn read_only(self) -> PhysRange {
        self.phys_of(between(&raw const __image_start, &raw const __rodata_end))
    }

    /// Bytes of the flat image file.
    #[must_use]
    pub fn file_size(self) -> u64 {
        between(&raw const __image_start, &raw const __file_end).size()
    }

    /// The root of the boot tables.
    #[must_use]
    pub fn boot_root(self) -> PhysAddr {
        self.phys_of(between(&raw const boot_tt1, &raw const boot_tt1)).start()
    }

    /// Virtual minus physical address of the image, modulo 2^64.
    #[must_use]
    pub const fn offset(self) -> u64 {
        IMAGE.wrapping_sub(self.phys.as_raw())
    }

    /// The pieces in ascending order, without a gap.
    #[must_use]
    pub fn sections(self) -> [Section; 8] {
        let piece = |name, start, end, attributes| Section { name, virt: between(start, end), attributes };
        let (text, rodata) = (&raw const __text_end, &raw const __rodata_end);
        let (data, stack) = (&raw const __data_end, &raw const __stack_start);
        let (stack_end, fault) = (&raw const __stack_end, &raw const __fault_stack_start);
        let (fault_end, tables) = (&raw const __fault_stack_end, &raw const __boot_tables_start);
        [
            piece("text", &raw const __image_start, text, Some(Attributes::TEXT)),
            piece("rodata", text, rodata, Some(Attributes::RODATA)),
            piece("data", rodata, data, Some(Attributes::DATA)),
            piece("guard page", data, stack, None),
            piece("stack", stack, stack_end, Some(Attributes::DATA)),
            piece("guard page", stack_end, fault, None),
            piece("fault stack", fault, fault_end, Some(Attributes::DATA)),
            piece("boot tables", tables, &raw const __boot_tables_end, None),
        ]
    }

    /// Where a part of the image lies in physical memory.
    #[must_use]
    pub fn phys_of(self, virt: VirtRange) -> PhysRange {
        let at = |virt: VirtAddr| PhysAddr::new_saturating(virt.as_raw().wrapping_sub(self.offset()));
        // Both ends move by the same offset, so the range cannot be inverted.
        PhysRange::new(at(virt.start()), at(virt.end())).unwrap_or_default()
    }
}

/// The room for the names of functions ([`crate::symbols`]); zeros where `mkimage` did not fill it.
#[must_use]
pub fn symbols() -> &'static [u8] {
    let room = between(&raw const __symbols_start, &raw const __symbols_end);
    let first = core::ptr::with_exposed_provenance(room.start().as_raw() as usize);
    // SAFETY: the linker script puts the room among the constants, which are mapped and never change.
    unsafe { core::slice::from_raw_parts(first, room.size() as usize) }
}

/// The range between two linker symbols.
fn between(start: *const u8, end: *const u8) -> VirtRange {
    let at = |symbol: *const u8| VirtAddr::new(symbol.addr() as u64);
    VirtRange::new(at(start), at(end)).unwrap_or_default()
}
