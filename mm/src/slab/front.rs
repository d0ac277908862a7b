// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a CPU keeps at hand: for each cache a short array of free objects, last in, first out.
//!
//! Only the CPU itself touches its arrays, with interrupts masked or in a sequence that an interrupt makes begin again
//! (the fast paths of [`Arch`](crate::arch::Arch)): no atomics, and an object that another CPU allocated is freed as
//! cheaply as one's own. All arrays of a CPU lie in one block of words, laid out so that the paths through it need the
//! fewest instructions:
//!
//! ```text
//!   words -8..0          the frame table: tags, address of the first frame, number of frames
//!   halfwords 0..512     for each size up to 4096, in steps of 8: the tag of the array to take from
//!   a word for each tag  its top: the place of the top object, by its address
//!   32 words for each array, the lowest place in use holds null
//! ```
//!
//! Tags are numbers of words from the beginning of the block, so a top is found by its tag alone. Arrays of different
//! capacity begin at different places and are full where the address of the top is a multiple of 256: so a look at the
//! top tells "full", and "empty" is the null below the lowest object. Tags below
//! [`FIRST_CACHE`](super::table::FIRST_CACHE) say that a frame belongs to no cache: their tops are both full and empty, so
//! that every path that meets one goes the long way (but for those of the [quick sizes](super::quick), of which frames
//! have only the [even](super::even) ones), and so are those of caches that are not to be cached (debugging) and of those
//! beyond [`WITHOUT_ARRAY`]. A CPU without a block has [`NOTHING`].

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU8, Ordering};

use super::table::{FIRST_QUICK, NONE, NR_TAGS, Tag, WITHOUT_ARRAY};
use crate::addr::PAGE_SHIFT;

/// Sizes that are found by the first halfwords: up to this, in steps of eight.
pub(super) const LARGEST: usize = 4096;
/// log2 of the step.
pub(super) const STEP_SHIFT: usize = 3;
/// How many steps there are.
const NR_STEPS: usize = LARGEST >> STEP_SHIFT;
/// Words before the block's address.
const HEAD: usize = 8;
/// Of them, so many words before it: the table's tags, the address of the first frame, the number of frames.
const TAGS: usize = 3;
const FIRST_FRAME: usize = 2;
const NR_FRAMES: usize = 1;
/// Words of an array.
const STRIDE: usize = 32;
/// What the address of a full array's top is a multiple of.
const FULL: usize = STRIDE * 8;
/// Objects of the largest array.
pub(super) const MAX_CAPACITY: usize = STRIDE - 1;
/// The place of the top object of the first array when it is full; null for the tags without an array lies an array before.
const FIRST_END: usize = (NR_TAGS + HEAD).next_multiple_of(STRIDE) - HEAD + STRIDE;
/// Words of a block.
const WORDS: usize = HEAD + FIRST_END + (WITHOUT_ARRAY - FIRST_QUICK - 1) as usize * STRIDE + 1;
/// Bytes of a block.
pub(super) const BYTES: usize = WORDS * 8;

/// The layout, for back ends with fast paths of their own: bytes from the block's address, and what addresses and entries
/// are looked at with.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "for a target's back end"))]
pub(crate) mod layout {
    pub(crate) const TAGS: isize = -8 * super::TAGS as isize;
    /// The number of frames follows.
    pub(crate) const FIRST_FRAME: isize = -8 * super::FIRST_FRAME as isize;
    pub(crate) const FRAME_SHIFT: u32 = super::PAGE_SHIFT;
    /// log2 of the bytes of a tag, by sizes. In the frame table they are bytes.
    pub(crate) const TAG_SHIFT: u32 = size_of::<super::Tag>().ilog2();
    /// log2 of the bytes of a top.
    pub(crate) const TOP_SHIFT: u32 = size_of::<super::Word>().ilog2();
    /// The bits of a top that are all clear if the array is full.
    pub(crate) const FULL: usize = super::FULL - 1;
    /// The tag of what lies in no frame of the table.
    pub(crate) const NONE: u16 = super::NONE;
    /// Bytes of a place.
    pub(crate) const PLACE: isize = 8;

    const _: () = assert!(super::FIRST_FRAME == super::NR_FRAMES + 1, "they are loaded as a pair");
}

/// A word of a block: a pointer, or a number in the shape of one.
type Word = Cell<*mut u8>;

