// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM, from the tree's promise to the page allocator.
//!
//! ```text
//!   banks, reservations, image, tree ---> memblock          who owns which byte
//!   memblock ---> tables in a window ---> kernel map        image W^X, direct map, devices
//!   boot tables, guard frames, the loader's tree            go back to memblock
//!   memblock ---> page allocator                            what is left is free pages
//! ```
//!
//! Every byte of every bank is accounted for at the end: free, reserved, used (see `memory/account.rs`).

mod account;
mod iomem;
mod kernel_map;
mod late;
mod memtest;
mod owner;
mod set_memory;

use core::fmt;

use aarch64_cpu::registers::ID_AA64MMFR0_EL1;
use bsp::dt;
use bsp::info::{BootInfo, EnableMethod, RawRange, ReservedKind};
use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::memblock::{Direction, Memblock, MemblockError, Request, ReserveFlags};
use mm::page_alloc::{Config, Pages};
use mm::pgtable::MapError;
use mm::slab::SetupError;
use mm::sync::Rank;
use mm::zone::ZoneError;
use spin::Once;
use spin::mutex::{SpinMutex, SpinMutexGuard};
use tock_registers::interfaces::Readable;

pub(crate) use self::kernel_map::is_live as is_mapped;
pub use self::kernel_map::{KernelMap, tlb};
pub use self::late::LateError;
use self::late::{Late, Ranges};
pub use self::memtest::{Injected, NR_PATTERNS};
pub use self::owner::Owner;
pub use self::set_memory::TableFrames;
use crate::cpu::{Hardware, hardware};
use crate::layout::{DIRECT_MAP, DIRECT_MAP_LIMIT, IMAGE, Image};
use crate::options::Options;
use crate::sync::Lock;
use crate::vmalloc::KernelVmalloc;
use crate::window::Windows;
use crate::{dma, output, pr_err, pr_warn, slab, vmalloc};

/// The machine's memory, once it is taken.
#[derive(Debug)]
pub struct Memory {
    /// Who owns which byte. Fixed once the page allocator has the rest.
    pub memblock: &'static Memblock,
    /// The kernel's translation tree.
    pub map: Lock<KernelMap>,
    /// The page allocator.
    pub pages: &'static Pages<'static, Hardware>,
    /// Memory that is contiguous in addresses only.
    pub vmalloc: &'static KernelVmalloc,
    /// The image in physical memory.
    pub image: Image,
    /// A compact copy of the device tree, for drivers that come later.
    pub device_tree: &'static [u8],
    /// RAM for devices that do not see the caches: its direct map is uncached. May be empty.
    pub coherent_pool: PhysRange,
    /// Bytes of banks that are not used at all, by `mem=` or because nothing can reach them.
    pub held_back_bytes: u64,
    /// Whether `memtest=` looked at it.
    is_tested: bool,
    /// What of that can be added, and was.
    late: Lock<Late>,
}

/// Why the memory could not be taken.
#[derive(Debug)]
pub enum MemoryError {
    /// The tree names no RAM.
    NoRam,
    /// The image runs where the tree has no RAM: nothing it says of RAM can be believed.
    ImageOutside(PhysAddr),
    /// The tree has more banks or reservations than there is room for, so that some would be lost.
    TooMany,
    /// The boot-time allocator is out of space or slots.
    Memblock(MemblockError),
    /// A part of the kernel map was refused.
    Map(MapError),
    /// The compact copy of the tree failed.
    Tree(dt::DtError),
    /// The page allocator was refused.
    Zones(ZoneError),
    /// The slab was refused.
    Slab(SetupError),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRam => f.write_str("the device tree names no RAM that can be used"),
            Self::ImageOutside(at) => write!(f, "the image at {at:?} lies in no bank of RAM of the device tree"),
            Self::TooMany => f.write_str("the device tree has more banks or reservations than this build can hold"),
            Self::Memblock(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Tree(error) => write!(f, "bad device tree: {error}"),
            Self::Zones(error) => error.fmt(f),
            Self::Slab(error) => error.fmt(f),
        }
    }
}

