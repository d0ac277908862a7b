// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that devices use: Linux's DMA API.
//!
//! A device is a second reader and writer of RAM that may neither see the CPU's caches nor reach all of RAM, and that has
//! addresses of its own. What becomes of memory that it is to use depends on who it is ([`Device`]):
//!
//! ```text
//!                                 sees the caches        does not
//!   both use it   alloc_coherent  any memory             uncached chunks          coherent.rs, chunk.rs
//!     small       DmaPool         blocks of the above                             pool.rs
//!   in turns      map, unmap      nothing to do          cache maintenance        stream.rs
//!     out of reach, or in a line with others: bounced                             bounce.rs
//!   large, in one piece: Cma, which lends what is not needed                      cma.rs
//! ```
//!
//! What is with a device is remembered, and each call is checked against it (`record.rs`): a mapping that is undone with
//! another size, for another device or twice is an error, two that overlap while a device writes are refused, and what
//! is left when a driver ends is named ([`Mapper::release`]). Errors are values, and after one nothing has changed.
//!
//! *Locks:* of [`Rank::DMA`], none of them held while another is taken, while memory is allocated, zeroed or copied, or
//! while caches are maintained.
//!
//! *Rules met:* memory with a device that does not see the caches is mapped with one memory type only (Arm ARM B2.16): a
//! chunk's place in the direct map itself is uncached. Lines are cleaned to the point of coherency before a device has
//! memory, invalidated after it, and a buffer that is written by a device owns whole ones (CTR_EL0.CWG).

mod bounce;
mod chunk;
mod cma;
mod coherent;
mod device;
mod error;
mod owned;
mod pool;
mod record;
mod report;
mod stream;
mod table;

use core::fmt;
use core::ptr::NonNull;

use bitflags::bitflags;

use self::bounce::Bounce;
pub use self::bounce::SLOT_BYTES;
pub use self::cma::{Cma, CmaUsage};
use self::coherent::Chunks;
pub use self::coherent::CoherentMemory;
pub use self::device::{Device, DmaAddr, MAX_WINDOWS, Reach, Spec, Window, bit_mask};
pub use self::error::DmaError;
pub use self::owned::{Coherent, Dma, DmaBuffer, DmaView, Plain};
pub use self::pool::{DmaPool, PoolSpec};
pub use self::record::Kind;
use self::record::Records;
pub use self::report::{DeviceUse, Held, Usage};
pub use self::stream::Segment;
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use crate::arch::{Arch, CacheOp};
use crate::gfp::Gfp;
use crate::slab::PageSource;
use crate::sync::{IrqSpinLock, Rank};

/// Most devices at a time.
pub const MAX_DEVICES: usize = 32;

/// Who reads and writes memory that is with a device (Linux's `dma_data_direction`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    /// The device reads it.
    ToDevice = 1,
    /// The device writes it.
    FromDevice = 2,
    /// Both.
    Both = 0,
}

impl Direction {
    /// Whether the device writes.
    #[must_use]
    #[inline]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::ToDevice)
    }

    /// As Linux's reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToDevice => "DMA_TO_DEVICE",
            Self::FromDevice => "DMA_FROM_DEVICE",
            Self::Both => "DMA_BIDIRECTIONAL",
        }
    }

    const fn of(bits: u16) -> Self {
        match bits {
            1 => Self::ToDevice,
            2 => Self::FromDevice,
            _ => Self::Both,
        }
    }
}

bitflags! {
    /// How a mapping differs from the usual (Linux's `DMA_ATTR_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Attrs: u32 {
        /// The caller synchronises what is used: [`Mapper::sync_for_cpu`], [`Mapper::sync_for_device`].
        const SKIP_CPU_SYNC = 1 << 0;
    }
}

/// What the machine under a [`Mapper`] knows and does.
pub trait Platform: Sync {
    /// Whether all of a range is RAM that the direct map shows cacheable.
    fn is_ram(&self, range: PhysRange) -> bool;

    /// Makes a range of whole frames, which nobody uses, uncached wherever the CPU has it mapped, or cached again.
    /// `false` if that cannot be; nothing has changed then. When it returns no CPU has a translation of the other kind.
    fn set_cached(&self, range: PhysRange, cached: bool) -> bool;
}

impl<P: Platform> Platform for &P {
    fn is_ram(&self, range: PhysRange) -> bool {
        (**self).is_ram(range)
    }

    fn set_cached(&self, range: PhysRange, cached: bool) -> bool {
        (**self).set_cached(range, cached)
    }
}

