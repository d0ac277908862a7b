// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the reports show of a slab.

use core::sync::atomic::Ordering;

use super::cache::{CacheFlags, Inner};
use super::table::{FIRST_CACHE, Tag};
use super::{NR_TAGS, PageSource, Slab};
use crate::addr::PAGE_SIZE;
use crate::arch::Arch;

/// One line of `slabinfo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheInfo {
    /// The cache.
    pub name: &'static str,
    /// Objects in use, those in the CPUs' arrays included, as Linux counts.
    pub active_objects: usize,
    /// Objects that its slabs hold.
    pub objects: usize,
    /// Bytes from one object to the next.
    pub object_size: usize,
    /// Objects of a slab.
    pub per_slab: usize,
    /// Pages of a slab.
    pub pages_per_slab: usize,
    /// Its slabs.
    pub slabs: usize,
    /// Slabs with an object in use.
    pub active_slabs: usize,
}

/// How much memory a slab holds, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlabInfo {
    /// Frames of the packed heap, those that are cut evenly included.
    pub heap_pages: usize,
    /// Objects in it.
    pub heap_objects: usize,
    /// Their bytes, as rounded.
    pub heap_bytes: usize,
    /// Pages of caches.
    pub cache_pages: usize,
    /// Of these, what caches would give back on request.
    pub reclaimable_pages: usize,
    /// Pages of objects of a page and more.
    pub large_pages: usize,
    /// Pages of the CPUs' arrays.
    pub array_pages: usize,
}

impl SlabInfo {
    /// All pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.heap_pages + self.cache_pages + self.large_pages + self.array_pages
    }

    /// `SReclaimable` of meminfo.
    #[must_use]
    pub const fn reclaimable_bytes(&self) -> u64 {
        self.reclaimable_pages as u64 * PAGE_SIZE
    }

    /// `SUnreclaim` of meminfo.
    #[must_use]
    pub const fn unreclaimable_bytes(&self) -> u64 {
        (self.pages() - self.reclaimable_pages) as u64 * PAGE_SIZE
    }
}

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// How much memory it holds now.
    #[must_use]
    pub fn info(&self) -> SlabInfo {
        let counters = &self.counters;
        let pages = self.even_pages();
        let (cache_pages, reclaimable_pages) = self.cache_pages();
        let (objects, bytes) = self.even.lock(self.arch).used(&self.table);
        let heap = self.heap.lock(self.arch);
        SlabInfo {
            heap_pages: pages + heap.nr_frames,
            heap_objects: objects + heap.nr_objects,
            heap_bytes: bytes + heap.used_bytes(),
            cache_pages,
            reclaimable_pages,
            large_pages: counters.large_pages.load(Ordering::Relaxed),
            array_pages: counters.front_pages.load(Ordering::Relaxed),
        }
    }

    /// Pages of all caches, and of those that count as reclaimable. O(caches).
    pub(super) fn cache_pages(&self) -> (usize, usize) {
        let pages = |inner: &Inner| {
            let nr = inner.slabs.lock(self.arch).nr_slabs << inner.cut.order.as_usize();
            (nr, if inner.spec.flags.contains(CacheFlags::RECLAIM_ACCOUNT) { nr } else { 0 })
        };
        let all = (FIRST_CACHE..NR_TAGS as Tag).filter_map(|tag| self.look(tag, pages));
        all.fold((0, 0), |sum, pages| (sum.0 + pages.0, sum.1 + pages.1))
    }

    /// The packed heap, then the caches, in the order of their making.
    pub fn caches(&self) -> impl Iterator<Item = CacheInfo> + '_ {
        let info = self.info();
        let size = info.heap_bytes.checked_div(info.heap_objects).unwrap_or(0);
        // Objects of many sizes: their mean stands for all.
        let heap = CacheInfo {
            name: "kmalloc-packed",
            active_objects: info.heap_objects,
            objects: info.heap_objects,
            object_size: size,
            per_slab: (PAGE_SIZE as usize).checked_div(size).unwrap_or(0),
            pages_per_slab: 1,
            slabs: info.heap_pages,
            active_slabs: info.heap_pages,
        };
        let one = move |inner: &Inner| {
            let slabs = inner.slabs.lock(self.arch);
            let per_slab = inner.cut.nr as usize;
            CacheInfo {
                name: inner.spec.name,
                active_objects: slabs.nr_taken,
                objects: slabs.nr_slabs * per_slab,
                object_size: inner.cut.stride as usize,
                per_slab,
                pages_per_slab: inner.cut.order.pages() as usize,
                slabs: slabs.nr_slabs,
                active_slabs: slabs.nr_slabs - slabs.nr_empty(),
            }
        };
        let one = move |tag: usize| self.look(tag as Tag, one);
        core::iter::once(heap).chain((FIRST_CACHE.into()..NR_TAGS).filter_map(one))
    }
}