impl From<MemblockError> for MemoryError {
    fn from(error: MemblockError) -> Self {
        Self::Memblock(error)
    }
}

impl From<MapError> for MemoryError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

/// Taken once while one CPU boots, and never opened again.
static MEMBLOCK: SpinMutex<Memblock> = SpinMutex::new(Memblock::new());

impl Memory {
    /// A frame of `node`, or of another if it has none.
    #[must_use]
    pub fn take_frame(&self, node: u32) -> Option<PhysAddr> {
        let (pfn, _) = self.pages.alloc_on(node, Gfp::ATOMIC, Order::ZERO).ok()?.into_raw();
        Some(pfn.addr())
    }

    /// Gives back what [`take_frame`](Self::take_frame) gave.
    pub fn give_frame(&self, frame: PhysAddr) {
        if let Err(error) = self.pages.free(PageBlock::from_raw(frame.pfn(), Order::ZERO)) {
            pr_err!("memory: a frame could not be given back: {error}");
        }
    }

    /// Maps device registers, for good. Tells where they are then.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn map_device(&self, range: RawRange) -> Result<VirtAddr, MapError> {
        self.map.lock().map_device(range.base, range.size, &mut TableFrames(self))
    }
}

/// The first physical address that this CPU, or our direct map, cannot reach.
#[must_use]
pub fn phys_limit() -> PhysAddr {
    let bits = match ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    };
    PhysAddr::new_saturating((1 << bits).min(DIRECT_MAP_LIMIT))
}

/// Takes all RAM. See the head of this file for the order.
pub(crate) fn start(
    info: &'static BootInfo,
    options: &Options<'static>,
    image: Image,
    blob: &[u8],
    blob_range: PhysRange,
    windows: &mut Windows,
) -> Result<Memory, MemoryError> {
    let mut memblock = MEMBLOCK.lock();
    if info.is_truncated() {
        return Err(MemoryError::TooMany);
    }
    let limit = phys_limit();
    let mut held_back = add_banks(&mut memblock, info, limit)?;
    reserve_own(&mut memblock, info, image, blob_range)?;
    reserve_tree(&mut memblock, info, limit)?;
    report_conflicts(info, image, limit);
    let mut dropped = Ranges::default();
    if let Some(bytes) = options.mem {
        held_back +=
            memblock.limit(bytes - bytes % PAGE_SIZE, image.range(), |region| late::keep(&mut dropped, region))?;
    }
    let cma = place_cma(&mut memblock, info, options, limit);
    place_dynamic(&mut memblock, info, limit);
    if options.memblock_debug {
        // The console never fails.
        let _ = memblock.dump(&mut output::Sink, |tag, w| owner::write_name(info, tag, w));
    }

    let copy_size = dt::compact_size(blob).map_err(MemoryError::Tree)? as u64;
    let copy = near_image(&mut memblock, image, copy_size, Owner::DeviceTree)?;
    let coherent_pool = place_coherent_pool(&mut memblock, info, options);
    let map = KernelMap::build(&mut memblock, image, copy, coherent_pool, windows, |destination| {
        dt::compact(blob, destination).map_err(MemoryError::Tree)
    })?;

    // Nothing of these is mapped or read any more.
    memblock.release(blob_range)?;
    for section in image.sections().iter().filter(|section| section.attributes.is_none()) {
        memblock.release(image.phys_of(section.virt))?;
    }
    // A reservation of the tree may name what was just released.
    reserve_tree(&mut memblock, info, limit)?;
    if let Some(passes) = options.memtest {
        memtest::early(&mut memblock, passes, options.memtest_bad);
    }

    let config = Config {
        dma_limit: info.dma_limit.map(PhysAddr::new_saturating),
        nr_cpus: info.cpus.len(),
        fill: options.fill,
        on_spoilt: Some(|pfn, offset| {
            let address = pfn.addr().as_raw() + offset as u64;
            pr_err!("page_alloc: {address:#x} was written to while it was free; its block is kept from use");
        }),
        ..Config::DEFAULT
    };
    let size = Pages::<Hardware>::metadata_bytes(&memblock, &config);
    if size == 0 {
        return Err(MemoryError::NoRam);
    }
    let metadata = near_image(&mut memblock, image, size, Owner::PageAllocator)?;
    // SAFETY: the frames are ours, free, and in the direct map; nobody else refers to them. Any bits are a u64.
    let metadata =
        unsafe { core::slice::from_raw_parts_mut(direct_ptr(metadata.start()).cast::<u64>(), size as usize / 8) };
    let span = slab_span(&memblock, &dropped);
    let tags_size = slab::metadata_bytes(span);
    let tags = near_image(&mut memblock, image, tags_size, Owner::Slab)?;
    // SAFETY: as above; an AtomicU16 takes any bits.
    let tags = unsafe { core::slice::from_raw_parts_mut(direct_ptr(tags.start()).cast(), tags_size as usize / 2) };
    // Its frames are the page allocator's too: nobody else has taken any of them.
    memblock.release(cma)?;
    let pages = build_pages(&memblock, &config, metadata)?;
    dma::start_cma(pages, cma);
    slab::start(pages, span, tags, pages.managed_pages() * PAGE_SIZE, info.cpus.len(), options)
        .map_err(MemoryError::Slab)?;
    let vmalloc = vmalloc::start(pages, map.tree().root(), info.cpus.len(), options);
    // SAFETY: the map was built with the copy in these frames of the direct map, and they stay reserved.
    let device_tree = unsafe { core::slice::from_raw_parts(direct_ptr(copy.start()).cast_const(), copy_size as usize) };
    let late = Late::new(&memblock, &dropped, span);
    let memory = Memory {
        memblock: SpinMutexGuard::leak(memblock),
        map: Lock::new(Rank::PAGE_TABLE, map),
        pages,
        vmalloc,
        image,
        device_tree,
        coherent_pool,
        held_back_bytes: held_back,
        is_tested: options.memtest.is_some(),
        late,
    };
    memory.print_account(info);
    // Only what comes after the boot fails on purpose.
    memory.pages.inject_faults(options.faults);
    Ok(memory)
}

