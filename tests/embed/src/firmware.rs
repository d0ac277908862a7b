// SPDX-License-Identifier: MIT OR Apache-2.0
//! A firmware that is not Quire: boot code and vectors are `aarch64-rt`'s. From `mm` it takes a global allocator over slab
//! and vmalloc, a `VVec` that grows where it is, and a DMA buffer. QEMU's `virt`, at EL1 or EL2, one CPU.
extern crate alloc;

use core::fmt::Write;
use core::sync::atomic::{AtomicPtr, AtomicU16};

use aarch64_cpu::asm::barrier::{SY, dsb};
use aarch64_cpu::registers::{CurrentEL, Readable, TPIDR_EL1, Writeable};
use aarch64_rt::{DEFAULT_SCTLR, DEFAULT_TCR_EL1, DEFAULT_TCR_EL2, InitialPagetable, enable_mmu, entry};
use mm::addr::{PhysAddr, VirtAddr};
use mm::dma::{self, Coherent, Mapper, Spec};
use mm::memblock::{Direction, Memblock, Request, ReserveFlags, Tag};
use mm::page_alloc::{Config, Pages};
use mm::pgtable::{Attributes, MAIR, Regime};
use mm::slab::{Settings, Slab};
use mm::{arch::aarch64::AArch64, gfp::Gfp, tlb::Tlb, vmalloc};
use spin::Once;

use crate::board::{FW_CFG_DMA, IMAGE_AND_TREE, RAM, Uart, exit};

type Source = &'static Pages<'static, AArch64>;
mm::kernel_allocators! {
    static SLAB: Global<AArch64, Source>;
    static AREAS: Areas<AArch64, Source>;
}
#[global_allocator]
static HEAP: KVmalloc = KVmalloc;

/// Devices and RAM at their own addresses, by blocks of 1 GiB: page descriptors without bit 1. Bits 53 and 54 would forbid
/// code; a real firmware would allow it for its text alone.
static GIGABYTES: InitialPagetable = InitialPagetable({
    let mut blocks = [0; 512];
    blocks[0] = Attributes::DEVICE.page_bits() as usize & !(2 | 3 << 53);
    blocks[1] = Attributes::DATA.page_bits() as usize & !(2 | 3 << 53) | 1 << 30;
    blocks
});
/// The tree that the CPU runs on, for 48 bits: the first 512 GiB are the identity map, the next are for vmalloc.
#[repr(C, align(4096))]
struct Root([AtomicPtr<usize>; 512]);
static ROOT: Root = Root({
    let mut entries = [const { AtomicPtr::new(core::ptr::null_mut()) }; 512];
    entries[0] = AtomicPtr::new((&raw const GIGABYTES.0).wrapping_byte_add(3).cast_mut().cast()); // a table descriptor
    entries
});
enable_mmu!(ROOT, MAIR, DEFAULT_SCTLR, DEFAULT_TCR_EL1 & !63 | 16, DEFAULT_TCR_EL2 & !63 | 16, 0);
entry!(main);

static CPU_NUMBER: u64 = 0;
// SAFETY: all RAM is identity-mapped, and `main` has TPIDR_EL1 point to the CPU's number before anything is allocated.
static ARCH: AArch64 = unsafe { AArch64::new(0) };
static PAGES: Once<Pages<'static, AArch64>> = Once::new();
static TLB: Once<Tlb<&'static AArch64>> = Once::new();

/// Memory for good, all of it zeros.
fn early<T>(bytes: u64, memblock: &mut Memblock) -> Option<&'static mut [T]> {
    let range = memblock.alloc(Request::new(bytes, Tag(1)).direction(Direction::BottomUp)).ok()?;
    let first: *mut T = core::ptr::with_exposed_provenance_mut(range.start().as_raw() as usize);
    // SAFETY: RAM of our own, identity-mapped; `T` is a plain number here.
    unsafe { first.cast::<u8>().write_bytes(0, range.size() as usize) };
    // SAFETY: as above.
    Some(unsafe { core::slice::from_raw_parts_mut(first, bytes as usize / size_of::<T>()) })
}

