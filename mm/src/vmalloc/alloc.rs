// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas with frames of their own: taken in the largest pieces there are, given back when no CPU can reach them.

use super::area::{EXTRA, Kind, Run, UNLIKE, extent, extent_of};
use super::block::{self, Head, Page, TagStore};
use super::pieces::Pieces;
use super::{BadArea, MachineTags, Region, State, Vmalloc, VmallocError};
use crate::addr::{MAX_ORDER, Order, PAGE_SIZE, VirtAddr};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::pgtable::{Attributes, CONTIGUOUS_GROUP, ENTRIES, MemoryType};
use crate::slab::PageSource;

/// What an area should be.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Bytes; rounded up to pages.
    pub bytes: u64,
    /// Of the first address: a power of two up to 1 GiB.
    pub align: u64,
    /// How frames may be had. [`Gfp::ZERO`]: filled with zeros.
    pub gfp: Gfp,
    /// How it is mapped: as normal memory.
    pub attributes: Attributes,
    /// [`Kind::Alloc`] or [`Kind::User`].
    pub kind: Kind,
    /// Near which node its frames should be, if not near this CPU.
    pub node: Option<u32>,
    /// Who asks, for reports: an address in code, or 0.
    pub caller: u64,
}

impl Request {
    /// Memory to be read and written.
    #[must_use]
    #[inline(always)]
    pub const fn new(bytes: u64, gfp: Gfp) -> Self {
        let (align, attributes, kind) = (PAGE_SIZE, Attributes::DATA, Kind::Alloc);
        Self { bytes, align, gfp, attributes, kind, node: None, caller: 0 }
    }

    /// What stands beside the state of such an area.
    fn short(&self) -> u32 {
        self.kind as u32 | if self.attributes == Attributes::DATA { 0 } else { UNLIKE }
    }
}

/// Runs between the page allocator and an area.
const BATCH: usize = 16;

/// Frames that belong to no area yet.
pub(super) struct Batch {
    runs: [u64; BATCH],
    used: usize,
    pages: u64,
    /// The largest order that there may be.
    most: usize,
}

impl Batch {
    pub(super) const fn new() -> Self {
        Self { runs: [0; BATCH], used: 0, pages: 0, most: MAX_ORDER }
    }

    /// The next one: what was not to be had for this will not be asked for again.
    const fn next(&self) -> Self {
        Self { most: self.most, ..Self::new() }
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = Run> + Clone + '_ {
        self.runs.iter().take(self.used).map(|word| Run::from_word(*word))
    }