/// The first byte of RAM.
fn first_ram(memblock: &Memblock) -> PhysAddr {
    memblock.memory().first().map_or(PhysAddr::ZERO, |region| region.range.start())
}

/// One past the last byte of RAM.
fn last_ram(memblock: &Memblock) -> PhysAddr {
    memblock.memory().last().map_or(PhysAddr::ZERO, |region| region.range.end())
}

/// What the slab keeps a table of, two bytes a frame: all RAM, and as much of what may be added late as costs no more than
/// a sixty-fourth of it.
fn slab_span(memblock: &Memblock, dropped: &Ranges) -> PhysRange {
    const MOST_TIMES: u64 = PAGE_SIZE / 2 / 64;
    let ram = PhysRange::new(first_ram(memblock), last_ram(memblock)).unwrap_or_default();
    let Some(late) = late::spanned(dropped) else { return ram };
    let bytes = memblock.memory().iter().map(|region| region.range.size()).sum::<u64>() * MOST_TIMES;
    let start = ram.start().min(late.start());
    let start = if start.checked_add(bytes).is_some_and(|end| end < ram.end()) { ram.start() } else { start };
    let end = start.checked_add(bytes).map_or(late.end(), |end| end.min(late.end()));
    PhysRange::new(start, end.max(ram.end())).unwrap_or(ram)
}

static PAGES: Once<Pages<'static, Hardware>> = Once::new();

/// Apart from its caller, since there is room for this once on the boot stack.
#[inline(never)]
fn build_pages(
    memblock: &Memblock,
    config: &Config,
    metadata: &'static mut [u64],
) -> Result<&'static Pages<'static, Hardware>, MemoryError> {
    PAGES.try_call_once(|| Pages::build(hardware(), memblock, config, metadata)).map_err(MemoryError::Zones)
}

/// Where the direct map shows `phys`.
#[must_use]
pub fn direct_map(phys: PhysAddr) -> VirtAddr {
    VirtAddr::new(DIRECT_MAP + phys.as_raw())
}

fn direct_ptr(phys: PhysAddr) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(direct_map(phys).as_raw() as usize)
}

