// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cache: objects of one size and kind, in slabs of their own.
//!
//! An allocation takes the top of this CPU's array ([`front`](super::front)); when that is empty, a handful of objects
//! comes from the cache's slabs under its lock, and when the array is full, a handful goes back; more of them if that
//! happens again and again. Caches that are debugged, have a constructor, or keep their objects' contents have no arrays,
//! nor have those beyond the thirtieth.
//!
//! A free object in an array is marked in its first word, so a second free is seen without a search; once it is back
//! in its slab, by the slab's bit.

use core::fmt;
use core::ptr::{self, NonNull};

use bitflags::bitflags;

use super::debug::{Debug, Slot};
use super::front::{Fronts, MAX_CAPACITY};
use super::page::{Cut, List, NotUsed, Page};
use super::table::{Tag, WITHOUT_ARRAY};
use crate::addr::Order;
use crate::gfp::Gfp;
use crate::sync::{IrqSpinLock, Rank};

bitflags! {
    /// What a cache is like (Linux's `SLAB_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
    pub struct CacheFlags: u16 {
        /// Objects begin at cache lines.
        const HWCACHE_ALIGN = 1 << 0;
        /// From zone DMA.
        const CACHE_DMA = 1 << 1;
        /// Counted as reclaimable.
        const RECLAIM_ACCOUNT = 1 << 2;
        /// A free object's memory stays one of this type until a grace period is over: its content survives the free,
        /// and slabs go back only by [`shrink`](super::Slab::cache_shrink) or with the cache.
        const TYPESAFE_BY_RCU = 1 << 3;
        /// No arrays: every operation goes to the slabs.
        const NO_ARRAYS = 1 << 4;
        /// Red zones, whatever `slub_debug=` says.
        const RED_ZONE = 1 << 5;
        /// Poison, whatever `slub_debug=` says.
        const POISON = 1 << 6;
        /// Owner tracking, whatever `slub_debug=` says.
        const STORE_USER = 1 << 7;
        /// `slub_debug=` does not reach it.
        const NO_USER_FLAGS = 1 << 8;
    }
}

/// A cache line: what [`CacheFlags::HWCACHE_ALIGN`] aligns to.
const CACHE_LINE: usize = 64;
/// The largest object of a cache.
pub const LARGEST_OBJECT: usize = 64 << 10;

/// What a cache is to be like.
#[derive(Clone, Copy, Debug)]
pub struct CacheSpec {
    /// Its name in reports.
    pub name: &'static str,
    /// Bytes of an object, 1 to [`LARGEST_OBJECT`].
    pub size: usize,
    /// Objects begin at multiples of this, a power of two up to a page; 0 for 8.
    pub align: usize,
    /// How it behaves.
    pub flags: CacheFlags,
    /// Called for each object of a new slab; the object keeps what it left from free to allocation.
    pub ctor: Option<fn(NonNull<u8>)>,
}

impl CacheSpec {
    /// A plain cache.
    #[must_use]
    pub const fn new(name: &'static str, size: usize) -> Self {
        Self { name, size, align: 0, flags: CacheFlags::empty(), ctor: None }
    }
}

/// Why a cache was not made, or not destroyed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheError {
    /// The size is 0 or above [`LARGEST_OBJECT`].
    Size(usize),
    /// The alignment is no power of two, or above a page.
    Align(usize),
    /// There are as many caches as there can be.
    TooMany,
    /// No memory for it.
    OutOfMemory,
    /// So many objects are in use. They and the cache stay, out of reach.
    InUse(usize),
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Size(size) => write!(f, "no cache for objects of {size} bytes: 1 to {LARGEST_OBJECT}"),
            Self::Align(align) => write!(f, "alignment {align} is no power of two up to a page"),
            Self::TooMany => f.write_str("no more caches"),
            Self::OutOfMemory => f.write_str("out of memory for a cache"),
            Self::InUse(nr) => write!(f, "{nr} objects of the cache are in use"),
        }
    }
}

impl core::error::Error for CacheError {}

/// What the lock of a cache protects.
pub(super) struct Slabs {
    /// Slabs with free slots, empty ones included.
    partial: List,
    full: List,
    pub(super) nr_slabs: usize,
    nr_empty: usize,
    /// Slots that are taken: objects in use and in the CPUs' arrays.
    pub(super) nr_taken: usize,
    /// How often an array was filled, or emptied.
    in_a_row: InARow,
}

