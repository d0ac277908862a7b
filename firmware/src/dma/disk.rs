// SPDX-License-Identifier: MIT OR Apache-2.0
//! A virtio block device on virtio's MMIO transport: rings in coherent memory, data by streaming mappings.
//!
//! The protocol is the crate's, `virtio-drivers`; here is where its memory comes from (`Memory`). One disk is open at a
//! time, since that crate asks for memory without saying for whom.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use bsp::info::{Master, MasterKind};
use mm::addr::{PAGE_SIZE, PhysAddr};
use mm::dma::{Attrs, CoherentMemory, Device, Direction, DmaAddr, DmaError};
use mm::gfp::Gfp;
use spin::mutex::SpinMutex;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal};

use super::{mapper, masters, release, spec};
use crate::allocators::{KBox, Kmalloc};
use crate::boot::{self, Machine};
use crate::vmalloc::{ioremap, iounmap};
use crate::{pr_err, translate};

pub use virtio_drivers::device::blk::SECTOR_SIZE as SECTOR_BYTES;

/// How long a disk may take.
const TIMEOUT_NS: u64 = 2_000_000_000;

/// Held while a disk is open.
static OPEN: SpinMutex<()> = SpinMutex::new(());
/// The device of that disk, while it is.
static DEVICE: AtomicPtr<Device> = AtomicPtr::new(core::ptr::null_mut());

/// Why there is no data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// The machine has no disk.
    None,
    /// Another disk is open.
    Busy,
    /// Its registers cannot be mapped.
    Registers,
    /// There is no memory for it.
    Memory(DmaError),
    /// It does not do as the protocol says, or reports an error.
    Protocol,
    /// What was asked for is no whole number of sectors of the disk.
    Sector,
    /// It does not answer.
    Silent,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no disk"),
            Self::Busy => f.write_str("another disk is open"),
            Self::Registers => f.write_str("the disk's registers cannot be mapped"),
            Self::Memory(error) => error.fmt(f),
            Self::Protocol => f.write_str("the disk reports an error"),
            Self::Sector => f.write_str("no such sectors"),
            Self::Silent => f.write_str("the disk does not answer"),
        }
    }
}

/// Memory for a virtio device.
#[derive(Debug)]
struct Memory;

/// An address that no device reaches: what cannot be shared ends there, and the device says so.
const NOWHERE: u64 = !0xfff;

fn device() -> Option<&'static Device> {
    // SAFETY: while it is not null the device is there, in the frame of `with_disk`, which outlives what uses this.
    unsafe { DEVICE.load(Ordering::Acquire).as_ref() }
}

const fn direction(direction: BufferDirection) -> Direction {
    match direction {
        BufferDirection::DriverToDevice => Direction::ToDevice,
        BufferDirection::DeviceToDriver => Direction::FromDevice,
        BufferDirection::Both => Direction::Both,
    }
}

// SAFETY: coherent memory is whole pages, zeroed, and nobody else's until it is given back.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        let allocated = mapper()
            .zip(device())
            .map(|(mapper, device)| mapper.alloc_coherent(device, pages as u64 * PAGE_SIZE, Gfp::KERNEL));
        match allocated {
            Some(Ok(memory)) => (memory.addr.as_raw(), memory.pointer),
            // It takes 0 for a failure.
            _ => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(addr: u64, pointer: NonNull<u8>, pages: usize) -> i32 {
        let Some((mapper, device)) = mapper().zip(device()) else { return -1 };
        let memory = CoherentMemory { pointer, addr: DmaAddr::new(addr) };
        match mapper.free_coherent(device, pages as u64 * PAGE_SIZE, memory) {
            Ok(()) => 0,
            Err(error) => {
                pr_err!("disk: {error}");
                0
            }
        }
    }

    unsafe fn mmio_phys_to_virt(_: u64, _: usize) -> NonNull<u8> {
        // Of PCI alone.
        NonNull::dangling()
    }

    unsafe fn share(buffer: NonNull<[u8]>, how: BufferDirection) -> u64 {
        let Some((mapper, device)) = mapper().zip(device()) else { return NOWHERE };
        let (phys, size) = (phys_of(buffer.cast()), buffer.len() as u64);
        // SAFETY: the driver touches the buffer no more until it is unshared.
        let mapped =
            phys.and_then(|phys| unsafe { mapper.map_page(device, phys, size, direction(how), Attrs::empty()) });
        mapped.map_or_else(
            |error| {
                pr_err!("disk: a buffer of {size} bytes cannot be shared: {error}");
                NOWHERE
            },
            DmaAddr::as_raw,
        )
    }

    unsafe fn unshare(addr: u64, buffer: NonNull<[u8]>, how: BufferDirection) {
        let (Some((mapper, device)), true) = (mapper().zip(device()), addr != NOWHERE) else { return };
        let size = buffer.len() as u64;
        // SAFETY: the driver calls this when the device is done.
        if let Err(error) = unsafe { mapper.unmap(device, DmaAddr::new(addr), size, direction(how), Attrs::empty()) } {
            pr_err!("disk: {error}");
        }
    }
}

