// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that are cut evenly: two objects of 2048 bytes, four of 1024 or eight of 512, and nothing else.
//!
//! A power of two is aligned to itself, so a frame that begins with marks has no room for the last one: half of it would
//! be lost to two objects of half its size. These frames have nothing of their own inside. Which of the objects are free
//! stands beside the frame's tag in the [table](super::table); frames with some are in a list for each size, through
//! the lowest free object of each (behind its first word, where arrays mark what is free). As in the heap, links are
//! coded and checked ([`Bins`]).
//!
//! The tag of such a frame is that of the array of its size ([quick sizes](super::quick)), so an object finds back
//! there like one of a cache; what an array lacks comes from the frames several at a time, and so does what it has
//! too many of go back.
//!
//! *Lock:* the caller holds that of the frames. *Invariant:* a frame is in the list of its size if it has a free object.

use core::mem;
use core::panic::Location;
use core::ptr::{self, NonNull};

use super::bins::{Bins, Node};
use super::cache::{InARow, Way};
use super::frame::GRANULE;
use super::front::Fronts;
use super::page::NotUsed;
use super::quick;
use super::table::{Table, Tag};
use super::{FaultKind, PageSource, Refused, Slab};
use crate::addr::{Order, PAGE_SHIFT, PAGE_SIZE};
use crate::arch::Arch;
use crate::gfp::Gfp;
use crate::sync::IrqGuard;

/// log2 of the least size.
const SMALLEST: u32 = 9;
/// How many sizes there are.
pub(super) const NR_EVEN: usize = PAGE_SHIFT as usize - SMALLEST as usize;

/// A size: 0 for 512 bytes, and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size(usize);

impl Size {
    /// All of them, ascending.
    pub(super) const ALL: [Self; NR_EVEN] = [Self(0), Self(1), Self(2)];

    /// The size of objects of `nr` granules at multiples of `align`, if it is one of these.
    #[inline(always)]
    pub(super) fn of(nr: usize, align: usize) -> Option<Self> {
        let is_even = nr.is_power_of_two() && nr >= (1 << SMALLEST) / GRANULE && nr < PAGE_SIZE as usize / GRANULE;
        (is_even && align <= nr).then(|| Self(((nr * GRANULE) >> SMALLEST).trailing_zeros() as usize))
    }

    /// Whose objects lie in frames with this tag.
    #[inline(always)]
    pub(super) fn of_tag(tag: Tag) -> Option<Self> {
        quick::EVEN.iter().position(|even| *even == tag).map(Self)
    }

    /// The tag of its frames and its array.
    #[inline(always)]
    pub(super) fn tag(self) -> Tag {
        debug_assert!(self.0 < NR_EVEN);
        // SAFETY: a size is below their number.
        *unsafe { quick::EVEN.get_unchecked(self.0) }
    }

    /// log2 of its bytes.
    #[inline(always)]
    const fn shift(self) -> u32 {
        SMALLEST + self.0 as u32
    }

    /// Bytes of an object.
    #[inline(always)]
    pub(super) const fn bytes(self) -> usize {
        1 << self.shift()
    }

    /// The bits of a frame without an object in use.
    const fn all_free(self) -> u8 {
        u8::MAX >> (8 - (1_u32 << (PAGE_SHIFT - self.shift())))
    }
}

/// The lists of frames with free objects; in cache lines of its own as the [heap](super::heap::Heap) is.
#[repr(align(64))]
pub(super) struct Even {
    bins: Bins<NR_EVEN>,
    /// Frames of each size.
    nr_frames: [usize; NR_EVEN],
    /// How often an array of each size was filled, or emptied.
    in_a_row: [InARow; NR_EVEN],
    /// A list had to be given up, which nobody has been told yet.
    broken: bool,
}

/// After so many times in a row, twice as many objects are moved.
const FEW: u32 = 8;

fn frame_of(inside: *mut u8) -> *mut u8 {
    inside.map_addr(|addr| addr & !(PAGE_SIZE as usize - 1))
}

/// The links of the frame that `inside` lies in, if it has these free objects.
#[inline(always)]
fn node_of(inside: *mut u8, size: Size, free: u8) -> *mut Node {
    let lowest = (free.trailing_zeros() as usize) << size.shift();
    inside.map_addr(|addr| (addr & !(PAGE_SIZE as usize - 1)) + lowest + size_of::<usize>()).cast()
}

