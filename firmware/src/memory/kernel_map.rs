// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own map: built beside the boot tables, then taken in one step.
//!
//! Its tables and the compact copy of the device tree are written through windows of the boot tables, since
//! there is no direct map yet. How many tables are needed is counted first, so they cannot run out. Nothing that is
//! live is ever replaced: every entry of the new tree is written once, before any CPU walks it.
//!
//! Later it takes device registers, which stay; the tables for those are the page allocator's.

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{TCR_EL1, TTBR0_EL1};
use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::arch::Arch;
use mm::arch::aarch64::AArch64;
use mm::memblock::Memblock;
use mm::pgtable::{Attributes, Change, MapError, PageTable, Regime, TableSource, level_size, max_tables};
use mm::tlb::Tlb;
use spin::Once;
use tock_registers::interfaces::{ReadWriteable, Writeable};

use super::owner::Owner;
use super::{MemoryError, direct_map, near_image};
use crate::cpu::{Hardware, hardware};
use crate::layout::{DEVICES, DEVICES_END, FIXMAP, Image};
use crate::window::Windows;

/// The kernel's translation tree.
#[derive(Debug)]
pub struct KernelMap {
    tree: PageTable<&'static Hardware>,
    /// Where the next device goes.
    next_device: u64,
}

static TLB: Once<Tlb<&'static Hardware>> = Once::new();

/// The TLBs of all CPUs.
///
/// Complexity: what the first call finds out about the CPU is kept.
#[must_use]
pub fn tlb() -> &'static Tlb<&'static Hardware> {
    TLB.call_once(|| Tlb::new(hardware()))
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
    /// Builds the map, fills `copy` by `write_copy`, and makes the map live. The direct map of `uncached` is that.
    pub(super) fn build(
        memblock: &mut Memblock,
        image: Image,
        copy: PhysRange,
        uncached: PhysRange,
        windows: &mut Windows,
        write_copy: impl FnOnce(&mut [u8]) -> Result<usize, MemoryError>,
    ) -> Result<Self, MemoryError> {
        let mut bound = 1;
        for_each_mapping(memblock, image, uncached, windows, |virt, phys, size, _| {
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
        for_each_mapping(memblock, image, uncached, windows, |virt, phys, size, attributes| {
            tree.map(virt, phys, size, attributes, &mut frames)
        })?;
        let root = tree.root();
        make_live(root, image);

        // The bound counts each range for itself; what neighbours share was not needed.
        if let Some(unused) = PhysRange::new(frames.next, frames.end) {
            memblock.release(unused)?;
        }
        // SAFETY: this is the tree that was just built, and the value that built it is gone; its tables are RAM that
        // is not `no-map`, so the direct map has them.
        let tree = unsafe { PageTable::from_root(hardware(), root, Regime::Upper) };
        Ok(Self { tree, next_device: DEVICES })
    }

    /// Maps pages at `virt`, which must be free.
    #[inline(never)]
    pub(crate) fn map(
        &mut self,
        virt: VirtAddr,
        phys: PhysAddr,
        size: u64,
        attributes: Attributes,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.tree.map(virt, phys, size, attributes, source)
    }

    /// Maps device registers, for good. Tells where they are then.
    ///
    /// # Errors
    ///
    /// [`MapError`]: the space for devices is used up, or there is no frame for a table.
    pub fn map_device(&mut self, base: u64, size: u64, source: &mut impl TableSource) -> Result<VirtAddr, MapError> {
        const BLOCK: u64 = level_size(2);
        let full = MapError::OutOfRange(VirtAddr::new(self.next_device));
        let first = PhysAddr::new(base).ok_or(full)?.align_down(PAGE_SIZE);
        let end = base.checked_add(size).and_then(|end| end.checked_next_multiple_of(PAGE_SIZE)).ok_or(full)?;
        let size = end.checked_sub(first.as_raw()).filter(|size| *size < DEVICES_END - DEVICES).ok_or(full)?;
        // In step with the registers, so that large ones take few descriptors.
        let ahead = (first.as_raw() % BLOCK).wrapping_sub(self.next_device) % BLOCK;
        let virt = VirtAddr::new(self.next_device + ahead);
        if virt.as_raw() + size > DEVICES_END {
            return Err(full);
        }
        // What follows begins behind a page that is never mapped, whether or not this succeeds.
        self.next_device = virt.as_raw() + size + PAGE_SIZE;
        self.map(virt, first, size, Attributes::DEVICE, source)?;
        Ok(VirtAddr::new(virt.as_raw() + base % PAGE_SIZE))
    }

    /// Takes away whatever is mapped at `virt..virt + size`, in blocks or pages; tables that are empty then go back to
    /// `source`.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    ///
    /// # Safety
    ///
    /// Nobody uses it any more.
    pub(crate) unsafe fn unmap_blocks(
        &mut self,
        virt: VirtAddr,
        size: u64,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.tree.unmap(virt, size, tlb(), source)?.flush(tlb()).release();
        self.tree.trim(virt, size, tlb(), source).map(drop)
    }

    /// The tree.
    #[must_use]
    pub const fn tree(&self) -> &PageTable<&'static Hardware> {
        &self.tree
    }

    /// The tree, to be changed.
    pub const fn tree_mut(&mut self) -> &mut PageTable<&'static Hardware> {
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
        let arch = hardware();
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
    uncached: PhysRange,
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
        // What differs from the rest, in order.
        let mut special = [(read_only, Attributes::RODATA), (uncached, Attributes::UNCACHED)];
        if uncached.start() < read_only.start() {
            special.reverse();
        }
        let mut at = range.start();
        for (part, attributes) in special {
            let Some(part) = range.intersection(part) else { continue };
            direct(at, part.start(), Attributes::DATA)?;
            direct(part.start(), part.end(), attributes)?;
            at = part.end();
        }
        direct(at, range.end(), Attributes::DATA)?;
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