fn start() -> Option<Source> {
    let mut memblock = Memblock::new();
    memblock.add(RAM, 0).ok()?;
    memblock.reserve(IMAGE_AND_TREE, Tag(0), ReserveFlags::empty()).ok()?;
    let metadata = early(Pages::<AArch64>::metadata_bytes(&memblock, &Config::DEFAULT), &mut memblock)?;
    let tags: &mut [AtomicU16] = early(Slab::<AArch64, Source>::nr_tags(RAM) as u64 * 2, &mut memblock)?;
    let pages = PAGES.try_call_once(|| Pages::build(&ARCH, &memblock, &Config::DEFAULT, metadata)).ok()?;
    let settings = Settings::new(RAM.size(), 1, |fault| _ = write!(Uart, "{fault}"));
    SLAB.start(|| Slab::new(&ARCH, pages, RAM, tags, settings)).ok()?;
    let (start, size, ram_pages) = (VirtAddr::new(1 << 39), 1 << 30, pages.managed_pages());
    let lazy_pages = vmalloc::Config::lazy_limit(1, ram_pages);
    let config = vmalloc::Config { start, size, ram_pages, lazy_pages, huge: true, regions: 1 };
    let regime = if CurrentEL.read(CurrentEL::EL) == 2 { Regime::El2 } else { Regime::Lower };
    let (root, tlb) = (PhysAddr::new((&raw const ROOT).expose_provenance() as u64)?, TLB.call_once(|| Tlb::new(&ARCH)));
    // SAFETY: a whole tree, and nobody else knows vmalloc's part of it.
    let make = || unsafe { vmalloc::Vmalloc::new(&ARCH, pages, tlb, root, regime, config) };
    // SAFETY: the only CPU translates by that tree.
    unsafe { AREAS.start(make) };
    Some(pages)
}

/// Has QEMU's `fw_cfg`, a device, read what is asked of it from memory and write its answer there.
fn ask_device(pages: Source) -> Option<u32> {
    let mapper = Mapper::new(&ARCH, pages, RAM, dma::Config { ram: RAM, dma_limit: None, bounce_bytes: 0 });
    let device = mapper.add_device(&Spec { is_coherent: true, ..Spec::new("fw-cfg") }).ok()?;
    let mut shared = Coherent::<u32, _, _, _>::new(&mapper, &device, 5, Gfp::KERNEL).ok()?;
    let address = shared.addr().as_raw();
    // Choose item 0 and read: four bytes of it, behind this. Big-endian.
    for (at, word) in [8 | 2, 4, 0, address as u32 + 16].into_iter().enumerate() {
        shared.write(at, u32::to_be(word));
    }
    dsb(SY);
    // SAFETY: the register takes an address, big-endian; identity-mapped as a device.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(FW_CFG_DMA).write_volatile(address.to_be()) };
    while shared.read(0)? & !u32::to_be(1) != 0 {} // all but an error's bit is cleared at the end
    shared.read(4)
}

fn run() -> Option<()> {
    let pages = start()?;
    let mut grown = VVec::<u64>::with_capacity_in(512, Vmalloc);
    let place = grown.as_ptr();
    grown.extend(0..1_000_000);
    let (sum, moved) = (grown.iter().sum::<u64>(), grown.as_ptr() != place);
    let answer = alloc::format!("{}", ask_device(pages)?.to_ne_bytes().escape_ascii());
    let level = CurrentEL.read(CurrentEL::EL);
    writeln!(Uart, "EL{level}: sum {sum}, moved: {moved}; the device wrote {answer}").ok()?;
    (sum == 499_999_500_000 && !moved && answer == "QEMU").then_some(())
}

fn main(_: u64, _: u64, _: u64, _: u64) -> ! {
    TPIDR_EL1.set((&raw const CPU_NUMBER).addr() as u64);
    exit(run().is_some())
}