/// Words of the block that is none: all tags, and null at a multiple of [`FULL`].
const NOTHING_WORDS: usize = NR_TAGS.next_multiple_of(STRIDE) + STRIDE;

/// The block that is none: whatever goes through it finds its array both full and empty. It lies a word off a
/// multiple of 16, where no real block lies.
#[repr(C, align(256))]
struct Nothing {
    off: usize,
    head: [*mut u8; HEAD],
    words: [*mut u8; NOTHING_WORDS],
}

// SAFETY: nothing is ever written through it: every array is full and empty at once.
unsafe impl Sync for Nothing {}

/// For CPUs without arrays.
static NOTHING: Nothing = {
    // No frames in its table.
    let (head, mut words) = ([ptr::null_mut::<u8>(); HEAD], [ptr::null_mut::<u8>(); NOTHING_WORDS]);
    // Four sizes a word.
    let (mut word, mut tag) = (0, NONE as usize);
    #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
    {
        while word < NR_STEPS / 4 {
            words[word] = ptr::without_provenance_mut(NONE as usize * 0x1_0001_0001_0001);
            word += 1;
        }
        let last = (1 + HEAD + NR_TAGS).next_multiple_of(STRIDE) - 1 - HEAD;
        while tag < NR_TAGS {
            words[tag] = NO_ARRAYS.cast_mut().wrapping_add(last * 8);
            tag += 1;
        }
    }
    Nothing { off: 0, head, words }
};

/// What a CPU without arrays has in their place.
pub const NO_ARRAYS: *const u8 = (&raw const NOTHING).cast::<u8>().wrapping_add((1 + HEAD) * 8);

/// A CPU's block of arrays.
#[derive(Clone, Copy)]
pub(super) struct Fronts(*mut u8);

/// One of its arrays: where its top is.
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
    /// `block` is [`nothing`](Self::nothing) or the [`block`](Self::block) of one that was initialised; interrupts are
    /// masked, and it is this CPU's own, or nobody else uses it.
    #[inline(always)]
    pub(super) const unsafe fn new(block: *mut u8) -> Self {
        Self(block)
    }

    /// Lays a block out: every array is full and empty.
    ///
    /// # Safety
    ///
    /// `memory` is [`BYTES`] writable bytes at a multiple of [`FULL`] that are the caller's alone; `table` outlives it.
    pub(super) unsafe fn init(memory: *mut u8, table: RawTable) -> Self {
        // SAFETY: the caller's own bytes; zero is null.
        unsafe { memory.write_bytes(0, BYTES) };
        let block = Self(memory.wrapping_add(HEAD * 8));
        for tag in NONE..NR_TAGS as Tag {
            block.disable(tag);
        }
        (0..NR_STEPS).for_each(|step| block.set_by_size(step, NONE));
        block.head(TAGS).set(table.tags.cast_mut().cast());
        block.head(FIRST_FRAME).set(ptr::without_provenance_mut(table.base));
        block.head(NR_FRAMES).set(ptr::without_provenance_mut(table.len));
        block
    }

    /// What [`new`](Self::new) makes this of again.
    pub(super) const fn block(self) -> *mut u8 {
        self.0
    }

    /// The memory that it was made of. This is a block.
    pub(super) fn memory(self) -> *mut u8 {
        self.0.wrapping_sub(HEAD * 8)
    }

    /// So many words before the block's address.
    #[inline(always)]
    fn head(&self, before: usize) -> &Word {
        // SAFETY: a constant of at most `HEAD`.
        unsafe { &*self.0.cast::<Word>().wrapping_sub(before) }
    }

    #[inline(always)]
    fn step(&self, step: usize) -> &Cell<Tag> {
        // SAFETY: the caller's step is below `NR_STEPS`.
        unsafe { &*self.0.cast::<Cell<Tag>>().wrapping_add(step) }
    }

    /// The array to take objects of a step of sizes from, below `LARGEST >> STEP_SHIFT`.
    #[inline(always)]
    pub(super) fn by_size(&self, step: usize) -> Front {
        self.front(self.tag_by_size(step))
    }

    /// The tag of that array.
    #[inline(always)]
    pub(super) fn tag_by_size(&self, step: usize) -> Tag {
        self.step(step).get()
    }

    /// Sets which array serves a step of sizes.
    pub(super) fn set_by_size(&self, step: usize, tag: Tag) {
        if step < NR_STEPS {
            self.step(step).set(tag);
        }
    }

    /// The array of a tag.
    #[inline(always)]
    pub(super) fn front(&self, tag: Tag) -> Front {
        self.front_at(tag.into())
    }

    /// The same for a wider number.
    #[inline(always)]
    pub(super) fn front_at(&self, tag: usize) -> Front {
        debug_assert!(tag < NR_TAGS);
        Front(self.0.wrapping_add(tag * 8))
    }

    /// Where the top of a tag's full array is, with access to the whole block.
    fn end(&self, tag: Tag) -> *mut *mut u8 {
        let end = if (FIRST_QUICK..WITHOUT_ARRAY).contains(&tag) {
            FIRST_END + usize::from(tag - FIRST_QUICK) * STRIDE
        } else {
            FIRST_END - STRIDE
        };
        self.0.cast::<*mut u8>().wrapping_add(end)
    }

    /// Makes a tag's array, of a quick size or a cache that has one, an empty one for up to `capacity` objects.
    pub(super) fn enable(&self, tag: Tag, capacity: usize) {
        self.begin(tag, self.end(tag).wrapping_sub(capacity.clamp(1, MAX_CAPACITY)));
    }

    /// Makes it full and empty at once. Objects in it are forgotten: the caller has taken them.
    pub(super) fn disable(&self, tag: Tag) {
        self.begin(tag, self.end(tag));
    }

    /// Makes an array begin at a place of it.
    fn begin(&self, tag: Tag, bottom: *mut *mut u8) {
        // SAFETY: a place of the array.
        unsafe { bottom.write(ptr::null_mut()) };
        self.front(tag).top().set(bottom.cast());
    }

    /// The frame table.
    #[inline(always)]
    pub(super) fn table(&self) -> RawTable {
        let [tags, base, len] = [TAGS, FIRST_FRAME, NR_FRAMES].map(|before| self.head(before).get());
        RawTable { tags: tags.cast_const().cast(), base: base.addr(), len: len.addr() }
    }
}

