// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's memory for devices: who its masters are, and the one [`Mapper`].
//!
//! The memory set aside at boot has its place in the direct map uncached from the first table on; what is added later
//! changes there, page by page, while its users are none.

pub mod disk;
pub mod engine;

use bsp::info::{BootInfo, Master, MasterKind};
use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::dma::{Cma, Config, Device, Held, Mapper, Platform, Reach, SLOT_BYTES, Spec, Window};
use mm::pgtable::{Attributes, Change};
use spin::Once;

use crate::boot::{self, Machine};
use crate::cpu::{Hardware, hardware};
use crate::memory::{TableFrames, direct_map};
use crate::slab::Source;
use crate::{devices, pr_err, pr_info, pr_warn, translate};

/// Its type.
pub type KernelMapper = Mapper<'static, Hardware, Source, KernelMap>;

static MAPPER: Once<KernelMapper> = Once::new();

/// The kernel's map, as far as devices matter.
#[derive(Clone, Copy, Debug)]
pub struct KernelMap;

impl Platform for KernelMap {
    fn is_ram(&self, range: PhysRange) -> bool {
        let frames = range.frames_touched();
        let mut pages = (frames.start().as_raw()..frames.end().as_raw()).step_by(PAGE_SIZE as usize);
        pages.all(|page| {
            let par = translate::for_write(direct_map(PhysAddr::new_saturating(page)).as_raw());
            par.page().is_some_and(|found| found.as_raw() == page) && par.is_cached()
        })
    }

    fn set_cached(&self, range: PhysRange, cached: bool) -> bool {
        let Some(machine) = boot::machine() else { return false };
        let memory = &machine.memory;
        let attributes = if cached { Attributes::DATA } else { Attributes::UNCACHED };
        let (virt, change) = (direct_map(range.start()), Change::Attributes(attributes));
        let mut map = memory.map.lock();
        // SAFETY: nobody uses these frames; they stay readable and writable.
        let changed = unsafe { map.change(virt, range.size(), change, &mut TableFrames(memory)) };
        drop(map);
        if let Err(error) = changed {
            pr_err!("dma: {range}: {error}");
        }
        changed.is_ok()
    }
}

/// The type of the contiguous memory area.
pub type KernelCma = Cma<'static, 'static, Hardware>;

static CMA: Once<KernelCma> = Once::new();

/// Makes the contiguous memory area of frames that are all free. Nothing, if it is empty.
#[inline(never)] // since there is room for this once on the boot stack
pub(crate) fn start_cma(pages: Source, range: PhysRange) {
    if range.is_empty() {
        return;
    }
    match Cma::new(hardware(), pages, range) {
        Ok(cma) => {
            CMA.call_once(|| cma);
            pr_info!("cma: {} KiB at {range}", range.size() / 1024);
        }
        Err(error) => pr_warn!("cma: {range} cannot be lent: {error}"),
    }
}

/// The contiguous memory area, if there is one.
#[must_use]
pub fn cma() -> Option<&'static KernelCma> {
    CMA.get()
}

/// Makes it. Everything else is up.
#[inline(never)] // since there is room for this once on the boot stack
pub(crate) fn start(machine: &'static Machine) {
    let memory = &machine.memory;
    let ram = memory.pages.managed_pages() * PAGE_SIZE;
    let bounce_bytes =
        machine.options.swiotlb.map_or((ram / 512).clamp(64 << 10, 4 << 20), |slots| slots.saturating_mul(SLOT_BYTES));
    let spanned =
        || machine.info.memory.iter().map(|bank| (bank.range.base, bank.range.base.saturating_add(bank.range.size)));
    let start = PhysAddr::new_saturating(spanned().map(|bank| bank.0).min().unwrap_or(0));
    let end = PhysAddr::new_saturating(spanned().map(|bank| bank.1).max().unwrap_or(0));
    let config = Config {
        ram: PhysRange::new(start, end).unwrap_or_default(),
        dma_limit: machine.info.dma_limit.map(PhysAddr::new_saturating),
        bounce_bytes: bounce_bytes.min(Order::MAX.bytes()),
    };
    let mapper = MAPPER.call_once(|| Mapper::new(hardware(), memory.pages, KernelMap, config));
    let pool = memory.coherent_pool;
    if !pool.is_empty() {
        // SAFETY: memblock set it aside, and its direct map, which is its only one, was uncached before it was live.
        if let Err(error) = unsafe { mapper.add_pool(pool) } {
            pr_warn!("dma: the coherent pool cannot be used: {error}");
        }
    }
    devices::use_coherent_memory(machine.info, mapper);
}

/// It, which is there when `boot` is through.
#[must_use]
pub fn mapper() -> Option<&'static KernelMapper> {
    MAPPER.get()
}

/// What the tree says of how a master sees RAM.
#[must_use]
pub fn spec(info: &BootInfo, master: &Master, name: &'static str) -> Spec {
    let windows = info.dma_buses.get(usize::from(master.bus)).map(|bus| bus.as_slice()).unwrap_or_default();
    let mut all = [Window { bus: 0, cpu: 0, size: 0 }; mm::dma::MAX_WINDOWS];
    for (to, from) in all.iter_mut().zip(windows) {
        *to = Window { bus: from.bus, cpu: from.cpu, size: from.size };
    }
    let reach = all.get(..windows.len()).and_then(Reach::new).unwrap_or(Reach::IDENTITY);
    Spec { reach, is_coherent: master.is_coherent, ..Spec::new(name) }
}

/// The masters of one kind.
pub fn masters(info: &BootInfo, is_meant: impl Fn(MasterKind) -> bool) -> impl Iterator<Item = &Master> {
    info.masters.iter().filter(move |master| is_meant(master.kind))
}

/// Releases a device, and names in the log what it still has.
pub fn release(device: Device) {
    let Some(mapper) = mapper() else { return };
    let leak = |held: &Held| {
        let Held { device, phys, bytes, direction, caller, .. } = *held;
        pr_err!("dma: {device} still has {bytes} bytes at {phys:?}, {}, from {caller}", direction.name());
    };
    if let Err((device, error)) = mapper.release(device, leak) {
        pr_err!("dma: {} is not released: {error}", device.name());
    }
}