impl Even {
    /// No frames. `window` is where they may lie: first address, bytes.
    pub(super) const fn new(secret: usize, window: (usize, usize)) -> Self {
        Self {
            bins: Bins::new(secret, window),
            nr_frames: [0; NR_EVEN],
            in_a_row: [InARow::NONE; NR_EVEN],
            broken: false,
        }
    }

    #[inline(always)]
    fn nr_frames(&mut self, size: Size) -> &mut usize {
        debug_assert!(size.0 < NR_EVEN);
        // SAFETY: a size is below their number.
        unsafe { self.nr_frames.get_unchecked_mut(size.0) }
    }

    /// Objects to move between an array of `capacity` places and the frames now: half of them to it, a quarter from it, and
    /// twice as many when all have gone the same way for long. Few are soon moved, and the next may go the other way.
    #[inline(always)]
    fn batch(&mut self, size: Size, way: Way, capacity: usize) -> usize {
        debug_assert!(size.0 < NR_EVEN);
        // SAFETY: a size is below their number.
        let times = unsafe { self.in_a_row.get_unchecked_mut(size.0) }.go(way, FEW);
        let nr = capacity.div_ceil(if way == Way::ToArray { 2 } else { 4 });
        if times < FEW { nr } else { (2 * nr).min(capacity) }
    }

    /// Whether no frame has a free object.
    #[inline(always)]
    fn is_exhausted(&self, size: Size) -> bool {
        self.bins.first(size.0).is_null()
    }

    /// Frames that it holds.
    pub(super) fn pages(&self) -> usize {
        self.nr_frames.iter().sum()
    }

    /// Objects in use, those in arrays included, and their bytes. Walks the lists.
    #[inline(never)]
    pub(super) fn used(&self, table: &Table<'_>) -> (usize, usize) {
        let used = Size::ALL.into_iter().zip(self.nr_frames).map(|(size, frames)| {
            let free = self.bins.sum_of(size.0, |node| table.state(node.addr()).count_ones() as usize);
            let nr = (frames << (PAGE_SHIFT - size.shift())).saturating_sub(free);
            (nr, nr << size.shift())
        });
        used.fold((0, 0), |(objects, bytes), (nr, more)| (objects + nr, bytes + more))
    }

    /// Takes a frame out of its list. False if the list had to be given up.
    #[inline(always)]
    fn unlink(&mut self, node: *mut Node, size: Size) -> bool {
        // SAFETY: the caller has a frame with free objects, so it is in this list.
        let intact = unsafe { self.bins.remove(node, size.0) }.is_ok();
        if !intact {
            self.bins.abandon(size.0);
            self.broken = true;
        }
        intact
    }

