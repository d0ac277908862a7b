// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a CPU keeps at hand: for each cache a short array of free objects, last in, first out.
//!
//! Only the CPU itself touches its arrays, with interrupts masked: no atomics, and an object that another CPU
//! allocated is freed as cheaply as one's own. All arrays of a CPU lie in one block of words, laid out so that the
//! paths through it need the fewest instructions:
//!
//! ```text
//!   words 0..512         for each size up to 4096, in steps of 8: the array to take from
//!   32 words for each tag, from word 32 * tag + 1:
//!     +1                 fill: the place of the top object; 32 when full
//!     +3..=32            objects; the lowest place in use holds null
//! ```
//!
//! Arrays of different capacity begin at different places and are full at the same: so "full" is one bit of `fill`,
//! and "empty" is the null below the lowest object. Tags below [`FIRST_CACHE`](super::table::FIRST_CACHE) say that a
//! frame belongs to no cache: their arrays are both full and empty, so that every path that meets one goes the long
//! way (but for those of the [quick sizes](super::quick), which no frame has), and so do those of caches that are not to
//! be cached (debugging). A CPU without a block has [`NOTHING`].

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU16, Ordering};

use super::table::{FIRST_CACHE, NONE, Tag};
use crate::addr::PAGE_SHIFT;

/// Sizes that are found by the first words: up to this, in steps of eight.
pub(super) const LARGEST: usize = 4096;
/// log2 of the step.
pub(super) const STEP_SHIFT: usize = 3;
/// Words for each tag.
const STRIDE: usize = 32;
/// The place of the top object of a full array.
const FULL: usize = 32;
/// Objects of the largest array.
pub(super) const MAX_CAPACITY: usize = 29;
/// Where the frame table stands: in words of the array for [`NONE`] that hold nothing else. First the tags, then the
/// address of the first frame, then the number of frames.
const TABLE: usize = NONE as usize * STRIDE + 3;

/// Words of the block for tags below `nr_tags`.
pub(super) const fn words(nr_tags: usize) -> usize {
    nr_tags * STRIDE + 1
}

/// A word of a block: a pointer, or a number in the shape of one.
type Word = Cell<*mut u8>;

/// The block that is none: whatever goes through it finds its array both full and empty. It lies a word off a
/// multiple of 16, where no real block lies.
#[repr(C, align(64))]
struct Nothing {
    off: usize,
    words: [*mut u8; words(NONE as usize + 1)],
}

// SAFETY: nothing is ever written through it: every array is full and empty at once.
unsafe impl Sync for Nothing {}

/// For CPUs without arrays.
static NOTHING: Nothing = {
    let mut words = [ptr::null_mut::<u8>(); words(NONE as usize + 1)];
    let mut size = 0;
    while size < LARGEST >> STEP_SHIFT {
        #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
        {
            words[size] = NO_ARRAYS.cast_mut().wrapping_add(NONE as usize * STRIDE * 8);
        }
        size += 1;
    }
    // Its frame table is empty.
    #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
    {
        words[NONE as usize * STRIDE + 1] = ptr::without_provenance_mut(FULL);
    }
    Nothing { off: 0, words }
};

/// What a CPU without arrays has in their place.
pub const NO_ARRAYS: *const u8 = (&raw const NOTHING).cast::<u8>().wrapping_add(8);

/// A CPU's block of arrays.
#[derive(Clone, Copy)]
pub(super) struct Fronts(*mut u8);

/// One of its arrays.
#[derive(Clone, Copy)]
pub(super) struct Front(*mut u8);

impl Fronts {
    /// The block of a CPU that has none.
    pub(super) const fn nothing() -> *mut u8 {
        NO_ARRAYS.cast_mut()
    }

