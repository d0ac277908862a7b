// SPDX-License-Identifier: MIT OR Apache-2.0
//! Views of physical memory while there is no direct map: pages that the boot tables leave open.
//!
//! Every address is used once, so nothing is ever unmapped and no translation can go stale. The boot tables cover
//! all windows: no table is ever missing.

use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::arch::aarch64::AArch64;
use mm::pgtable::{Attributes, MapError, NoTables, PageTable, Regime};

use crate::layout::{DEVICE_PAGES, DEVICE_WINDOW, Image, SCRATCH_PAGES, SCRATCH_WINDOW, TREE_PAGES, TREE_WINDOW};

/// The windows, while the boot tables are live.
#[derive(Debug)]
pub(crate) struct Windows {
    tree: PageTable<AArch64>,
    devices: u64,
    tree_pages: u64,
    scratch_pages: u64,
}

impl Windows {
    /// # Safety
    ///
    /// The boot tables of `image` are live and nobody else writes them.
    pub(crate) unsafe fn new(image: Image) -> Self {
        // SAFETY: the boot tables are part of the image's data, which they map at the image's offset.
        let arch = unsafe { AArch64::new(image.offset()) };
        // SAFETY: `entry.S` built a whole tree; the caller gives up writing it. The tables of the windows are empty
        // and counted as such; what else is miscounted is not written.
        let tree = unsafe { PageTable::from_root(arch, image.boot_root(), Regime::Upper) };
        Self { tree, devices: 0, tree_pages: 0, scratch_pages: 0 }
    }

    /// Maps the page that holds the device registers at `base`; tells where `base` is then.
    pub(crate) fn device(&mut self, base: u64) -> Result<VirtAddr, MapError> {
        // Whoever opens the last-resort console does not know which pages were used before.
        while self.tree.translate(VirtAddr::new(DEVICE_WINDOW + self.devices * PAGE_SIZE)).is_some() {
            self.devices += 1;
        }
        let virt = VirtAddr::new(DEVICE_WINDOW + self.devices * PAGE_SIZE);
        let phys = PhysAddr::new(base).ok_or(MapError::OutOfRange(virt))?;
        if self.devices >= DEVICE_PAGES {
            return Err(MapError::NoTable);
        }
        self.tree.map(virt, phys.align_down(PAGE_SIZE), PAGE_SIZE, Attributes::DEVICE, &mut NoTables)?;
        self.devices += 1;
        Ok(VirtAddr::new(virt.as_raw() + base % PAGE_SIZE))
    }

    /// The device pages in use: where each is and which frame it shows.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (VirtAddr, PhysAddr)> {
        (0..self.devices).filter_map(|n| {
            let virt = VirtAddr::new(DEVICE_WINDOW + n * PAGE_SIZE);
            Some((virt, self.tree.translate(virt)?))
        })
    }

    /// The first `size` bytes of the device tree at `phys`, read-only. A longer view of the same tree may follow.
    pub(crate) fn device_tree(&mut self, phys: PhysAddr, size: u64) -> Result<&'static [u8], MapError> {
        let start = phys.align_down(PAGE_SIZE);
        let pages = (phys.as_raw() - start.as_raw() + size).div_ceil(PAGE_SIZE);
        let virt = VirtAddr::new(TREE_WINDOW);
        if pages > TREE_PAGES {
            return Err(MapError::OutOfRange(virt));
        }
        // What an earlier, shorter view has mapped is there already.
        let done = self.tree_pages * PAGE_SIZE;
        if pages > self.tree_pages {
            let virt = VirtAddr::new(TREE_WINDOW + done);
            let phys = start.checked_add(done).ok_or(MapError::OutOfRange(virt))?;
            self.tree.map(virt, phys, (pages - self.tree_pages) * PAGE_SIZE, Attributes::RODATA, &mut NoTables)?;
            self.tree_pages = pages;
        }
        let first = TREE_WINDOW + phys.as_raw() % PAGE_SIZE;
        // SAFETY: the pages are mapped above and stay so until the boot tables die, which is after the last
        // use of the tree where the loader put it; nobody writes there.
        Ok(unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(first as usize), size as usize) })
    }

    /// Maps `frames`, which become the kernel's own tables; tells where they are then.
    pub(crate) fn tables(&mut self, frames: PhysRange) -> Result<VirtAddr, MapError> {
        self.scratch(frames)
    }

    /// Maps `frames` to be filled with bytes.
    pub(crate) fn copy(&mut self, frames: PhysRange) -> Result<&'static mut [u8], MapError> {
        let virt = self.scratch(frames)?;
        let first = core::ptr::with_exposed_provenance_mut(virt.as_raw() as usize);
        // SAFETY: the frames are mapped writable above, at an address that is handed out once.
        Ok(unsafe { core::slice::from_raw_parts_mut(first, frames.size() as usize) })
    }

    fn scratch(&mut self, frames: PhysRange) -> Result<VirtAddr, MapError> {
        // Out of step with the frames, so that no block descriptor can form where the boot tables have a table.
        if (SCRATCH_WINDOW / PAGE_SIZE + self.scratch_pages) % 512 == frames.start().pfn().as_raw() % 512 {
            self.scratch_pages += 1;
        }
        let virt = VirtAddr::new(SCRATCH_WINDOW + self.scratch_pages * PAGE_SIZE);
        let pages = frames.size() / PAGE_SIZE;
        if pages + self.scratch_pages > SCRATCH_PAGES {
            return Err(MapError::OutOfRange(virt));
        }
        self.tree.map(virt, frames.start(), frames.size(), Attributes::DATA, &mut NoTables)?;
        self.scratch_pages += pages;
        Ok(virt)
    }
}
