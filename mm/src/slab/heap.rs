// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packed heap: objects of any size share frames, so that little memory serves many sizes.
//!
//! SLOB's idea, without its search: a free block is found through [`Bins`] by its size, the best fit up to a bin's
//! width, and merges with its free neighbours when it is freed, through the [`Marks`] at the beginning of the frame.
//! No object crosses a frame, so a frame goes back as soon as its last object is freed, and nothing but what lies in
//! the frame itself pins it.
//!
//! Frames are of two groups, one for small objects and one for large: many small ones would otherwise pin the frames
//! that the large ones leave. A third is for zone DMA.
//!
//! *Lock:* the caller holds the heap's. *Invariant:* no two free blocks of a frame touch; each is in the bin of its size.

use core::ptr::NonNull;

use super::bins::{Bins, bin_of};
use super::frame::{FIRST, GRANULE, GRANULES, LEAST, Marks, ROOM};
use crate::addr::PAGE_SIZE;

/// The groups of frames that share no objects.
pub(super) const NR_GROUPS: usize = 3;
/// How many blocks of a bin are looked at before the next bin is.
const TRIES: usize = 8;
/// Objects of this many granules lie at the end of their block, the others at its beginning: that keeps the large ones
/// and what fills up their frames apart, and frames go back sooner.
const AT_THE_END: usize = 256;

/// The largest object that may lie in a frame with others.
pub(super) const LARGEST: usize = ROOM * GRANULE;

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

/// Free blocks by group and size, and what is in use.
pub(super) struct Heap {
    groups: [Bins; NR_GROUPS],
    /// Empty frames that are kept, and at most how many.
    spares: [usize; NR_GROUPS],
    max_spares: usize,
    /// Frames that it holds.
    pub(super) nr_frames: usize,
    /// Objects in use.
    pub(super) nr_objects: usize,
    /// Bins given up because their links were overwritten.
    pub(super) nr_abandoned: usize,
}

const _: () = assert!(size_of::<Marks>() == FIRST * GRANULE);

/// Granules of an object of `bytes`.
#[inline(always)]
pub(super) const fn granules(bytes: usize) -> usize {
    let granules = bytes.div_ceil(GRANULE);
    if granules < LEAST { LEAST } else { granules }
}

/// Whether an object can lie in a frame: `align` is a power of two.
#[inline(always)]
pub(super) const fn fits(bytes: usize, align: usize) -> bool {
    if bytes > LARGEST || align > PAGE_SIZE as usize / 2 {
        return false;
    }
    let first = (FIRST * GRANULE).next_multiple_of(align);
    first + bytes <= PAGE_SIZE as usize
}

/// The marks of the frame that `inside` lies in.
///
/// # Safety
///
/// `inside` points into a frame of a heap whose lock the caller holds, with access to the whole frame.
#[inline(always)]
unsafe fn marks<'m>(inside: *mut u8) -> &'m Marks {
    let marks = inside.map_addr(|addr| addr & !(PAGE_SIZE as usize - 1)).cast::<Marks>();
    // SAFETY: the frame begins with its marks, by the caller's promise; all zeros are valid, and cells allow aliases.
    unsafe { &*marks }
}

#[inline(always)]
fn granule_of(inside: *mut u8) -> usize {
    (inside.addr() & (PAGE_SIZE as usize - 1)) / GRANULE
}

#[inline(always)]
fn at(inside: *mut u8, granule: usize) -> *mut u8 {
    inside.map_addr(|addr| (addr & !(PAGE_SIZE as usize - 1)) + granule * GRANULE)
}

/// Granules of the object in use at `object`; `None` if there is none. The heap's lock is not needed: the marks of an
/// object in use, where it begins and where the next block does, stay as they are.
///
/// # Safety
///
/// `object` lies in a frame of a heap, with access to the whole frame.
#[inline(always)]
pub(super) unsafe fn granules_at(object: *mut u8) -> Option<usize> {
    // SAFETY: the caller's promise.
    let marks = unsafe { marks(object) };
    // What is misaligned becomes a large number.
    let granule = ((object.addr() & (PAGE_SIZE as usize - 1)) as u32).rotate_right(GRANULE.ilog2()) as usize;
    if granule.wrapping_sub(FIRST) >= ROOM || marks.is_free(granule) {
        return None;
    }
    marks.length(granule)
}