    /// Whether this is a block.
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.0.addr() & 8 == 0
    }

    /// # Safety
    ///
    /// `block` is [`nothing`](Self::nothing) or was initialised; interrupts are masked, and it is this CPU's own, or
    /// nobody else uses it.
    #[inline(always)]
    pub(super) const unsafe fn new(block: *mut u8) -> Self {
        Self(block)
    }

    /// Lays the block out: every array is full and empty.
    ///
    /// # Safety
    ///
    /// `block` is `words(nr_tags)` writable words that are the caller's alone; `table` outlives it.
    pub(super) unsafe fn init(block: *mut u8, nr_tags: usize, table: RawTable) -> Self {
        // SAFETY: the caller's own words; zero is null.
        unsafe { block.write_bytes(0, words(nr_tags) * 8) };
        let block = Self(block);
        for tag in NONE..nr_tags as Tag {
            block.front(tag).disable();
        }
        for step in 0..LARGEST >> STEP_SHIFT {
            block.word(step).set(block.front(NONE).0);
        }
        block.word(TABLE).set(table.tags.cast_mut().cast());
        block.word(TABLE + 1).set(ptr::without_provenance_mut(table.base));
        block.word(TABLE + 2).set(ptr::without_provenance_mut(table.len));
        block
    }

    #[inline(always)]
    fn word(&self, index: usize) -> &Word {
        // SAFETY: every index is below the block's words: a constant, or a tag that the block was made for.
        unsafe { &*self.0.cast::<Word>().wrapping_add(index) }
    }

    /// The array for objects of `bytes`, 1 to [`LARGEST`].
    #[inline(always)]
    pub(super) fn by_size(&self, step: usize) -> Front {
        Front(self.word(step).get())
    }

    /// Sets which array serves a step of sizes.
    pub(super) fn set_by_size(&self, step: usize, tag: Tag) {
        if step < LARGEST >> STEP_SHIFT {
            self.word(step).set(self.front(tag).0);
        }
    }

    /// The array of a tag.
    #[inline(always)]
    pub(super) fn front(&self, tag: Tag) -> Front {
        Front(self.0.wrapping_add(usize::from(tag) * STRIDE * 8))
    }

    /// The frame table.
    #[inline(always)]
    pub(super) fn table(&self) -> RawTable {
        let [tags, base, len] = [0, 1, 2].map(|index| self.word(TABLE + index).get());
        RawTable { tags: tags.cast_const().cast(), base: base.addr(), len: len.addr() }
    }
}

/// The frame table, as the fast paths read it.
#[derive(Clone, Copy)]
pub(super) struct RawTable {
    pub(super) tags: *const Tag,
    /// Where the direct map shows the first frame.
    pub(super) base: usize,
    /// Its frames.
    pub(super) len: usize,
}

impl RawTable {
    /// What an object's address is XORed with to mark it as free.
    #[inline(always)]
    pub(super) fn key(&self) -> usize {
        self.tags.addr()
    }

    /// The tag of the frame that holds `addr`; `None` outside the table.
    #[inline(always)]
    pub(super) fn tag(&self, addr: usize) -> Option<Tag> {
        let frame = addr.wrapping_sub(self.base) >> PAGE_SHIFT;
        // Other CPUs may change the tags of other frames meanwhile: an atomic load, which is a plain one in code.
        // SAFETY: below the table's length.
        (frame < self.len)
            .then(|| unsafe { &*self.tags.wrapping_add(frame).cast::<AtomicU16>() }.load(Ordering::Relaxed))
    }
}

impl Front {
    #[inline(always)]
    fn fill(&self) -> &Word {
        // SAFETY: word 1 of an array of a block.
        unsafe { &*self.0.cast::<Word>().wrapping_add(1) }
    }

    #[inline(always)]
    fn place(&self, place: usize) -> &Word {
        // SAFETY: `place` is at most `FULL`, so inside the array.
        unsafe { &*self.0.cast::<Word>().wrapping_add(place) }
    }

    /// Makes it an empty array for up to `capacity` objects.
    pub(super) fn enable(&self, capacity: usize) {
        let bottom = FULL - capacity.clamp(1, MAX_CAPACITY);
        self.place(bottom).set(ptr::null_mut());
        self.fill().set(ptr::without_provenance_mut(bottom));
    }

    /// Makes it full and empty at once. Objects in it are forgotten: the caller has taken them.
    pub(super) fn disable(&self) {
        self.place(FULL).set(ptr::null_mut());
        self.fill().set(ptr::without_provenance_mut(FULL));
    }

    /// Takes the top object.
    #[inline(always)]
    pub(super) fn pop(&self) -> *mut u8 {
        let fill = self.fill().get().addr();
        let object = self.place(fill).get();
        if !object.is_null() {
            self.fill().set(ptr::without_provenance_mut(fill - 1));
        }
        object
    }