/// Cuts a range of the tree to what can be reached; says so if something is lost.
fn reachable(what: &str, range: RawRange, limit: PhysAddr) -> (PhysRange, u64) {
    let (kept, lost) = PhysRange::clipped(range.base, range.size, limit);
    if lost != 0 {
        pr_warn!(
            "memory: {what} at {:#x}, size {:#x}: {lost:#x} bytes from {:#x} on cannot be reached",
            range.base,
            range.size,
            limit.as_raw().max(range.base)
        );
    }
    (kept, lost)
}

/// Tells the bytes that had to be left out.
fn add_banks(memblock: &mut Memblock, info: &BootInfo, limit: PhysAddr) -> Result<u64, MemoryError> {
    let mut lost = 0;
    for bank in &info.memory {
        let (range, beyond) = reachable("bank", bank.range, limit);
        lost += beyond;
        let overlap = memblock.add(range, bank.node)?.overlap_bytes;
        if overlap != 0 {
            pr_warn!("memory: bank {range} overlaps others by {overlap:#x} bytes, which count once");
        }
    }
    if memblock.memory().is_empty() { Err(MemoryError::NoRam) } else { Ok(lost) }
}

/// What we need ourselves comes first: no reservation can take it away.
fn reserve_own(memblock: &mut Memblock, info: &BootInfo, image: Image, blob: PhysRange) -> Result<(), MemoryError> {
    let none = ReserveFlags::empty();
    for (index, section) in image.sections().iter().enumerate() {
        memblock.reserve(image.phys_of(section.virt), Owner::Section(index as u16).tag(), none)?;
    }
    memblock.reserve(blob, Owner::LoaderTree.tag(), none)?;
    if let Some(initrd) = info.initrd {
        let (range, _) = PhysRange::clipped(initrd.base, initrd.size, PhysAddr::new_saturating(u64::MAX));
        memblock.reserve(range, Owner::Initrd.tag(), none)?;
    }
    match memblock.is_memory(image.range().start()) {
        true => Ok(()),
        false => Err(MemoryError::ImageOutside(image.range().start())),
    }
}

/// The tree's reservations: `no-map` ones first, since the first owner of a byte keeps it.
fn reserve_tree(memblock: &mut Memblock, info: &BootInfo, limit: PhysAddr) -> Result<(), MemoryError> {
    for no_map in [true, false] {
        for (index, reservation) in info.reserved.iter().enumerate() {
            if (reservation.kind == ReservedKind::NoMap) == no_map {
                let (range, _) = PhysRange::clipped(reservation.range.base, reservation.range.size, limit);
                memblock.reserve(range, Owner::Tree(index as u16).tag(), flags_of(reservation.kind))?;
            }
        }
    }
    // Cores that wait in a spin table run there, whether or not the tree remembers to reserve it.
    for cpu in &info.cpus {
        if let EnableMethod::SpinTable { release } = cpu.method {
            let frame = PhysRange::clipped(release, 8, limit).0.frames_touched();
            memblock.reserve(frame, Owner::SpinTable.tag(), ReserveFlags::empty())?;
        }
    }
    Ok(())
}

/// Says which reservations want bytes that the kernel is in: it stays there, as in Linux.
fn report_conflicts(info: &BootInfo, image: Image, limit: PhysAddr) {
    for entry in &info.reserved {
        let (range, _) = PhysRange::clipped(entry.range.base, entry.range.size, limit);
        if range.intersection(image.range()).is_some() {
            pr_warn!("memory: reservation {} at {range} overlaps the kernel image, which stays", entry.name);
        }
    }
}

/// The reservations that the tree leaves us to place.
fn place_dynamic(memblock: &mut Memblock, info: &BootInfo, limit: PhysAddr) {
    for (index, wish) in info.dynamic.iter().enumerate().filter(|(_, wish)| !wish.is_cma_default) {
        let owner = Owner::Dynamic(index as u16).tag();
        let mut request = Request::new(wish.size, owner).flags(flags_of(wish.kind)).align(wish.align.max(1));
        if let Some(within) = wish.within {
            request = request.within(PhysRange::clipped(within.base, within.size, limit).0);
        }
        if let Err(error) = memblock.alloc(request) {
            pr_warn!("memory: {} could not be placed: {error}", wish.name);
        }
    }
}

