// SPDX-License-Identifier: MIT OR Apache-2.0
//! One slab of a cache: a block of pages cut into equal slots.
//!
//! ```text
//!   [ head | free bits ... ][ slot 0 ][ slot 1 ] ... [ slot n-1 ][ rest ]
//! ```
//!
//! A bit for each slot says whether it is free. There are no links in the objects; what an object's memory holds while
//! it is free is nobody's business, and a second free is seen by its bit.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use crate::addr::{Order, PAGE_SIZE};

/// How a cache cuts its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    /// Pages of a block.
    pub(super) order: Order,
    /// Bytes from one object to the next.
    pub(super) stride: u32,
    /// Where the first object lies.
    pub(super) first: u32,
    /// Objects in a block.
    pub(super) nr: u32,
    /// The inverse of the stride's odd part, modulo 2^32: multiplied by it, a multiple of that part becomes the quotient, and
    /// everything else becomes a number that is larger than any quotient.
    inverse: u32,
    /// How many factors of two the stride has.
    twos: u32,
    /// Bits of an address that lie within the block.
    inside: u32,
    /// [`first`](Self::first) times the inverse, negated.
    before: u32,
    /// The free bits of a block in which all slots are free, if they are one word; else 0.
    all: u64,
}

/// The inverse of an odd number modulo 2^32, by Newton's iteration: each step doubles the bits that are right, three at
/// first.
const fn inverse(odd: u32) -> u32 {
    let (mut inverse, mut step) = (odd, 0);
    while step < 4 {
        inverse = inverse.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// What stands at the beginning of the block; its free bits follow.
#[repr(C)]
pub(super) struct Page {
    next: Cell<*mut Page>,
    prev: Cell<*mut Page>,
    /// Slots that are free; not kept where the free bits are one word, which tells it.
    nr_free: Cell<usize>,
}

/// What an object that was put back has made of its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Put {
    /// No slot was free before.
    pub(super) is_first: bool,
    /// All slots are free now.
    pub(super) is_last: bool,
}

/// Why a pointer is no object in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotUsed {
    Free,
    NoObject,
}

impl Cut {
    /// Cuts blocks into slots of `stride` bytes whose objects, `lead` bytes into the slot, lie at multiples of `align`.
    /// The smallest order, up to `max_order`, that wastes an eighth at most; else the one that wastes least; beyond
    /// `max_order` only if no smaller block holds an object. `None` if none does.
    pub(super) fn new(stride: usize, lead: usize, align: usize, max_order: Order) -> Option<Self> {
        let mut best: Option<(Self, usize)> = None;
        for order in Order::all() {
            if order > max_order && best.is_some() {
                break;
            }
            let Some(cut) = Self::of_order(stride, lead, align, order) else { continue };
            let waste = overhead(&cut) * 1000 / order.bytes() as usize;
            if best.is_none_or(|(_, least)| waste < least) {
                best = Some((cut, waste));
            }
            if waste <= 125 {
                break;
            }
        }
        best.map(|(cut, _)| cut)
    }

    fn of_order(stride: usize, lead: usize, align: usize, order: Order) -> Option<Self> {
        let bytes = order.bytes() as usize;
        let fitting = |nr: usize| {
            let head = size_of::<Page>() + nr.div_ceil(64) * 8;
            (head + lead).next_multiple_of(align)
        };
        let mut nr = (bytes / stride).min(u16::MAX as usize);
        while nr > 0 && fitting(nr) - lead + nr * stride > bytes {
            nr -= 1;
        }
        if nr == 0 {
            return None;
        }
        let stride_bytes = u32::try_from(stride).ok()?;
        let inverse = inverse(stride_bytes >> stride_bytes.trailing_zeros());
        let first = fitting(nr) as u32;
        Some(Self {
            order,
            stride: stride_bytes,
            first,
            nr: nr as u32,
            inverse,
            twos: stride_bytes.trailing_zeros(),
            inside: bytes as u32 - 1,
            before: first.wrapping_mul(inverse).wrapping_neg(),
            all: if nr > 64 { 0 } else { u64::MAX >> (64 - nr) },
        })
    }

    /// Whether the free bits of a block are one word.
    #[inline(always)]
    pub(super) const fn is_one_word(&self) -> bool {
        self.all != 0
    }

    /// Words of free bits.
    const fn words(&self) -> usize {
        self.nr.div_ceil(64) as usize
    }

    /// The block that an object lies in.
    #[inline(always)]
    pub(super) fn page_of(&self, object: *mut u8) -> *mut Page {
        object.map_addr(|addr| addr & !(self.inside as usize)).cast()
    }

