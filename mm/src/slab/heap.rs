// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed heap: objects of any size share frames, so that little memory serves many sizes.
//!
//! SLOB's idea, without its search: a free block is found through [`Bins`] by its size, the best fit up to a bin's
//! width, and merges with its free neighbours when it is freed, through what stands at the beginning of the frame
//! ([`Kind`]). No object crosses a frame, so a frame goes back as soon as its last object is freed, and nothing but what
//! lies in the frame itself pins it.
//!
//! Frames are of two groups, one for small objects and one for large: many small ones would otherwise pin the frames
//! that the large ones leave. Those of large ones begin with a [register](super::register), the others with
//! [marks](super::frame). A third group is for zone DMA.
//!
//! *Lock:* the caller holds the heap's. *Invariant:* no two free blocks of a frame touch; each is in the bin of its size.

mod find;
mod kind;
mod resize;

use core::ptr::NonNull;

use super::bins::{Bins, bin_of};
use super::frame::{FIRST, GRANULE, GRANULES, LEAST, Marks};
use super::register::{FIRST_LARGE, LEAST_LARGE, Register};
use super::{GROUP_LARGE, GROUP_SMALL};
use crate::addr::PAGE_SIZE;
use find::position;
use kind::Kind;

/// The groups of frames that share no objects.
pub(super) const NR_GROUPS: usize = 3;

/// The largest object that may lie in a frame with others: in one for large objects.
pub(super) const LARGEST: usize = (GRANULES - FIRST_LARGE) * GRANULE;

/// What is wrong with a pointer or with free memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    /// The object is free already.
    Free,
    /// No object begins there.
    NoObject,
}

/// What a free left behind.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Freed {
    /// Bytes of the block.
    pub(super) bytes: usize,
    /// The frame, if nothing is left in it: no longer the heap's.
    pub(super) frame: Option<NonNull<u8>>,
    /// Free memory was found overwritten; what could not be trusted is lost.
    pub(super) corrupt: bool,
}

/// Free blocks by group and size, and what is in use. In cache lines of its own: what lies beside it is read by CPUs that do
/// not want its lock.
#[repr(align(64))]
pub(super) struct Heap {
    groups: [Bins; NR_GROUPS],
    /// Empty frames that are kept, and at most how many.
    spares: [usize; NR_GROUPS],
    max_spares: usize,
    /// Granules of all frames together that objects can have.
    nr_granules: usize,
    /// Frames that it holds.
    pub(super) nr_frames: usize,
    /// Objects in use.
    pub(super) nr_objects: usize,
    /// Bins given up because their links were overwritten.
    pub(super) nr_abandoned: usize,
}

const _: () = assert!(size_of::<Marks>() == FIRST * GRANULE && size_of::<Register>() == FIRST_LARGE * GRANULE);

/// Granules of an object of `bytes`.
#[inline(always)]
pub(super) const fn granules(bytes: usize) -> usize {
    let granules = bytes.div_ceil(GRANULE);
    if granules < LEAST { LEAST } else { granules }
}

/// The first granule of a group's frames that an object can begin at.
#[inline(always)]
const fn first_of(group: usize) -> usize {
    if group == GROUP_LARGE { FIRST_LARGE } else { FIRST }
}

/// Whether an object can lie in a frame of this group: `align` is a power of two.
#[inline(always)]
pub(super) const fn fits(group: usize, bytes: usize, align: usize) -> bool {
    if bytes > LARGEST || align > PAGE_SIZE as usize / 2 {
        return false;
    }
    let first = (first_of(group) * GRANULE).next_multiple_of(align);
    first + bytes <= PAGE_SIZE as usize
}

/// The beginning of the frame that `inside` lies in.
///
/// # Safety
///
/// `inside` points into a frame of this kind of a heap, with access to the whole frame; the caller holds the heap's lock, or
/// does only what needs none.
#[inline(always)]
unsafe fn frame<'f, K: Kind>(inside: *mut u8) -> &'f K {
    // SAFETY: the frame begins so, by the caller's promise; all zeros are valid, and cells and atomics allow aliases.
    unsafe { &*at(inside, 0).cast::<K>() }
}

#[inline(always)]
fn granule_of(inside: *mut u8) -> usize {
    (inside.addr() & (PAGE_SIZE as usize - 1)) / GRANULE
}

