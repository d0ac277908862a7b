// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own map: built beside the boot tables, then taken in one step.
//!
//! Its tables and the compact copy of the device tree are written through windows of the boot tables, since
//! there is no direct map yet. How many tables are needed is counted first, so they cannot run out. Nothing that is
//! live is ever replaced: every entry of the new tree is written once, before any CPU walks it.

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{TCR_EL1, TTBR0_EL1};
use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::arch::Arch;
use mm::arch::aarch64::AArch64;
use mm::memblock::Memblock;
use mm::pgtable::{Attributes, Change, MapError, PageTable, Regime, TableSource, max_tables};
use mm::tlb::Tlb;
use spin::Once;
use tock_registers::interfaces::{ReadWriteable, Writeable};

use super::owner::Owner;
use super::{MemoryError, direct_map, near_image};
use crate::layout::{DIRECT_MAP, FIXMAP, Image};
use crate::window::Windows;

/// The kernel's translation tree.
#[derive(Debug)]
pub struct KernelMap {
    tree: PageTable<AArch64>,
}

static TLB: Once<Tlb<AArch64>> = Once::new();

/// The TLBs of all CPUs.
///
/// Complexity: what the first call finds out about the CPU is kept.
#[must_use]
pub fn tlb() -> &'static Tlb<AArch64> {
    // SAFETY: the direct map shows all RAM; the TLBs are told of addresses only.
    TLB.call_once(|| Tlb::new(unsafe { AArch64::new(DIRECT_MAP) }))
}

/// Frames for tables, one after the other.
struct Frames {
    next: PhysAddr,
    end: PhysAddr,
}

impl TableSource for Frames {
    fn table(&mut self) -> Option<PhysAddr> {
        let table = self.next;
        if table == self.end {
            return None;
        }
        self.next = table.checked_add(PAGE_SIZE)?;
        Some(table)
    }

    /// The last one taken comes back first, if any does.
    fn give_back(&mut self, table: PhysAddr) {
        if table.checked_add(PAGE_SIZE) == Some(self.next) {
            self.next = table;
        }
    }
}

impl KernelMap {
    /// Builds the map, fills `copy` by `write_copy`, and makes the map live.
    pub(super) fn build(
        memblock: &mut Memblock,
        image: Image,
        copy: PhysRange,
        windows: &mut Windows,
        write_copy: impl FnOnce(&mut [u8]) -> Result<usize, MemoryError>,
    ) -> Result<Self, MemoryError> {
        let mut bound = 1;
        for_each_mapping(memblock, image, windows, |virt, phys, size, _| {
            bound += max_tables(virt, phys, size);
            Ok(())
        })?;
        let tables = near_image(memblock, image, bound * PAGE_SIZE, Owner::Tables)?;
        let window = windows.tables(tables)?;
        write_copy(windows.copy(copy)?)?;

        // SAFETY: the window shows `tables` at a constant offset, and all tables come from there.
        let arch = unsafe { AArch64::new(window.as_raw().wrapping_sub(tables.start().as_raw())) };
        let mut frames = Frames { next: tables.start(), end: tables.end() };
        let mut tree = PageTable::new(arch, Regime::Upper, &mut frames)?;
        for_each_mapping(memblock, image, windows, |virt, phys, size, attributes| {
            tree.map(virt, phys, size, attributes, &mut frames)
        })?;
        let root = tree.root();
        make_live(root, image);

        // The bound counts each range for itself; what neighbours share was not needed.
        if let Some(unused) = PhysRange::new(frames.next, frames.end) {
            memblock.release(unused)?;
        }
        // SAFETY: the tables are RAM that is not `no-map`, so the direct map has them.
        let arch = unsafe { AArch64::new(DIRECT_MAP) };
        // SAFETY: this is the tree that was just built; the value that built it is gone.
        let tree = unsafe { PageTable::from_root(arch, root, Regime::Upper) };
        Ok(Self { tree })
    }

    /// The tree.
    #[must_use]
    pub const fn tree(&self) -> &PageTable<AArch64> {
        &self.tree
    }