    /// Takes free objects of a frame that is in no list for the places there are, and marks each with `key`. A frame with
    /// some left is put into its list.
    #[inline(always)]
    fn cut<'p>(
        &mut self,
        table: &Table<'_>,
        size: Size,
        frame: *mut u8,
        mut free: u8,
        places: &mut impl Iterator<Item = &'p mut *mut u8>,
        key: usize,
    ) {
        while free != 0 {
            let Some(place) = places.next() else { break };
            let object = frame.wrapping_add((free.trailing_zeros() as usize) << size.shift());
            // SAFETY: a free object; its links lie behind this.
            unsafe { object.cast::<usize>().write(object.addr() ^ key) };
            *place = object;
            free &= free - 1;
        }
        table.set_state(frame.addr(), free);
        if free != 0 {
            // SAFETY: free memory of the direct map, in no list.
            unsafe { self.bins.insert(node_of(frame, size, free), size.0) };
        }
    }

    /// Takes free objects for all places of `out`, or what there is, marked with `key`: from the frames in the list, and
    /// then from a new one. Returns how many.
    ///
    /// # Safety
    ///
    /// The `fresh` frame is the caller's own RAM, reached through the direct map, and is given up.
    #[inline(never)]
    unsafe fn take(
        &mut self,
        table: &Table<'_>,
        size: Size,
        out: &mut [*mut u8],
        fresh: Option<NonNull<u8>>,
        key: usize,
    ) -> usize {
        let wanted = out.len();
        let mut places = out.iter_mut();
        while places.len() > 0 {
            let node = self.bins.first(size.0);
            if node.is_null() || !self.unlink(node, size) {
                break;
            }
            let frame = frame_of(node.cast());
            self.cut(table, size, frame, table.state(frame.addr()), &mut places, key);
        }
        if let Some(frame) = fresh {
            table.set_one(frame.addr().get(), size.tag());
            self.cut(table, size, frame.as_ptr(), size.all_free(), &mut places, key);
            *self.nr_frames(size) += 1;
        }
        wanted - places.len()
    }

    /// The bit of the object at `inside`; an error if none begins there.
    #[inline(always)]
    fn bit_of(size: Size, inside: *mut u8) -> Result<u8, NotUsed> {
        if !inside.addr().is_multiple_of(size.bytes()) {
            return Err(NotUsed::NoObject);
        }
        Ok(1 << ((inside.addr() & (PAGE_SIZE as usize - 1)) >> size.shift()))
    }

    /// Whether the object at `inside` is free; an error if none begins there.
    #[inline(always)]
    fn is_free(table: &Table<'_>, size: Size, inside: *mut u8) -> Result<bool, NotUsed> {
        Ok(table.state(inside.addr()) & Self::bit_of(size, inside)? != 0)
    }

    /// Puts an object back. Returns its frame if that is to go back to the page allocator.
    ///
    /// # Safety
    ///
    /// The object lies in a frame of this size, `inside` has access to all of it, and nothing uses it from now on.
    #[inline(always)]
    unsafe fn put(&mut self, table: &Table<'_>, size: Size, inside: *mut u8) -> Result<Option<NonNull<u8>>, NotUsed> {
        let bit = Self::bit_of(size, inside)?;
        let before = table.state(inside.addr());
        if before & bit != 0 {
            return Err(NotUsed::Free);
        }
        let free = before | bit;
        let is_empty = free == size.all_free();
        // The links are in the lowest free object.
        if is_empty || (bit - 1) & before == 0 {
            if before != 0 {
                self.unlink(node_of(inside, size, before), size);
            }
            if is_empty {
                *self.nr_frames(size) -= 1;
                return Ok(NonNull::new(frame_of(inside)));
            }
            // SAFETY: free memory of the direct map, in no list.
            unsafe { self.bins.insert(inside.wrapping_add(size_of::<usize>()).cast(), size.0) };
        }
        table.set_state(inside.addr(), free);
        Ok(None)
    }

    /// Puts objects back. What is none in use stays as it is, and why is returned.
    ///
    /// # Safety
    ///
    /// As for [`put`](Self::put), each of them.
    #[inline(never)]
    unsafe fn put_all(
        &mut self,
        table: &Table<'_>,
        size: Size,
        objects: &[*mut u8],
        empty: &mut Option<NonNull<u8>>,
    ) -> Result<(), NotUsed> {
        let mut result = Ok(());
        for object in objects.iter().rev() {
            // SAFETY: the caller's promise.
            match unsafe { self.put(table, size, *object) } {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    // SAFETY: nobody else's any more.
                    unsafe { frame.cast().write(*empty) };
                    *empty = Some(frame);
                }
                Err(why) => result = Err(why),
            }
        }
        result
    }
}