#[inline(always)]
fn at(inside: *mut u8, granule: usize) -> *mut u8 {
    inside.map_addr(|addr| (addr & !(PAGE_SIZE as usize - 1)) + granule * GRANULE)
}

/// Granules of the object of a frame of large objects that is in use at `object`; 0 if there is none. The heap's lock
/// is not needed by whoever has the object.
///
/// # Safety
///
/// `object` lies in a frame of large objects, with access to the whole frame.
#[inline(always)]
pub(super) unsafe fn granules_at(object: *mut u8) -> usize {
    // SAFETY: the caller's promise; an entry is read atomically.
    unsafe { frame::<Register>(object) }.get(object.addr())
}

impl Heap {
    /// An empty heap. `window` is where frames may lie: first address, bytes.
    pub(super) const fn new(secret: usize, window: (usize, usize), max_spares: usize) -> Self {
        Self {
            groups: [const { Bins::new(0, (0, 0)) }; NR_GROUPS],
            spares: [0; NR_GROUPS],
            max_spares,
            nr_granules: 0,
            nr_frames: 0,
            nr_objects: 0,
            nr_abandoned: 0,
        }
        .with(secret, window)
    }

    const fn with(mut self, secret: usize, window: (usize, usize)) -> Self {
        self.groups = [const { Bins::new(0, (0, 0)) }; NR_GROUPS];
        let mut group = 0;
        while group < NR_GROUPS {
            #[expect(clippy::indexing_slicing, reason = "counted to the array's length")]
            {
                self.groups[group] = Bins::new(secret, window);
            }
            group += 1;
        }
        self
    }

    #[inline(always)]
    fn bins(&mut self, group: usize) -> &mut Bins {
        debug_assert!(group < NR_GROUPS);
        // SAFETY: group numbers are this crate's constants, or come from a frame's tag, which is one of them.
        unsafe { self.groups.get_unchecked_mut(group) }
    }

    fn spares(&mut self, group: usize) -> &mut usize {
        debug_assert!(group < NR_GROUPS);
        // SAFETY: as for `bins`.
        unsafe { self.spares.get_unchecked_mut(group) }
    }

    /// Takes an object of `nr` granules at a multiple of `align` granules, a power of two. `None` if no free block of
    /// the group holds one: then a frame must be added. O(1) for an alignment of one granule, but for the bin's tries.
    #[inline(never)]
    pub(super) fn alloc(&mut self, group: usize, nr: usize, align: usize) -> Option<NonNull<u8>> {
        if group == GROUP_LARGE {
            self.alloc_in::<Register>(GROUP_LARGE, nr.max(LEAST_LARGE), align)
        } else {
            self.alloc_in::<Marks>(group, nr, align)
        }
    }

    /// The same for a small object that may lie at any granule.
    #[inline(never)]
    pub(super) fn cut_small(&mut self, nr: usize) -> Option<NonNull<u8>> {
        self.alloc_in::<Marks>(GROUP_SMALL, nr, 1)
    }

    /// The same for a large one.
    #[inline(never)]
    pub(super) fn cut_large(&mut self, nr: usize) -> Option<NonNull<u8>> {
        debug_assert!(nr >= LEAST_LARGE);
        self.alloc_in::<Register>(GROUP_LARGE, nr, 1)
    }

    #[inline(always)]
    fn alloc_in<K: Kind>(&mut self, group: usize, nr: usize, align: usize) -> Option<NonNull<u8>> {
        let found = self.find::<K>(group, nr, align)?;
        // SAFETY: a block of that bin.
        if !unsafe { self.take_out(group, found.block, found.bin) } {
            return None;
        }
        if found.end - found.start == GRANULES - K::FIRST {
            *self.spares(group) -= 1;
        }
        self.occupy::<K>(group, found.block, (found.start, found.end), found.granule, nr)
    }

    /// Makes `nr` granules of a free block that is in no bin an object, from `granule` on. What is left is free.
    #[inline(always)]
    fn occupy<K: Kind>(
        &mut self,
        group: usize,
        inside: *mut u8,
        (from, to): (usize, usize),
        granule: usize,
        nr: usize,
    ) -> Option<NonNull<u8>> {
        let mut stop = granule + nr;
        if to - stop < LEAST {
            stop = to;
        }
        // SAFETY: the caller's block lies in a frame of this heap and group.
        unsafe { frame::<K>(inside) }.take((from, to), granule, stop);
        if granule > from {
            self.insert(group, inside, from, granule);
        }
        if stop < to {
            self.insert(group, inside, stop, to);
        }
        self.nr_objects += 1;
        NonNull::new(at(inside, granule))
    }

