// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of every byte: the memory map in words, and the figures behind `meminfo` and `iomem`.

use bsp::info::BootInfo;
use mm::addr::{PAGE_SIZE, PhysRange};
use mm::memblock::ReserveFlags;
use mm::report::MemInfo;
use mm::zone::ZoneInfo;

use super::Memory;
use super::owner::{Owner, OwnerName};
use crate::log::record;
use crate::{dma, stacks, vmalloc};
use crate::{pr_err, pr_info, pr_warn};

/// Bytes of RAM by what they are for. `total = free + reserved + used`, to the byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// All banks, as far as they are used.
    pub total: u64,
    /// In the page allocator's hands when the kernel had started.
    pub free: u64,
    /// Left alone because the tree says so, or because it is no whole frame.
    pub reserved: u64,
    /// The kernel and its tables.
    pub used: u64,
}

impl Memory {
    /// Adds up what memblock knows; the free bytes are the page allocator's own count.
    #[must_use]
    pub fn account(&self) -> Account {
        let ledger = self.memblock.ledger();
        let mut account = Account {
            total: ledger.total_bytes,
            free: self.pages.managed_pages() * PAGE_SIZE,
            reserved: ledger.rounding_bytes,
            used: 0,
        };
        for region in self.memblock.reserved_memory() {
            match Owner::of(region.tag) {
                Some(owner) if owner.is_own() => account.used += region.range.size(),
                _ => account.reserved += region.range.size(),
            }
        }
        account.total += self.added().map(PhysRange::size).sum::<u64>();
        account.used += self.late_used_bytes();
        account
    }

    /// The figures of every zone, taken under the lock and handed out without it.
    pub fn zone_info(&self) -> impl Iterator<Item = ZoneInfo> {
        self.pages.info().into_iter().flatten()
    }

    /// Frames that are free, or hold no more than how things are mapped: after something was made and has gone, as many as
    /// before. What waits in vmalloc is given back first.
    pub fn idle_pages(&self) -> u64 {
        self.vmalloc.purge();
        let tables = self.map.lock().table_bytes() / PAGE_SIZE;
        self.pages.free_pages() + self.pages.hoarded_pages() + tables + self.vmalloc.usage().tag_frames
    }

    /// The figures of `meminfo` and `free`.
    #[must_use]
    pub fn mem_info(&self) -> MemInfo {
        let free_pages = self.pages.free_pages() + self.pages.hoarded_pages();
        let sections = self.image.sections();
        let stacks: u64 =
            sections.iter().filter(|part| part.name.ends_with("stack")).map(|part| part.virt.size()).sum();
        let (vmalloc_used_bytes, lazy_bytes) = vmalloc::used_and_lazy_bytes();
        let slab = crate::slab::slab().map(mm::slab::Slab::info).unwrap_or_default();
        MemInfo {
            total_bytes: self.pages.managed_pages() * PAGE_SIZE,
            free_bytes: free_pages * PAGE_SIZE,
            available_bytes: free_pages.saturating_sub(self.pages.reserved_pages()) * PAGE_SIZE + lazy_bytes,
            kernel_stack_bytes: stacks + stacks::total_bytes(),
            page_tables_bytes: self.map.lock().table_bytes(),
            vmalloc_total_bytes: vmalloc::total_bytes(),
            vmalloc_used_bytes,
            cma_total_bytes: dma::cma().map_or(0, |cma| cma.usage().range.size()),
            cma_free_bytes: self.pages.cma_free_pages() * PAGE_SIZE,
            slab_reclaimable_bytes: slab.reclaimable_bytes(),
            slab_unreclaimable_bytes: slab.unreclaimable_bytes(),
            memtest_bad_bytes: self.is_tested.then(|| self.memblock.reserved_bytes(Owner::BadRam.tag())),
            ..MemInfo::default()
        }
    }

    /// The memory map in words.
    pub(super) fn print_account(&self, info: &BootInfo) {
        for region in self.memblock.memory() {
            pr_info!("memory: bank      {} {:>12} bytes  node {}", region.range, region.range.size(), region.node);
        }
        for region in self.memblock.reserved_memory() {
            let kind = match Owner::of(region.tag) {
                Some(owner) if owner.is_own() => "used",
                _ if region.flags.contains(ReserveFlags::NOMAP) => "no-map",
                _ if region.flags.contains(ReserveFlags::REUSABLE) => "reusable",
                _ => "reserved",
            };
            let (range, name) = (region.range, OwnerName(info, region.tag));
            pr_info!("memory: {kind:<9} {range} {:>12} bytes  {name}", range.size());
        }
        for zone in self.zone_info() {
            let (name, node) = (zone.kind.name(), zone.node);
            record!(info, "memory: zone {=str} on node {=u32}: {=u64} pages", name, node, zone.present_pages);
            pr_info!(
                "memory: zone      {} on node {}: {} pages, {} of them free",
                zone.kind.name(),
                zone.node,
                zone.present_pages,
                zone.free_pages
            );
        }
        let account = self.account();
        let Account { total, free, reserved, used } = account;
        record!(
            info,
            "memory: {=u64} bytes, {=u64} free, {=u64} reserved, {=u64} used, {=u64} held back",
            total,
            free,
            reserved,
            used,
            self.held_back_bytes
        );
        if self.held_back_bytes != 0 {
            pr_info!("memory: {} bytes are held back and not counted below", self.held_back_bytes);
        }
        pr_info!(
            "memory: {} bytes = {} free + {} reserved + {} used",
            account.total,
            account.free,
            account.reserved,
            account.used
        );
        if account.total != account.free + account.reserved + account.used {
            pr_err!("memory: BUG: the sum is wrong");
        }
        let largest =
            self.pages.each_zone(|zone| zone.buddy().largest_free_order()).into_iter().flatten().flatten().max();
        match largest {
            Some(order) => pr_info!("memory: largest free block {} KiB", order.bytes() / 1024),
            None => pr_warn!("memory: nothing is free: reservations and the kernel cover all RAM"),
        }
    }
}
