// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map of words: for every 64 frames of RAM which blocks are hoarded, and for which list. 10 bytes for 64 frames,
//! found by frame number. Holes cost nothing.
//!
//! ```text
//!   spans   [ frames of RAM )        [ frames of RAM )        one for each range of RAM in a zone
//!              |                        |
//!              +- free    8 bytes a word: the free blocks of a hoarded word (see `word.rs`)
//!              +- tag     1 byte a word: what becomes of its frames
//!              +- order   1 byte a word: the tag's order, which is all that who frees has to know
//!              +- marks   8 bits a word: see `marks.rs`
//! ```
//!
//! Nothing is cleared at the start but the tags and orders: 2 bytes for 256 KiB of RAM.

mod marked;
#[cfg(test)]
mod tests;

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};

pub(super) use marked::Stripe;

use super::hoard::List;
use super::marks::{LINE, Marked, Marks};
use crate::addr::{Order, PAGE_SHIFT, Pfn, PhysRange};
use crate::buddy::PageBlock;
use crate::buddy::block::ORDER_BITS;
use crate::words;

/// log2 of the frames of a word.
pub(super) const WORD_ORDER: usize = 6;
/// Words of a stripe.
const STRIPE_WORDS: u64 = 64;
/// Most ranges of RAM, those of all zones together.
pub const MAX_RANGES: usize = 31;
/// The slots, and one that has no frames: a power of two, so that masking an index is enough.
const SLOTS: usize = 32;

/// What becomes of the frames of a word: a byte, written under the zone's lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag(u8);

impl Tag {
    /// Its free frames are in the buddy allocator, and it was never hoarded.
    pub(super) const FRESH: Self = Self(0xff);
    const PLAIN: u8 = 0x80;

    /// All its free frames are in the word, as blocks for this list; the buddy allocator has none of them.
    pub(super) const fn hoarded(list: List) -> Self {
        Self(list.as_raw())
    }

    /// A block for this list, a word or more, was handed out here.
    pub(super) const fn head(list: List) -> Self {
        Self(list.as_raw())
    }

    /// Its free frames are in the buddy allocator, from now on.
    pub(super) const fn plain(self) -> Self {
        Self(self.0 | Self::PLAIN)
    }

    pub(super) const fn is_fresh(self) -> bool {
        self.0 == Self::FRESH.0
    }

    pub(super) const fn is_plain(self) -> bool {
        self.0 & Self::PLAIN != 0
    }

    /// Whether its blocks are for this list and free ones are in the word.
    #[inline(always)]
    pub(super) const fn is_hoarded_for(self, list: List) -> bool {
        self.0 == list.as_raw()
    }

    /// The list that the word is hoarded for, or was when it was last hoarded.
    pub(super) const fn last_list(self) -> List {
        List::from_raw(self.0 & !Self::PLAIN)
    }

    /// The list that the word is hoarded for. It is hoarded.
    #[inline(always)]
    pub(super) const fn list(self) -> List {
        List::from_raw(self.0)
    }

    /// The order of the blocks in the word or of the block at its start; some impossible one if the word is plain.
    #[inline(always)]
    pub(super) const fn order(self) -> usize {
        self.0 as usize / List::PER_ORDER
    }
}

/// A word that exists: its number (the frame number divided by 64), its span, and the order of its blocks. Laid out as
/// a [`PageBlock`], with the span in place of the block's position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(u64);

impl Place {
    /// A word that never has a block.
    pub(super) const NOWHERE: Self = Self((SLOTS as u64 - 1) << ORDER_BITS);
    /// At or before all words, to look for some from.
    pub(super) const FIRST: Self = Self(0);
    const POSITION: u64 = ((1 << WORD_ORDER) - 1) << ORDER_BITS;

    #[inline(always)]
    const fn new(number: usize, slot: usize) -> Self {
        Self((number as u64) << (ORDER_BITS as usize + WORD_ORDER) | (slot as u64) << ORDER_BITS)
    }

    /// So many words behind this one.
    #[inline(always)]
    pub(super) const fn plus(self, count: u32) -> Self {
        Self(self.0 + ((count as u64) << (ORDER_BITS as usize + WORD_ORDER)))
    }

    const fn slot(self) -> usize {
        (self.0 >> ORDER_BITS) as usize % SLOTS
    }

    /// The number of its stripe: 64 words, as [`Lane`](crate::buddy::Lane) deals them out.
    #[inline(always)]
    pub(super) const fn stripe(self) -> u64 {
        self.0 >> (ORDER_BITS as usize + WORD_ORDER + WORD_ORDER)
    }

    const fn number(self) -> usize {
        (self.0 >> (ORDER_BITS as usize + WORD_ORDER)) as usize
    }