    /// Whether the next [`push`](Self::push) has no room.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.fill().get().addr() & FULL != 0
    }

    /// Puts an object on top. The array is not full.
    #[inline(always)]
    pub(super) fn push(&self, object: *mut u8) {
        let fill = self.fill().get().addr() + 1;
        self.place(fill).set(object);
        self.fill().set(ptr::without_provenance_mut(fill));
    }

    /// The objects in it, from the top down.
    pub(super) fn objects(&self) -> impl Iterator<Item = *mut u8> + '_ {
        let top = self.fill().get().addr();
        (3..=top).rev().map(|place| self.place(place).get()).take_while(|object| !object.is_null())
    }

    /// Fills an empty array: `fill` writes objects into the slice and returns how many. The slice has room for `nr`,
    /// at most the array's capacity.
    #[inline(always)]
    pub(super) fn refill(&self, nr: usize, fill: impl FnOnce(&mut [*mut u8]) -> usize) -> usize {
        let bottom = self.fill().get().addr();
        // SAFETY: the places above the bottom of this CPU's array, within its capacity; nothing else refers to them.
        let places = unsafe { core::slice::from_raw_parts_mut(self.place(bottom + 1).as_ptr(), nr) };
        let filled = fill(places);
        self.fill().set(ptr::without_provenance_mut(bottom + filled));
        filled
    }

    /// Takes the `nr` objects that were freed longest ago out of the array, fewer if it has fewer; `each` gets them.
    #[inline(always)]
    pub(super) fn take_oldest(&self, nr: usize, capacity: usize, mut each: impl FnMut(*mut u8)) {
        let (top, bottom) = (self.fill().get().addr(), FULL - capacity);
        let taken = nr.min(top - bottom);
        for place in bottom + 1..=bottom + taken {
            each(self.place(place).get());
        }
        let rest = top - bottom - taken;
        // SAFETY: both ranges are places of this array up to its top.
        unsafe { ptr::copy(self.place(bottom + taken + 1), self.place(bottom + 1).as_ptr().cast(), rest) };
        self.fill().set(ptr::without_provenance_mut(top - taken));
    }
}

const _: () = assert!(NONE as usize * STRIDE >= (LARGEST >> STEP_SHIFT) && FIRST_CACHE > NONE);
const _: () = assert!(size_of::<*mut u8>() == 8, "words are 64 bits wide");

#[cfg(test)]
mod tests {
    use super::*;

    fn object(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(number * 16)
    }

    fn block(words: &mut [u64], nr_tags: usize) -> Fronts {
        assert!(words.len() >= super::words(nr_tags));
        // SAFETY: long enough, and borrowed by the test.
        unsafe { Fronts::init(words.as_mut_ptr().cast(), nr_tags, RawTable { tags: ptr::null(), base: 0, len: 0 }) }
    }

    #[test]
    fn nothing_is_full_and_empty() {
        // SAFETY: the block that is none.
        let fronts = unsafe { Fronts::new(Fronts::nothing()) };
        for step in 0..LARGEST >> STEP_SHIFT {
            assert!(fronts.by_size(step).is_full() && fronts.by_size(step).pop().is_null());
        }
        assert_eq!(fronts.table().tag(0), None);
    }

    #[test]
    fn an_array_is_a_stack_of_its_capacity() {
        let mut words = [0; words(FIRST_CACHE as usize + 2)];
        let fronts = block(&mut words, FIRST_CACHE as usize + 2);
        for capacity in 1..=MAX_CAPACITY {
            let front = fronts.front(FIRST_CACHE);
            front.enable(capacity);
            assert!(front.pop().is_null());
            for number in 1..=capacity {
                assert!(!front.is_full());
                front.push(object(number));
            }
            assert!(front.is_full());
            assert_eq!(front.objects().count(), capacity);
            for number in (1..=capacity).rev() {
                assert_eq!(front.pop(), object(number));
            }
            assert!(front.pop().is_null());
            assert!(fronts.front(FIRST_CACHE + 1).is_full(), "its neighbour is as it was");
        }
    }

    #[test]
    fn the_oldest_leave_first_and_the_order_of_the_rest_stays() {
        let mut words = [0; words(FIRST_CACHE as usize + 1)];
        let front = block(&mut words, FIRST_CACHE as usize + 1).front(FIRST_CACHE);
        front.enable(7);
        (1..=7).for_each(|number| front.push(object(number)));
        let mut out = Vec::new();
        front.take_oldest(3, 7, |object| out.push(object));
        assert_eq!(out, [1, 2, 3].map(object));
        assert!(front.objects().eq([7, 6, 5, 4].map(object)));
        front.take_oldest(9, 7, |object| out.push(object));
        assert_eq!(out.len(), 7);
        assert!(front.pop().is_null());
        let filled = front.refill(4, |places| {
            places.iter_mut().zip(1..4).for_each(|(place, number)| *place = object(number));
            3
        });
        assert_eq!(filled, 3);
        assert!(front.objects().eq([3, 2, 1].map(object)));
    }
}