/// RAM in one piece that nobody maps otherwise, for machines whose devices all see the caches: a device that does not gets
/// no coherent memory but what [`Mapper::add_pool`] was given.
impl Platform for PhysRange {
    fn is_ram(&self, range: PhysRange) -> bool {
        range.intersection(*self) == Some(range)
    }

    fn set_cached(&self, _: PhysRange, _: bool) -> bool {
        false
    }
}

/// What a [`Mapper`] is made with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// From the first byte of RAM to the last that there may ever be.
    pub ram: PhysRange,
    /// The first address that some device does not reach; the page allocator's zone DMA ends there.
    pub dma_limit: Option<PhysAddr>,
    /// Bytes of the bounce area, at most 4 MiB; it is taken when it is needed.
    pub bounce_bytes: u64,
}

/// All memory that is with devices. One for a machine.
///
/// ```
/// use mm::dma::{Coherent, Config as DmaConfig, Direction, Dma, Mapper, Spec};
/// use mm::gfp::Gfp;
/// # use mm::addr::{Order, PhysAddr, PhysRange};
/// # use mm::arch::host::Host;
/// # use mm::memblock::Memblock;
/// # use mm::page_alloc::{Config, Pages};
/// # let span = PhysRange::new(PhysAddr::new(1 << 30).unwrap(), PhysAddr::new((1 << 30) + (8 << 20)).unwrap()).unwrap();
/// # let mut words = vec![0_u64; 12 << 17];
/// # let skip = words.as_ptr().align_offset(4 << 20);
/// # let host = Host::new(span.start(), &mut words[skip..][..8 << 17]);
/// # let mut memblock = Memblock::new();
/// # memblock.add(span, 0)?;
/// # let mut metadata = vec![0; Pages::<Host<'_>>::metadata_bytes(&memblock, &Config::DEFAULT) as usize / 8];
/// # let pages = Pages::build(&host, &memblock, &Config::DEFAULT, &mut metadata)?;
///
/// // `pages`: 8 MiB of RAM on a host. `span` is a platform whose devices all see the caches.
/// let mapper = Mapper::new(&host, &pages, span, DmaConfig { ram: span, dma_limit: None, bounce_bytes: 0 });
/// let card = mapper.add_device(&Spec { is_coherent: true, ..Spec::new("card") })?;
///
/// // Shared by both, all the time.
/// let mut ring = Coherent::<[u32; 4], _, _, _>::new(&mapper, &card, 64, Gfp::KERNEL)?;
/// ring.write(0, [1, 2, 3, 4]);
/// assert!(span.contains(PhysAddr::new(ring.addr().as_raw()).unwrap()));
///
/// // Lent: nobody can touch the buffer until the device is done with it.
/// let block = pages.alloc(Gfp::KERNEL, Order::ZERO)?.into_raw().0.addr();
/// // SAFETY: a frame of our own, for good.
/// let buffer: &'static mut [u8] = unsafe { core::slice::from_raw_parts_mut(mm::arch::Arch::direct_map(&host, block), 4096) };
/// let lent = Dma::map(&mapper, &card, buffer, Direction::FromDevice).map_err(|(_, error)| error)?;
/// assert_eq!(lent.addr().as_raw(), block.as_raw());
/// // SAFETY: there is no device that would still write.
/// let buffer = unsafe { lent.unmap() };
/// assert_eq!(buffer.len(), 4096);
/// drop(ring);
/// mapper.release(card, |held| panic!("left behind: {held:?}")).map_err(|(_, error)| error)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Mapper<'a, A: Arch, S, P> {
    arch: &'a A,
    source: S,
    platform: P,
    config: Config,
    /// What a buffer that a device writes must own whole ones of.
    granule: u64,
    chunks: IrqSpinLock<Chunks>,
    records: IrqSpinLock<Records>,
    bounce: IrqSpinLock<Bounce>,
    names: IrqSpinLock<[Option<&'static str>; MAX_DEVICES]>,
}

impl<A: Arch, S, P> fmt::Debug for Mapper<'_, A, S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapper").field("config", &self.config).field("granule", &self.granule).finish_non_exhaustive()
    }
}

impl<'a, A: Arch, S: PageSource, P: Platform> Mapper<'a, A, S, P> {
    /// A machine whose devices have nothing yet.
    pub fn new(arch: &'a A, source: S, platform: P, config: Config) -> Self {
        Self {
            arch,
            source,
            platform,
            config,
            granule: arch.cache_granule().max(1),
            chunks: IrqSpinLock::new(Rank::DMA, Chunks::new()),
            records: IrqSpinLock::new(Rank::DMA, Records::new()),
            bounce: IrqSpinLock::new(Rank::DMA, Bounce::new()),
            names: IrqSpinLock::new(Rank::DMA, [None; MAX_DEVICES]),
        }
    }