/// After so many times in a row twice as many objects are moved.
const TIMES: u32 = 4;
/// Until all that an array holds are.
const MOST_IN_A_ROW: u32 = 3 * TIMES;

/// Which way objects go between the slabs and an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    ToArray,
    ToSlabs,
}

/// How many times in a row objects went to an array, and from one.
#[derive(Clone, Copy)]
pub(super) struct InARow([u32; 2]);

impl InARow {
    pub(super) const NONE: Self = Self([0; 2]);

    /// Counts one more, up to `most`; returns how many went the same way just before.
    #[inline(always)]
    pub(super) fn go(&mut self, way: Way, most: u32) -> u32 {
        let [filled, emptied] = &mut self.0;
        let (same, other) = if way == Way::ToArray { (filled, emptied) } else { (emptied, filled) };
        let times = *same;
        *same = (times + 1).min(most);
        *other = 0;
        times
    }
}

/// A cache. It lies in memory of the packed heap and moves never.
pub(super) struct Inner {
    pub(super) spec: CacheSpec,
    pub(super) tag: Tag,
    pub(super) cut: Cut,
    pub(super) slot: Slot,
    /// Objects of a CPU's array; 0 for none.
    pub(super) capacity: usize,
    /// Empty slabs to keep.
    pub(super) keep: usize,
    pub(super) slabs: IrqSpinLock<Slabs>,
}

/// How caches of a slab are made.
#[derive(Clone, Copy)]
pub(super) struct Policy {
    /// What `slub_debug=` wants of this one.
    pub(super) debug: Debug,
    /// Bytes of objects in a CPU's array; 0 for none.
    pub(super) array_bytes: usize,
    pub(super) max_order: Order,
    /// Empty slabs to keep.
    pub(super) keep: usize,
}

/// Objects of a CPU's array, if it may hold so many bytes: of large ones more than that, as for the
/// [quick sizes](super::quick), since the first places are worth most. Of those above four times the bytes none.
fn capacity(array_bytes: usize, stride: usize) -> usize {
    (array_bytes / stride).max((array_bytes * 4 / stride).isqrt()).min(MAX_CAPACITY)
}

impl Inner {
    pub(super) fn new(spec: CacheSpec, tag: Tag, policy: Policy) -> Result<Self, CacheError> {
        if spec.size == 0 || spec.size > LARGEST_OBJECT {
            return Err(CacheError::Size(spec.size));
        }
        let mut align = if spec.align == 0 { 8 } else { spec.align };
        if !align.is_power_of_two() || align > crate::addr::PAGE_SIZE as usize {
            return Err(CacheError::Align(spec.align));
        }
        align = align.max(8);
        if spec.flags.contains(CacheFlags::HWCACHE_ALIGN) {
            // Small objects share a line, as Linux has it.
            let mut line = CACHE_LINE;
            while spec.size <= line / 2 {
                line /= 2;
            }
            align = align.max(line);
        }
        let mut debug = if spec.flags.contains(CacheFlags::NO_USER_FLAGS) { Debug::empty() } else { policy.debug };
        for (flag, wanted) in [
            (CacheFlags::RED_ZONE, Debug::RED_ZONE),
            (CacheFlags::POISON, Debug::POISON),
            (CacheFlags::STORE_USER, Debug::OWNER),
        ] {
            if spec.flags.contains(flag) {
                debug |= wanted;
            }
        }
        let slot = Slot::new(debug, spec.size, align);
        let stride = slot.bytes.next_multiple_of(align);
        let cut = Cut::new(stride, slot.lead, align, policy.max_order).ok_or(CacheError::Size(spec.size))?;
        let bare = !slot.is_plain()
            || spec.ctor.is_some()
            || spec.flags.intersects(CacheFlags::NO_ARRAYS | CacheFlags::TYPESAFE_BY_RCU);
        let capacity = if bare { 0 } else { capacity(policy.array_bytes, stride) };
        let keep = if spec.flags.contains(CacheFlags::TYPESAFE_BY_RCU) { usize::MAX } else { policy.keep };
        let slabs = Slabs {
            partial: List::new(),
            full: List::new(),
            nr_slabs: 0,
            nr_empty: 0,
            nr_taken: 0,
            in_a_row: InARow::NONE,
        };
        Ok(Self { spec, tag, cut, slot, capacity, keep, slabs: IrqSpinLock::new(Rank::SLAB, slabs) })
    }

