// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab: memory for objects smaller than a page, from a board of 5 MiB to a machine of many GiB.
//!
//! Three ways lead to an object, and [`kmalloc`](Slab::kmalloc) picks one by size and by how the slab was set up:
//!
//! ```text
//!            bytes   tiny (slab_tiny=1)   default                        slub_debug=
//!         1..=256    packed heap          cache, per-CPU arrays          cache, checked
//!       257..=4064   packed heap          packed heap, per-CPU arrays    cache, checked
//!    512 1024 2048   frames of their own, cut evenly; per-CPU arrays      cache, checked
//!     4065..=4 MiB   whole pages          whole pages, arrays of 1, 2    whole pages (above 4 KiB)
//! ```
//!
//! The packed heap puts objects of all sizes into shared frames with no header at all: small boards get out of their
//! memory what they paid for. The caches in front of it make the frequent small sizes fast where there is
//! memory to be kept at hand, and arrays of a few quick sizes do so for what the heap serves there. Which it is, is
//! chosen from the RAM for each CPU when the slab is made.
//!
//! Whose a frame is stands in a table of two bytes for each frame, so any pointer can be freed without its size.
//!
//! *Locks:* the heap's, the even frames' and each cache's, of rank [`SLAB`](Rank::SLAB), never two at once; a page
//! allocator is called with none held.

use core::fmt;
use core::panic::Location;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysRange};
use crate::arch::{Arch, Arrays, MAX_CPUS};
use crate::gfp::Gfp;
use crate::sync::{IrqSpinLock, Rank};

mod bins;
mod cache;
mod caches;
mod debug;
mod even;
pub(crate) mod fast;
mod fault;
mod frame;
#[cfg(test)]
mod frame_tests;
pub(crate) mod front;
mod heap;
mod inspect;
mod large;
mod looking;
mod objects;
mod page;
mod quick;
mod register;
#[cfg(test)]
mod register_tests;
pub mod report;
mod resize;
mod settings;
mod slow;
mod slow_free;
mod source;
mod stats;
mod table;
mod typed;

/// Where `register.rs` and `looking.rs` get their atomics from: their tests under loom have others.
mod atomic {
    use core::ptr;
    use core::sync::atomic::AtomicU64;
    pub(super) use core::sync::atomic::{AtomicU16, Ordering, fence};

    /// Four halfwords that nobody writes now, the first the lowest.
    #[inline(always)]
    pub(super) fn four(halfwords: &[AtomicU16; 4]) -> u64 {
        // SAFETY: the size of a word; whoever has these has them in words.
        u64::from_le(unsafe { &*ptr::from_ref(halfwords).cast::<AtomicU64>() }.load(Ordering::Relaxed))
    }
}

pub use cache::{CacheError, CacheFlags, CacheSpec, LARGEST_OBJECT};
pub use caches::CacheRef;
pub use debug::{Debug, DebugSpec, POISON_END, POISON_FREE, RED_ACTIVE, RED_INACTIVE, UnknownLetter};
pub use fault::{Fault, FaultKind, Track};
pub use front::NO_ARRAYS;
pub use settings::{FailSlab, Settings, SetupError};
pub use source::PageSource;
pub use stats::{CacheInfo, SlabInfo};
pub use typed::Cache;

use cache::Inner;
use even::{Even, NR_EVEN, Size};
use front::{Fronts, STEP_SHIFT};
use heap::Heap;
use looking::Looking;
use table::{FIRST_CACHE, HEAP, LARGE, NR_CACHES, NR_TAGS, ODD, Table, Tag};

/// Objects below this lie in other frames of the heap than the rest.
const SMALL: usize = 256;
/// The same where small and large ones share frames at need.
const SMALL_IN_ARENA: usize = 512;
const GROUP_SMALL: usize = 0;
const GROUP_LARGE: usize = 1;
const GROUP_DMA: usize = 2;
/// The largest class of caches: up to this, a size says which array an object goes to.
const SIZED: usize = 256;
/// The order of the largest part of a block that was taken apart.
const LARGEST_PART: usize = 5;
/// What every object is aligned to.
pub const MIN_ALIGN: usize = 8;
/// What the fast path does not do.
const SPECIAL: Gfp = Gfp::ZERO.union(Gfp::DMA);

/// No memory was left. What there is, and for whom, is in the reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// Stands behind the call of a slow path. A function that jumps there at its end, as compilers like to, makes a stack frame
/// at its beginning, for the fast path too; one that calls makes it where it calls.
#[inline(always)]
fn call_not_jump() {
    compiler_fence(Ordering::SeqCst);
}