    /// The same word, with blocks for that list.
    pub(super) const fn with(self, list: List) -> Self {
        Self(self.0 & !0xff | list.order() as u64)
    }

    /// A block of the word, by the number of its bit.
    #[inline(always)]
    pub(super) const fn block(self, bit: u32) -> PageBlock {
        PageBlock::known(self.0 & !Self::POSITION | (bit as u64) << ORDER_BITS & Self::POSITION)
    }

    /// A frame of the word, by the number of its bit.
    pub(super) const fn pfn(self, bit: u32) -> Pfn {
        self.block(bit).pfn()
    }
}

/// A place that CPUs look at without a lock.
#[derive(Debug)]
pub(super) struct AtomicPlace(AtomicU64);

impl AtomicPlace {
    pub(super) const fn new(place: Place) -> Self {
        Self(AtomicU64::new(place.0))
    }

    #[inline(always)]
    pub(super) fn load(&self) -> Place {
        Place(self.0.load(Relaxed))
    }

    /// For a place that nothing is forgotten with.
    #[inline(always)]
    pub(super) fn store(&self, place: Place) {
        self.0.store(place.0, Relaxed);
    }

    /// Puts another in its place, and returns the one that was there: what has blocks there must not be forgotten.
    pub(super) fn swap(&self, place: Place) -> Place {
        Place(self.0.swap(place.0, Relaxed))
    }

    /// The same, if it is still `from`; otherwise somebody else has seen to that.
    pub(super) fn replace(&self, from: Place, to: Place) -> bool {
        self.0.compare_exchange(from.0, to.0, Relaxed, Relaxed).is_ok()
    }
}

/// What is kept of a word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'w> {
    /// The free blocks, while it is hoarded; zero otherwise.
    pub(super) free: &'w AtomicU64,
    tag: &'w AtomicU8,
    order: &'w AtomicU8,
}

impl Word<'_> {
    #[inline(always)]
    pub(super) fn tag(self) -> Tag {
        Tag(self.tag.load(Relaxed))
    }

    /// The order of the tag. Who frees a block of the word looks here alone.
    #[inline(always)]
    pub(super) fn order(self) -> usize {
        self.order.load(Relaxed) as usize
    }

    /// Changes the tag, if it is `from`.
    pub(super) fn replace_tag(self, from: Tag, to: Tag) -> bool {
        let is_replaced = self.tag.compare_exchange(from.0, to.0, Acquire, Relaxed).is_ok();
        if is_replaced {
            self.order.store(to.order() as u8, Relaxed);
        }
        is_replaced
    }

    /// Under the zone's lock, or by who has the block. Before the word is filled: a block of another order that is put
    /// into an empty word is refused, whatever order was seen.
    pub(super) fn set_tag(self, tag: Tag) {
        self.tag.store(tag.0, Relaxed);
        self.order.store(tag.order() as u8, Relaxed);
    }
}

/// The words of one range of RAM, from the start of the first one's stripe on. Pointers are moved back so far that the
/// absolute number of a word is its index.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Span {
    /// The first frame, as the bits of a block of order 0.
    start: u64,
    /// The number of frames, shifted likewise.
    frames: u64,
    tag: *mut AtomicU8,
    /// Between the two others: who allocates looks at the words and tags, who frees at the words and orders.
    free: *mut AtomicU64,
    order: *mut AtomicU8,
    marks: Marks,
    zone: usize,
}

impl Span {
    const EMPTY: Self = {
        let bytes = core::ptr::null_mut();
        Self { start: 0, frames: 0, tag: bytes, free: core::ptr::null_mut(), order: bytes, marks: Marks::NONE, zone: 0 }
    };
}

/// Words of metadata for [`WordMap::new`].
pub(super) const NOWHERE_WORDS: usize = 2;

/// All words of all zones.
#[derive(Debug)]
#[repr(C)]
pub(super) struct WordMap<'a> {
    /// Slot 0 and those below `used` are fixed; the next is written by who adds a range.
    spans: UnsafeCell<[Span; SLOTS]>,
    used: AtomicUsize,
    lanes: usize,
    /// Whether there is one span alone, in which each lane has a single group of marks.
    is_near: AtomicBool,
    metadata: PhantomData<&'a mut [u64]>,
}

// SAFETY: a span is written before `used` counts it, by one CPU at a time, and only read from then on. What its pointers
// lead to is atomics, in metadata that is borrowed for as long as the map lives.
unsafe impl Send for WordMap<'_> {}
// SAFETY: as above.
unsafe impl Sync for WordMap<'_> {}

/// The words that a range touches.
fn numbers(range: PhysRange) -> core::ops::Range<u64> {
    let shift = PAGE_SHIFT + WORD_ORDER as u32;
    let end = range.end().as_raw();
    range.start().as_raw() >> shift..if range.is_empty() { 0 } else { ((end - 1) >> shift) + 1 }
}

