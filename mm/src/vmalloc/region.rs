// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of the address space, each with a lock and everything that is kept of its own, so that CPUs do not meet (Linux's
//! vmap nodes, 6.9, do that for what is freed only).
//!
//! A region has 512 GiB to itself, that is an entry of the top-level table, so that no two of them ever write to one table.
//! The first is part of [`Vmalloc`]; the others stand in frames of their own, from the first time one of their CPUs asks
//! for an area. An address tells whose it is: anybody frees anything.
//!
//! What may wait for a flush is limited for all together: each region has an eighth of its even share for sure, and takes
//! more from what is spare as it needs it.

use core::mem::size_of;
use core::ptr;
use core::sync::atomic::Ordering;

use super::block::Page;
use super::lazy::Queue;
use super::pool::Pool;
use super::ram::Blocks;
use super::retire::Dying;
use super::shelf::Shelf;
use super::space::Space;
use super::tags::Tags;
use super::{Config, Frames, State, Vmalloc, VmallocError};
use crate::addr::{Order, PAGE_SIZE, VirtAddr};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::pgtable::PageTable;
use crate::slab::PageSource;
use crate::sync::{IrqSpinLock, Rank};

/// Regions that there may be.
pub const MOST_REGIONS: usize = 16;
/// From the beginning of one to the beginning of the next: what an entry of a top-level table translates.
pub const REGION_STRIDE: u64 = 512 << 30;

/// See the head of this file.
pub(super) struct Region<'a, A: Arch, S: PageSource> {
    /// The address of its first page.
    start: VirtAddr,
    /// Nothing until the first area: a board that needs none pays nothing.
    state: IrqSpinLock<Option<State<'a, A, S>>>,
}

impl<A: Arch, S: PageSource> Region<'_, A, S> {
    /// Has no memory yet.
    pub(super) const fn new(start: VirtAddr) -> Self {
        Self { start, state: IrqSpinLock::new(Rank::SPACE, None) }
    }

    #[inline(always)]
    pub(super) fn virt_of(&self, page: Page) -> VirtAddr {
        virt_at(self.start, page)
    }
}

/// Page number `page` from `start` on.
#[inline(always)]
fn virt_at(start: VirtAddr, page: Page) -> VirtAddr {
    // It is aligned: said where the compiler sees it, so that it is not checked later.
    VirtAddr::new((start.as_raw() + u64::from(page) * PAGE_SIZE) & !(PAGE_SIZE - 1))
}

impl Config {
    /// What each region has of [`lazy_pages`](Self::lazy_pages) for sure.
    pub(super) const fn least_quota(&self) -> u64 {
        if self.regions <= 1 { self.lazy_pages } else { self.lazy_pages / (8 * self.regions as u64) }
    }

    /// By how much it grows and shrinks.
    const fn quota_step(&self) -> u64 {
        self.lazy_pages / (4 * self.regions as u64) + 1
    }
}

impl<A: Arch, S: PageSource> State<'_, A, S> {
    #[inline(always)]
    pub(super) fn virt_of(&self, page: Page) -> VirtAddr {
        virt_at(self.start, page)
    }
}