/// The same for a call with a result.
#[inline(always)]
fn call_not_jump_with<T>(result: T) -> T {
    call_not_jump();
    result
}

/// What a request for no bytes gets (Linux's `ZERO_SIZE_PTR`): never to be read, and freeing it is allowed.
pub const ZERO_SIZE: NonNull<u8> = NonNull::without_provenance(core::num::NonZeroUsize::MIN.saturating_add(15));

/// Why a free was refused. Nothing was changed.
type Refused = FaultKind;

/// The allocator of objects: see the [module](self).
pub struct Slab<'a, A: Arch, S: PageSource> {
    /// Each CPU's arrays, or [`Fronts::nothing`].
    fronts: Arrays,
    arch: &'a A,
    source: S,
    table: Table<'a>,
    span: PhysRange,
    /// Where the direct map shows the span.
    window: (usize, usize),
    whole: Whole,
    heap: IrqSpinLock<Heap>,
    even: IrqSpinLock<Even>,
    /// By tag, from `FIRST_CACHE` up; null where there is none.
    caches: [AtomicPtr<Inner>; NR_CACHES],
    /// Tags of caches that are being destroyed, a bit each.
    registry: IrqSpinLock<u64>,
    looking: Looking<MAX_CPUS>,
    settings: Settings,
    /// Sizes of the kmalloc caches, ascending; their tags follow each other from `FIRST_CACHE`.
    classes: &'static [u16],
    /// The largest of them; 0 without any.
    largest_class: usize,
    /// How many sizes above that are the packed heap's; 0 if allocations are [careful](Self::careful).
    only_heap: usize,
    /// From here on, objects are whole pages.
    first_large: usize,
    /// Up to this many bytes, `CLASS_OF` says which cache.
    classed: usize,
    /// Objects below this lie in other frames of the heap than the rest.
    small: usize,
    /// Objects of the heap are kept at hand: see [`quick`].
    quick: bool,
    /// What sizes are rounded up to, less one, where an array is found by it: all sizes of a step are one. Else 0.
    step_mask: usize,
    /// How many sizes above [`SIZED`] are of those; 0 without.
    quick_span: usize,
    /// The tag of their frames; 0 without.
    kept_tag: Tag,
    /// Places of the arrays of even sizes.
    even_capacity: [u8; NR_EVEN],
    /// Allocations need more than to be found memory.
    careful: bool,
    counters: Counters,
}

/// Where the direct map shows the first byte of the span, with access to all of it.
struct Whole(*mut u8);

// SAFETY: an address. What may be done through it is said where it is done.
unsafe impl Send for Whole {}
// SAFETY: as above.
unsafe impl Sync for Whole {}

/// What is counted off the fast paths.
#[derive(Default)]
struct Counters {
    large_pages: AtomicUsize,
    front_pages: AtomicUsize,
    nr_faults: AtomicU64,
    operations: AtomicU64,
    failslab: AtomicU64,
}

impl<'a, A: Arch, S: PageSource> Slab<'a, A, S> {
    /// Tags (two bytes each) that [`new`](Self::new) needs for RAM within `span`: one for each frame.
    #[must_use]
    pub const fn nr_tags(span: PhysRange) -> usize {
        table::len(span)
    }