impl<'a> WordMap<'a> {
    /// Words of metadata for the frames of `range`, in so many lanes.
    pub(super) fn metadata_words(range: PhysRange, lanes: usize) -> usize {
        let (stripes, nr_words) = Self::stripes(range);
        let lines = nr_words.next_multiple_of(LINE) + 2 * (nr_words.div_ceil(8)).next_multiple_of(LINE);
        LINE - 1 + Marks::metadata_words(stripes.count(), lanes) + lines
    }

    /// The stripes that a range touches, and its words from the start of the first stripe on.
    fn stripes(range: PhysRange) -> (core::ops::Range<u64>, usize) {
        let numbers = numbers(range);
        let first = numbers.start / STRIPE_WORDS;
        let nr_words = numbers.end.saturating_sub(first * STRIPE_WORDS);
        (first..first + nr_words.div_ceil(STRIPE_WORDS), nr_words as usize)
    }

    /// An empty map, of words that are dealt out to so many lanes. `nowhere` has [`NOWHERE_WORDS`] and may hold anything.
    pub(super) fn new(nowhere: &'a mut [u64; NOWHERE_WORDS], lanes: usize) -> Self {
        *nowhere = [0, !0];
        let mut spans = [Span::EMPTY; SLOTS];
        let [.., last] = &mut spans;
        let [free, bytes] = nowhere;
        (last.free, last.tag) = ((&raw mut *free).cast(), (&raw mut *bytes).cast());
        last.order = last.tag.wrapping_add(1);
        Self {
            spans: UnsafeCell::new(spans),
            used: AtomicUsize::new(0),
            lanes,
            is_near: AtomicBool::new(false),
            metadata: PhantomData,
        }
    }

    /// Adds the words of a range, in whole frames, that no other range of the map has a frame of. `false` if there is
    /// no slot or too little metadata.
    pub(super) fn add(&mut self, range: PhysRange, zone: usize, metadata: &'a mut [u64]) -> bool {
        // SAFETY: the map is borrowed exclusively, so nobody else adds, and slot 0 is not read.
        unsafe { self.add_shared(range, zone, metadata) }
    }

    /// The same while CPUs use the map.
    ///
    /// # Safety
    ///
    /// 1. Nobody else adds a range at the same time.
    /// 2. The map has a range already.
    pub(super) unsafe fn add_shared(&self, range: PhysRange, zone: usize, metadata: &'a mut [u64]) -> bool {
        let (stripes, nr_words) = Self::stripes(range);
        let used = self.used.load(Relaxed);
        let nr_stripes = stripes.clone().count();
        let for_marks = Marks::metadata_words(nr_stripes, self.lanes);
        let for_bytes = nr_words.div_ceil(8).next_multiple_of(LINE);
        // Each part at the start of a cache line, and so each stripe in it.
        let skip = metadata.as_ptr().addr().wrapping_neg() % (8 * LINE) / 8;
        let Some((_, rest)) = metadata.split_at_mut_checked(skip) else { return false };
        let Some((marks, rest)) = rest.split_at_mut_checked(for_marks) else { return false };
        let Some((free, rest)) = rest.split_at_mut_checked(nr_words.next_multiple_of(LINE)) else { return false };
        let Some(bytes) = rest.get_mut(..2 * for_bytes) else { return false };
        let Some(marks) = Marks::new(marks, stripes.start, nr_stripes, self.lanes) else { return false };
        if used >= MAX_RANGES {
            return false;
        }
        // Tags decide whether a word has a meaning, so `free` may hold anything.
        words::fill(bytes, u64::from_ne_bytes([Tag::FRESH.0; 8]));
        let first = (stripes.start * STRIPE_WORDS) as usize;
        let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        // Taken once: a second exclusive borrow would end the pointers of the first.
        let bytes = bytes.as_mut_ptr().cast::<AtomicU8>();
        let span = Span {
            start: start << ORDER_BITS,
            frames: (end - start) << ORDER_BITS,
            // Words are atomic from now on: an atomic has the layout of its integer, and any bits are a value of it.
            tag: bytes.wrapping_sub(first),
            free: free.as_mut_ptr().cast::<AtomicU64>().wrapping_sub(first),
            order: bytes.wrapping_add(8 * for_bytes).wrapping_sub(first),
            marks,
            zone,
        };
        let slot = self.spans.get().cast::<Span>().wrapping_add(used);
        // SAFETY: below the number of slots; not counted yet, and by (2) not the first one, so nobody reads it; by (1)
        // nobody else writes it.
        unsafe { slot.write(span) };
        self.is_near.store(used == 0 && span.marks.is_one_group(), Relaxed);
        self.used.store(used + 1, Release);
        true
    }