/// The frame table, as the fast paths read it.
#[derive(Clone, Copy)]
pub(super) struct RawTable {
    pub(super) tags: *const u8,
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
            .then(|| unsafe { &*self.tags.wrapping_add(frame).cast::<AtomicU8>() }.load(Ordering::Relaxed).into())
    }
}

impl Front {
    #[inline(always)]
    fn top(&self) -> &Word {
        // SAFETY: the top of an array of a block.
        unsafe { &*self.0.cast::<Word>() }
    }

    #[inline(always)]
    fn places(&self) -> *mut *mut u8 {
        self.top().get().cast()
    }

    /// Takes the top object.
    #[inline(always)]
    pub(super) fn pop(&self) -> *mut u8 {
        let top = self.places();
        // SAFETY: a place of the array: that of an object, or of the null below them.
        let object = unsafe { top.read() };
        if !object.is_null() {
            self.top().set(top.wrapping_sub(1).cast());
        }
        object
    }

    /// Whether the next [`push`](Self::push) has no room.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.places().addr() & (FULL - 1) == 0
    }

    /// Puts an object on top. The array is not full.
    #[inline(always)]
    pub(super) fn push(&self, object: *mut u8) {
        let top = self.places().wrapping_add(1);
        // SAFETY: as the array is not full, the next place is one of it.
        unsafe { top.write(object) };
        self.top().set(top.cast());
    }

    /// The objects in it, from the top down.
    pub(super) fn objects(&self) -> impl Iterator<Item = *mut u8> + '_ {
        let mut place = self.places();
        core::iter::from_fn(move || {
            // SAFETY: a place of the array, and not below the null.
            let object = unsafe { place.read() };
            place = place.wrapping_sub(1);
            (!object.is_null()).then_some(object)
        })
    }

    /// Fills an empty array: `fill` writes objects into the slice and returns how many. The slice has room for `nr`,
    /// at most the array's capacity.
    #[inline(always)]
    pub(super) fn refill(&self, nr: usize, fill: impl FnOnce(&mut [*mut u8]) -> usize) -> usize {
        let bottom = self.places();
        // SAFETY: the places above the bottom of this CPU's array, within its capacity; nothing else refers to them.
        let places = unsafe { core::slice::from_raw_parts_mut(bottom.wrapping_add(1), nr) };
        let filled = fill(places);
        self.top().set(bottom.wrapping_add(filled).cast());
        filled
    }

    /// Whether the next [`pop`](Self::pop) finds nothing.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        // SAFETY: a place of the array: that of an object, or of the null below them.
        unsafe { self.places().read() }.is_null()
    }

    /// Takes the `nr` objects that were freed last out of a full array of at least so many; `all` gets them.
    #[inline(always)]
    pub(super) fn take_top<R>(&self, nr: usize, all: impl FnOnce(&[*mut u8]) -> R) -> R {
        let rest = self.places().wrapping_sub(nr);
        // SAFETY: the highest places of this CPU's full array; nothing changes them meanwhile.
        let result = all(unsafe { core::slice::from_raw_parts(rest.wrapping_add(1), nr) });
        self.top().set(rest.cast());
        result
    }

    /// Takes the `nr` objects that were freed last out of the array, fewer if it has fewer; `each` gets them. The rest is not
    /// moved.
    #[inline(always)]
    pub(super) fn take_last(&self, nr: usize, mut each: impl FnMut(*mut u8)) {
        let mut top = self.places();
        for _ in 0..nr {
            // SAFETY: a place of the array, and not below the null.
            let object = unsafe { top.read() };
            if object.is_null() {
                break;
            }
            top = top.wrapping_sub(1);
            each(object);
        }
        self.top().set(top.cast());
    }
}