    /// The slot of an object, if one begins there.
    #[inline(always)]
    fn slot(&self, object: *mut u8) -> Option<usize> {
        let offset = object.addr() as u32 & self.inside;
        // What is no multiple of the stride's power of two is rotated to the top.
        let slot = offset.wrapping_mul(self.inverse).wrapping_add(self.before).rotate_right(self.twos);
        (slot < self.nr).then_some(slot as usize)
    }

    #[inline(always)]
    pub(super) fn object(&self, page: *mut Page, slot: usize) -> *mut u8 {
        page.cast::<u8>().wrapping_add(self.first as usize + slot * self.stride as usize)
    }

    /// All objects of a block with their state, in ascending order.
    ///
    /// # Safety
    ///
    /// `page` is a block of this cut, its cache's lock held.
    pub(super) unsafe fn walk(&self, page: *mut Page, mut each: impl FnMut(*mut u8, bool)) {
        for slot in 0..self.nr as usize {
            // SAFETY: the caller's promise.
            let word = unsafe { Page::word(page, slot >> 6) };
            each(self.object(page, slot), word.get() >> (slot & 63) & 1 != 0);
        }
    }
}

impl Page {
    /// Makes a block a slab, all slots free.
    ///
    /// # Safety
    ///
    /// The block of the cut's order at `block` is the caller's own RAM, through the direct map.
    pub(super) unsafe fn init(block: NonNull<u8>, cut: &Cut) -> *mut Self {
        let page = block.as_ptr().cast::<Self>();
        let head = Self {
            next: Cell::new(ptr::null_mut()),
            prev: Cell::new(ptr::null_mut()),
            nr_free: Cell::new(cut.nr as usize),
        };
        // SAFETY: the caller's own memory, and page aligned.
        unsafe { page.write(head) };
        if cut.is_one_word() {
            // SAFETY: the slab's only word.
            unsafe { Self::word(page, 0) }.set(cut.all);
        } else {
            for index in 0..cut.words() {
                let slots = cut.nr as usize - index * 64;
                // SAFETY: inside the head that `Cut` left room for.
                unsafe { Self::word(page, index) }.set(if slots >= 64 { u64::MAX } else { (1 << slots) - 1 });
            }
        }
        page
    }

    /// A word of free bits.
    ///
    /// # Safety
    ///
    /// `page` is a slab whose cache's lock is held, and `index` is below its cut's words.
    #[inline(always)]
    unsafe fn word<'p>(page: *mut Self, index: usize) -> &'p Cell<u64> {
        // SAFETY: the words follow the head, by the caller's promise.
        unsafe { &*page.wrapping_add(1).cast::<Cell<u64>>().wrapping_add(index) }
    }

    /// # Safety
    ///
    /// `page` is a slab whose cache's lock is held.
    #[inline(always)]
    pub(super) unsafe fn head<'p>(page: *mut Self) -> &'p Self {
        // SAFETY: the caller's promise; cells allow aliases.
        unsafe { &*page }
    }

    /// Whether all slots are free.
    ///
    /// # Safety
    ///
    /// `page` is a slab of this cut whose cache's lock is held.
    #[inline(always)]
    pub(super) unsafe fn is_empty(page: *mut Self, cut: &Cut) -> bool {
        if cut.is_one_word() {
            // SAFETY: the caller's promise.
            unsafe { Self::word(page, 0) }.get() == cut.all
        } else {
            // SAFETY: the caller's promise.
            unsafe { Self::head(page) }.nr_free.get() == cut.nr as usize
        }
    }

    /// Takes a free slot, the lowest, of which there is one, and up to `out.len()` more, for which it calls `each`. Returns
    /// the first, how many more, and whether none is left.
    ///
    /// # Safety
    ///
    /// `page` is a slab of this cut whose cache's lock is held.
    #[inline(always)]
    pub(super) unsafe fn take(
        page: *mut Self,
        cut: &Cut,
        out: &mut [*mut u8],
        each: impl Fn(*mut u8) + Copy,
    ) -> (*mut u8, usize, bool) {
        if cut.is_one_word() {
            // SAFETY: the caller's promise.
            let word = unsafe { Self::word(page, 0) };
            let (first, more) = take_of(word, cut.object(page, 0), cut.stride as usize, out, each);
            return (first, more, word.get() == 0);
        }
        // SAFETY: the caller's promise.
        unsafe { Self::take_of_many(page, cut, out, each) }
    }