impl Heap {
    /// An empty heap. `window` is where frames may lie: first address, bytes.
    pub(super) const fn new(secret: usize, window: (usize, usize), max_spares: usize) -> Self {
        Self {
            groups: [const { Bins::new(0, (0, 0)) }; NR_GROUPS],
            spares: [0; NR_GROUPS],
            max_spares,
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
    #[inline(always)]
    pub(super) fn alloc(&mut self, group: usize, nr: usize, align: usize) -> Option<NonNull<u8>> {
        let found = self.find(group, nr, align)?;
        // SAFETY: a block of a bin.
        if !unsafe { self.unlink(group, found.block, found.start, found.end) } {
            return None;
        }
        // SAFETY: a block of a bin lies in a frame of this heap.
        let marks = unsafe { marks(found.block) };
        let (start, end, granule) = (found.start, found.end, found.granule);
        if end - start == ROOM {
            *self.spares(group) -= 1;
        }
        if granule == start {
            marks.set_used(start);
        } else {
            marks.set_start(granule);
            self.insert(group, found.block, start, granule);
        }
        let stop = granule + nr;
        if end - stop >= LEAST {
            marks.set_start(stop);
            marks.set_free(stop);
            self.insert(group, found.block, stop, end);
        }
        self.nr_objects += 1;
        NonNull::new(at(found.block, granule))
    }

    /// [`alloc`](Self::alloc) out of line, for where it matters less.
    #[inline(never)]
    pub(super) fn alloc_apart(&mut self, group: usize, nr: usize, align: usize) -> Option<NonNull<u8>> {
        self.alloc(group, nr, align)
    }

    /// Puts the free block from `start` to `end` into its bin. Its marks are set already.
    #[inline(always)]
    fn insert(&mut self, group: usize, inside: *mut u8, start: usize, end: usize) {
        let node = at(inside, start).cast();
        // SAFETY: a free block of this heap, at least two words, and in no bin.
        unsafe { self.bins(group).insert(node, bin_of(end - start)) };
    }

    /// The free block to take and where in it the object begins.
    #[inline(always)]
    fn find(&mut self, group: usize, nr: usize, align: usize) -> Option<Found> {
        let bins = self.bins(group);
        let mut bin = bins.first_filled(bin_of(nr))?;
        loop {
            let mut node = bins.first(bin);
            for _ in 0..TRIES {
                if let Some(found) = place(node.cast(), nr, align) {
                    return Some(found);
                }
                node = bins.next(node);
                if node.is_null() {
                    break;
                }
            }
            bin = bins.first_filled(bin + 1)?;
        }
    }

    /// Adds an empty frame, which is what `frame` points to the beginning of.
    ///
    /// # Safety
    ///
    /// The frame is the caller's own RAM, reached through the direct map, and is given up to the heap.
    pub(super) unsafe fn add_frame(&mut self, group: usize, frame: NonNull<u8>) {
        // SAFETY: the frame becomes the heap's, and it is longer than its marks.
        unsafe { frame.cast::<Marks>().write(Marks::empty()) };
        self.insert(group, frame.as_ptr(), FIRST, GRANULES);
        self.nr_frames += 1;
        *self.spares(group) += 1;
    }

    /// Bytes of the object at `object`.
    ///
    /// # Safety
    ///
    /// `object` lies in a frame of this heap, with access to the whole frame.
    #[inline]
    pub(super) unsafe fn size(&self, object: *mut u8) -> Result<usize, Wrong> {
        // SAFETY: the caller's promise.
        let marks = unsafe { marks(object) };
        let start = used(marks, object)?;
        Ok((marks.end(start) - start) * GRANULE)
    }

    /// Frees an object.
    ///
    /// # Safety
    ///
    /// `object` lies in a frame of this heap and group, with access to the whole frame, and nothing uses it from now
    /// on if it is an object.
    #[inline(always)]
    pub(super) unsafe fn free(&mut self, group: usize, object: *mut u8) -> Result<Freed, Wrong> {
        // SAFETY: the caller's promise.
        let marks = unsafe { marks(object) };
        let mut start = used(marks, object)?;
        let mut end = marks.end(start);
        let bytes = (end - start) * GRANULE;
        self.nr_objects -= 1;
        let mut intact = true;
        if end < GRANULES && marks.is_free(end) {
            let behind = marks.end(end);
            // SAFETY: its marks say that it is free.
            intact = unsafe { self.unlink(group, object, end, behind) };
            marks.clear_start(end);
            marks.set_used(end);
            end = behind;
        }
        if start > FIRST {
            let before = marks.before(start);
            if marks.is_free(before) {
                // SAFETY: its marks say that it is free.
                intact &= unsafe { self.unlink(group, object, before, start) };
                marks.clear_start(start);
                start = before;
            }
        }
        marks.set_free(start);
        if end - start == ROOM {
            if *self.spares(group) >= self.max_spares {
                self.nr_frames -= 1;
                return Ok(Freed { bytes, frame: NonNull::new(at(object, 0)), corrupt: !intact });
            }
            *self.spares(group) += 1;
        }
        self.insert(group, object, start, end);
        Ok(Freed { bytes, frame: None, corrupt: !intact })
    }

    /// Takes a free block out of its bin. False if the bin had to be given up.
    ///
    /// # Safety
    ///
    /// The marks of the frame that `inside` lies in say that it is free.
    #[inline(always)]
    unsafe fn unlink(&mut self, group: usize, inside: *mut u8, start: usize, end: usize) -> bool {
        let bin = bin_of(end - start);
        // SAFETY: the caller's promise.
        let intact = unsafe { self.bins(group).remove(at(inside, start).cast(), bin) }.is_ok();
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

    /// Makes an object `bytes` long where it is: a shorter one gives its end back, a longer one takes from the free
    /// block behind it. Returns the new size, or `None` if it must move.
    ///
    /// # Safety
    ///
    /// As for [`free`](Self::free), but that the first `bytes` stay in use.
    pub(super) unsafe fn resize(
        &mut self,
        group: usize,
        object: *mut u8,
        bytes: usize,
    ) -> Result<Option<usize>, Wrong> {
        // SAFETY: the caller's promise.
        let marks = unsafe { marks(object) };
        let start = used(marks, object)?;
        let end = marks.end(start);
        let mut stop = start + granules(bytes);
        let mut limit = end;
        if end < GRANULES && marks.is_free(end) && (stop > end || end - stop >= LEAST) {
            limit = marks.end(end);
        }
        if stop > limit {
            return Ok(None);
        }
        if limit > end {
            // SAFETY: its marks say that it is free.
            if !unsafe { self.unlink(group, object, end, limit) } {
                return Ok(None);
            }
            marks.clear_start(end);
            marks.set_used(end);
        }
        if limit - stop < LEAST {
            stop = limit;
        } else {
            marks.set_start(stop);
            marks.set_free(stop);
            self.insert(group, object, stop, limit);
        }
        Ok(Some((stop - start) * GRANULE))
    }

    /// Takes a kept empty frame out, to be given back.
    pub(super) fn take_spare(&mut self) -> Option<NonNull<u8>> {
        for group in 0..NR_GROUPS {
            if *self.spares(group) == 0 {
                continue;
            }
            let mut node = self.bins(group).first(bin_of(ROOM));
            while !node.is_null() {
                // SAFETY: a node of a bin lies in a frame of this heap.
                if unsafe { marks(node.cast()) }.end(FIRST) == GRANULES && granule_of(node.cast()) == FIRST {
                    // SAFETY: its marks say that it is free, as a node of a bin is.
                    if !unsafe { self.unlink(group, node.cast(), FIRST, GRANULES) } {
                        return None;
                    }
                    *self.spares(group) -= 1;
                    self.nr_frames -= 1;
                    return NonNull::new(at(node.cast(), 0));
                }
                node = self.bins(group).next(node);
            }
        }
        None
    }

    /// Bytes of the objects in use, as rounded. Walks all free blocks.
    pub(super) fn used_bytes(&self) -> usize {
        let size = |node: *mut super::bins::Node| {
            let block = node.cast::<u8>();
            // SAFETY: a node of a bin lies in a frame of this heap.
            unsafe { marks(block) }.end(granule_of(block)) - granule_of(block)
        };
        let free: usize = self.groups.iter().map(|bins| bins.sum(size)).sum();
        (self.nr_frames * ROOM).saturating_sub(free) * GRANULE
    }
}

/// A free block that an object fits into.
struct Found {
    block: *mut u8,
    start: usize,
    end: usize,
    /// Where the object begins.
    granule: usize,
}

/// Where in the free block an object of `nr` granules fits, with no room before it that is too small for a block.
#[inline(always)]
fn place(block: *mut u8, nr: usize, align: usize) -> Option<Found> {
    // SAFETY: a node of a bin lies in a frame of the heap.
    let marks = unsafe { marks(block) };
    let start = granule_of(block);
    let end = marks.end(start);
    let mut granule = start;
    if align > 1 {
        granule = (start + align - 1) & !(align - 1);
        if granule > start && granule - start < LEAST {
            granule += align;
        }
    } else if nr >= AT_THE_END && start + nr + LEAST <= end {
        granule = end - nr;
    }
    (granule + nr <= end).then_some(Found { block, start, end, granule })
}

/// The granule of `object`, if a used block begins there.
#[inline(always)]
fn used(marks: &Marks, object: *mut u8) -> Result<usize, Wrong> {
    let granule = granule_of(object);
    if granule < FIRST || !object.addr().is_multiple_of(GRANULE) {
        return Err(Wrong::NoObject);
    }
    if !marks.is_start(granule) {
        return Err(missed(marks, granule));
    }
    if marks.is_free(granule) { Err(Wrong::Free) } else { Ok(granule) }
}

/// What a pointer hit that is the beginning of no block: a free one is told from one in use.
#[cold]
fn missed(marks: &Marks, granule: usize) -> Wrong {
    if granule > FIRST && marks.is_free(marks.before(granule)) { Wrong::Free } else { Wrong::NoObject }
}

// SAFETY: the frames belong to the heap, wherever its lock is held.
unsafe impl Send for Heap {}