    /// The same with another tag, which may have no array.
    pub(super) fn with_tag(self, tag: Tag) -> Self {
        let capacity = if tag < WITHOUT_ARRAY { self.capacity } else { 0 };
        Self { tag, capacity, ..self }
    }

    /// What an allocation asks of the page allocator.
    pub(super) fn page_gfp(&self, gfp: Gfp) -> Gfp {
        let mut gfp = gfp - Gfp::ZERO;
        if self.spec.flags.contains(CacheFlags::CACHE_DMA) {
            gfp |= Gfp::DMA;
        }
        if self.spec.flags.contains(CacheFlags::RECLAIM_ACCOUNT) {
            gfp |= Gfp::RECLAIMABLE;
        }
        gfp
    }

    /// Whether objects keep their content while they are free.
    pub(super) fn keeps_content(&self) -> bool {
        self.spec.ctor.is_some() || self.spec.flags.contains(CacheFlags::TYPESAFE_BY_RCU)
    }

    /// This cache's array in a block.
    pub(super) fn front(&self, fronts: Fronts) -> super::front::Front {
        fronts.front(self.tag)
    }
}

impl Slabs {
    /// Whether no slab has a free slot.
    #[inline(always)]
    pub(super) const fn is_exhausted(&self) -> bool {
        self.partial.first().is_null()
    }

    /// Objects to move between an array of `capacity` places and the slabs now. Few at first, as that is soon done and the
    /// next one may go the other way; twice as many after every [`TIMES`] that they go the same way.
    #[inline(always)]
    pub(super) fn batch(&mut self, way: Way, capacity: usize) -> usize {
        let times = self.in_a_row.go(way, MOST_IN_A_ROW);
        (capacity.div_ceil(8) << (times / TIMES)).min(capacity)
    }

    /// Takes a free slot, the lowest of the slab used last, and up to `out.len()` more, for which it calls `each`. Returns the
    /// first, null if there is none, and how many more.
    #[inline(always)]
    pub(super) fn take(&mut self, cut: &Cut, out: &mut [*mut u8], each: impl Fn(*mut u8) + Copy) -> (*mut u8, usize) {
        if self.is_exhausted() {
            return (ptr::null_mut(), 0);
        }
        let (first, mut more) = self.take_of_one(cut, out, each);
        if more < out.len() && !self.is_exhausted() {
            more = self.take_more(cut, out, more, each);
        }
        self.nr_taken += 1 + more;
        (first, more)
    }

    /// Takes a free slot, null if there is none.
    #[inline(never)]
    pub(super) fn take_one(&mut self, cut: &Cut) -> *mut u8 {
        self.take(cut, &mut [], |_| ()).0
    }

    /// Goes on with other slabs where `out` has `taken`. Returns how many it has then.
    #[inline(never)]
    fn take_more(&mut self, cut: &Cut, out: &mut [*mut u8], mut taken: usize, each: impl Fn(*mut u8) + Copy) -> usize {
        while !self.is_exhausted()
            && let Some([slot, rest @ ..]) = out.get_mut(taken..)
        {
            let (object, more) = self.take_of_one(cut, rest, each);
            *slot = object;
            each(object);
            taken += 1 + more;
        }
        taken
    }

    /// The same of one slab, which there is.
    #[inline(always)]
    fn take_of_one(&mut self, cut: &Cut, out: &mut [*mut u8], each: impl Fn(*mut u8) + Copy) -> (*mut u8, usize) {
        let page = self.partial.first();
        // SAFETY: a slab of this cache, whose lock is held: `self` is what the lock protects.
        if unsafe { Page::is_empty(page, cut) } {
            self.nr_empty -= 1;
        }
        // SAFETY: as above, with a free slot.
        let (first, more, is_full) = unsafe { Page::take(page, cut, out, each) };
        if is_full {
            // SAFETY: it is the first of the list.
            unsafe { self.partial.remove(page) };
            // SAFETY: it is in no list now.
            unsafe { self.full.push(page) };
        }
        (first, more)
    }

    /// Puts an object back; the caller counts it off `nr_taken`. A slab that is to go back to the page allocator now is pushed to `empty`.
    ///
    /// # Safety
    ///
    /// The object lies in a frame with this cache's tag, with access to the whole slab.
    #[inline(always)]
    unsafe fn put<const ONE_WORD: bool>(
        &mut self,
        cut: &Cut,
        keep: usize,
        object: *mut u8,
        empty: &mut List,
    ) -> Result<(), NotUsed> {
        let page = cut.page_of(object);
        // SAFETY: the tag says that it is a slab of this cache, whose lock is held.
        let put = unsafe { Page::put::<ONE_WORD>(page, cut, object) }?;
        if put.is_first {
            // SAFETY: a slab without free slots is in the list of full ones.
            unsafe { self.full.remove(page) };
            // SAFETY: it is in no list now.
            unsafe { self.partial.push(page) };
        }
        if put.is_last {
            self.emptied(keep, page, empty);
        }
        Ok(())
    }