const _: () = assert!(NONE as usize * 8 >= NR_STEPS * size_of::<Tag>() && FIRST_QUICK > NONE);
const _: () = assert!(((FIRST_END + HEAD) * 8).is_multiple_of(FULL) && FIRST_END - STRIDE >= NR_TAGS);
const _: () = assert!(BYTES <= 5 << PAGE_SHIFT && WITHOUT_ARRAY as usize <= NR_TAGS);
const _: () = assert!(size_of::<*mut u8>() == 8, "words are 64 bits wide");

#[cfg(test)]
mod tests {
    use super::super::table::FIRST_CACHE;
    use super::*;

    fn object(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(number * 16)
    }

    #[repr(align(256))]
    struct Memory([u8; BYTES]);

    fn block(memory: &mut Memory) -> Fronts {
        // SAFETY: long enough, aligned, and borrowed by the test.
        unsafe { Fronts::init(memory.0.as_mut_ptr(), RawTable { tags: ptr::null(), base: 0, len: 0 }) }
    }

    #[test]
    fn nothing_is_full_and_empty() {
        // SAFETY: the block that is none.
        let fronts = unsafe { Fronts::new(Fronts::nothing()) };
        assert!(!fronts.is_some());
        for step in 0..LARGEST >> STEP_SHIFT {
            assert!(fronts.by_size(step).is_full() && fronts.by_size(step).pop().is_null());
        }
        for tag in NONE..NR_TAGS as Tag {
            assert!(fronts.front(tag).is_full() && fronts.front(tag).pop().is_null());
        }
        assert_eq!(fronts.table().tag(0), None);
    }

    #[test]
    fn an_array_is_a_stack_of_its_capacity() {
        let mut memory = Memory([0; BYTES]);
        let fronts = block(&mut memory);
        assert!(fronts.is_some());
        for tag in [FIRST_QUICK, FIRST_CACHE, WITHOUT_ARRAY - 1] {
            for capacity in (1..=MAX_CAPACITY).step_by(if cfg!(miri) { 15 } else { 1 }) {
                let front = fronts.front(tag);
                fronts.enable(tag, capacity);
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
                let mut others = (NONE..NR_TAGS as Tag).filter(|other| *other != tag).map(|other| fronts.front(other));
                assert!(others.all(|other| other.is_full() && other.pop().is_null()), "the others are as they were");
            }
            fronts.disable(tag);
        }
    }

    #[test]
    fn the_last_leave_first_and_the_order_of_the_rest_stays() {
        let mut memory = Memory([0; BYTES]);
        let fronts = block(&mut memory);
        let front = fronts.front(FIRST_CACHE);
        fronts.enable(FIRST_CACHE, 7);
        (1..=7).for_each(|number| front.push(object(number)));
        let mut out = Vec::new();
        front.take_last(3, |object| out.push(object));
        assert_eq!(out, [7, 6, 5].map(object));
        assert!(front.objects().eq([4, 3, 2, 1].map(object)));
        front.take_last(9, |object| out.push(object));
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
