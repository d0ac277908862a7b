// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for devices against a reference model, on a machine whose caches are as unkind as they may be; and with the
//! banks and the reach of the Raspberry Pi 4.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a test helper may fail loudly, and what is unsafe here is one promise"
)]

#[path = "dma_model/calls.rs"]
mod calls;
#[path = "dma_model/machine.rs"]
mod machine;
#[path = "dma_model/random.rs"]
mod random;

use std::ptr::NonNull;

use machine::Machine;
use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::Arch;
use mm::arch::host::Host;
use mm::dma::{Config, Device, Mapper, Reach, Spec, Window, bit_mask};
use mm::memblock::Memblock;
use mm::page_alloc::{self, Pages};

/// What the tests work with.
pub(crate) type TestPages<'p, 'h> = Pages<'p, Machine<'h>>;
/// The same.
pub(crate) type TestMapper<'m, 'p, 'h> = Mapper<'p, Machine<'h>, &'m TestPages<'p, 'h>, &'m Machine<'h>>;

/// An address.
pub(crate) fn at(raw: u64) -> PhysAddr {
    PhysAddr::new(raw).unwrap()
}

/// So many bytes from there on.
pub(crate) fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(at(start), at(start + size)).unwrap()
}

/// A machine to be tested.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Start and size.
    pub(crate) banks: Vec<(u64, u64)>,
    /// Where zone DMA ends.
    pub(crate) dma_limit: Option<u64>,
    /// Set aside at boot.
    pub(crate) pool: Option<(u64, u64)>,
    /// Bytes of the bounce area.
    pub(crate) bounce: u64,
    /// What the caches write back at once.
    pub(crate) granule: u64,
}

impl Plan {
    /// 24 MiB, of which all devices reach the first 8.
    pub(crate) fn small() -> Self {
        Self {
            banks: vec![(0x4000_0000, 24 << 20)],
            dma_limit: Some(0x4080_0000),
            pool: Some((0x4000_0000, 128 << 10)),
            bounce: 64 << 10,
            granule: 64,
        }
    }
}

/// Builds it, and checks after the test that all memory has come back.
pub(crate) fn with_machine(
    plan: &Plan,
    test: impl for<'m, 'p, 'h> FnOnce(&'m Machine<'h>, &'m TestPages<'p, 'h>, &'m TestMapper<'m, 'p, 'h>),
) {
    let first = plan.banks[0].0;
    let end = plan.banks.iter().map(|bank| bank.0 + bank.1).max().unwrap();
    // From the operating system as zeros, and touched only where it is used.
    let mut words = vec![0u64; (end - first) as usize / 8];
    let mut memblock = Memblock::new();
    for (start, size) in &plan.banks {
        memblock.add(range(*start, *size), 0).unwrap();
    }
    if let Some((start, size)) = plan.pool {
        memblock.reserve(range(start, size), mm::memblock::Tag(1), mm::memblock::ReserveFlags::empty()).unwrap();
    }
    let ram = plan.banks.iter().map(|(start, size)| range(*start, *size)).collect();
    let machine = Machine::new(Host::new(at(first), &mut words), ram, plan.granule);
    let config = page_alloc::Config { dma_limit: plan.dma_limit.map(at), nr_cpus: 1, ..page_alloc::Config::DEFAULT };
    let mut metadata = vec![0; TestPages::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&machine, &memblock, &config, &mut metadata).unwrap();
    let free = || pages.free_pages() + pages.hoarded_pages();
    let before = free();
    let config =
        Config { ram: range(first, end - first), dma_limit: plan.dma_limit.map(at), bounce_bytes: plan.bounce };
    let mapper = Mapper::new(&machine, &pages, &machine, config);
    let mut tags = 0;
    if let Some((start, size)) = plan.pool {
        assert!(mm::dma::Platform::set_cached(&&machine, range(start, size), false));
        // SAFETY: nobody uses it, and from now on the model's CPU sees it uncached.
        unsafe { mapper.add_pool(range(start, size)).unwrap() };
        tags = before - free();
    }
    test(&machine, &pages, &mapper);
    assert!(mapper.validate());
    mapper.shrink();
    assert_eq!(free() + tags, before, "all memory has come back");
    assert_eq!(machine.uncached_bytes(), plan.pool.map_or(0, |pool| pool.1), "and is cached again");
    if let Some((_, size)) = plan.pool {
        assert_eq!(mapper.usage().pool_free_bytes, size);
        assert_eq!(mapper.usage().pool_bytes, size);
    }
}

/// Like legacy masters of the Raspberry Pi 4, scaled: `size` bytes from `cpu` on.
pub(crate) fn window(cpu: u64, size: u64) -> Reach {
    Reach::new(&[Window { bus: 0xc000_0000, cpu, size }]).unwrap()
}

/// A device that is known.
pub(crate) fn add(mapper: &TestMapper<'_, '_, '_>, spec: Spec) -> Device {
    mapper.add_device(&spec).unwrap()
}

/// It has nothing any more.
pub(crate) fn end(mapper: &TestMapper<'_, '_, '_>, device: Device) {
    let mut leaks = Vec::new();
    let released = mapper.release(device, |leak| leaks.push(*leak));
    assert!(released.is_ok(), "{leaks:?}");
}

/// The pointer that the CPU has for an address.
pub(crate) fn pointer(machine: &Machine<'_>, phys: u64) -> NonNull<u8> {
    NonNull::new(machine.direct_map(at(phys))).unwrap()
}

/// The CPU address behind a pointer.
pub(crate) fn phys(machine: &Machine<'_>, pointer: NonNull<u8>) -> u64 {
    pointer.addr().get().wrapping_sub(machine.direct_map(PhysAddr::ZERO).addr()) as u64
}

/// A device with all addresses that are the CPU's.
pub(crate) const fn plain(name: &'static str) -> Spec {
    Spec { mask: bit_mask(64), ..Spec::new(name) }
}

/// Bytes of a page.
pub(crate) const PAGE: u64 = PAGE_SIZE;