    /// A slab over pages from `source`, which lie within `span`. `tags` is as long as [`nr_tags`](Self::nr_tags) says;
    /// its content does not matter. O(frames): two bytes are cleared for each.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the tags are too few, the direct map does not keep pages aligned, or there is no memory for
    /// the kmalloc caches.
    pub fn new(
        arch: &'a A,
        source: S,
        span: PhysRange,
        tags: &'a mut [AtomicU16],
        settings: Settings,
    ) -> Result<Self, SetupError> {
        let span = span.frames_touched();
        let needed = table::len(span);
        if tags.len() < needed {
            return Err(SetupError::TooFewTags(needed));
        }
        let whole = Whole(arch.direct_map(span.start()));
        let base = whole.0.addr();
        if !base.is_multiple_of(PAGE_SIZE as usize) {
            return Err(SetupError::Misaligned(base));
        }
        let window = (base, span.size() as usize);
        let settings = settings.resolved();
        let spares = usize::from(!settings.is_tiny());
        let largest_class = settings.classes().last().copied().map_or(0, usize::from);
        let careful = settings.init_on_alloc || settings.failslab.is_on();
        let quick = settings.array_bytes() > 0 && largest_class == SIZED && !settings.one_group;
        let largest = heap::LARGEST;
        let slab = Self {
            fronts: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS],
            arch,
            source,
            table: Table::new(tags.get_mut(..needed).unwrap_or_default(), window),
            span,
            window,
            whole,
            heap: IrqSpinLock::new(Rank::SLAB, Heap::new(settings.secret, window, spares)),
            even: IrqSpinLock::new(Rank::SLAB, Even::new(settings.secret, window)),
            caches: [const { AtomicPtr::new(ptr::null_mut()) }; NR_CACHES],
            registry: IrqSpinLock::new(Rank::SLAB, 0),
            looking: Looking::new([const { AtomicU16::new(0) }; MAX_CPUS]),
            classes: settings.classes(),
            largest_class,
            only_heap: if careful { 0 } else { largest.saturating_sub(largest_class) },
            first_large: largest.max(largest_class) + 1,
            classed: if largest_class == SIZED { SIZED } else { 0 },
            small: if settings.one_group { SMALL_IN_ARENA } else { SMALL },
            quick,
            quick_span: if quick { largest - SIZED } else { 0 },
            step_mask: if quick { (1 << STEP_SHIFT) - 1 } else { 0 },
            kept_tag: if quick { HEAP + GROUP_LARGE as Tag } else { 0 },
            even_capacity: if largest_class == SIZED { quick::even_capacities(&settings) } else { [0; NR_EVEN] },
            careful,
            settings,
            counters: Counters::default(),
        };
        slab.fronts.iter().for_each(|front| front.store(Fronts::nothing(), Ordering::Relaxed));
        slab.make_classes()?;
        Ok(slab)
    }

    /// How it was set up.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The CPUs that it works for.
    pub const fn arch(&self) -> &'a A {
        self.arch
    }

    /// The page allocator beneath.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// Whether every object comes from the packed heap, without per-CPU arrays.
    #[must_use]
    pub const fn is_tiny(&self) -> bool {
        self.settings.is_tiny()
    }

    /// Does something with this CPU's arrays, interrupts masked.
    #[inline(always)]
    fn with_fronts<R>(&self, run: impl FnOnce(Fronts) -> R) -> R {
        fast::with_fronts(self.arch, &self.fronts, run)
    }

    #[inline(always)]
    fn block_of_this_cpu(&self) -> *mut u8 {
        self.arch.local(&self.fronts)
    }

    /// What an object's address is XORed with to mark it as free.
    #[inline(always)]
    fn key(&self) -> usize {
        self.table.raw().key()
    }

    /// Takes an object of at least `bytes` bytes, aligned to [`MIN_ALIGN`] and, if `bytes` is a power of two, to that.
    /// O(1) while this CPU's array lasts.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    #[inline]
    #[track_caller]
    pub fn kmalloc(&self, bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
        let last = bytes.wrapping_sub(1);
        match self.kmalloc_fast(last, gfp) {
            Some(object) => Ok(object),
            None => call_not_jump_with(Self::kmalloc_slow(MIN_ALIGN, gfp, self, last, Location::caller())),
        }
    }

    /// As [`kmalloc`](Self::kmalloc), at a multiple of `align`, a power of two.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    #[inline]
    #[track_caller]
    pub fn kmalloc_aligned(&self, bytes: usize, align: usize, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
        match self.kmalloc_fast(fitting(bytes, align).wrapping_sub(1), gfp) {
            Some(object) => Ok(object),
            None => call_not_jump_with(Self::kmalloc_slow(align, gfp, self, bytes.wrapping_sub(1), Location::caller())),
        }
    }

    /// Takes an object from this CPU's array, if there is one of that size (`last` is one less) and it holds something.
    #[inline(always)]
    fn kmalloc_fast(&self, last: usize, gfp: Gfp) -> Option<NonNull<u8>> {
        let step = last >> STEP_SHIFT;
        if step >= front::LARGEST >> STEP_SHIFT || gfp.intersects(SPECIAL) {
            return None;
        }
        // SAFETY: this slab's arrays, and the step is below.
        NonNull::new(unsafe { self.arch.pop_sized(&self.fronts, step) })
    }

    /// Frees an object of any size. O(1) while this CPU's array has room.
    ///
    /// # Safety
    ///
    /// 1. `object` came from this slab and is not used from now on.
    /// 2. It was not freed before. (That is found and reported; but not if the memory was written to since, or is
    ///    another object by now.)
    #[inline]
    #[track_caller]
    pub unsafe fn kfree(&self, object: NonNull<u8>) {
        // SAFETY: this slab's arrays, and the caller's promise.
        if let Err(tag) = unsafe { self.arch.push_by_frame(&self.fronts, self.own(object.as_ptr())) } {
            // SAFETY: the caller's promise.
            unsafe { Self::kfree_else(object, tag, self, Location::caller()) };
            call_not_jump();
        }
    }

    /// Frees an object whose size is known: what was asked for, and the alignment. No lookup while the array has room.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Self::kfree), and:
    /// 1. `bytes` and `align` are those of the allocation, or of the last
    ///    [`krealloc_aligned`](Self::krealloc_aligned). (After [`krealloc`](Self::krealloc) they are not known.)
    /// 2. The object is not from zone DMA.
    #[inline]
    #[track_caller]
    pub unsafe fn kfree_sized(&self, object: NonNull<u8>, bytes: usize, align: usize) {
        let step = fitting(bytes, align).wrapping_sub(1) >> STEP_SHIFT;
        if step >= front::LARGEST >> STEP_SHIFT {
            // SAFETY: the caller's promise.
            return unsafe { self.kfree(object) };
        }
        // SAFETY: this slab's arrays, the step is below, and the caller's promise: an object of so many bytes is as long as
        // that array's, and of an even size only if all of it are.
        if unsafe { self.arch.push_sized(&self.fronts, self.own(object.as_ptr()), step) } {
            return;
        }
        let tag = self.table.get(object.addr().get());
        // SAFETY: the caller's promise.
        unsafe { Self::kfree_else(object, tag, self, Location::caller()) };
        call_not_jump();
    }

    /// Bytes that can be used at `object`: what was asked for, or more. `None` if it is no object in use.
    ///
    /// # Safety
    ///
    /// `object` came from this slab and is not being freed.
    #[must_use]
    pub unsafe fn ksize(&self, object: NonNull<u8>) -> Option<usize> {
        if object == ZERO_SIZE {
            return Some(0);
        }
        match self.table.get(object.addr().get()) {
            tag @ HEAP..LARGE => {
                let heap = self.heap.lock(self.arch);
                // SAFETY: the tag says that it lies in a frame of the heap, of that group.
                unsafe { heap.size((tag - HEAP).into(), self.own(object.as_ptr())) }.ok()
            }
            LARGE..=ODD => Some(self.table.count_large(object.addr().get()) << PAGE_SHIFT),
            tag => match Size::of_tag(tag) {
                Some(size) => Some(size.bytes()),
                None => self.inner(tag).map(|inner| inner.spec.size),
            },
        }
    }

    /// Gives back what is only kept at hand: this CPU's arrays, empty slabs and frames. Returns whether a page went
    /// back. Other CPUs do it for their arrays when they next run out themselves.
    pub fn reclaim(&self) -> bool {
        let before = self.pages();
        self.drain_this_cpu();
        for tag in usize::from(FIRST_CACHE)..NR_TAGS {
            self.look(tag as Tag, |inner| {
                if !inner.spec.flags.contains(CacheFlags::TYPESAFE_BY_RCU) {
                    self.give_empty_slabs(inner);
                }
            });
        }
        loop {
            let spare = self.heap.lock(self.arch).take_spare();
            let Some(frame) = spare else { break };
            self.give_frame(frame.as_ptr());
        }
        self.pages() < before
    }

    /// Pages that the slab holds.
    #[must_use]
    pub fn pages(&self) -> usize {
        let counters = &self.counters;
        let others = [&counters.large_pages, &counters.front_pages];
        let (slabs, _) = self.cache_pages();
        let frames = self.heap.lock(self.arch).nr_frames;
        frames + slabs + self.even_pages() + others.iter().map(|nr| nr.load(Ordering::Relaxed)).sum::<usize>()
    }
}

/// The size that tells the array of objects of so many bytes at a multiple of `align`, a power of two: a multiple of the
/// alignment has a class that is aligned to it; of larger objects in arrays only powers of two are. 0, which no array
/// serves, where there is none or the sum wraps.
#[inline(always)]
const fn fitting(bytes: usize, align: usize) -> usize {
    if align <= MIN_ALIGN {
        return bytes;
    }
    let rounded = bytes.wrapping_add(align - 1) & !(align - 1);
    if rounded <= SIZED || bytes.is_power_of_two() && align <= bytes { rounded } else { 0 }
}

impl<A: Arch, S: PageSource> fmt::Debug for Slab<'_, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("span", &self.span).field("pages", &self.pages()).finish_non_exhaustive()
    }
}
