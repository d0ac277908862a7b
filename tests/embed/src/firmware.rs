// SPDX-License-Identifier: MIT OR Apache-2.0
//! A firmware that is not Quire: boot code, identity map and vectors are `aarch64-rt`'s. From `mm` it takes a global
//! allocator over slab and vmalloc, and a `VVec` that grows without moving. QEMU's `virt`, EL1, one CPU.

extern crate alloc;

use core::fmt::Write;
use core::sync::atomic::AtomicU16;

use aarch64_cpu::registers::{Readable, TCR_EL1, TPIDR_EL1, TTBR1_EL1, Writeable};
use aarch64_rt::{InitialPagetable, entry, initial_pagetable};
use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::arch::aarch64::AArch64;
use mm::gfp::Gfp;
use mm::memblock::{Direction, Memblock, Request, ReserveFlags, Tag};
use mm::page_alloc::{Config, Pages};
use mm::pgtable::{Attributes, MAIR, Regime};
use mm::slab::{Settings, Slab};
use mm::tlb::Tlb;
use mm::{report, vmalloc};
use spin::Once;

use crate::board::{Uart, exit};

type Source = &'static Pages<'static, AArch64>;
mm::kernel_allocators! {
    static SLAB: Global<AArch64, Source>;
    static AREAS: Areas<AArch64, Source>;
}
#[global_allocator]
static HEAP: KVmalloc = KVmalloc;

const GIB: u64 = 1 << 30;
/// What QEMU gives without being asked. Image, boot stack and device tree lie in its first 4 MiB.
const RAM: (u64, u64) = (GIB, GIB + (128 << 20));
/// Blocks of 1 GiB of a level 1 table: a page descriptor without bit 1.
const fn block(attributes: Attributes, at: u64) -> usize {
    (attributes.page_bits() & !2 | at) as usize
}
initial_pagetable!(
    {
        let mut identity = [0; 512];
        identity[0] = block(Attributes::DEVICE, 0);
        // Code and data in one block: a real firmware would tell them apart.
        identity[1] = block(Attributes::DATA, GIB) & !(1 << 53);
        InitialPagetable(identity)
    },
    MAIR
);
entry!(main);

/// What TPIDR_EL1 points to: this CPU's number.
static CPU: u64 = 0;
// SAFETY: all RAM is identity-mapped, and `main` sets TPIDR_EL1 before anything is allocated.
static ARCH: AArch64 = unsafe { AArch64::new(0) };
static PAGES: Once<Pages<'static, AArch64>> = Once::new();
static TLB: Once<Tlb<&'static AArch64>> = Once::new();

/// Memory for good, all of it zeros.
fn early<T>(memblock: &mut Memblock, bytes: u64) -> Option<&'static mut [T]> {
    let range = memblock.alloc(Request::new(bytes, Tag(1)).direction(Direction::BottomUp)).ok()?;
    let first: *mut T = core::ptr::with_exposed_provenance_mut(range.start().as_raw() as usize);
    // SAFETY: RAM of our own, identity-mapped; `T` is a plain number here.
    unsafe { first.cast::<u8>().write_bytes(0, range.size() as usize) };
    // SAFETY: as above.
    Some(unsafe { core::slice::from_raw_parts_mut(first, bytes as usize / size_of::<T>()) })
}

fn start() -> Option<Source> {
    let range = |from, to| PhysRange::new(PhysAddr::new(from)?, PhysAddr::new(to)?);
    let ram = range(RAM.0, RAM.1)?;
    let mut memblock = Memblock::new();
    memblock.add(ram, 0).ok()?;
    memblock.reserve(range(RAM.0, RAM.0 + (4 << 20))?, Tag(0), ReserveFlags::empty()).ok()?;
    let bytes = Pages::<AArch64>::metadata_bytes(&memblock, &Config::DEFAULT);
    let metadata = early(&mut memblock, bytes)?;
    let tags: &mut [AtomicU16] = early(&mut memblock, Slab::<AArch64, Source>::nr_tags(ram) as u64 * 2)?;
    let pages = PAGES.try_call_once(|| Pages::build(&ARCH, &memblock, &Config::DEFAULT, metadata)).ok()?;
    let settings = Settings::new(ram.size(), 1, |fault| _ = write!(Uart, "{fault}"));
    SLAB.start(|| Slab::new(&ARCH, pages, ram, tags, settings)).ok()?;
    // An empty table is a whole tree. The upper half is nobody's: aarch64-rt leaves its walks off.
    let root = pages.alloc(Gfp::KERNEL | Gfp::ZERO, Order::ZERO).ok()?.into_raw().0.addr();
    TTBR1_EL1.set(root.as_raw());
    // 48 bits, 4 KiB (set already), write-back and inner shareable walks, and no more EPD1 (Arm ARM D24.2.206).
    TCR_EL1.set(TCR_EL1.get() & !(1 << 23) | 16 << 16 | 1 << 24 | 1 << 26 | 3 << 28);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    let (start, ram_pages) = (VirtAddr::new(0xffff_8000_0000_0000), pages.managed_pages());
    let lazy_pages = vmalloc::Config::lazy_limit(1, ram_pages);
    let config = vmalloc::Config { start, size: GIB, ram_pages, lazy_pages, huge: true, regions: 1 };
    let tlb = TLB.call_once(|| Tlb::new(&ARCH));
    // SAFETY: TTBR1's tree, of which nobody else knows.
    let make = || unsafe { vmalloc::Vmalloc::new(&ARCH, pages, tlb, root, Regime::Upper, config) };
    // SAFETY: the only CPU translates by it.
    unsafe { AREAS.start(make) };
    Some(pages)
}

fn run() -> Option<()> {
    let pages = start()?;
    let words: alloc::vec::Vec<alloc::string::String> = ["kmalloc", "for", "strings"].map(Into::into).into();
    let mut grown = VVec::<u64>::new_in(Vmalloc);
    grown.try_reserve(PAGE_SIZE as usize / 8).ok()?;
    let (mut place, mut moves) = (grown.as_ptr(), 0);
    for number in 0..1_000_000 {
        grown.try_reserve(1).ok()?;
        grown.push(number);
        moves += u32::from(grown.as_ptr() != place);
        place = grown.as_ptr();
    }
    let sum: u64 = grown.iter().sum();
    writeln!(Uart, "{}; a VVec of {} numbers, sum {sum}, moved {moves} times", words.join(" "), grown.len()).ok()?;
    report::buddyinfo(&mut Uart, pages.info().into_iter().flatten()).ok()?;
    (sum == 499_999_500_000 && moves == 0).then_some(())
}

fn main(_: u64, _: u64, _: u64, _: u64) -> ! {
    TPIDR_EL1.set((&raw const CPU).addr() as u64);
    exit(run().is_some())
}
