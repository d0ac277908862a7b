// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects of the packed heap that a CPU keeps at hand.
//!
//! Above the largest cache, sizes are rounded to a few *quick sizes* where there are arrays, and each of them has an
//! array of a CPU's block: an object that is freed there is still in use to the heap, and the next allocation of that size
//! takes it without a lock and without the frame being split and merged. The quick sizes divide a frame's room evenly,
//! so that what they leave of it is again one of them. The powers of two among them are not the heap's, but lie in
//! [frames of their own](super::even).
//!
//! A page is such a size as well, and so are two: arrays of their own hold one or a few of them.
//!
//! An array has few places, since there are many sizes, and so it is often empty while its neighbours are not: an allocation
//! looks into those of the next larger sizes before the heap is asked. Which array an object has follows from its length,
//! which stands in its frame's [register](super::register).
//!
//! What lies in an array is marked in its first word, as in a cache's array; an object that comes from the heap has the
//! word cleared, since the mark of an earlier life may stand there.

use core::panic::Location;
use core::ptr::{self, NonNull};

use super::even::{NR_EVEN, Size};
use super::fast::pop_from;
use super::front::{self, Fronts, MAX_CAPACITY, STEP_SHIFT};
use super::heap;
use super::table::{FIRST_CACHE, FIRST_QUICK, HEAP, LARGE, NONE, ODD, PAGE, PAIR, Tag};
use super::{MIN_ALIGN, PageSource, SIZED, Settings, Slab, call_not_jump};
use crate::addr::PAGE_SIZE;
use crate::arch::Arch;

/// How many quick sizes there are.
pub(super) const NR_QUICK: usize = SIZES.len();
/// How many sizes above its own an object may come from.
const LARGER: usize = 4;
/// The quick sizes in granules.
const SIZES: [u16; 39] = [
    36, 40, 45, 50, 56, 63, 64, 69, 76, 82, 88, 95, 101, 107, 114, 120, 127, 128, 139, 152, 165, 177, 190, 203, 215,
    228, 241, 254, 256, 279, 304, 330, 355, 381, 406, 431, 457, 482, 508,
];

/// The first quick size that holds so many granules.
static FITTING: [u8; 512] = {
    let (mut fitting, mut granules) = ([0; 512], 0);
    while granules < 512 {
        let mut index = 0;
        #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
        {
            // The even ones are for whoever asks for just that: they would pin frames for others.
            while index + 1 < SIZES.len() && ((SIZES[index] as usize) < granules || SIZES[index].is_power_of_two()) {
                index += 1;
            }
            fitting[granules] = index as u8;
        }
        granules += 1;
    }
    fitting
};

/// The tags of the even sizes, ascending.
pub(super) const EVEN: [Tag; NR_EVEN] = {
    let (mut even, mut nr, mut index) = ([0; NR_EVEN], 0, 0);
    while index < NR_QUICK {
        #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
        if SIZES[index].is_power_of_two() {
            even[nr] = FIRST_QUICK + index as Tag;
            nr += 1;
        }
        index += 1;
    }
    assert!(nr == NR_EVEN);
    even
};

#[inline(always)]
fn fitting(granules: usize) -> usize {
    // SAFETY: the index is masked to the table's length.
    usize::from(*unsafe { FITTING.get_unchecked(granules & 511) })
}

/// Granules of a quick size.
#[inline(always)]
fn size(index: usize) -> usize {
    debug_assert!(index < NR_QUICK);
    // SAFETY: every index is from `FITTING`, or counted to the number of sizes.
    usize::from(*unsafe { SIZES.get_unchecked(index) })
}

/// The quick size for an object of so many granules.
#[inline(always)]
pub(super) fn rounded(granules: usize) -> usize {
    size(fitting(granules))
}

/// For each number of granules the tag whose array holds objects of the heap of so many, or [`NONE`]. A granule more does no
/// harm: what would have been left of a free block was too small for one.
static EXACT: [u8; 512] = {
    let (mut exact, mut index) = ([NONE as u8; 512], 0);
    while index < NR_QUICK {
        #[expect(clippy::indexing_slicing, reason = "checked while compiling")]
        if !SIZES[index].is_power_of_two() {
            let tag = FIRST_QUICK as u8 + index as u8;
            exact[SIZES[index] as usize] = tag;
            exact[SIZES[index] as usize + 1] = tag;
        }
        index += 1;
    }
    exact
};

/// The tag whose array holds objects of the heap of so many granules, or [`NONE`].
#[inline(always)]
pub(super) fn array_of(granules: usize) -> u8 {
    // SAFETY: the index is masked to the table's length.
    *unsafe { EXACT.get_unchecked(granules & 511) }
}

/// Objects of a size that an array holds, if it may hold about so many bytes of small ones. Few of the large: the chance
/// that an array is empty or full falls with the number of its places, its cost rises with their size, and the sum is
/// least where the number follows the root of the size.
fn capacity(array_bytes: usize, bytes: usize) -> usize {
    (array_bytes * 4 / bytes).isqrt().clamp(1, MAX_CAPACITY)
}