/// Sets the contiguous memory area aside: as `cma=` says, or the tree; none if neither does. In whole chunks of the page
/// allocator, where all devices reach it.
fn place_cma(memblock: &mut Memblock, info: &BootInfo, options: &Options<'_>, limit: PhysAddr) -> PhysRange {
    let wish = info.dynamic.iter().find(|wish| wish.is_cma_default && wish.kind == ReservedKind::Reusable);
    let size = options.cma.or(wish.map(|wish| wish.size)).unwrap_or(0);
    let chunk = Order::MAX.bytes();
    let Some(size) = size.checked_next_multiple_of(chunk).filter(|size| *size > 0) else { return PhysRange::default() };
    let below = PhysRange::below(PhysAddr::new_saturating(info.dma_limit.unwrap_or(u64::MAX)).min(limit));
    let within = wish.and_then(|wish| wish.within).map(|range| PhysRange::clipped(range.base, range.size, limit).0);
    let align = wish.map_or(chunk, |wish| wish.align.max(chunk));
    let request = Request::new(size, Owner::Cma.tag()).align(align);
    let request = request.within(within.and_then(|within| within.intersection(below)).unwrap_or(below));
    memblock.alloc(request).unwrap_or_else(|error| {
        pr_warn!("cma: no {size} bytes in one piece: {error}");
        PhysRange::default()
    })
}

/// Sets memory aside for devices that do not see the caches: as `coherent_pool=` says, or like Linux 128 KiB for each GiB
/// of RAM; none where there is little, since it can be had later too.
fn place_coherent_pool(memblock: &mut Memblock, info: &BootInfo, options: &Options<'_>) -> PhysRange {
    const LEAST_RAM: u64 = 64 << 20;
    let ram: u64 = memblock.memory().iter().map(|region| region.range.size()).sum();
    let usual = if ram < LEAST_RAM { 0 } else { ram.div_ceil(1 << 30) * (128 << 10) };
    let wanted = options.coherent_pool.unwrap_or(usual).min(Order::MAX.bytes());
    let Some(order) = Order::for_bytes(wanted).filter(|_| wanted > 0) else { return PhysRange::default() };
    let size = order.bytes();
    let limit = PhysAddr::new_saturating(info.dma_limit.unwrap_or(u64::MAX));
    let request = Request::new(size, Owner::CoherentPool.tag()).align(size).within(PhysRange::below(limit));
    memblock.alloc(request).unwrap_or_else(|error| {
        pr_warn!("memory: no {size} bytes for devices can be set aside: {error}");
        PhysRange::default()
    })
}

const fn flags_of(kind: ReservedKind) -> ReserveFlags {
    match kind {
        ReservedKind::NoMap => ReserveFlags::NOMAP,
        ReservedKind::Reusable => ReserveFlags::REUSABLE,
        ReservedKind::Plain | ReservedKind::MemReserve => ReserveFlags::empty(),
    }
}

/// Memory for good, as close behind the image as can be, so that large blocks stay whole elsewhere.
fn near_image(memblock: &mut Memblock, image: Image, size: u64, owner: Owner) -> Result<PhysRange, MemblockError> {
    let behind = PhysRange::new(image.range().start(), PhysAddr::new_saturating(u64::MAX)).unwrap_or_default();
    let request = Request::new(size, owner.tag()).direction(Direction::BottomUp);
    memblock.alloc(request.within(behind)).or_else(|_| memblock.alloc(Request::new(size, owner.tag())))
}

/// Whether `address` lies in the image's text.
#[must_use]
pub fn is_text(address: u64) -> bool {
    let [text, ..] = Image::at(PhysAddr::ZERO).sections();
    (IMAGE..text.virt.end().as_raw()).contains(&address)
}

/// Whether `blob` is a device tree in its most compact form.
#[must_use]
pub fn device_tree_is_compact(blob: &[u8]) -> bool {
    dt::compact_size(blob).is_ok_and(|size| size == blob.len())
}