    /// The tree, to be changed.
    pub const fn tree_mut(&mut self) -> &mut PageTable<AArch64> {
        &mut self.tree
    }

    /// Bytes in translation tables. Complexity: one load per entry of every table.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        self.tree.tables() * PAGE_SIZE
    }

    /// Changes permissions or validity of `size` bytes from `virt` on, which may be in use: see
    /// [`PageTable::change_live`].
    ///
    /// # Errors
    ///
    /// [`MapError`].
    ///
    /// # Safety
    ///
    /// Nobody needs of the pages what they lose.
    pub unsafe fn change(
        &mut self,
        virt: VirtAddr,
        size: u64,
        change: Change,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        let arch = crate::cpu::hardware();
        let state = arch.mask_interrupts();
        // SAFETY: interrupts are masked, the caller holds the map's lock, FIXMAP is nobody else's; the image is
        // mapped by pages of its own, never by a block of the direct map or of vmalloc.
        let result = unsafe { self.tree.change_live(virt, size, change, VirtAddr::new(FIXMAP), tlb(), source) };
        // SAFETY: masked above, on this CPU.
        unsafe { arch.restore_interrupts(state) };
        result
    }
}

/// All that the kernel maps: the image by section, the direct map, and the device windows.
fn for_each_mapping(
    memblock: &Memblock,
    image: Image,
    windows: &Windows,
    mut map: impl FnMut(VirtAddr, PhysAddr, u64, Attributes) -> Result<(), MapError>,
) -> Result<(), MapError> {
    for section in image.sections() {
        if let Some(attributes) = section.attributes {
            map(section.virt.start(), image.phys_of(section.virt).start(), section.virt.size(), attributes)?;
        }
    }
    // Text and constants are read-only through the direct map too, or W^X would be a matter of the alias.
    let read_only = image.read_only();
    for range in memblock.mapped_ranges() {
        let mut direct = |start: PhysAddr, end: PhysAddr, attributes| match PhysRange::new(start, end) {
            Some(part) if !part.is_empty() => map(direct_map(start), start, part.size(), attributes),
            _ => Ok(()),
        };
        match range.intersection(read_only) {
            Some(fixed) => {
                direct(range.start(), fixed.start(), Attributes::DATA)?;
                direct(fixed.start(), fixed.end(), Attributes::RODATA)?;
                direct(fixed.end(), range.end(), Attributes::DATA)?;
            }
            None => direct(range.start(), range.end(), Attributes::DATA)?,
        }
    }
    for (virt, phys) in windows.devices() {
        map(virt, phys, PAGE_SIZE, Attributes::DEVICE)?;
    }
    Ok(())
}

unsafe extern "C" {
    /// `boot/entry.S`: makes `root` the tree of TTBR1. `offset` is the image's virtual minus physical address.
    fn replace_root(root: u64, offset: u64);
}

/// Whether the kernel's own map is live, and the boot tables may be gone.
static IS_LIVE: AtomicBool = AtomicBool::new(false);

/// See [`IS_LIVE`].
pub(crate) fn is_live() -> bool {
    IS_LIVE.load(Ordering::Relaxed)
}

fn make_live(root: PhysAddr, image: Image) {
    IS_LIVE.store(true, Ordering::Relaxed);
    // SAFETY: the new tree maps the image, this stack included, and the console as the old one does; interrupts
    // are masked, no other CPU runs, and TTBR0 still maps the trampoline to itself.
    unsafe { replace_root(root.as_raw(), image.offset()) };
    // The lower half is empty from now on: a null pointer faults instead of finding the trampoline.
    TCR_EL1.modify(TCR_EL1::EPD0::DisableTTBR0Walks);
    TTBR0_EL1.set(0);
    barrier::isb(barrier::SY);
    // SAFETY: forgets translations of the lower half, which nobody uses. No other CPU has its MMU on.
    unsafe { core::arch::asm!("tlbi vmalle1", options(nostack)) };
    barrier::dsb(barrier::NSH);
    barrier::isb(barrier::SY);
}