impl<'a, A: Arch, S: PageSource + Copy + Send> Vmalloc<'a, A, S> {
    /// Where this CPU allocates.
    #[inline(always)]
    pub(super) fn home(&self) -> &Region<'a, A, S> {
        if self.config.regions == 1 { &self.first } else { self.home_of(self.arch.cpu()) }
    }

    #[inline]
    fn home_of(&self, cpu: usize) -> &Region<'a, A, S> {
        let index = cpu % self.config.regions;
        self.region(index).unwrap_or_else(|| self.make_region(index))
    }

    /// A region, if it is in use.
    #[inline(always)]
    fn region(&self, index: usize) -> Option<&Region<'a, A, S>> {
        if index == 0 {
            return Some(&self.first);
        }
        let region = self.more.get(index - 1)?.load(Ordering::Acquire);
        // SAFETY: null, or a region that was written before it was put there, in frames that are never given back.
        unsafe { region.as_ref() }
    }

    /// Sets up the regions behind the first, as far as there is memory: for whoever will ask on stacks that have no room
    /// for that.
    pub fn start_regions(&self) {
        for index in 1..self.config.regions {
            let region = self.region(index).unwrap_or_else(|| self.make_region(index));
            // Without memory it is tried again when it is needed.
            let _ = self.with(region, |_| Ok(()));
        }
    }

    /// Of the block that a region stands in.
    pub(super) const fn region_order() -> Option<Order> {
        Order::for_bytes(size_of::<Region<'a, A, S>>() as u64)
    }

    /// All regions that are in use.
    pub(super) fn regions(&self) -> impl Iterator<Item = &Region<'a, A, S>> {
        (0..self.config.regions).filter_map(|index| self.region(index))
    }

    /// The others.
    pub(super) fn beside<'s>(&'s self, region: &'s Region<'a, A, S>) -> impl Iterator<Item = &'s Region<'a, A, S>> {
        self.regions().filter(move |other| !ptr::eq(*other, region))
    }

    /// Region `index`, or without memory for it the first.
    #[cold]
    #[inline(never)]
    fn make_region(&self, index: usize) -> &Region<'a, A, S> {
        let made = Self::region_order().zip(self.more.get(index - 1)).and_then(|(order, slot)| {
            let block = self.source.take(order, Gfp::NOWAIT | Gfp::NOWARN)?;
            let region: *mut Region<'a, A, S> = self.arch.direct_map(block.pfn().addr()).cast();
            let start = VirtAddr::new(self.config.start.as_raw() + index as u64 * REGION_STRIDE);
            // SAFETY: frames of our own that `arch` shows, large enough and aligned to their size.
            unsafe { region.write(Region::new(start)) };
            if slot.compare_exchange(ptr::null_mut(), region, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // Another CPU was first. What was written has nothing that needs to be dropped.
                self.source.give(block);
            }
            self.region(index)
        });
        made.unwrap_or(&self.first)
    }

    /// The region of an address of this space, and the page that it is in.
    #[inline(always)]
    pub(super) fn locate(&self, virt: VirtAddr) -> Option<(&Region<'a, A, S>, Page)> {
        let offset = virt.as_raw().wrapping_sub(self.config.start.as_raw());
        let page_of = |offset| (offset < u64::from(self.pages) * PAGE_SIZE).then_some((offset / PAGE_SIZE) as Page);
        match page_of(offset) {
            Some(page) => Some((&self.first, page)),
            None => {
                let index = (offset / REGION_STRIDE) as usize;
                if index >= self.config.regions {
                    return None;
                }
                Some((self.region(index)?, page_of(offset % REGION_STRIDE)?))
            }
        }
    }

    /// Runs `act` for this CPU's region, and while that has no addresses left for the others that are in use.
    #[inline(always)]
    pub(super) fn in_some_region<R>(
        &self,
        mut act: impl FnMut(&Region<'a, A, S>) -> Result<R, VmallocError>,
    ) -> Result<R, VmallocError> {
        let home = self.home();
        let (mut region, mut others) = (home, self.beside(home));
        loop {
            let result = act(region);
            match (&result, others.next()) {
                (Err(VmallocError::NoSpace), Some(other)) => region = other,
                _ => return result,
            }
        }
    }

    /// Runs `act` under the lock, with the state that the first caller makes.
    pub(super) fn with<R>(
        &self,
        region: &Region<'a, A, S>,
        act: impl FnOnce(&mut State<'a, A, S>) -> Result<R, VmallocError>,
    ) -> Result<R, VmallocError> {
        let mut state = region.state.lock(self.arch);
        match &mut *state {
            Some(state) => act(state),
            slot => act(self.start(region, slot)?),
        }
    }

    /// Runs `look` under the lock if there is anything to see.
    #[inline]
    pub(super) fn peek<R>(&self, region: &Region<'a, A, S>, look: impl FnOnce(&mut State<'a, A, S>) -> R) -> Option<R> {
        self.peek_here(region, look)
    }

    /// The same, always inlined.
    #[inline(always)]
    pub(super) fn peek_here<R>(
        &self,
        region: &Region<'a, A, S>,
        look: impl FnOnce(&mut State<'a, A, S>) -> R,
    ) -> Option<R> {
        let mut state = region.state.lock(self.arch);
        state.as_mut().map(look)
    }

    #[cold]
    #[inline(never)]
    fn start<'s>(
        &self,
        region: &Region<'a, A, S>,
        slot: &'s mut Option<State<'a, A, S>>,
    ) -> Result<&'s mut State<'a, A, S>, VmallocError> {
        let tags = Tags::new(self.arch, Frames(self.source))?;
        let space = Space::new(tags, self.pages)?;
        // SAFETY: the caller of `new` promised a whole tree whose entries for these addresses are ours alone.
        let tree = unsafe { PageTable::from_root(self.arch, self.root, self.regime) };
        Ok(slot.insert(State {
            space,
            tree,
            tables: Frames(self.source),
            lazy: Queue::new(),
            shelf: Shelf::new(),
            dying: Dying::new(),
            pool: Pool::new(),
            ram: Blocks::new(),
            last_move: None,
            start: region.start,
            quota: self.config.least_quota(),
            nr_pages: 0,
            nr_areas: 0,
        }))
    }

    /// `act`, and if memory or addresses are short once more when everything that waits is back.
    pub(super) fn with_retry<R>(
        &self,
        region: &Region<'a, A, S>,
        mut act: impl FnMut(&mut State<'a, A, S>) -> Result<R, VmallocError>,
    ) -> Result<R, VmallocError> {
        match self.with(region, &mut act) {
            Err(VmallocError::NoMemory | VmallocError::NoSpace) => {
                self.give_back_all();
                self.with(region, |state| {
                    state.pool.drain(&mut state.space);
                    act(state)
                })
            }
            result => result,
        }
    }

    /// Lets a region have so many pages waiting if there is enough to spare.
    pub(super) fn enlarge_quota(&self, state: &mut State<'a, A, S>, pages: u64) -> bool {
        let step = self.config.quota_step();
        let less = |spare: u64| spare.checked_sub(step);
        while state.quota < pages && self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            state.quota += step;
        }
        state.quota >= pages
    }

    /// Gives up what a region does not need, so many pages being all that waits.
    pub(super) fn reduce_quota(&self, state: &mut State<'a, A, S>, pages: u64) {
        let step = self.config.quota_step();
        while state.quota >= self.config.least_quota() + step && pages + 2 * step < state.quota {
            state.quota -= step;
            self.spare.fetch_add(step, Ordering::Relaxed);
        }
    }
}