/// Where a buffer is. Buffers come from the slab: what is larger than a page is contiguous there only.
fn phys_of(pointer: NonNull<u8>) -> Result<PhysAddr, DmaError> {
    let page = translate::for_write(pointer.addr().get() as u64).page();
    let phys = page.and_then(|page| page.checked_add(pointer.addr().get() as u64 % PAGE_SIZE));
    phys.ok_or(DmaError::NotRam(PhysAddr::ZERO))
}

/// What a request needs besides data, in the direct map.
struct Request {
    header: BlkReq,
    response: BlkResp,
}

/// A disk that is open.
pub struct Disk {
    driver: VirtIOBlk<Memory, MmioTransport<'static>>,
    request: KBox<Request>,
    is_dead: bool,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("is_dead", &self.is_dead).finish_non_exhaustive()
    }
}

impl Disk {
    /// How many sectors it has.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.driver.capacity()
    }

    /// Fills `data`, which is in the direct map, from `sector` on. Waits for the disk.
    ///
    /// # Errors
    ///
    /// [`DiskError`]. After [`Silent`](DiskError::Silent) the disk may still write `data`, which is not to be used again.
    pub fn read(&mut self, sector: u64, data: &mut [u8]) -> Result<(), DiskError> {
        let sectors = (data.len() / SECTOR_SIZE) as u64;
        let is_whole = sectors > 0 && data.len().is_multiple_of(SECTOR_SIZE);
        if self.is_dead || !is_whole || sector.checked_add(sectors).is_none_or(|end| end > self.sectors()) {
            return Err(if self.is_dead { DiskError::Silent } else { DiskError::Sector });
        }
        let Request { header, response } = &mut *self.request;
        // SAFETY: all three stay where they are, and are touched by nobody, until the request is complete, below; if it
        // never is, the request's memory is never used again, and the caller keeps `data` from use.
        let token = unsafe { self.driver.read_blocks_nb(sector as usize, header, data, response) };
        let token = token.map_err(|_| DiskError::Protocol)?;
        let start = boot::uptime_ns();
        while self.driver.peek_used() != Some(token) {
            if boot::uptime_ns() - start > TIMEOUT_NS {
                self.is_dead = true;
                return Err(DiskError::Silent);
            }
            core::hint::spin_loop();
        }
        // SAFETY: the same three.
        let done = unsafe { self.driver.complete_read_blocks(token, header, data, response) };
        done.map_err(|_| DiskError::Protocol)
    }
}

/// Opens the machine's first disk for `body`. `is_coherent` says whether it sees the caches; if not given, the tree does.
///
/// # Errors
///
/// [`DiskError`], also what `body` returns.
pub fn with_disk<R>(
    machine: &'static Machine,
    is_coherent: Option<bool>,
    body: impl FnOnce(&mut Disk) -> Result<R, DiskError>,
) -> Result<R, DiskError> {
    let _open = OPEN.try_lock().ok_or(DiskError::Busy)?;
    let mapper = mapper().ok_or(DiskError::None)?;
    for master in masters(machine.info, |kind| kind == MasterKind::VirtioMmio) {
        let Some(transport) = transport(master)? else { continue };
        let mut spec = spec(machine.info, master, "virtio-blk");
        spec.is_coherent = is_coherent.unwrap_or(spec.is_coherent);
        let mut device = mapper.add_device(&spec).map_err(DiskError::Memory)?;
        DEVICE.store(&raw mut device, Ordering::Release);
        let result = open(transport.0).and_then(|mut disk| {
            let result = body(&mut disk);
            if disk.is_dead {
                // It may write its answer yet.
                core::mem::forget(core::mem::replace(&mut disk.request, new_request()?));
            }
            result
        });
        DEVICE.store(core::ptr::null_mut(), Ordering::Release);
        release(device);
        return result;
    }
    Err(DiskError::None)
}

fn new_request() -> Result<KBox<Request>, DiskError> {
    let request = Request { header: BlkReq::default(), response: BlkResp::default() };
    KBox::try_new_in(request, Kmalloc).map_err(|_| DiskError::Memory(DmaError::NoMemory))
}

fn open(transport: MmioTransport<'static>) -> Result<Disk, DiskError> {
    let request = new_request()?;
    let driver = VirtIOBlk::new(transport).map_err(|error| match error {
        virtio_drivers::Error::DmaError => DiskError::Memory(DmaError::NoMemory),
        _ => DiskError::Protocol,
    })?;
    Ok(Disk { driver, request, is_dead: false })
}

/// Registers of a slot, until they are dropped.
struct Registers(NonNull<u8>);

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: what was used with them is gone.
        unsafe { iounmap(self.0) };
    }
}

/// The transport of a slot, if a disk is in it.
fn transport(master: &Master) -> Result<Option<(MmioTransport<'static>, Registers)>, DiskError> {
    let phys = PhysAddr::new(master.base).ok_or(DiskError::Registers)?;
    // SAFETY: the tree says that registers are there, which nobody else has mapped.
    let registers = Registers(unsafe { ioremap(phys, master.size) }.map_err(|_| DiskError::Registers)?);
    let header = registers.0.cast::<VirtIOHeader>();
    // SAFETY: mapped as Device memory, until after the transport is gone.
    let transport = unsafe { MmioTransport::new(header, master.size as usize) };
    Ok(transport.ok().filter(|transport| transport.device_type() == DeviceType::Block).map(|found| (found, registers)))
}
