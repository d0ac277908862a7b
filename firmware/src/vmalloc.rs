// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's vmalloc, and its calls by Linux's names. Whoever calls them is noted for `vmallocinfo`.

use core::ptr::NonNull;

use mm::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use mm::gfp::Gfp;
use mm::pgtable::{Attributes, Regime};
use mm::vmalloc::{BadArea, Config, Kind, Request, Vmalloc, VmallocError, pointer};

use crate::allocators::AREAS;
use crate::cpu::{Hardware, hardware};
use crate::layout::VMALLOC_START;
use crate::memory::tlb;
use crate::options::Options;
use crate::slab::Source;
use crate::{pr_err, pr_warn};

/// Its type.
pub type KernelVmalloc = Vmalloc<'static, Hardware, Source>;

/// Bytes of address space of a region: as much as `mm` has tags for.
const SIZE: u64 = 256 << 30;
/// Frames of the machine for each region: what a region keeps for itself is nothing beside that.
const PAGES_PER_REGION: u64 = (64 << 20) / PAGE_SIZE;

/// Makes it: addresses of the tree at `root`.
#[inline(never)] // since there is room for this once on the boot stack
pub(crate) fn start(pages: Source, root: PhysAddr, nr_cpus: usize, options: &Options<'_>) -> &'static KernelVmalloc {
    let ram_pages = pages.managed_pages();
    let config = Config {
        start: VirtAddr::new(VMALLOC_START),
        size: SIZE,
        regions: nr_cpus.min((ram_pages / PAGES_PER_REGION) as usize),
        ram_pages,
        lazy_pages: Config::lazy_limit(nr_cpus, ram_pages),
        huge: !options.nohugevmalloc,
    };
    // SAFETY: the kernel's tree, which the direct map shows. The map itself has nothing in the regions from there on:
    // `Memory::set_memory_ro` and its family ask vmalloc for what is there.
    let make = || unsafe { Vmalloc::new(hardware(), pages, tlb(), root, Regime::Upper, config) };
    // SAFETY: every CPU translates by that tree, and what `KVmalloc` and its like allocate is freed by them.
    let vmalloc = unsafe { AREAS.start(make) };
    // A thread's stack has no room for that.
    vmalloc.start_regions();
    if !pages.add_shrinker(vmalloc) {
        pr_warn!("vmalloc: what it keeps for a flush cannot be asked back");
    }
    vmalloc
}

/// It, which is there when `boot` is through.
#[must_use]
pub fn get() -> Option<&'static KernelVmalloc> {
    AREAS.get()
}

/// Whom the function that this is inlined into returns to.
#[inline(always)]
pub(crate) fn caller() -> u64 {
    let address: u64;
    // SAFETY: this target has frame records (`.cargo/config.toml`): x29 leads to the record of the function, whose second
    // word is the address that it returns to.
    unsafe { core::arch::asm!("ldr {}, [x29, #8]", out(reg) address, options(nostack, readonly, preserves_flags)) };
    address
}

#[inline(always)]
fn alloc_data(bytes: u64, gfp: Gfp, kind: Kind, caller: u64) -> Result<NonNull<u8>, VmallocError> {
    pointer(AREAS.get().ok_or(VmallocError::NoSpace)?.alloc_data(bytes, gfp, kind, caller)?)
}

fn alloc(request: &Request) -> Result<NonNull<u8>, VmallocError> {
    let virt = AREAS.get().ok_or(VmallocError::NoSpace)?.alloc(request)?;
    pointer(virt)
}

/// Memory of `bytes`, page-aligned, contiguous in addresses only.
///
/// # Errors
///
/// [`VmallocError`].
#[inline(never)]
pub fn vmalloc(bytes: u64) -> Result<NonNull<u8>, VmallocError> {
    alloc_data(bytes, Gfp::KERNEL, Kind::Alloc, caller())
}

/// The same, all zeros.
///
/// # Errors
///
/// [`VmallocError`].
#[inline(never)]
pub fn vzalloc(bytes: u64) -> Result<NonNull<u8>, VmallocError> {
    alloc_data(bytes, Gfp::KERNEL | Gfp::ZERO, Kind::Alloc, caller())
}

/// The same, to be shared with user programs: zeros, and it never shrinks.
///
/// # Errors
///
/// [`VmallocError`].
#[inline(never)]
pub fn vmalloc_user(bytes: u64) -> Result<NonNull<u8>, VmallocError> {
    alloc_data(bytes, Gfp::KERNEL | Gfp::ZERO, Kind::User, caller())
}

/// Frames near a node, if it has any (Linux's `vmalloc_node`).
///
/// # Errors
///
/// [`VmallocError`].
#[inline(never)]
pub fn vmalloc_node(bytes: u64, node: u32) -> Result<NonNull<u8>, VmallocError> {
    alloc(&Request { caller: caller(), node: Some(node), ..Request::new(bytes, Gfp::KERNEL) })
}