/// The same for the even sizes: frames of them come and go at once, so there is room for whole ones.
pub(super) fn even_capacities(settings: &Settings) -> [u8; NR_EVEN] {
    let bytes = settings.array_bytes();
    Size::ALL.map(|size| {
        let capacity = (bytes * 6 / size.bytes()).isqrt().next_multiple_of(PAGE_SIZE as usize / size.bytes());
        capacity.min(MAX_CAPACITY) as u8
    })
}

/// Makes the arrays of the quick sizes empty ones.
#[inline(never)]
fn enable(fronts: Fronts, array_bytes: usize, even_capacity: &[u8; NR_EVEN]) {
    let (mut below, mut even) = (SIZED, even_capacity.iter());
    for (index, tag) in (0..NR_QUICK).zip(FIRST_QUICK..) {
        let bytes = size(index) * super::frame::GRANULE;
        if Size::of_tag(tag).is_some() {
            fronts.enable(tag, even.next().copied().map_or(1, usize::from));
            fronts.set_by_size((bytes >> STEP_SHIFT) - 1, tag);
            continue;
        }
        fronts.enable(tag, capacity(array_bytes, bytes));
        let steps = below >> STEP_SHIFT..bytes >> STEP_SHIFT;
        steps.filter(|step| !(step + 1).is_power_of_two()).for_each(|step| fronts.set_by_size(step, tag));
        below = bytes;
    }
    fronts.enable(PAGE, capacity(array_bytes, PAGE_SIZE as usize));
    fronts.enable(PAIR, capacity(array_bytes, 2 * PAGE_SIZE as usize));
    (below >> STEP_SHIFT..front::LARGEST >> STEP_SHIFT).for_each(|step| fronts.set_by_size(step, PAGE));
}

