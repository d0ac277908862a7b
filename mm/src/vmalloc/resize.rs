// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vrealloc`: areas that grow and shrink. Data is never copied: what does not fit where it is gets other addresses for the
//! same frames.

use super::alloc::Batch;
use super::area::{EXTRA, Kind, Run, UNLIKE};
use super::block::{Page, TagStore};
use super::pieces::Pieces;
use super::{BadArea, Region, Request, State, Vmalloc, VmallocError};
use crate::addr::{PAGE_SIZE, Pfn, VirtAddr};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::slab::PageSource;

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Makes the area at `virt` `request.bytes` long, and returns where it is now; without one it makes one, and for 0 bytes
    /// it frees it and returns `None`. What was in it is kept up to the shorter length; with [`Gfp::ZERO`] what is new is
    /// zero. `align`, `kind` and `caller` of the request count for a new area only; attributes must be those that it has.
    ///
    /// In place while the addresses behind it are free: growing maps more, shrinking gives whole pages back. Otherwise its
    /// frames move to other addresses, and the old ones must not be used any more.
    ///
    /// # Errors
    ///
    /// [`VmallocError`]. The area is as before.
    pub fn resize(&self, virt: Option<VirtAddr>, request: &Request) -> Result<Option<VirtAddr>, VmallocError> {
        let Some(virt) = virt else {
            return if request.bytes == 0 { Ok(None) } else { self.alloc(request).map(Some) };
        };
        if request.bytes == 0 {
            return self.free(virt).map(|()| None).map_err(VmallocError::Area);
        }
        let (region, page) = self.first_page(virt)?;
        let found = self.peek(region, |state| {
            state.busy_at(page, virt, Kind::owns_frames)?;
            Ok(state.space.area(page, virt))
        });
        let area = found.unwrap_or(Err(BadArea::None(virt)))?;
        let pages = request.bytes.div_ceil(PAGE_SIZE);
        if pages > self.config.ram_pages || pages > u64::from(self.pages) {
            return Err(VmallocError::TooLarge(request.bytes));
        }
        if pages > area.pages {
            let virt = self.grow(region, page, area.pages, pages, request)?;
            self.clear(virt, area.bytes, area.size(), request);
            return Ok(Some(virt));
        }
        if pages < area.pages && area.kind == Kind::Alloc {
            // Without memory to take a block apart it keeps what it has.
            let shrunk = self.with(region, |state| {
                self.cut(state, page, pages)?;
                state.nr_pages -= area.pages - pages;
                Ok(())
            });
            debug_assert!(matches!(shrunk, Ok(()) | Err(VmallocError::NoMemory)), "{shrunk:?}");
        }
        self.clear(virt, area.bytes, request.bytes, request);
        self.with(region, |state| {
            let (_, pages) = state.space.extent(page);
            state.space.set_extent(page, request.bytes, pages);
            Ok(())
        })?;
        Ok(Some(virt))
    }

    /// Fills `from..to` of an area with zeros, if that is wanted: bytes that were not asked for before.
    fn clear(&self, virt: VirtAddr, from: u64, to: u64, request: &Request) {
        if !request.gfp.contains(Gfp::ZERO) {
            return;
        }
        let mut at = from;
        while at < to {
            let end = to.min((at / PAGE_SIZE + 1) * PAGE_SIZE);
            let phys = virt.checked_add(at).and_then(|virt| self.translate(virt));
            if let Some(phys) = phys {
                // SAFETY: a page of the caller's area, which it may write; RAM that the direct map shows.
                unsafe { self.arch.direct_map(phys).write_bytes(0, (end - at) as usize) };
            }
            at = end;
        }
    }

    /// Adds frames behind the `old` pages of an area until it has `pages`.
    fn grow(
        &self,
        region: &Region<'a, A, S>,
        first: Page,
        old: u64,
        pages: u64,
        request: &Request,
    ) -> Result<VirtAddr, VmallocError> {
        let (place, runs) = self.with_retry(region, |state| {
            let runs = state.space.runs(first).count() as u32;
            let place = match state.space.extend(first, pages as Page + EXTRA) {
                Ok(()) => first,
                Err(_) => self.find_place(state, first, runs, pages)?,
            };
            Ok((place, runs))
        })?;
        // New frames first; what is there stays where it is until nothing can go wrong any more.
        let grown = self.add(region, place, runs, old, pages, request).and_then(|()| {
            if place == first {
                Ok(())
            } else {
                self.with_retry(region, |state| self.move_over(state, first, place, old, request))
            }
        });
        let finished = self.with(region, |state| {
            if grown.is_ok() {
                state.space.set_extent(place, request.bytes, pages);
                state.nr_pages += pages - old;
            } else {
                // Whole runs: nothing has to be taken apart, so this needs no memory.
                self.cut(state, place, old)?;
                if place != first {
                    state.space.free(place);
                }
            }
            Ok(state.virt_of(place))
        });
        grown.and(finished)
    }

    /// Takes frames and maps them behind the first `done` pages of an area, until it has `pages`.
    fn add(
        &self,
        region: &Region<'a, A, S>,
        place: Page,
        mut runs: u32,
        mut done: u64,
        pages: u64,
        request: &Request,
    ) -> Result<(), VmallocError> {
        while done < pages {
            let mut batch = Batch::new();
            self.take(&mut batch, pages - done, request)?;
            let append = |state: &mut _| self.append(state, place, runs, &batch, request.attributes);
            let added = self.with_retry(region, append);
            added.inspect_err(|_| self.give(&batch))?;
            done += batch.pages();
            runs += batch.nr_runs();
        }
        Ok(())
    }

    /// Other addresses, with room for `pages`, and the runs of an area noted there, which are not mapped yet.
    fn find_place(
        &self,
        state: &mut State<'a, A, S>,
        first: Page,
        runs: u32,
        pages: u64,
    ) -> Result<Page, VmallocError> {
        let place = state.space.alloc(pages as Page + EXTRA, self.alignment(pages) as Page, 0)?;
        let ((bytes, old), (_, caller)) = (state.space.extent(first), state.space.info(first));
        let described = state.space.describe(place, Kind::Pending, caller, bytes, old);
        if let Err(error) = described.and_then(|()| state.space.provide_runs(place, 0, runs)) {
            state.space.free(place);
            return Err(error.into());
        }
        for index in 0..runs {
            let run = state.space.run(first, index);
            state.space.set_run(place, index, run.into_word());
        }
        Ok(place)
    }

    /// Maps the `old` pages of an area where it will be, and unmaps them where it was. Those addresses wait like ones that
    /// were freed; the frames do not.
    fn move_over(
        &self,
        state: &mut State<'a, A, S>,
        first: Page,
        place: Page,
        old: u64,
        request: &Request,
    ) -> Result<(), VmallocError> {
        let pieces = Pieces::of_area(&state.space, first, self.config.huge);
        let size = old * PAGE_SIZE;
        state.tree.map_known(state.virt_of(place), size, pieces, request.attributes, &mut state.tables)?;
        let unmapped = state.tree.unmap(state.virt_of(first), old * PAGE_SIZE, self.tlb, &mut state.tables)?;
        let (kind, (_, caller)) = (state.space.kind(first), state.space.info(first));
        state.space.set_info(place, kind as u32 | UNLIKE, caller);
        state.last_move = Some(unmapped.stamp());
        let head = state.space.tags().head(first);
        state.lazy.push(&mut state.space, first, head, 0, unmapped.stamp());
        Ok(())
    }

    /// Takes the pages behind the first `keep` from an area. They are flushed at once: frames go back one by one here, and
    /// there is no block that could wait for them. If the area may have moved since the last whole flush, TLBs may know
    /// them by the addresses of before: then everything is flushed.
    fn cut(&self, state: &mut State<'a, A, S>, first: Page, keep: u64) -> Result<(), VmallocError> {
        let (bytes, pages) = state.space.extent(first);
        let Some(cut) = pages.checked_sub(keep).filter(|cut| *cut > 0) else { return Ok(()) };
        let tail = state.virt_of(first + keep as Page);
        let unmapped = state.tree.unmap(tail, cut * PAGE_SIZE, self.tlb, &mut state.tables)?;
        if state.last_move.is_some_and(|moved| !self.tlb.is_past(moved)) {
            self.tlb.flush_everything(self.regime);
        }
        self.tlb.try_quiesce(unmapped).unwrap_or_else(|unmapped| unmapped.flush(self.tlb)).release();
        let (mut told, mut index) = (0, 0);
        while told < pages {
            let run = state.space.run(first, index);
            let length = u64::from(run.pages.max(1));
            let kept = keep.saturating_sub(told).min(length);
            if kept < length {
                self.shorten(state, first, index, run, kept as u32);
            }
            told += length;
            index += 1;
        }
        state.space.set_extent(first, bytes.min(keep * PAGE_SIZE), keep);
        Ok(())
    }

    /// Keeps the first `kept` frames of a run, and gives the others back.
    fn shorten(&self, state: &mut State<'a, A, S>, first: Page, index: u32, run: Run, kept: u32) {
        if kept == 0 {
            return run.blocks().for_each(|block| self.source.give(block));
        }
        if !run.is_apart {
            run.blocks().for_each(|block| self.source.take_apart(&block));
        }
        let start = run.first.as_raw() + u64::from(kept);
        let rest = Run { first: Pfn::new(start).unwrap_or_default(), pages: run.pages - kept, is_apart: true };
        rest.blocks().for_each(|block| self.source.give(block));
        state.space.set_run(first, index, Run { pages: kept, is_apart: true, ..run }.into_word());
    }
}