    /// The same where the free bits are more than a word.
    ///
    /// # Safety
    ///
    /// As for [`take`](Self::take).
    #[inline(never)]
    unsafe fn take_of_many(
        page: *mut Self,
        cut: &Cut,
        out: &mut [*mut u8],
        each: impl Fn(*mut u8) + Copy,
    ) -> (*mut u8, usize, bool) {
        let (mut first, mut more) = (ptr::null_mut::<u8>(), 0);
        for index in 0..cut.words() {
            // SAFETY: the caller's promise.
            let word = unsafe { Self::word(page, index) };
            if word.get() == 0 {
                continue;
            }
            let (begin, stride) = (cut.object(page, index * 64), cut.stride as usize);
            let rest = out.get_mut(more..).unwrap_or_default();
            if first.is_null() {
                (first, more) = take_of(word, begin, stride, rest, each);
            } else if let [slot, rest @ ..] = rest {
                let (object, nr) = take_of(word, begin, stride, rest, each);
                *slot = object;
                each(object);
                more += 1 + nr;
            } else {
                break;
            }
        }
        // SAFETY: the caller's promise.
        let nr_free = &unsafe { Self::head(page) }.nr_free;
        nr_free.set(nr_free.get() - 1 - more);
        (first, more, nr_free.get() == 0)
    }

    /// Marks an object's slot free. `ONE_WORD` says whether the cut's free bits are.
    ///
    /// # Safety
    ///
    /// `page` is a slab of this cut whose cache's lock is held.
    #[inline(always)]
    pub(super) unsafe fn put<const ONE_WORD: bool>(
        page: *mut Self,
        cut: &Cut,
        object: *mut u8,
    ) -> Result<Put, NotUsed> {
        debug_assert_eq!(ONE_WORD, cut.is_one_word());
        let slot = cut.slot(object).ok_or(NotUsed::NoObject)?;
        // SAFETY: the slot is one of the cut.
        let word = unsafe { Self::word(page, if ONE_WORD { 0 } else { slot >> 6 }) };
        let (bits, bit) = (word.get(), 1 << (slot & 63));
        if bits & bit != 0 {
            return Err(NotUsed::Free);
        }
        word.set(bits | bit);
        if ONE_WORD {
            return Ok(Put { is_first: bits == 0, is_last: bits | bit == cut.all });
        }
        // SAFETY: the caller's promise.
        let nr_free = &unsafe { Self::head(page) }.nr_free;
        let before = nr_free.get();
        nr_free.set(before + 1);
        Ok(Put { is_first: before == 0, is_last: before + 1 == cut.nr as usize })
    }

    /// Whether a slot's bit says free; an error if no object begins there.
    ///
    /// # Safety
    ///
    /// `page` is a slab of this cut whose cache's lock is held.
    pub(super) unsafe fn is_free(page: *mut Self, cut: &Cut, object: *mut u8) -> Result<bool, NotUsed> {
        let slot = cut.slot(object).ok_or(NotUsed::NoObject)?;
        // SAFETY: the slot is one of the cut.
        Ok(unsafe { Self::word(page, slot >> 6) }.get() >> (slot & 63) & 1 != 0)
    }
}

/// Takes the lowest slot of a word that has some, and up to `out.len()` more, for which it calls `each`. The word's first
/// slot lies at `begin`.
#[inline(always)]
fn take_of(
    word: &Cell<u64>,
    begin: *mut u8,
    stride: usize,
    out: &mut [*mut u8],
    each: impl Fn(*mut u8),
) -> (*mut u8, usize) {
    let bits = word.get();
    let low = bits.trailing_zeros() as usize;
    let first = begin.wrapping_add(low * stride);
    // The common case is a run of neighbours.
    let run = ((bits >> low).trailing_ones() as usize).min(out.len() + 1);
    let rest = bits & !(u64::MAX >> (64 - run) << low);
    if run > out.len() || rest == 0 {
        word.set(rest);
        let mut object = first;
        let Some(out) = out.get_mut(..run - 1) else { return (first, 0) };
        for slot in out {
            object = object.wrapping_add(stride);
            *slot = object;
            each(object);
        }
        return (first, run - 1);
    }
    let (mut bits, wanted) = (bits & (bits - 1), out.len());
    let mut slots = out.iter_mut();
    while bits != 0 {
        let Some(slot) = slots.next() else { break };
        let object = begin.wrapping_add(bits.trailing_zeros() as usize * stride);
        *slot = object;
        each(object);
        bits &= bits - 1;
    }
    word.set(bits);
    (first, wanted - slots.len())
}