    /// Puts objects back, the last first. Those that are none in use stay as they are, and why is returned of one of them.
    ///
    /// # Safety
    ///
    /// As for [`put`](Self::put), each of them.
    #[inline(always)]
    pub(super) unsafe fn put_all(
        &mut self,
        cut: &Cut,
        keep: usize,
        objects: &[*mut u8],
        empty: &mut List,
    ) -> Result<(), NotUsed> {
        if cut.is_one_word() {
            // SAFETY: the caller's promise.
            unsafe { self.put_each::<true>(cut, keep, objects, empty) }
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.put_each::<false>(cut, keep, objects, empty) }
        }
    }

    /// [`put_all`](Self::put_all) for one object, out of line.
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(never)]
    pub(super) unsafe fn put_one(
        &mut self,
        cut: &Cut,
        keep: usize,
        object: *mut u8,
        empty: &mut List,
    ) -> Result<(), NotUsed> {
        // SAFETY: the caller's promise.
        unsafe { self.put_all(cut, keep, &[object], empty) }
    }

    /// # Safety
    ///
    /// As for [`put_all`](Self::put_all).
    #[inline(always)]
    unsafe fn put_each<const ONE_WORD: bool>(
        &mut self,
        cut: &Cut,
        keep: usize,
        objects: &[*mut u8],
        empty: &mut List,
    ) -> Result<(), NotUsed> {
        let mut result = Ok(());
        // Those that are none in use may be more than are taken: counted again below.
        self.nr_taken = self.nr_taken.wrapping_sub(objects.len());
        for object in objects.iter().rev() {
            // SAFETY: the caller's promise.
            if let Err(why) = unsafe { self.put::<ONE_WORD>(cut, keep, *object, empty) } {
                self.nr_taken = self.nr_taken.wrapping_add(1);
                result = Err(why);
            }
        }
        result
    }

    #[inline(never)]
    fn emptied(&mut self, keep: usize, page: *mut Page, empty: &mut List) {
        if self.nr_empty < keep {
            self.nr_empty += 1;
            return;
        }
        // SAFETY: it has free slots, so it is in this list.
        unsafe { self.partial.remove(page) };
        // SAFETY: it is in no list now.
        unsafe { empty.push(page) };
        self.nr_slabs -= 1;
    }

    /// Adds a new slab.
    ///
    /// # Safety
    ///
    /// `page` was initialised with this cache's cut and is in no list.
    pub(super) unsafe fn add(&mut self, page: *mut Page) {
        // SAFETY: the caller's promise.
        unsafe { self.partial.push(page) };
        self.nr_slabs += 1;
        self.nr_empty += 1;
    }

    /// Takes an empty slab out, to be given back.
    pub(super) fn take_empty(&mut self, cut: &Cut) -> Option<*mut Page> {
        if self.nr_empty == 0 {
            return None;
        }
        // SAFETY: the lock is held, and the list is not changed while it is walked.
        let page = unsafe { self.partial.iter() }
            // SAFETY: a slab of this cache.
            .find(|page| unsafe { Page::is_empty(*page, cut) })?;
        // SAFETY: it is in this list.
        unsafe { self.partial.remove(page) };
        self.nr_empty -= 1;
        self.nr_slabs -= 1;
        Some(page)
    }

    /// All slabs.
    ///
    /// # Safety
    ///
    /// The lock is held while the iterator is used, and no slab is moved.
    pub(super) unsafe fn iter(&self) -> impl Iterator<Item = *mut Page> {
        // SAFETY: the caller's promise.
        let partial = unsafe { self.partial.iter() };
        // SAFETY: the caller's promise.
        partial.chain(unsafe { self.full.iter() })
    }
}

impl Slabs {
    /// Slabs without an object in use.
    pub(super) const fn nr_empty(&self) -> usize {
        self.nr_empty
    }
}

// SAFETY: the lists are of slabs that belong to the cache, wherever its lock is held.
unsafe impl Send for Slabs {}