// SAFETY: the frames belong to it, wherever its lock is held.
unsafe impl Send for Even {}

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// An object of an even size: this CPU's array is filled on the way, if there is one.
    #[inline(never)]
    pub(super) fn even_alloc(&self, size: Size, gfp: Gfp) -> Option<NonNull<u8>> {
        let mut fresh = None;
        loop {
            let mut even = self.even.lock(self.arch);
            // SAFETY: the lock masks interrupts.
            let front = unsafe { Fronts::new(self.block_of_this_cpu()) }.front(size.tag());
            let mut one = [front.pop()];
            let [object] = &mut one;
            // An interrupt may have been quicker; or there is no array.
            let object = if !object.is_null() || front.is_full() {
                let out = if object.is_null() { &mut one[..] } else { &mut [] };
                // SAFETY: the frame was taken below.
                unsafe { even.take(&self.table, size, out, fresh, self.key()) };
                let [object] = one;
                object
            } else if fresh.is_none() && even.is_exhausted(size) {
                ptr::null_mut()
            } else {
                let batch = even.batch(size, Way::ToArray, self.even_capacity(size));
                front.refill(batch, |places| {
                    // SAFETY: the same.
                    unsafe { even.take(&self.table, size, places, fresh, self.key()) }
                });
                front.pop()
            };
            self.leave(even, size);
            if let Some(object) = NonNull::new(object) {
                // SAFETY: a free object, which may have a mark.
                unsafe { object.cast::<usize>().write(0) };
                return Some(object);
            }
            self.online_quick();
            let block = self.source.take(Order::ZERO, gfp - Gfp::ZERO)?;
            fresh = NonNull::new(self.arch.direct_map(block.pfn().addr()));
        }
    }

    /// Places of a size's array; 0 without arrays.
    #[inline(always)]
    pub(super) fn even_capacity(&self, size: Size) -> usize {
        debug_assert!(size.0 < NR_EVEN);
        // SAFETY: a size is below their number.
        usize::from(*unsafe { self.even_capacity.get_unchecked(size.0) })
    }

    /// Frees an object of an even size that no array took.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the object's frame has the size's tag.
    #[inline(never)]
    pub(super) unsafe fn kfree_even(&self, object: NonNull<u8>, size: Size, caller: &'static Location<'static>) {
        // SAFETY: the caller's promise.
        if let Err(kind) = unsafe { self.even_free(size, object) } {
            self.refuse(kind, size.tag(), object, caller);
        }
    }

    /// Frees an object of an even size: to this CPU's array, half of which goes to the frames if it is full; or to the
    /// frames.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the object's frame has the size's tag.
    #[inline(always)]
    unsafe fn even_free(&self, size: Size, object: NonNull<u8>) -> Result<(), Refused> {
        let inside = self.own(object.as_ptr());
        let mut even = self.even.lock(self.arch);
        // SAFETY: the lock masks interrupts.
        let front = unsafe { Fronts::new(self.block_of_this_cpu()) }.front(size.tag());
        if Even::is_free(&self.table, size, inside)? {
            return Err(FaultKind::DoubleFree);
        }
        // SAFETY: the caller's promise.
        if unsafe { self.is_kept(inside) } {
            return Err(FaultKind::DoubleFree);
        }
        let mut empty = None;
        let mut result = Ok(());
        if front.is_full() && front.is_empty() {
            if self.settings.init_on_free {
                // SAFETY: the object's own bytes, which nothing uses any more.
                unsafe { inside.write_bytes(0, size.bytes()) };
            }
            // SAFETY: the caller's promise.
            unsafe { even.put_all(&self.table, size, &[inside], &mut empty) }?;
        } else {
            if front.is_full() {
                let batch = even.batch(size, Way::ToSlabs, self.even_capacity(size));
                // SAFETY: what is pushed to the array lies in a frame with its tag: by that, or by its size, and all of that do.
                let put = |last: &[*mut u8]| unsafe { even.put_all(&self.table, size, last, &mut empty) };
                result = front.take_top(batch, put).map_err(Refused::from);
            }
            front.push(inside);
            // SAFETY: a free object.
            unsafe { inside.cast::<usize>().write(inside.addr() ^ self.key()) };
        }
        self.leave(even, size);
        self.give_chain(empty);
        result
    }

    /// Puts an object of an array back.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the object's frame has the size's tag.
    #[inline(never)]
    pub(super) unsafe fn even_put(&self, size: Size, object: NonNull<u8>) -> Result<(), Refused> {
        let (mut even, mut empty) = (self.even.lock(self.arch), None);
        // SAFETY: the caller's promise.
        let result = unsafe { even.put_all(&self.table, size, &[self.own(object.as_ptr())], &mut empty) };
        self.leave(even, size);
        self.give_chain(empty);
        result.map_err(Refused::from)
    }

    /// Frames that are cut evenly.
    #[inline(never)]
    pub(super) fn even_pages(&self) -> usize {
        self.even.lock(self.arch).pages()
    }

    /// Gives the lock back, and says if links were found overwritten.
    #[inline(always)]
    fn leave(&self, mut even: IrqGuard<'_, Even, A>, size: Size) {
        let broken = mem::take(&mut even.broken);
        drop(even);
        if broken {
            self.report_links(0, size.bytes());
        }
    }

    #[inline(always)]
    fn give_chain(&self, mut chain: Option<NonNull<u8>>) {
        while let Some(frame) = chain {
            // SAFETY: `put_all` wrote it.
            chain = unsafe { frame.cast().read() };
            self.give_frame(frame.as_ptr());
        }
    }
}
