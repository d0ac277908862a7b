// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at areas, and through them.

use super::Vmalloc;
use super::area::{Area, EXTRA};
use super::block::Page;
use crate::addr::{Order, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::arch::Arch;
use crate::slab::PageSource;

/// How much there is of what.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Areas in use.
    pub areas: u64,
    /// Frames of areas in use (Linux's `vmalloc_nr_pages`).
    pub pages: u64,
    /// Frames that wait for a flush.
    pub lazy_pages: u64,
    /// Pages of address space that are free.
    pub free_address_pages: u64,
    /// Frames for tags and regions. Translation tables are counted elsewhere.
    pub tag_frames: u64,
}

/// Lazy areas that are told of at most.
const MOST_LAZY: usize = 64;

impl<A: Arch, S: PageSource + Copy + Send> Vmalloc<'_, A, S> {
    /// How much there is of what.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let all = u64::from(self.pages) * self.config.regions as u64;
        let extra = self.regions().count() as u64 - 1;
        let tag_frames = extra * Self::region_order().map_or(0, Order::pages);
        self.regions().fold(Usage { free_address_pages: all, tag_frames, ..Usage::default() }, |mut usage, region| {
            self.peek(region, |state| {
                usage.areas += state.nr_areas;
                usage.pages += state.nr_pages;
                usage.lazy_pages += state.lazy.pages() + state.shelf.pages() + state.dying.pages();
                usage.free_address_pages -= u64::from(self.pages) - state.free_addresses();
                usage.tag_frames += state.space.tags().nr_frames();
            });
            usage
        })
    }

    /// The area that `virt` is in, its guard included (Linux's `find_vm_area`). Complexity: O(distance to its first
    /// page / 64) at worst.
    #[must_use]
    pub fn find(&self, virt: VirtAddr) -> Option<Area> {
        let (region, page) = self.locate(virt)?;
        self.peek(region, |state| {
            let block = state.space.area_around(page)?;
            Some(state.space.area(block.first, state.virt_of(block.first)))
        })?
    }

    /// The first area that begins at `virt` or behind it. Complexity: as for [`find`](Self::find).
    #[must_use]
    pub fn next(&self, virt: VirtAddr) -> Option<Area> {
        self.regions().find_map(|region| {
            self.peek(region, |state| {
                let offset = virt.as_raw().saturating_sub(state.start.as_raw());
                let page = Page::try_from(offset.div_ceil(PAGE_SIZE)).ok().filter(|page| *page < self.pages)?;
                let first = state.space.area_from(page)?.first;
                Some(state.space.area(first, state.virt_of(first)))
            })?
        })
    }

    /// All areas in use, by address; each as it is when it is its turn.
    pub fn areas(&self) -> impl Iterator<Item = Area> + '_ {
        core::iter::successors(self.next(self.config.start), |area| {
            self.next(VirtAddr::new(area.start.as_raw() + area.size().max(PAGE_SIZE)))
        })
    }

    /// Addresses and bytes of the areas that wait, the oldest 64 of them.
    pub fn lazy_areas(&self) -> impl Iterator<Item = (VirtAddr, u64)> {
        let mut found = [None; MOST_LAZY];
        let mut free = found.iter_mut();
        for region in self.regions() {
            self.peek(region, |state| {
                let (space, dying) = (&state.space, &state.dying);
                let waiting = state.lazy.iter(space).chain(state.shelf.iter(space)).chain(dying.iter(space));
                for (page, slot) in waiting.zip(&mut free) {
                    let pages = state.space.block_at(page).pages;
                    *slot = Some((state.virt_of(page), u64::from(pages - EXTRA + 1) * PAGE_SIZE));
                }
            });
        }
        found.into_iter().flatten()
    }

    /// Where `virt`, an address of an area, leads (Linux's `vmalloc_to_page`).
    #[must_use]
    pub fn translate(&self, virt: VirtAddr) -> Option<PhysAddr> {
        let (region, _) = self.locate(virt)?;
        self.peek(region, |state| state.tree.translate(virt))?
    }

    /// Copies what `virt` on reads as, without a fault whatever is there: what is not mapped, and device registers, read as
    /// zeros (Linux's `vread_iter`). Returns how many bytes were memory.
    pub fn read(&self, virt: VirtAddr, buffer: &mut [u8]) -> usize {
        buffer.fill(0);
        let (mut done, mut memory) = (0, 0);
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = virt.checked_add(done as u64) else { break };
            let length = rest.len().min((PAGE_SIZE - at.as_raw() % PAGE_SIZE) as usize);
            done += length;
            let Some((region, page)) = self.locate(at) else { continue };
            // Under the lock, so that the frame stays the area's meanwhile.
            let is_memory = self.peek(region, |state| {
                let block = state.space.area_around(page)?;
                let kind = state.space.kind(block.first);
                if !kind.owns_frames() {
                    return None;
                }
                let phys = state.tree.translate(at)?;
                // SAFETY: the page is mapped by an area that owns its frames, so it is RAM that the direct map shows;
                // `length` stays inside of it. Its owner may write meanwhile: then what is read is old, new, or mixed.
                unsafe { self.arch.direct_map(phys).copy_to_nonoverlapping(rest.as_mut_ptr(), length) };
                Some(())
            });
            memory += if is_memory.flatten().is_some() { length } else { 0 };
        }
        memory
    }
}
