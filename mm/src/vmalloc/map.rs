// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas whose frames are somebody else's: `vmap`, `ioremap`, and addresses alone.
//!
//! Their owner may do with the frames what it likes once [`Vmalloc::unmap`] returns: so these are flushed at once.

use core::ptr;

use super::area::{EXTRA, Kind, UNLIKE, extent, extent_of};
use super::block::{self, Head, Page, TagStore};
use super::pieces::Pieces;
use super::{BadArea, MachineTags, State, Vmalloc, VmallocError};
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use crate::arch::Arch;
use crate::pgtable::{Attributes, Change, ENTRIES, MapError, Piece};
use crate::slab::PageSource;

/// The smallest block of a translation table.
const LEAST_BLOCK: u64 = ENTRIES as u64 * PAGE_SIZE;
/// Descriptors have so many bits of address.
const PHYS_BITS: u32 = 48;

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Maps frames one behind the other (Linux's `vmap`).
    ///
    /// # Errors
    ///
    /// [`VmallocError`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// The caller may map these frames with these attributes, until [`unmap`](Self::unmap).
    pub unsafe fn map(&self, frames: &[Pfn], attributes: Attributes, caller: u64) -> Result<VirtAddr, VmallocError> {
        let again = self.peek_here(self.home(), |state| {
            let (first, word) = state.pool.take(&mut state.space, Page::try_from(frames.len()).ok()? + EXTRA, 1)?;
            if !state.tree.map_frames(state.virt_of(first), frames, attributes) {
                state.pool.put(&mut state.space, first, word);
                return None;
            }
            state.note_mapping(first, word, Kind::Map, frames.len() as u64, caller, 0);
            Some(state.virt_of(first))
        });
        match again.flatten() {
            Some(virt) => Ok(virt),
            None => self.map_anew(frames, attributes, caller),
        }
    }

    /// Where no addresses of that length are at hand, or a table is missing.
    #[inline(never)]
    fn map_anew(&self, frames: &[Pfn], attributes: Attributes, caller: u64) -> Result<VirtAddr, VmallocError> {
        let pieces = Pieces::of_frames(frames);
        self.map_pieces(pieces, frames.len() as u64, 1, Kind::Map, attributes, caller)
    }

    /// Maps `size` bytes of device registers at `phys`, as they are (Linux's `ioremap`). Returns where `phys` is then.
    ///
    /// # Errors
    ///
    /// [`VmallocError`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// There is no RAM in the range, and nobody maps it with other attributes.
    pub unsafe fn map_io(
        &self,
        phys: PhysAddr,
        size: u64,
        attributes: Attributes,
        caller: u64,
    ) -> Result<VirtAddr, VmallocError> {
        let first = phys.align_down(PAGE_SIZE);
        let offset = phys.as_raw() - first.as_raw();
        let bytes = size.checked_add(offset).ok_or(VmallocError::TooLarge(size))?;
        let pages = bytes.div_ceil(PAGE_SIZE);
        if pages > u64::from(self.pages) {
            return Err(VmallocError::TooLarge(size));
        }
        let piece = Piece { phys: first, size: pages * PAGE_SIZE };
        if first.as_raw().saturating_add(piece.size) > 1 << PHYS_BITS {
            return Err(VmallocError::Map(MapError::OutOfRange(self.config.start)));
        }
        let pieces = Pieces::one(piece, true);
        let virt = self.map_pieces(pieces, pages, self.alignment(pages) as Page, Kind::Io, attributes, caller)?;
        Ok(VirtAddr::new(virt.as_raw() + offset))
    }

    /// Takes addresses without anything behind them (Linux's `get_vm_area`).
    ///
    /// # Errors
    ///
    /// [`VmallocError`].
    pub fn reserve(&self, bytes: u64, caller: u64) -> Result<VirtAddr, VmallocError> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        if pages == 0 {
            return Err(VmallocError::Zero);
        }
        let length = Page::try_from(pages + u64::from(EXTRA)).map_err(|_| VmallocError::TooLarge(bytes))?;
        let reserve = |state: &mut State<'a, A, S>| {
            let first = state.space.alloc(length, 1, 0)?;
            if let Err(error) = state.space.describe(first, Kind::Reserved, caller, bytes, 0) {
                state.space.free(first);
                return Err(error.into());
            }
            state.nr_areas += 1;
            Ok(state.virt_of(first))
        };
        self.in_some_region(|region| self.with_retry(region, reserve))
    }

    fn map_pieces(
        &self,
        pieces: Pieces<'_, MachineTags<'a, A, S>>,
        pages: u64,
        align: Page,
        kind: Kind,
        attributes: Attributes,
        caller: u64,
    ) -> Result<VirtAddr, VmallocError> {
        let bytes = pages * PAGE_SIZE;
        if pages == 0 {
            return Err(VmallocError::Zero);
        }
        if pages > u64::from(self.pages) {
            return Err(VmallocError::TooLarge(bytes));
        }
        let map = |state: &mut State<'a, A, S>| {
            let (first, word) = self.find_block(state, pages, align)?;
            let virt = state.virt_of(first);
            let mapped = state.tree.map_known(virt, bytes, pieces.clone(), attributes, &mut state.tables);
            if let Err(error) = mapped {
                state.space.free(first);
                return Err(error.into());
            }
            let phys = match kind {
                Kind::Io => pieces.clone().next().map_or(0, |piece| piece.phys.as_raw()),
                _ => 0,
            };
            state.note_mapping(first, word, kind, pages, caller, phys);
            Ok(virt)
        };
        self.in_some_region(|region| self.with_retry(region, map))
    }

    /// Changes permissions or attributes of pages of areas: see [`PageTable::change`](crate::pgtable::PageTable::change).
    ///
    /// # Errors
    ///
    /// [`MapError`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// Nobody needs of the pages what they lose.
    pub unsafe fn change(&self, virt: VirtAddr, size: u64, change: Change) -> Result<(), MapError> {
        let last = virt.checked_add(size.saturating_sub(1)).and_then(|last| self.locate(last));
        let Some(((region, first), (other, last))) = self.locate(virt).zip(last) else {
            return Err(MapError::OutOfRange(virt));
        };
        if !ptr::eq(region, other) {
            return Err(MapError::OutOfRange(virt));
        }
        let changed = self.with(region, |state| {
            // Whatever comes of it: once freed, what these areas were is nothing for the next one.
            let mut next = first;
            while next <= last {
                let area = state.space.area_around(next).or_else(|| state.space.area_from(next));
                let Some(area) = area.filter(|area| area.first <= last) else { break };
                let (short, caller) = state.space.info(area.first);
                state.space.set_info(area.first, short | UNLIKE, caller);
                next = area.end();
            }
            Ok(state.tree.change(virt, size, change, self.tlb, &mut state.tables))
        });
        changed.unwrap_or(Err(MapError::NoTable))
    }

    /// Undoes [`map`](Self::map), [`map_io`](Self::map_io) or [`reserve`](Self::reserve): no CPU can reach the frames by
    /// this area when it returns.
    ///
    /// # Errors
    ///
    /// [`BadArea`]. Nothing has changed then.
    pub fn unmap(&self, virt: VirtAddr) -> Result<(), BadArea> {
        let start = VirtAddr::new(virt.as_raw() - virt.as_raw() % PAGE_SIZE);
        let (region, page) = self.locate(start).ok_or(BadArea::Address(start))?;
        let done = self.peek(region, |state| {
            let Head { word, extent, .. } = state.busy_at(page, virt, Kind::is_mapping)?;
            if start != virt && Kind::of(block::short_of(word)) != Kind::Io {
                return Err(BadArea::Address(virt));
            }
            let size = extent_of(extent).1 * PAGE_SIZE;
            if size != 0 {
                // Where there may be blocks, one invalidate for each is enough.
                let unmapped = if size < LEAST_BLOCK {
                    state.tree.unmap_full(start, size, self.tlb, &mut state.tables)
                } else {
                    state.tree.unmap(start, size, self.tlb, &mut state.tables)
                };
                debug_assert!(unmapped.is_ok(), "a whole area needs no table to be unmapped");
                if let Ok(unmapped) = unmapped {
                    unmapped.flush(self.tlb).release();
                }
            }
            state.nr_areas -= 1;
            // No TLB knows the addresses any more.
            state.pool.put(&mut state.space, page, word);
            Ok(())
        });
        done.unwrap_or(Err(BadArea::None(virt)))
    }
}

impl<A: Arch, S: PageSource> State<'_, A, S> {
    /// Describes an area that was mapped, of so many pages, whose first tag was `word`; `phys` is where registers are, or 0.
    #[inline(always)]
    fn note_mapping(&mut self, first: Page, word: u64, kind: Kind, pages: u64, caller: u64, phys: u64) {
        let word = block::busy(word, kind as u32);
        let head = Head { word, note: caller, extent: extent(pages * PAGE_SIZE, pages), run: phys };
        self.space.tags_mut().set_head(first, head);
        self.nr_areas += 1;
    }
}