    pub(super) const fn nr_runs(&self) -> u32 {
        self.used as u32
    }

    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    fn push(&mut self, run: Run) {
        if let Some(slot) = self.runs.get_mut(self.used) {
            *slot = run.into_word();
            self.used += 1;
            self.pages += u64::from(run.pages);
        }
    }
}

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Makes an area. Complexity: O(1) for its addresses, O(pieces) for its frames.
    ///
    /// # Errors
    ///
    /// [`VmallocError`]. Nothing is lost then.
    pub fn alloc(&self, request: &Request) -> Result<VirtAddr, VmallocError> {
        // Where frames can be handed on, nodes do not matter.
        let is_anywhere = request.node.is_none() || self.source.recycles();
        if request.align == PAGE_SIZE && request.attributes == Attributes::DATA && is_anywhere {
            return self.alloc_data(request.bytes, request.gfp, request.kind, request.caller);
        }
        self.alloc_anew(request)
    }

    /// The same for what most requests are: memory to be read and written, as [`Request`] describes it.
    ///
    /// # Errors
    ///
    /// [`VmallocError`]. Nothing is lost then.
    #[inline(never)]
    pub fn alloc_data(&self, bytes: u64, gfp: Gfp, kind: Kind, caller: u64) -> Result<VirtAddr, VmallocError> {
        match self.reuse(bytes, gfp, kind, caller) {
            Some(virt) => Ok(virt),
            None => self.alloc_anew(&Request { kind, caller, ..Request::new(bytes, gfp) }),
        }
    }

    #[inline(never)]
    fn alloc_anew(&self, request: &Request) -> Result<VirtAddr, VmallocError> {
        let pages = request.bytes.div_ceil(PAGE_SIZE);
        if pages == 0 {
            return Err(VmallocError::Zero);
        }
        if pages > self.config.ram_pages || pages > u64::from(self.pages) {
            return Err(VmallocError::TooLarge(request.bytes));
        }
        if !request.align.is_power_of_two() || request.align > 1 << 30 {
            return Err(VmallocError::Alignment(request.align));
        }
        // Two cacheabilities of one frame are trouble (Arm ARM B2.8).
        if request.attributes.memory != MemoryType::Normal {
            return Err(VmallocError::Attributes);
        }
        let align = (request.align / PAGE_SIZE).max(self.alignment(pages)).max(1) as Page;
        self.in_some_region(|region| {
            if pages.is_power_of_two()
                && let Some(order) = Order::new(pages.trailing_zeros() as usize)
                && let Some(run) = self.take_one(order, request)
            {
                return self.alloc_one(region, run, align, request);
            }
            self.alloc_many(region, pages, align, request)
        })
    }

    /// The common case: one block of the page allocator is all of it.
    #[inline]
    fn alloc_one(
        &self,
        region: &Region<'a, A, S>,
        run: Run,
        align: Page,
        request: &Request,
    ) -> Result<VirtAddr, VmallocError> {
        let pages = u64::from(run.pages);
        let made = self.with(region, |state| {
            let (first, word) = self.find_block(state, pages, align)?;
            let (virt, size, attributes) = (state.virt_of(first), pages * PAGE_SIZE, request.attributes);
            let mapped = if self.config.huge {
                state.tree.map_unused(virt, run.first.addr(), size, attributes, &mut state.tables)
            } else {
                let pieces = Pieces::<MachineTags<'a, A, S>>::one(run.piece(), false);
                state.tree.map_known(virt, size, pieces, attributes, &mut state.tables)
            };
            if let Err(error) = mapped {
                state.space.free(first);
                return Err(error.into());
            }
            let (word, extent) = (block::busy(word, request.short()), extent(request.bytes, pages));
            state.space.tags_mut().set_head(first, Head { word, note: request.caller, extent, run: run.into_word() });
            state.nr_areas += 1;
            state.nr_pages += pages;
            Ok(virt)
        });
        match made {
            Ok(virt) => Ok(virt),
            Err(error) => self.retry_one(region, error, run, align, request),
        }
    }

    /// Something was short: once more by the way that gives everything back first.
    #[cold]
    #[inline(never)]
    fn retry_one(
        &self,
        region: &Region<'a, A, S>,
        error: VmallocError,
        run: Run,
        align: Page,
        request: &Request,
    ) -> Result<VirtAddr, VmallocError> {
        run.blocks().for_each(|block| self.source.give(block));
        match error {
            VmallocError::NoMemory | VmallocError::NoSpace => {
                self.alloc_many(region, u64::from(run.pages), align, request)
            }
            error => Err(error),
        }
    }

    /// Addresses for so many pages, with their tags up to the first run; and the first of these.
    #[inline(always)]
    pub(super) fn find_block(
        &self,
        state: &mut State<'a, A, S>,
        pages: u64,
        align: Page,
    ) -> Result<(Page, u64), VmallocError> {
        let length = pages as Page + EXTRA;
        match state.pool.take(&mut state.space, length, align) {
            Some(found) => Ok(found),
            None => self.new_block(state, length, align),
        }
    }

    #[inline(never)]
    fn new_block(&self, state: &mut State<'a, A, S>, length: Page, align: Page) -> Result<(Page, u64), VmallocError> {
        let first = state.space.alloc(length, align, 0)?;
        let provided = state.space.provide_runs(first, 0, 1).and_then(|()| state.space.tags_mut().provide(first + 2));
        if let Err(error) = provided {
            state.space.free(first);
            return Err(error.into());
        }
        Ok((first, state.space.tags().get(first)))
    }

    /// An area of as many blocks as it takes.
    #[inline(never)]
    fn alloc_many(
        &self,
        region: &Region<'a, A, S>,
        pages: u64,
        align: Page,
        request: &Request,
    ) -> Result<VirtAddr, VmallocError> {
        let mut batch = Batch::new();
        self.take(&mut batch, pages, request)?;
        let made = self.with_retry(region, |state| {
            let (first, word) = self.find_block(state, pages, align)?;
            // Until it is whole it can be seen, and freed by nobody but us.
            let (word, extent) = (block::busy(word, Kind::Pending as u32), extent(request.bytes, 0));
            state.space.tags_mut().set_head(first, Head { word, note: request.caller, extent, run: 0 });
            if let Err(error) = self.append(state, first, 0, &batch, request.attributes) {
                state.space.free(first);
                return Err(error);
            }
            if batch.pages() == pages {
                state.publish(first, request, pages);
            }
            Ok((first, state.virt_of(first)))
        });
        let (first, virt) = match made {
            Ok(made) => made,
            Err(error) => {
                self.give(&batch);
                return Err(error);
            }
        };
        if batch.pages() < pages {
            self.fill_up(region, first, &batch, pages, request)?;
        }
        Ok(virt)
    }

    /// The rest of an area that did not fit into one batch.
    #[inline(never)]
    fn fill_up(
        &self,
        region: &Region<'a, A, S>,
        first: Page,
        batch: &Batch,
        pages: u64,
        request: &Request,
    ) -> Result<(), VmallocError> {
        let (mut runs, mut done, mut batch) = (batch.nr_runs(), batch.pages(), batch.next());
        while done < pages {
            batch = batch.next();
            let more = self.take(&mut batch, pages - done, request).and_then(|()| {
                let append = |state: &mut _| self.append(state, first, runs, &batch, request.attributes);
                let added = self.with_retry(region, append);
                added.inspect_err(|_| self.give(&batch))
            });
            if let Err(error) = more {
                self.peek(region, |state| {
                    let head = state.space.tags().head(first);
                    self.retire(state, first, head);
                });
                return Err(error);
            }
            done += batch.pages();
            runs += batch.nr_runs();
        }
        self.with(region, |state| {
            state.publish(first, request, pages);
            Ok(())
        })
    }

    /// Pages that an area of so many begins at a multiple of, so that large descriptors fit.
    pub(super) const fn alignment(&self, pages: u64) -> u64 {
        if !self.config.huge || pages < CONTIGUOUS_GROUP as u64 {
            1
        } else if pages < ENTRIES as u64 {
            CONTIGUOUS_GROUP as u64
        } else {
            ENTRIES as u64
        }
    }

    /// Takes a block of `order`, as zeros if that is wanted. More than a page is worth no reclaim: there are smaller pieces.
    #[inline]
    fn take_one(&self, order: Order, request: &Request) -> Option<Run> {
        let gfp = request.gfp;
        let mut how = gfp.difference(Gfp::ZERO);
        if order > Order::ZERO {
            how = how.difference(Gfp::DIRECT_RECLAIM).union(Gfp::NORETRY).union(Gfp::NOWARN);
        }
        let block = match request.node {
            None => self.source.take(order, how)?,
            Some(node) => self.source.take_on(node, order, how)?,
        };
        if gfp.contains(Gfp::ZERO) {
            // SAFETY: the frames are RAM of this arch, by the source's promise, and ours alone.
            unsafe { self.arch.fill(block.pfn().addr(), order.bytes(), 0) };
        }
        Some(Run::of(&block))
    }

    /// Takes up to `pages` frames in as few runs as can be had, as many as a batch holds. After an error it has none.
    pub(super) fn take(&self, batch: &mut Batch, pages: u64, request: &Request) -> Result<(), VmallocError> {
        while batch.pages < pages && batch.used < BATCH {
            let order = batch.most.min((pages - batch.pages).ilog2() as usize);
            match self.take_one(Order::new(order).unwrap_or_default(), request) {
                Some(run) => batch.push(run),
                None if order > 0 => batch.most = self.source.largest(request.gfp).as_usize().min(order - 1),
                None => {
                    self.give(batch);
                    *batch = Batch::new();
                    return Err(VmallocError::NoMemory);
                }
            }
        }
        Ok(())
    }

    /// Gives back what became of no area.
    pub(super) fn give(&self, batch: &Batch) {
        batch.runs().flat_map(Run::blocks).for_each(|block| self.source.give(block));
    }

    /// Adds a batch behind the pages and the `runs` runs that an area has. Nothing has changed after an error.
    pub(super) fn append(
        &self,
        state: &mut State<'a, A, S>,
        first: Page,
        runs: u32,
        batch: &Batch,
        attributes: Attributes,
    ) -> Result<(), VmallocError> {
        let (bytes, pages) = state.space.extent(first);
        state.space.provide_runs(first, runs, runs + batch.nr_runs())?;
        let virt = state.virt_of(first + pages as Page);
        let words = batch.runs.get(..batch.used).unwrap_or_default();
        let pieces = Pieces::<MachineTags<'a, A, S>>::of_words(words, self.config.huge);
        state.tree.map_known(virt, batch.pages * PAGE_SIZE, pieces, attributes, &mut state.tables)?;
        for (index, word) in (runs..).zip(words) {
            state.space.set_run(first, index, *word);
        }
        state.space.set_extent(first, bytes, pages + batch.pages());
        Ok(())
    }

    /// Frees the area that begins at `virt`, as Linux's `vfree`. Works in interrupt handlers. Its frames are back after the
    /// next flush.
    ///
    /// # Errors
    ///
    /// [`BadArea`]: there is none, or its frames are not its own. Nothing has changed then.
    pub fn free(&self, virt: VirtAddr) -> Result<(), BadArea> {
        let (region, page) = self.first_page(virt)?;
        let flush = self.peek_here(region, |state| {
            let head = state.busy_at(page, virt, Kind::owns_frames)?;
            let (_, pages) = extent_of(head.extent);
            state.nr_areas -= 1;
            state.nr_pages -= pages;
            self.retire(state, page, head);
            let is_quiet = !state.has_due() && state.unflushed() <= state.quota;
            Ok(!is_quiet && self.settle(state, pages))
        });
        if flush.unwrap_or(Err(BadArea::None(virt)))? {
            self.flush_for_all(region);
        }
        Ok(())
    }

    /// The page that begins at `virt`, and its region.
    #[inline(always)]
    pub(super) fn first_page(&self, virt: VirtAddr) -> Result<(&Region<'a, A, S>, Page), BadArea> {
        self.locate(virt).filter(|_| virt.is_aligned(PAGE_SIZE)).ok_or(BadArea::Address(virt))
    }
}

impl<A: Arch, S: PageSource> State<'_, A, S> {
    /// From now on the area is its owner's.
    fn publish(&mut self, first: Page, request: &Request, pages: u64) {
        let (_, caller) = self.space.info(first);
        self.space.set_info(first, request.short(), caller);
        self.nr_areas += 1;
        self.nr_pages += pages;
    }

    /// Checks that an area of such a kind begins at `page`, which is `virt`.
    #[inline(always)]
    pub(super) fn busy_at(
        &mut self,
        page: Page,
        virt: VirtAddr,
        is_fit: impl FnOnce(Kind) -> bool,
    ) -> Result<Head, BadArea> {
        let head = self.space.area_at(page).ok_or(BadArea::None(virt))?;
        if is_fit(Kind::of(block::short_of(head.word))) { Ok(head) } else { Err(BadArea::Kind(virt)) }
    }
}