/// A list of slabs through their heads.
pub(super) struct List(*mut Page);

impl List {
    pub(super) const fn new() -> Self {
        Self(ptr::null_mut())
    }

    #[inline(always)]
    pub(super) const fn first(&self) -> *mut Page {
        self.0
    }

    /// Takes the first slab of a list that only its owner knows.
    ///
    /// # Safety
    ///
    /// The slabs of the list are the caller's.
    pub(super) unsafe fn pop(&mut self) -> Option<*mut Page> {
        let page = self.0;
        if page.is_null() {
            return None;
        }
        // SAFETY: the caller's promise.
        self.0 = unsafe { Page::head(page) }.next.get();
        Some(page)
    }

    /// # Safety
    ///
    /// `page` is a slab in no list; the lists' lock is held.
    pub(super) unsafe fn push(&mut self, page: *mut Page) {
        // SAFETY: the caller's promise.
        let head = unsafe { Page::head(page) };
        head.prev.set(ptr::null_mut());
        head.next.set(self.0);
        if !self.0.is_null() {
            // SAFETY: a slab of this list.
            unsafe { Page::head(self.0) }.prev.set(page);
        }
        self.0 = page;
    }

    /// # Safety
    ///
    /// `page` is a slab of this list; the list's lock is held.
    pub(super) unsafe fn remove(&mut self, page: *mut Page) {
        // SAFETY: the caller's promise.
        let head = unsafe { Page::head(page) };
        let (next, prev) = (head.next.get(), head.prev.get());
        if prev.is_null() {
            self.0 = next;
        } else {
            // SAFETY: a slab of this list.
            unsafe { Page::head(prev) }.next.set(next);
        }
        if !next.is_null() {
            // SAFETY: a slab of this list.
            unsafe { Page::head(next) }.prev.set(prev);
        }
    }

    /// # Safety
    ///
    /// The list's lock is held while the iterator is used, and the list is not changed.
    pub(super) unsafe fn iter(&self) -> impl Iterator<Item = *mut Page> {
        let mut page = self.0;
        core::iter::from_fn(move || {
            let current = page;
            if current.is_null() {
                return None;
            }
            // SAFETY: a slab of this list.
            page = unsafe { Page::head(current) }.next.get();
            Some(current)
        })
    }
}

/// Bytes of a block's unused end and head.
pub(super) const fn overhead(cut: &Cut) -> usize {
    cut.order.pages() as usize * PAGE_SIZE as usize - cut.nr as usize * cut.stride as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stride_is_cut_and_divided_exactly() {
        let max = Order::new(3).unwrap();
        for stride in (8..=8192).step_by(if cfg!(miri) { 1096 } else { 8 }) {
            for align in [8, 16, 64, 256, 1024] {
                let stride = stride_for(stride, align);
                let cut = Cut::new(stride, 0, align, max).unwrap();
                let page: *mut Page = ptr::without_provenance_mut(1 << 20);
                assert!(cut.first as usize >= size_of::<Page>() + cut.words() * 8);
                for slot in (0..cut.nr as usize).step_by(if cfg!(miri) { 37 } else { 1 }) {
                    let object = cut.object(page, slot);
                    assert!(object.addr().is_multiple_of(align), "{stride} {align}");
                    assert!(object.addr() + stride <= (1 << 20) + cut.order.bytes() as usize);
                    assert_eq!(cut.slot(object), Some(slot));
                    assert!([1, 4, 8].iter().all(|by| stride == 8 || cut.slot(object.wrapping_add(*by)).is_none()));
                    assert_eq!(cut.slot(object.wrapping_sub(1)), None);
                    assert_eq!(cut.page_of(object), page);
                }
                assert_eq!(cut.slot(page.cast()), None);
                let behind = cut.object(page, cut.nr as usize);
                assert!(cut.page_of(behind) != page || cut.slot(behind).is_none());
            }
        }
    }

    fn stride_for(size: usize, align: usize) -> usize {
        size.next_multiple_of(align)
    }

    #[test]
    fn waste_is_an_eighth_at_most_where_that_is_possible() {
        for size in (8..=2048).step_by(if cfg!(miri) { 120 } else { 8 }) {
            let cut = Cut::new(size, 0, 8, Order::new(3).unwrap()).unwrap();
            // An object's size is not its block's fault: what is left behind the last one counts as well.
            assert!(overhead(&cut) * 1000 / cut.order.bytes() as usize <= 125, "{size}: {cut:?}");
        }
    }
}
