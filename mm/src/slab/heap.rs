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

mod find;
mod resize;

use core::ptr::NonNull;

use super::bins::{Bins, bin_of};
use super::frame::{FIRST, GRANULE, GRANULES, LEAST, LEAST_NOTED, Marks, NOTES, Notes, ROOM};
use super::table::{NONE, Tag};
use super::{GROUP_LARGE, quick};
use crate::addr::PAGE_SIZE;
use find::position;

/// The groups of frames that share no objects.
pub(super) const NR_GROUPS: usize = 3;

/// The largest object that may lie in a frame with others.
pub(super) const LARGEST: usize = ROOM * GRANULE;
/// The same where frames have notes.
pub(super) const LARGEST_NOTED: usize = (ROOM - NOTES) * GRANULE;

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
    /// Granules of the block that is an empty frame. Those of large objects may have notes.
    rooms: [usize; NR_GROUPS],
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

/// The notes of the frame that `inside` lies in.
///
/// # Safety
///
/// `inside` points into a frame with notes, with access to the whole frame.
#[inline(always)]
unsafe fn notes<'m>(inside: *mut u8) -> &'m Notes {
    // SAFETY: they stand behind the marks, by the caller's promise; all zeros are valid, and atomics allow aliases.
    unsafe { &*at(inside, FIRST).cast::<Notes>() }
}

/// The tag of the array for the object in use at `object`: [`NONE`] if there is none, `None` if no object can begin there.
/// The heap's lock is not needed.
///
/// # Safety
///
/// `object` lies in a frame with notes, with access to the whole frame.
#[inline(always)]
pub(super) unsafe fn noted(object: *mut u8) -> Option<Tag> {
    // SAFETY: the caller's promise.
    unsafe { notes(object) }.get(object.addr()).map(Tag::from)
}

impl Heap {
    /// An empty heap. `window` is where frames may lie: first address, bytes. Frames of large objects have notes if it is
    /// `noted`.
    pub(super) const fn new(secret: usize, window: (usize, usize), max_spares: usize, noted: bool) -> Self {
        let mut rooms = [ROOM; NR_GROUPS];
        if noted {
            rooms[GROUP_LARGE] -= NOTES;
        }
        Self {
            groups: [const { Bins::new(0, (0, 0)) }; NR_GROUPS],
            rooms,
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

    #[inline(always)]
    fn room(&self, group: usize) -> usize {
        debug_assert!(group < NR_GROUPS);
        // SAFETY: as for `bins`.
        unsafe { *self.rooms.get_unchecked(group) }
    }

    /// Notes which array holds objects from `start` to `stop`, or that there is none any more.
    #[inline(always)]
    fn note(&self, group: usize, inside: *mut u8, start: usize, stop: Option<usize>) {
        if self.room(group) != ROOM {
            // SAFETY: a frame of this group, which has notes.
            unsafe { notes(inside) }.set(start, stop.map_or(NONE as u8, |stop| quick::array_of(stop - start)));
        }
    }

    /// Takes an object of `nr` granules at a multiple of `align` granules, a power of two. `None` if no free block of
    /// the group holds one: then a frame must be added. O(1) for an alignment of one granule, but for the bin's tries.
    #[inline(always)]
    pub(super) fn alloc(&mut self, group: usize, nr: usize, align: usize) -> Option<NonNull<u8>> {
        let found = self.find(group, nr, align)?;
        // SAFETY: a block of that bin.
        if !unsafe { self.take_out(group, found.block, found.bin) } {
            return None;
        }
        // SAFETY: a block of a bin lies in a frame of this heap.
        let marks = unsafe { marks(found.block) };
        let (start, end, granule) = (found.start, found.end, found.granule);
        if end - start == self.room(group) {
            *self.spares(group) -= 1;
        }
        if granule == start {
            marks.set_used(start);
        } else {
            marks.set_start(granule);
            self.insert(group, found.block, start, granule);
        }
        let mut stop = granule + nr;
        if end - stop >= LEAST {
            self.set_aside(group, found.block, marks, stop, end);
        } else {
            stop = end;
        }
        if nr >= LEAST_NOTED {
            self.note(group, found.block, granule, Some(stop));
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

    /// Adds a new frame, which is what `frame` points to the beginning of, and takes an object out of it. `None` if it is
    /// larger than that: then the frame is kept as it is.
    ///
    /// # Safety
    ///
    /// The frame is the caller's own RAM, reached through the direct map, and is given up to the heap.
    #[inline(always)]
    pub(super) unsafe fn alloc_fresh(
        &mut self,
        group: usize,
        frame: NonNull<u8>,
        nr: usize,
        align: usize,
    ) -> Option<NonNull<u8>> {
        let (frame, first) = (frame.as_ptr(), GRANULES - self.room(group));
        // SAFETY: the frame becomes the heap's, and it is longer than its marks, of which all zeros are valid.
        unsafe { frame.cast::<[u64; FIRST]>().write([0; FIRST]) };
        if first > FIRST {
            // SAFETY: the same, and notes stand behind the marks.
            unsafe { at(frame, FIRST).cast::<Notes>().write(Notes::all(NONE as u8)) };
        }
        // SAFETY: a frame of this heap.
        let marks = unsafe { marks(frame) };
        self.nr_frames += 1;
        self.nr_granules += self.room(group);
        let Some(granule) = position(first, GRANULES, nr, align) else {
            *self.spares(group) += 1;
            self.set_aside(group, frame, marks, first, GRANULES);
            return None;
        };
        if granule > first {
            self.set_aside(group, frame, marks, first, granule);
        }
        marks.set_start(granule);
        let mut stop = granule + nr;
        if GRANULES - stop >= LEAST {
            self.set_aside(group, frame, marks, stop, GRANULES);
        } else {
            stop = GRANULES;
        }
        if nr >= LEAST_NOTED {
            self.note(group, frame, granule, Some(stop));
        }
        self.nr_objects += 1;
        NonNull::new(at(frame, granule))
    }

    /// Makes what lies from `start` to `end` a free block of its own.
    #[inline(always)]
    fn set_aside(&mut self, group: usize, inside: *mut u8, marks: &Marks, start: usize, end: usize) {
        marks.set_start(start);
        marks.set_free(start);
        self.insert(group, inside, start, end);
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
        if end - start >= LEAST_NOTED {
            self.note(group, object, start, None);
        }
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
        if end - start == self.room(group) {
            if *self.spares(group) >= self.max_spares {
                self.nr_frames -= 1;
                self.nr_granules -= end - start;
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
            let (room, first) = (self.room(group), GRANULES - self.room(group));
            let mut node = self.bins(group).first(bin_of(room));
            while !node.is_null() {
                // SAFETY: a node of a bin lies in a frame of this heap.
                if unsafe { marks(node.cast()) }.end(first) == GRANULES && granule_of(node.cast()) == first {
                    // SAFETY: its marks say that it is free, as a node of a bin is.
                    if !unsafe { self.unlink(group, node.cast(), first, GRANULES) } {
                        return None;
                    }
                    *self.spares(group) -= 1;
                    self.nr_frames -= 1;
                    self.nr_granules -= room;
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
        self.nr_granules.saturating_sub(free) * GRANULE
    }
}

/// The granule of `object`, if a used block begins there.
#[inline(always)]
fn used(marks: &Marks, object: *mut u8) -> Result<usize, Wrong> {
    // What is misaligned becomes a large number.
    let granule = ((object.addr() & (PAGE_SIZE as usize - 1)) as u32).rotate_right(GRANULE.ilog2()) as usize;
    if granule.wrapping_sub(FIRST) >= ROOM {
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