/// Frames that every device reaches.
///
/// # Errors
///
/// [`VmallocError`].
#[inline(never)]
pub fn vmalloc_32(bytes: u64) -> Result<NonNull<u8>, VmallocError> {
    alloc(&Request { caller: caller(), ..Request::new(bytes, Gfp::KERNEL | Gfp::DMA) })
}

/// As `gfp` has it ([`Gfp::ATOMIC`] and [`Gfp::NOWAIT`] from anywhere), with an alignment.
///
/// # Errors
///
/// [`VmallocError`].
#[inline(never)]
pub fn vmalloc_with(bytes: u64, align: u64, gfp: Gfp, attributes: Attributes) -> Result<NonNull<u8>, VmallocError> {
    alloc(&Request { caller: caller(), align, attributes, ..Request::new(bytes, gfp) })
}

/// Frees what any of the above returned; from anywhere, interrupt handlers included. Of anything else it says what is wrong
/// and does nothing.
///
/// # Safety
///
/// Nobody uses the memory any more.
pub unsafe fn vfree(memory: NonNull<u8>) {
    let virt = VirtAddr::new(memory.addr().get() as u64);
    let freed = AREAS.get().map_or(Err(BadArea::None(virt)), |vmalloc| vmalloc.free(virt));
    if let Err(error) = freed {
        pr_err!("{error}");
    }
}

/// Makes memory longer or shorter, in place if that can be; data is never copied. Without memory it makes some, and for 0
/// bytes it frees it. What is new is zero with [`Gfp::ZERO`].
///
/// # Errors
///
/// [`VmallocError`]; the memory is as before.
///
/// # Safety
///
/// Nobody uses the memory by its old address, nor behind its new end.
#[inline(never)]
pub unsafe fn vrealloc(memory: Option<NonNull<u8>>, bytes: u64, gfp: Gfp) -> Result<Option<NonNull<u8>>, VmallocError> {
    let request = Request { caller: caller(), ..Request::new(bytes, gfp) };
    let virt = memory.map(|memory| VirtAddr::new(memory.addr().get() as u64));
    let virt = AREAS.get().ok_or(VmallocError::NoSpace)?.resize(virt, &request)?;
    virt.map(pointer).transpose()
}

/// Maps frames one behind the other for a moment, as `vm_map_ram` does: without a lock and without a flush for each.
///
/// # Errors
///
/// [`VmallocError`].
///
/// # Safety
///
/// The frames are the caller's; after [`vm_unmap_ram`] stale pointers may still reach them until [`vm_unmap_aliases`].
pub unsafe fn vm_map_ram(frames: &[Pfn]) -> Result<NonNull<u8>, VmallocError> {
    // SAFETY: the caller's promise.
    pointer(unsafe { AREAS.get().ok_or(VmallocError::NoSpace)?.map_ram(frames, 0)? })
}

/// Undoes [`vm_map_ram`] of so many frames, on any CPU. Of anything else it says what is wrong and does nothing.
///
/// # Safety
///
/// Nobody uses the mapping any more.
pub unsafe fn vm_unmap_ram(memory: NonNull<u8>, count: usize) {
    let virt = VirtAddr::new(memory.addr().get() as u64);
    let undone = AREAS.get().map_or(Err(BadArea::None(virt)), |vmalloc| vmalloc.unmap_ram(virt, count));
    if let Err(error) = undone {
        pr_err!("{error}");
    }
}

/// Makes all CPUs forget what was unmapped, and gives back what waited for that.
pub fn vm_unmap_aliases() {
    if let Some(vmalloc) = AREAS.get() {
        vmalloc.purge();
    }
}

/// Maps device registers.
///
/// # Errors
///
/// [`VmallocError`].
///
/// # Safety
///
/// There is no RAM in the range, and nobody maps it with other attributes.
#[inline(never)]
pub unsafe fn ioremap(phys: PhysAddr, size: u64) -> Result<NonNull<u8>, VmallocError> {
    let vmalloc = AREAS.get().ok_or(VmallocError::NoSpace)?;
    // SAFETY: the caller's promise.
    pointer(unsafe { vmalloc.map_io(phys, size, Attributes::DEVICE, caller())? })
}

/// Undoes [`ioremap`].
///
/// # Safety
///
/// Nobody uses the registers by this address any more.
pub unsafe fn iounmap(registers: NonNull<u8>) {
    let virt = VirtAddr::new(registers.addr().get() as u64);
    let unmapped = AREAS.get().map_or(Err(BadArea::None(virt)), |vmalloc| vmalloc.unmap(virt));
    if let Err(error) = unmapped {
        pr_err!("{error}");
    }
}

/// Bytes of areas in use, and of frames that wait for a flush.
#[must_use]
pub fn used_and_lazy_bytes() -> (u64, u64) {
    let usage = AREAS.get().map(Vmalloc::usage).unwrap_or_default();
    (usage.pages * PAGE_SIZE, usage.lazy_pages * PAGE_SIZE)
}

/// Bytes of address space.
#[must_use]
pub fn total_bytes() -> u64 {
    AREAS.get().map_or(SIZE, |vmalloc| SIZE * vmalloc.config().regions as u64)
}
