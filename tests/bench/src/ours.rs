// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quire's own allocators behind the traits of this harness.
//!
//! Boards differ from the host in the [`Arch`](mm::arch::Arch) alone: the bare-metal image counts what the firmware
//! would run, on the host CPUs are threads.

use alloc::boxed::Box;
use alloc::vec;
use core::mem::ManuallyDrop;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicU16;

use mm::addr::{Order, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use mm::buddy::{Buddy, Mobility, PageBlock};
use mm::gfp::Gfp;
use mm::memblock::{Memblock, ReserveFlags, Tag};
use mm::page_alloc::{Config, Pages, Tuning};
use mm::slab::{Settings, Slab};

use crate::frames::{Frames, SharedFrames};
use crate::objects::{Objects, SharedObjects};

#[cfg(target_os = "none")]
type Cpu = mm::arch::aarch64::Restarting;
#[cfg(not(target_os = "none"))]
type Cpu = mm::arch::host::Host<'static>;

/// The CPUs, which see the bytes at `base` at the physical address of the same number.
#[cfg(target_os = "none")]
fn cpu(_base: *mut u8, _bytes: usize) -> Cpu {
    // SAFETY: physical addresses are what the CPU sees; the image has set TPIDR_EL1 up; there are no exceptions.
    let cpu = unsafe { mm::arch::aarch64::AArch64::new(0).restarting() };
    // The allocator before this one is not used any more.
    mm::arch::Arch::set_local(&cpu, mm::slab::NO_ARRAYS.cast_mut());
    cpu
}

/// The CPUs, which see the bytes at `base` at the physical address of the same number.
#[cfg(not(target_os = "none"))]
fn cpu(base: *mut u8, bytes: usize) -> Cpu {
    // SAFETY: the harness gives that memory to this allocator alone. No word of it is made into a reference.
    let words = unsafe { core::slice::from_raw_parts_mut(base.cast(), bytes / 8) };
    Cpu::new(PhysAddr::new_saturating(base as u64), words)
}

/// Memory that is borrowed for ever, until this is dropped.
struct Leaked<T: ?Sized>(*mut T);

// SAFETY: it is a box that nothing is reached through until it is dropped.
unsafe impl<T: ?Sized + Sync> Sync for Leaked<T> {}

impl<T: ?Sized> Leaked<T> {
    fn new(value: Box<T>) -> (Self, &'static mut T) {
        let raw = Box::into_raw(value);
        // SAFETY: valid until `drop`, which the owner has happen after the last use.
        (Self(raw), unsafe { &mut *raw })
    }
}

impl<T: ?Sized> Drop for Leaked<T> {
    fn drop(&mut self) {
        // SAFETY: from `into_raw`, and not used any more.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// Metadata of an allocator, which takes it as it comes. What one has used the next one gets, so that start-up is
/// measured without the kernel's work for new memory, and without a pass over it here.
struct Metadata(*mut [u64]);

// SAFETY: it is a box that nothing is reached through until it is dropped.
unsafe impl Sync for Metadata {}

static SPARE: spin::mutex::SpinMutex<Option<Box<[u64]>>> = spin::mutex::SpinMutex::new(None);

impl Metadata {
    fn new(words: usize) -> (Self, &'static mut [u64]) {
        let spare = SPARE.lock().take().filter(|spare| spare.len() >= words);
        let memory = Box::into_raw(spare.unwrap_or_else(|| vec![0; words].into_boxed_slice()));
        // SAFETY: valid until `drop`, which the owner has happen after the last use.
        let borrowed = unsafe { &mut *memory };
        (Self(memory), &mut borrowed[..words])
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        // SAFETY: from `into_raw`, and not used any more.
        let memory = unsafe { Box::from_raw(self.0) };
        let before = SPARE.lock().replace(memory);
        drop(before);
    }
}

/// By a table: the orders of a harness are numbers, those of a kernel are constants.
#[inline(always)]
fn order_of(order: u32) -> Order {
    const ORDERS: [Order; 16] = {
        let (mut orders, mut order) = ([Order::MAX; 16], 0);
        while let Some(known) = Order::new(order) {
            orders[order] = known;
            order += 1;
        }
        orders
    };
    ORDERS[order as usize % ORDERS.len()]
}

fn block_of(frame: usize, order: u32) -> PageBlock {
    PageBlock::from_raw(Pfn::new(frame as u64).unwrap_or_default(), order_of(order))
}

fn all_frames(frames: usize) -> PhysRange {
    PhysRange::below(PhysAddr::new_saturating(frames as u64 * PAGE_SIZE))
}

/// The buddy allocator by itself: no lock, no zone, no per-CPU words.
pub struct RawBuddy {
    buddy: Buddy<'static>,
    /// Dropped after what borrows it.
    _metadata: Metadata,
}

impl Frames for RawBuddy {
    const NAME: &'static str = "quire-buddy";

    fn new(_: *mut u8, frames: usize) -> Box<Self> {
        let range = all_frames(frames);
        let (metadata, words) = Metadata::new(Buddy::metadata_words(core::iter::once(range)));
        let mut buddy = Buddy::new(core::iter::once(range), words).unwrap();
        buddy.add_range(range).unwrap();
        Box::new(Self { buddy, _metadata: metadata })
    }

    #[inline]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        let block = self.buddy.alloc(order_of(order), Mobility::Unmovable).ok()?;
        Some(block.pfn().as_raw() as usize)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: u32) {
        self.buddy.free(block_of(frame, order)).unwrap();
    }

    fn alloc_bulk(&mut self, order: u32, frames: &mut [usize]) {
        let mut pfns = [Pfn::default(); 64];
        for frames in frames.chunks_mut(64) {
            let taken = self.buddy.alloc_bulk(order_of(order), Mobility::Unmovable, &mut pfns[..frames.len()]);
            frames.iter_mut().zip(&pfns[..taken]).for_each(|(frame, pfn)| *frame = pfn.as_raw() as usize);
        }
    }

    fn free_bulk(&mut self, order: u32, frames: &[usize]) {
        let mut pfns = [Pfn::default(); 64];
        for frames in frames.chunks(64) {
            frames.iter().zip(&mut pfns).for_each(|(frame, pfn)| *pfn = Pfn::new(*frame as u64).unwrap());
            self.buddy.free_bulk(order_of(order), &pfns[..frames.len()]).unwrap();
        }
    }

    fn metadata_bytes(&self) -> usize {
        // The rest is on the heap.
        size_of::<Self>()
    }
}

/// The page allocator as shipped: zone, lock, watermarks, per-CPU words. Without the reserves that only some requests
/// may use, so that all frames can be had as from the others. A block is kept as the one word that its owner has.
pub struct QuirePages {
    pages: ManuallyDrop<Pages<'static, Cpu>>,
    metadata: ManuallyDrop<Metadata>,
    cpu: ManuallyDrop<Leaked<Cpu>>,
}

fn config() -> Config {
    let tuning = Tuning { min_free_kbytes: Some(0), watermark_scale_factor: 0, dma_reserve_ratio: 0 };
    Config { nr_cpus: 2, tuning, ..Config::DEFAULT }
}

impl QuirePages {
    fn build(frames: usize) -> Self {
        // The frames are only counted.
        let (cpu, cpu_ref) = Leaked::new(Box::new(cpu(NonNull::dangling().as_ptr(), 0)));
        let mut memblock = Memblock::new();
        memblock.add(all_frames(frames), 0).unwrap();
        let config = config();
        let words = Pages::<Cpu>::metadata_bytes(&memblock, &config) as usize / 8;
        let (metadata, words) = Metadata::new(words);
        let pages = Pages::build(cpu_ref, &memblock, &config, words).unwrap();
        Self { pages: ManuallyDrop::new(pages), metadata: ManuallyDrop::new(metadata), cpu: ManuallyDrop::new(cpu) }
    }
}

impl Drop for QuirePages {
    fn drop(&mut self) {
        // SAFETY: each is dropped once, what borrows before what is borrowed.
        unsafe {
            ManuallyDrop::drop(&mut self.pages);
            ManuallyDrop::drop(&mut self.metadata);
            ManuallyDrop::drop(&mut self.cpu);
        }
    }
}

impl Frames for QuirePages {
    const NAME: &'static str = "quire-pages";

    fn new(_: *mut u8, frames: usize) -> Box<Self> {
        Box::new(Self::build(frames))
    }

    #[inline(always)]
    fn alloc(&mut self, order: u32) -> Option<usize> {
        let block = self.pages.alloc(Gfp::KERNEL, order_of(order)).ok()?;
        Some(block.into_bits() as usize)
    }

    #[inline(always)]
    fn free(&mut self, block: usize, _: u32) {
        self.pages.free(PageBlock::from_bits(block as u64)).unwrap();
    }

    fn alloc_bulk(&mut self, _: u32, frames: &mut [usize]) {
        let mut pfns = [Pfn::default(); 64];
        for frames in frames.chunks_mut(64) {
            let taken = self.pages.alloc_bulk(Gfp::KERNEL, &mut pfns[..frames.len()]);
            let blocks = pfns[..taken].iter().map(|pfn| PageBlock::from_raw(*pfn, Order::ZERO));
            frames.iter_mut().zip(blocks).for_each(|(slot, block)| *slot = block.into_bits() as usize);
        }
    }

    fn free_bulk(&mut self, _: u32, frames: &[usize]) {
        let mut pfns = [Pfn::default(); 64];
        for frames in frames.chunks(64) {
            let blocks = frames.iter().map(|block| PageBlock::from_bits(*block as u64));
            blocks.zip(&mut pfns).for_each(|(block, pfn)| *pfn = block.pfn());
            self.pages.free_bulk(&pfns[..frames.len()]).unwrap();
        }
    }

    fn metadata_bytes(&self) -> usize {
        // The rest is on the heap.
        size_of::<Self>()
    }
}

impl SharedFrames for QuirePages {
    const NAME: &'static str = "quire-pages";

    fn new(_: *mut u8, frames: usize) -> Box<Self> {
        Box::new(Self::build(frames))
    }

    #[inline(always)]
    fn alloc(&self, order: u32) -> Option<usize> {
        let block = self.pages.alloc(Gfp::KERNEL, order_of(order)).ok()?;
        Some(block.into_bits() as usize)
    }

    #[inline(always)]
    fn free(&self, block: usize, _: u32) {
        self.pages.free(PageBlock::from_bits(block as u64)).unwrap();
    }
}

/// In an arena below this, nobody else has a use for a page that is given back.
const SMALL_ARENA: usize = 16 << 20;

/// kmalloc over the page allocator. All metadata lies in the arena, as on a board it lies in RAM.
pub struct QuireSlab {
    slab: ManuallyDrop<Slab<'static, Cpu, Pages<'static, Cpu>>>,
    cpu: ManuallyDrop<Leaked<Cpu>>,
}

impl QuireSlab {
    /// # Safety
    ///
    /// As [`Objects::new`].
    unsafe fn build(base: *mut u8, bytes: usize) -> Option<Self> {
        let (leaked, cpu) = Leaked::new(Box::new(cpu(base, bytes)));
        let start = PhysAddr::new(base as u64)?;
        let arena = PhysRange::new(start, start.checked_add(bytes as u64)?)?.frames_inside();
        let mut memblock = Memblock::new();
        memblock.add(arena, 0).ok()?;
        let config = config();
        let words = Pages::<Cpu>::metadata_bytes(&memblock, &config).div_ceil(8) as usize;
        let tags = Slab::<Cpu, Pages<'static, Cpu>>::nr_tags(arena);
        let metadata = (words * 8 + tags * 2).next_multiple_of(PAGE_SIZE as usize);
        if metadata >= bytes {
            return None;
        }
        let reserved = PhysRange::new(start, start.checked_add(metadata as u64)?)?;
        memblock.reserve(reserved, Tag(1), ReserveFlags::empty()).ok()?;
        // SAFETY: inside the arena, apart from each other and from all frames that are handed out; any bits are words.
        let (words, tags) = unsafe {
            let words = core::slice::from_raw_parts_mut(base.cast::<u64>(), words);
            let tags = core::slice::from_raw_parts_mut(base.add(words.len() * 8).cast::<AtomicU16>(), tags);
            (words, tags)
        };
        let pages = Pages::build(cpu, &memblock, &config, words).ok()?;
        let settings = Settings { one_group: bytes < SMALL_ARENA, ..Settings::new(bytes as u64, 2, |_| {}) };
        let slab = Slab::new(cpu, pages, arena, tags, settings).ok()?;
        Some(Self { slab: ManuallyDrop::new(slab), cpu: ManuallyDrop::new(leaked) })
    }

    #[inline(always)]
    fn get(&self, size: usize, align: usize) -> *mut u8 {
        self.slab.kmalloc_aligned(size, align, Gfp::KERNEL).map_or(null_mut(), NonNull::as_ptr)
    }

    /// # Safety
    ///
    /// As [`Objects::free`].
    #[inline(always)]
    unsafe fn put(&self, object: *mut u8, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.slab.kfree_sized(NonNull::new_unchecked(object), size, align) };
    }
}

impl Drop for QuireSlab {
    fn drop(&mut self) {
        // SAFETY: each is dropped once, what borrows before what is borrowed.
        unsafe {
            ManuallyDrop::drop(&mut self.slab);
            ManuallyDrop::drop(&mut self.cpu);
        }
    }
}

impl Objects for QuireSlab {
    const NAME: &'static str = "quire-slab";
    const GRAIN: usize = PAGE_SIZE as usize;

    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>> {
        // SAFETY: the caller's promise.
        unsafe { Self::build(base, bytes) }.map(Box::new)
    }

    #[inline]
    unsafe fn alloc(&mut self, size: usize, align: usize) -> *mut u8 {
        self.get(size, align)
    }

    #[inline]
    unsafe fn free(&mut self, object: *mut u8, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.put(object, size, align) };
    }
}

impl SharedObjects for QuireSlab {
    const NAME: &'static str = "quire-slab";

    unsafe fn new(base: *mut u8, bytes: usize) -> Option<Box<Self>> {
        // SAFETY: the caller's promise.
        unsafe { Self::build(base, bytes) }.map(Box::new)
    }

    #[inline]
    unsafe fn alloc(&self, size: usize, align: usize) -> *mut u8 {
        self.get(size, align)
    }

    #[inline]
    unsafe fn free(&self, object: *mut u8, size: usize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.put(object, size, align) };
    }
}