    /// A slot that is fixed: the first, one that `used` counts, or the last.
    #[inline(always)]
    fn span(&self, slot: usize) -> &Span {
        let slot = self.spans.get().cast::<Span>().wrapping_add(slot % SLOTS).cast_const();
        // SAFETY: inside the array, and nobody writes it any more.
        unsafe { &*slot }
    }

    /// The word of a block's first frame, if that is RAM. O(ranges).
    #[inline(always)]
    pub(super) fn find(&self, block: &PageBlock) -> Option<Place> {
        (0..self.used.load(Acquire)).find_map(|slot| self.find_in(slot, block))
    }

    /// The same for the first range alone.
    #[inline(always)]
    pub(super) fn find_first(&self, block: &PageBlock) -> Option<Place> {
        self.find_in(0, block)
    }

    #[inline(always)]
    fn find_in(&self, slot: usize, block: &PageBlock) -> Option<Place> {
        let span = self.span(slot);
        let number = block.bits() & !(Place::POSITION | 0xff);
        let is_inside = block.bits().wrapping_sub(span.start) < span.frames;
        is_inside.then_some(Place(number | (slot as u64) << ORDER_BITS))
    }

    /// The word of a frame, if that is RAM. O(ranges).
    pub(super) fn find_frame(&self, pfn: Pfn) -> Option<Place> {
        self.find(&PageBlock::from_raw(pfn, Order::ZERO))
    }

    /// How many lanes there are.
    pub(super) const fn lanes(&self) -> usize {
        self.lanes
    }

    /// How many ranges there are.
    pub(super) fn nr_ranges(&self) -> usize {
        self.used.load(Acquire)
    }

    /// Whether a frame of this range is RAM already.
    pub(super) fn touches(&self, range: PhysRange) -> bool {
        let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        (0..self.used.load(Acquire)).map(|slot| self.span(slot)).any(|span| {
            let (first, behind) = (span.start >> ORDER_BITS, (span.start + span.frames) >> ORDER_BITS);
            first < end && start < behind
        })
    }

    /// What is kept of the word at `place`, which this map has told.
    #[inline(always)]
    pub(super) fn word(&self, place: Place) -> Word<'_> {
        let span = self.span(place.slot());
        let free = span.free.wrapping_add(place.number());
        let tag = span.tag.wrapping_add(place.number());
        let order = span.order.wrapping_add(place.number());
        // SAFETY: places come from `find`, which saw the frame in the span, so that the span's metadata has this
        // word, or are `NOWHERE`, number 0 of the last slot. The metadata is borrowed for as long as the map lives,
        // and only ever seen as atomics.
        let free = unsafe { &*free };
        // SAFETY: as above.
        let tag = unsafe { &*tag };
        // SAFETY: as above.
        let order = unsafe { &*order };
        Word { free, tag, order }
    }

    /// The first stripe of a span.
    #[inline(always)]
    const fn first_stripe(span: &Span) -> u64 {
        Place(span.start).stripe()
    }

    /// The first word of the first stripe of a span.
    #[inline(always)]
    const fn first_word(span: &Span) -> usize {
        (Self::first_stripe(span) * STRIPE_WORDS) as usize
    }

    /// Whether a word is marked.
    pub(super) fn is_marked(&self, place: Place, kind: Marked) -> bool {
        let span = self.span(place.slot());
        span.marks.is_marked(Self::offset(span, place), kind)
    }

    /// Marks a word, or no longer. Under its lane's lock.
    #[inline]
    pub(super) fn mark(&self, place: Place, kind: Marked, is_marked: bool) {
        let span = self.span(place.slot());
        span.marks.mark(Self::offset(span, place), kind, is_marked);
    }

    /// All words, with the first frame that is in the word's span.
    pub(super) fn words(&self) -> impl Iterator<Item = (Pfn, Word<'_>)> {
        (0..self.used.load(Acquire)).flat_map(move |slot| {
            let span = self.span(slot);
            let (start, end) = (span.start >> ORDER_BITS, (span.start + span.frames) >> ORDER_BITS);
            (start >> WORD_ORDER..end.div_ceil(1 << WORD_ORDER)).filter_map(move |number| {
                let pfn = Pfn::known((number << WORD_ORDER).max(start));
                Some((pfn, self.word(self.find_frame(pfn)?)))
            })
        })
    }

    /// Empties all words. O(words).
    pub(super) fn clear(&self) {
        self.words().for_each(|(_, word)| word.free.store(0, Relaxed));
    }

    /// The zone of a word's span.
    pub(super) fn zone(&self, place: Place) -> usize {
        self.span(place.slot()).zone
    }
}