    /// Puts the free block from `start` to `end` into its bin.
    #[inline(always)]
    fn insert(&mut self, group: usize, inside: *mut u8, start: usize, end: usize) {
        let node = at(inside, start).cast();
        // SAFETY: a free block of this heap, at least two words, and in no bin.
        unsafe { self.bins(group).insert(node, bin_of(end - start)) };
    }

    /// Adds a new frame, which is what `frame` points to the beginning of, and takes an object out of it. `None` if it is
    /// larger than that: then the frame is kept as it is.
    ///
    /// # Safety
    ///
    /// The frame is the caller's own RAM, reached through the direct map, and is given up to the heap.
    #[inline(never)]
    pub(super) unsafe fn alloc_fresh(
        &mut self,
        group: usize,
        frame: NonNull<u8>,
        nr: usize,
        align: usize,
    ) -> Option<NonNull<u8>> {
        if group == GROUP_LARGE {
            // SAFETY: the caller's promise.
            unsafe { self.fresh_in::<Register>(group, frame.as_ptr(), nr.max(LEAST_LARGE), align) }
        } else {
            // SAFETY: the same.
            unsafe { self.fresh_in::<Marks>(group, frame.as_ptr(), nr, align) }
        }
    }

    /// The same for the group of large objects, at any granule.
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(never)]
    pub(super) unsafe fn cut_fresh(&mut self, frame: NonNull<u8>, nr: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { self.fresh_in::<Register>(GROUP_LARGE, frame.as_ptr(), nr, 1) }
    }

    /// # Safety
    ///
    /// As for [`alloc_fresh`](Self::alloc_fresh).
    #[inline(always)]
    unsafe fn fresh_in<K: Kind>(
        &mut self,
        group: usize,
        frame: *mut u8,
        nr: usize,
        align: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the frame becomes the heap's, and it is longer than what it begins with.
        unsafe { frame.cast::<K>().write(K::default()) };
        // SAFETY: written above.
        unsafe { self::frame::<K>(frame) }.empty();
        self.nr_frames += 1;
        self.nr_granules += GRANULES - K::FIRST;
        let Some(granule) = position(K::FIRST, GRANULES, nr, align) else {
            *self.spares(group) += 1;
            self.insert(group, frame, K::FIRST, GRANULES);
            return None;
        };
        self.occupy::<K>(group, frame, (K::FIRST, GRANULES), granule, nr)
    }

    /// Bytes of the object at `object`.
    ///
    /// # Safety
    ///
    /// `object` lies in a frame of this heap and group, with access to the whole frame.
    #[inline]
    pub(super) unsafe fn size(&self, group: usize, object: *mut u8) -> Result<usize, Wrong> {
        let (start, stop) = if group == GROUP_LARGE {
            // SAFETY: the caller's promise.
            unsafe { frame::<Register>(object) }.used(object)
        } else {
            // SAFETY: the same.
            unsafe { frame::<Marks>(object) }.used(object)
        }?;
        Ok((stop - start) * GRANULE)
    }

    /// Frees an object of a frame of large ones.
    ///
    /// # Safety
    ///
    /// `object` lies in such a frame of this heap, with access to the whole frame, and nothing uses it from now on if it
    /// is an object.
    #[inline(always)]
    pub(super) unsafe fn free_large(&mut self, object: *mut u8) -> Result<Freed, Wrong> {
        // SAFETY: the caller's promise.
        unsafe { self.free_in::<Register>(GROUP_LARGE, object) }
    }

    /// The same of a frame of another group.
    ///
    /// # Safety
    ///
    /// As for [`free_large`](Self::free_large); the frame is of that group.
    #[inline(always)]
    pub(super) unsafe fn free_mixed(&mut self, group: usize, object: *mut u8) -> Result<Freed, Wrong> {
        debug_assert!(group != GROUP_LARGE);
        // SAFETY: the caller's promise.
        unsafe { self.free_in::<Marks>(group, object) }
    }

    /// # Safety
    ///
    /// As for [`free_large`](Self::free_large); frames of the group are of this kind.
    #[inline(always)]
    unsafe fn free_in<K: Kind>(&mut self, group: usize, object: *mut u8) -> Result<Freed, Wrong> {
        // SAFETY: the caller's promise.
        let frame = unsafe { frame::<K>(object) };
        let (start, stop) = frame.used(object)?;
        let bytes = (stop - start) * GRANULE;
        self.nr_objects -= 1;
        let (from, to) = frame.give(start, stop);
        let mut intact = true;
        if to > stop {
            // SAFETY: it is free.
            intact = unsafe { self.unlink(group, object, stop, to) };
        }
        if from < start {
            // SAFETY: the same.
            intact &= unsafe { self.unlink(group, object, from, start) };
        }
        if to - from == GRANULES - K::FIRST {
            if *self.spares(group) >= self.max_spares {
                self.nr_frames -= 1;
                self.nr_granules -= to - from;
                return Ok(Freed { bytes, frame: NonNull::new(at(object, 0)), corrupt: !intact });
            }
            *self.spares(group) += 1;
        }
        self.insert(group, object, from, to);
        Ok(Freed { bytes, frame: None, corrupt: !intact })
    }

    /// Takes a free block out of its bin. False if the bin had to be given up.
    ///
    /// # Safety
    ///
    /// The frame that `inside` lies in says that it is free.
    #[inline(always)]
    unsafe fn unlink(&mut self, group: usize, inside: *mut u8, start: usize, end: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.take_out(group, at(inside, start), bin_of(end - start)) }
    }

    /// The same for the block that begins at `block`, in that bin.
    ///
    /// # Safety
    ///
    /// As for [`unlink`](Self::unlink); the bin is that of its size.
    #[inline(always)]
    unsafe fn take_out(&mut self, group: usize, block: *mut u8, bin: usize) -> bool {
        // SAFETY: the caller's promise.
        let intact = unsafe { self.bins(group).remove(block.cast(), bin) }.is_ok();
        if !intact {
            self.abandon(group, bin);
        }
        intact
    }

    #[cold]
    #[inline(never)]
    fn abandon(&mut self, group: usize, bin: usize) {
        self.bins(group).abandon(bin);
        self.nr_abandoned += 1;
    }

    /// Takes a kept empty frame out, to be given back.
    pub(super) fn take_spare(&mut self) -> Option<NonNull<u8>> {
        for group in 0..NR_GROUPS {
            if *self.spares(group) == 0 {
                continue;
            }
            let first = first_of(group);
            let mut node = self.bins(group).first(bin_of(GRANULES - first));
            while !node.is_null() {
                let block = node.cast::<u8>();
                // SAFETY: a node of a bin lies in a frame of this heap.
                if granule_of(block) == first && unsafe { free_end(group, block) } == GRANULES {
                    // SAFETY: a node of a bin is free.
                    if !unsafe { self.unlink(group, block, first, GRANULES) } {
                        return None;
                    }
                    *self.spares(group) -= 1;
                    self.nr_frames -= 1;
                    self.nr_granules -= GRANULES - first;
                    return NonNull::new(at(block, 0));
                }
                node = self.bins(group).next(node);
            }
        }
        None
    }

    /// Bytes of the objects in use, as rounded. Walks all free blocks.
    pub(super) fn used_bytes(&self) -> usize {
        let free: usize = (0..)
            .zip(&self.groups)
            .map(|(group, bins)| {
                bins.sum(|node| {
                    let block = node.cast::<u8>();
                    // SAFETY: a node of a bin lies in a frame of this heap and group.
                    unsafe { free_end(group, block) }.saturating_sub(granule_of(block))
                })
            })
            .sum();
        self.nr_granules.saturating_sub(free) * GRANULE
    }
}

/// Where the free block at `block` ends.
///
/// # Safety
///
/// It is one of a heap and group whose lock the caller holds, with access to the whole frame.
#[inline(never)]
unsafe fn free_end(group: usize, block: *mut u8) -> usize {
    let start = granule_of(block);
    if group == GROUP_LARGE {
        // SAFETY: the caller's promise.
        unsafe { frame::<Register>(block) }.free_end(start)
    } else {
        // SAFETY: the same.
        unsafe { frame::<Marks>(block) }.free_end(start)
    }
}

// SAFETY: the frames belong to the heap, wherever its lock is held.
unsafe impl Send for Heap {}