    /// What a buffer that a device writes must own whole ones of: bytes that caches write back at once.
    #[must_use]
    pub const fn granule(&self) -> u64 {
        self.granule
    }

    /// Adds RAM that was set aside at boot for coherent memory: whole frames, at most 4 MiB, best aligned to their own
    /// length. For good.
    ///
    /// # Errors
    ///
    /// [`DmaError::NoMemory`]: there is no room for its tags, or there are too many chunks.
    ///
    /// # Safety
    ///
    /// The range is RAM that nobody uses, and the CPU has it mapped uncached, in the direct map and nowhere else.
    pub unsafe fn add_pool(&self, range: PhysRange) -> Result<(), DmaError> {
        self.add_chunk(range.frames_inside(), false)
    }

    /// A device whose driver begins. O(devices).
    ///
    /// # Errors
    ///
    /// [`DmaError::TooMany`]; [`DmaError::Mask`] if it reaches no RAM.
    pub fn add_device(&self, spec: &Spec) -> Result<Device, DmaError> {
        let mut names = self.names.lock(self.arch);
        let (number, slot) = (0..).zip(names.iter_mut()).find(|(_, slot)| slot.is_none()).ok_or(DmaError::TooMany)?;
        let device = Device::new(number, spec);
        if !self.reaches_some(&device) {
            return Err(DmaError::Mask(spec.mask));
        }
        *slot = Some(spec.name);
        Ok(device)
    }

    /// Sets the addresses that a device can send out (Linux's `dma_set_mask_and_coherent`). It stays the device's promise
    /// for what is mapped already.
    ///
    /// # Errors
    ///
    /// [`DmaError::Mask`] if no RAM has such an address; nothing has changed then.
    pub fn set_mask(&self, device: &mut Device, mask: u64) -> Result<(), DmaError> {
        let before = core::mem::replace(&mut device.mask, mask);
        if self.reaches_some(device) {
            return Ok(());
        }
        device.mask = before;
        Err(DmaError::Mask(mask))
    }

    /// Whether the device reaches a page of RAM that may be had for it: the first of all, as far as anybody knows.
    fn reaches_some(&self, device: &Device) -> bool {
        let (start, end) = (self.config.ram.start(), self.config.ram.end().as_raw());
        let limit = self.config.dma_limit.map_or(end, |limit| limit.as_raw().min(end));
        // From anywhere a mask's end can be: RAM of the first page, the middle, and the last below the limit.
        let places = [start.as_raw(), start.as_raw().midpoint(limit), limit.saturating_sub(PAGE_SIZE)];
        let mut frames = places.into_iter().map(|at| PhysAddr::new_saturating(at).align_down(PAGE_SIZE));
        frames.any(|frame| device.bus_address(frame, PAGE_SIZE).is_ok())
    }

    /// What brings memory that every device reaches.
    const fn reached_by_all(&self) -> Gfp {
        if self.config.dma_limit.is_some() { Gfp::DMA } else { Gfp::empty() }
    }

    /// Whether the device reaches all RAM.
    fn reaches_all(&self, device: &Device) -> bool {
        device.bus_address(self.config.ram.start(), self.config.ram.size()).is_ok()
    }

    fn is_ram(&self, phys: PhysAddr, size: u64) -> bool {
        let range = phys.checked_add(size).and_then(|end| PhysRange::new(phys, end));
        range.is_some_and(|range| self.platform.is_ram(range))
    }

    #[inline]
    fn pointer(&self, phys: PhysAddr) -> Result<NonNull<u8>, DmaError> {
        NonNull::new(self.arch.direct_map(phys)).ok_or(DmaError::NotRam(phys))
    }

    /// Zeroes frames that were just taken.
    #[inline]
    fn zero(&self, phys: PhysAddr, pages: u64) {
        // SAFETY: they are RAM that is ours, in the direct map, and nobody has heard of them.
        unsafe { self.arch.fill(phys, pages * PAGE_SIZE, 0) };
    }

    /// Throws out what the caches have of frames that nobody uses.
    fn discard(&self, range: PhysRange) {
        let virt = VirtAddr::new(self.arch.direct_map(range.start()).addr() as u64);
        // SAFETY: whole frames of ours, in the direct map.
        unsafe { self.arch.maintain_cache(CacheOp::CleanInvalidate, virt, range.size()) };
    }
}