/// Whether an object above the classes lies in one of a CPU's arrays. Miri has no marks, which may be memory that nobody
/// wrote: it has the arrays searched instead.
pub(super) fn is_held(fronts: Fronts, inside: *mut u8) -> bool {
    fronts.is_some() && (FIRST_QUICK..FIRST_CACHE).any(|tag| fronts.front(tag).objects().any(|held| held == inside))
}

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Sets up the arrays of the quick sizes in a CPU's block.
    pub(super) fn enable_quick(&self, fronts: Fronts) {
        if self.quick {
            enable(fronts, self.settings.array_bytes(), &self.even_capacity);
        }
    }

    /// Gives this CPU arrays if what was asked for has one and the CPU none.
    #[inline(always)]
    pub(super) fn online_quick(&self) {
        if self.quick && self.block_of_this_cpu() == Fronts::nothing() {
            self.online();
        }
    }

    /// Two pages that are at hand, for an object of `last` bytes and one.
    #[inline(always)]
    pub(super) fn kept_pair(&self, last: usize, align: usize) -> Option<NonNull<u8>> {
        if !self.quick || last / PAGE_SIZE as usize != 1 || align > 2 * PAGE_SIZE as usize {
            return None;
        }
        // SAFETY: this slab's arrays, and a tag.
        NonNull::new(unsafe { self.arch.pop(&self.fronts, PAIR.into()) })
    }

    /// An object of one of the next larger sizes, the even ones and a page included: better than to cut a new one while that
    /// lies unused and holds its frame anyway.
    #[inline(always)]
    pub(super) fn kept_larger(&self, last: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.with_fronts(|fronts| {
            let own = usize::from(fronts.tag_by_size(last >> STEP_SHIFT));
            for more in 1..=LARGER {
                if own + more > usize::from(PAGE) {
                    break;
                }
                let object = pop_from(fronts.front_at(own + more));
                if !object.is_null() {
                    return object;
                }
            }
            ptr::null_mut()
        }))
    }

    /// Granules for an object of the group of large ones, at a multiple of `align` granules.
    #[inline(always)]
    pub(super) fn quick_size(&self, granules: usize, align: usize) -> usize {
        if self.quick && align <= MIN_ALIGN / super::frame::GRANULE { rounded(granules) } else { granules }
    }

    /// Frees an object that no cache's array took: keeps it at hand if it is of a quick size and there is room. The
    /// arguments stand where they are at hand, so that the fast path moves none of them.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the tag is that of the object's frame.
    #[inline(never)]
    pub(super) unsafe fn kfree_else(object: NonNull<u8>, tag: Tag, this: &Self, caller: &'static Location<'static>) {
        let kept = if tag == this.kept_tag {
            // SAFETY: the caller's promise; frames of this tag are for large objects.
            unsafe { this.keep(object) }
        } else {
            // SAFETY: the caller's promise.
            tag.wrapping_sub(LARGE) < 2 && unsafe { this.keep_pages(object, PAGE + (tag - LARGE)) }
        };
        if kept {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { Self::kfree_more(object, tag, this, caller) };
        call_not_jump();
    }

    /// Frees an object that no array took; or whose tag is not known yet.
    ///
    /// # Safety
    ///
    /// As for [`kfree_else`](Self::kfree_else).
    #[inline(never)]
    unsafe fn kfree_more(object: NonNull<u8>, mut tag: Tag, this: &Self, caller: &'static Location<'static>) {
        if tag == NONE {
            // A CPU without arrays has no table at hand.
            tag = this.table.get(object.addr().get());
        }
        if let Some(inner) = this.inner(tag) {
            // SAFETY: the caller's promise.
            unsafe { this.kfree_cache(object, inner, caller) };
        } else if let Some(size) = Size::of_tag(tag) {
            // SAFETY: the same.
            unsafe { this.kfree_even(object, size, caller) };
        } else if (HEAP..LARGE).contains(&tag) {
            // SAFETY: the same.
            unsafe { Self::kfree_heap(object, tag, this, caller) };
        } else if (LARGE..=ODD).contains(&tag) {
            // SAFETY: the same.
            unsafe { this.kfree_large(object, tag, caller) };
        } else {
            // SAFETY: the same.
            unsafe { this.kfree_tagged(object, tag, caller) };
        }
    }

    /// Keeps an object of the heap at hand. False if it is not of a quick size, there is no room, or it is no object in
    /// use at all.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the object lies in a frame of the heap for large ones.
    #[inline(always)]
    unsafe fn keep(&self, object: NonNull<u8>) -> bool {
        let inside = self.own(object.as_ptr());
        // SAFETY: the caller's promise.
        let tag = Tag::from(array_of(unsafe { heap::granules_at(inside) }));
        if cfg!(miri) && self.with_fronts(|fronts| is_held(fronts, inside)) {
            return false;
        }
        // SAFETY: this slab's arrays; an object of that size, which nothing uses from now on. Where there are no quick sizes,
        // the arrays are always full.
        unsafe { self.arch.push(&self.fronts, inside, tag.into()) }
    }

    /// Keeps an object of one page or two at hand, in the array of that tag. False if it does not begin there, there is no
    /// room, or it is there already.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the object's frame is tagged as the first of so many pages.
    #[inline(always)]
    unsafe fn keep_pages(&self, object: NonNull<u8>, tag: Tag) -> bool {
        let inside = self.own(object.as_ptr());
        if !inside.addr().is_multiple_of(PAGE_SIZE as usize) {
            return false;
        }
        if cfg!(miri) && self.with_fronts(|fronts| is_held(fronts, inside)) {
            return false;
        }
        // SAFETY: this slab's arrays; pages that nothing uses from now on. Where there are no quick sizes, the array is always
        // full.
        unsafe { self.arch.push(&self.fronts, inside, tag.into()) }
    }

    /// Says whether an object above the classes lies in an array, this CPU's or another's, before it goes back: one that is
    /// marked does.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); `inside` lies in a frame of the heap, an even one, or at the beginning of a page.
    #[inline(always)]
    pub(super) unsafe fn is_kept(&self, inside: *mut u8) -> bool {
        if cfg!(miri) {
            return self.with_fronts(|fronts| is_held(fronts, inside));
        }
        // SAFETY: a word of that frame.
        self.quick
            && inside.addr().is_multiple_of(MIN_ALIGN)
            && unsafe { inside.cast::<usize>().read() } == inside.addr() ^ self.key()
    }

    /// Gives all objects of the heap that a block holds back to the heap.
    ///
    /// # Safety
    ///
    /// The block is this CPU's and interrupts are masked, or no CPU uses it while this runs.
    pub(super) unsafe fn drain_quick(&self, block: *mut u8) {
        if !self.quick || block == Fronts::nothing() {
            return;
        }
        for tag in FIRST_QUICK..FIRST_CACHE {
            // SAFETY: the caller's promise.
            let front = unsafe { Fronts::new(block) }.front(tag);
            while let Some(object) = NonNull::new(pop_from(front)) {
                // SAFETY: what lies in the array is an object of the heap, or a page, that nobody uses.
                unsafe { self.give_own(object) };
            }
        }
    }
}

const _: () =
    assert!(FIRST_CACHE < 256 && front::LARGEST >= heap::LARGEST && PAGE as usize == FIRST_QUICK as usize + NR_QUICK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_above_the_caches_has_a_quick_one_that_wastes_a_tenth_at_most() {
        for granules in 33..=496 {
            let rounded = rounded(granules);
            assert!(rounded >= granules && (rounded - granules) * 10 <= rounded, "{granules}: {rounded}");
            let held = usize::from(array_of(granules)).checked_sub(FIRST_QUICK.into()).map(size);
            assert!(held.is_none_or(|held| held == granules || held + 1 == granules));
            assert_eq!(held == Some(granules), rounded == granules);
        }
        assert!(SIZES.is_sorted());
    }

    #[test]
    fn few_of_the_large_are_kept() {
        let capacities: Vec<_> = (0..NR_QUICK).map(|index| capacity(4096, size(index) * 8)).collect();
        assert!(capacities.is_sorted_by(|one, next| one >= next));
        assert_eq!((capacities[0], capacities[NR_QUICK - 1]), (7, 2));
    }
}
