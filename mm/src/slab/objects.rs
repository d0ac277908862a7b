// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects of caches: taken and given back, by this CPU's array or by the slabs.

use core::panic::Location;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use super::cache::{Inner, Slabs, Way};
use super::caches::CacheRef;
use super::debug;
use super::fast::pop_from;
use super::fault::{Fault, FaultKind};
use super::front::{Front, Fronts};
use super::page::{List, Page};
use super::table::NONE;
use super::{OutOfMemory, PageSource, Refused, SPECIAL, Slab, call_not_jump, call_not_jump_with};
use crate::addr::Order;
use crate::arch::Arch;
use crate::gfp::Gfp;

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Takes an object. O(1) while this CPU's array lasts.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    #[inline]
    #[track_caller]
    pub fn cache_alloc(&self, cache: CacheRef, gfp: Gfp) -> Result<NonNull<u8>, OutOfMemory> {
        if !gfp.intersects(SPECIAL) {
            // SAFETY: this slab's arrays, and a handle's tag.
            if let Some(object) = NonNull::new(unsafe { self.arch.pop(&self.fronts, cache.index()) }) {
                return Ok(object);
            }
        }
        call_not_jump_with(Self::cache_alloc_long(cache, self, gfp, Location::caller()))
    }

    #[cold]
    #[inline(never)]
    fn cache_alloc_long(
        cache: CacheRef,
        this: &Self,
        gfp: Gfp,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let inner = this.inner(cache.tag()).filter(|_| !gfp.intersects(SPECIAL) && !this.careful);
        match inner.and_then(|inner| this.refill(inner, gfp)) {
            Some(object) => Ok(object),
            None => this.cache_alloc_by(cache, gfp, caller),
        }
    }

    #[inline(never)]
    fn cache_alloc_by(
        &self,
        cache: CacheRef,
        gfp: Gfp,
        caller: &'static Location<'static>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let inner = self.inner(cache.tag()).ok_or(OutOfMemory)?;
        if self.settings.failslab.is_on() && self.fails() {
            return Err(OutOfMemory);
        }
        let mut object = self.cache_alloc_slow(inner, gfp, inner.spec.size, caller);
        if object.is_none() && self.reclaim() {
            object = self.cache_alloc_slow(inner, gfp, inner.spec.size, caller);
        }
        let object = object.ok_or(OutOfMemory)?;
        // Who asks for zeros gets them, as in Linux, even where readers may still look: not where a constructor was.
        let is_zeroed = gfp.contains(Gfp::ZERO) && inner.spec.ctor.is_none();
        if is_zeroed || self.settings.init_on_alloc && !inner.keeps_content() {
            // SAFETY: the caller's new object.
            unsafe { object.write_bytes(0, inner.spec.size) };
        }
        Ok(object)
    }

    /// Takes as many objects as `out` is long, or none.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; then `out` holds nothing of worth.
    #[track_caller]
    pub fn cache_alloc_bulk(&self, cache: CacheRef, gfp: Gfp, out: &mut [NonNull<u8>]) -> Result<(), OutOfMemory> {
        for index in 0..out.len() {
            match self.cache_alloc(cache, gfp) {
                Ok(object) => {
                    if let Some(slot) = out.get_mut(index) {
                        *slot = object;
                    }
                }
                Err(error) => {
                    for object in out.iter().take(index) {
                        // SAFETY: allocated above.
                        unsafe { self.cache_free(cache, *object) };
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Frees an object to its cache. O(1) while this CPU's array has room. An object of another cache, a free one and
    /// what is none are refused and reported.
    ///
    /// # Safety
    ///
    /// `object` came from this slab and is not used from now on.
    #[inline]
    #[track_caller]
    pub unsafe fn cache_free(&self, cache: CacheRef, object: NonNull<u8>) {
        // SAFETY: this slab's arrays, and the caller's promise.
        if !unsafe { self.arch.push_checked(&self.fronts, self.own(object.as_ptr()), cache.index()) } {
            // SAFETY: the caller's promise.
            unsafe { Self::cache_free_long(cache, object, self, Location::caller()) };
            call_not_jump();
        }
    }

    /// # Safety
    ///
    /// As for [`cache_free`](Self::cache_free).
    #[cold]
    #[inline(never)]
    unsafe fn cache_free_long(cache: CacheRef, object: NonNull<u8>, this: &Self, caller: &'static Location<'static>) {
        let wanted = cache.tag();
        let tag = this.table.get(object.addr().get());
        let result = match this.inner(tag) {
            // SAFETY: the caller's promise.
            Some(inner) if tag == wanted => unsafe { this.cache_free_slow(inner, object, caller) },
            Some(other) => Err(FaultKind::WrongCache(other.spec.name)),
            None if tag == NONE => Err(FaultKind::NotSlab),
            None => Err(FaultKind::WrongCache("kmalloc")),
        };
        if let Err(kind) = result {
            this.refuse(kind, wanted, object, caller);
        }
    }

    /// Frees all objects of `objects`.
    ///
    /// # Safety
    ///
    /// As for [`cache_free`](Self::cache_free), each of them.
    #[track_caller]
    pub unsafe fn cache_free_bulk(&self, cache: CacheRef, objects: &[NonNull<u8>]) {
        for object in objects {
            // SAFETY: the caller's promise.
            unsafe { self.cache_free(cache, *object) };
        }
    }

    /// Takes an object and fills this CPU's array up from the slabs, a new one if there are no free slots. `None` if there is
    /// no array, or no memory.
    #[inline(always)]
    pub(super) fn refill(&self, inner: &Inner, gfp: Gfp) -> Option<NonNull<u8>> {
        let mut slabs = inner.slabs.lock(self.arch);
        // SAFETY: the lock masks interrupts.
        let fronts = unsafe { Fronts::new(self.block_of_this_cpu()) };
        if slabs.is_exhausted() {
            drop(slabs);
            return self.refill_new(inner, gfp);
        }
        self.take_and_fill(inner, &mut slabs, inner.front(fronts))
    }

    /// The same with a new slab.
    #[inline(never)]
    fn refill_new(&self, inner: &Inner, gfp: Gfp) -> Option<NonNull<u8>> {
        let page = self.new_slab(inner, gfp)?;
        let mut slabs = inner.slabs.lock(self.arch);
        // SAFETY: made above for this cache.
        unsafe { slabs.add(page) };
        // SAFETY: the lock masks interrupts.
        let fronts = unsafe { Fronts::new(self.block_of_this_cpu()) };
        self.take_and_fill(inner, &mut slabs, inner.front(fronts))
    }

    /// Takes an object from the slabs, and more for an empty array; or from the array, if an interrupt has freed into it.
    #[inline(always)]
    fn take_and_fill(&self, inner: &Inner, slabs: &mut Slabs, front: Front) -> Option<NonNull<u8>> {
        if front.is_full() || !front.is_empty() {
            return NonNull::new(pop_from(front));
        }
        let (key, batch) = (self.key(), slabs.batch(Way::ToArray, inner.capacity));
        let mut first = ptr::null_mut::<u8>();
        front.refill(batch, |places| {
            let (object, more) = slabs.take(&inner.cut, places, move |object| {
                // SAFETY: a free object of this cache, eight bytes at least.
                unsafe { object.cast::<usize>().write(object.addr() ^ key) };
            });
            first = object;
            more
        });
        let first = NonNull::new(first)?;
        // SAFETY: the same; it may have kept its mark.
        unsafe { first.cast::<usize>().write(0) };
        Some(first)
    }

    /// [`take_and_fill`](Self::take_and_fill) out of line, for where it matters less.
    #[inline(never)]
    fn take_and_fill_apart(&self, inner: &Inner, slabs: &mut Slabs, front: Front) -> Option<NonNull<u8>> {
        self.take_and_fill(inner, slabs, front)
    }

    /// An object from this CPU's array or the slabs, the array filled up on the way.
    pub(super) fn cache_alloc_slow(
        &self,
        inner: &Inner,
        gfp: Gfp,
        asked: usize,
        caller: &'static Location<'static>,
    ) -> Option<NonNull<u8>> {
        if inner.capacity > 0 && self.block_of_this_cpu() == Fronts::nothing() {
            self.online();
        }
        let mut fresh = None;
        loop {
            let mut slabs = inner.slabs.lock(self.arch);
            // SAFETY: the lock masks interrupts.
            let fronts = unsafe { Fronts::new(self.block_of_this_cpu()) };
            if let Some(page) = fresh.take() {
                // SAFETY: made below for this cache.
                unsafe { slabs.add(page) };
            }
            if inner.capacity > 0 && fronts.is_some() {
                let object = self.take_and_fill_apart(inner, &mut slabs, inner.front(fronts));
                if object.is_some() {
                    return object;
                }
            } else if let object = slabs.take_one(&inner.cut)
                && !object.is_null()
            {
                if inner.capacity > 0 {
                    // SAFETY: a free object of this cache, that may have kept its mark from an array.
                    unsafe { object.cast::<usize>().write(0) };
                }
                if !inner.slot.is_plain() {
                    // With the lock held: whoever validates takes the slot's bit and its zones together.
                    let fault = self.hand_out(inner, object, asked, caller);
                    drop(slabs);
                    fault.inspect(|fault| self.report(*fault));
                }
                return NonNull::new(object);
            }
            drop(slabs);
            fresh = Some(self.new_slab_apart(inner, gfp)?);
        }
    }

    /// The last step of an allocation from the slabs of a debugged cache. Returns what is wrong if something is.
    #[cold]
    #[inline(never)]
    fn hand_out(
        &self,
        inner: &Inner,
        object: *mut u8,
        asked: usize,
        caller: &'static Location<'static>,
    ) -> Option<Fault> {
        // SAFETY: a slot of this cache that was just taken; the tracks before are read first.
        let owners = unsafe { inner.slot.owners(object) };
        let track = debug::track(caller, self.arch.cpu(), self.tick());
        // SAFETY: a slot of this cache that was just taken.
        let kind = unsafe { inner.slot.allocate(object, asked, track, inner.keeps_content()) }?;
        let mut fault = Fault::new(kind, inner.spec.name, object.addr(), inner.spec.size);
        (fault.allocated, fault.freed) = owners;
        fault.caller = Some(caller);
        // SAFETY: the object's bytes.
        Some(unsafe { fault.with_bytes(object, inner.spec.size) })
    }

    fn tick(&self) -> u64 {
        self.counters.operations.fetch_add(1, Ordering::Relaxed)
    }

    /// A new slab, in no list yet.
    #[inline(always)]
    fn new_slab(&self, inner: &Inner, gfp: Gfp) -> Option<*mut Page> {
        let cut = &inner.cut;
        let block = self.source.take(cut.order, inner.page_gfp(gfp))?;
        let (pfn, order) = block.into_raw();
        let memory = NonNull::new(self.arch.direct_map(pfn.addr()))?;
        // SAFETY: a block of the page allocator's, the slab's alone.
        let page = unsafe { Page::init(memory, cut) };
        if !inner.slot.is_plain() || inner.spec.ctor.is_some() {
            Self::prepare(inner, page);
        }
        if order == Order::ZERO {
            self.table.set(page.addr(), 1, inner.tag);
        } else {
            self.table.set(page.addr(), order.pages() as usize, inner.tag);
        }
        Some(page)
    }

    /// [`new_slab`](Self::new_slab) out of line, for where it matters less.
    #[inline(never)]
    fn new_slab_apart(&self, inner: &Inner, gfp: Gfp) -> Option<*mut Page> {
        self.new_slab(inner, gfp)
    }

    /// What the slots of a new slab need where they are checked, or keep what a constructor makes.
    #[cold]
    #[inline(never)]
    fn prepare(inner: &Inner, page: *mut Page) {
        for index in 0..inner.cut.nr as usize {
            let object = inner.cut.object(page, index);
            if !inner.slot.is_plain() {
                // SAFETY: a slot of the new slab.
                unsafe { inner.slot.init(object, inner.spec.ctor.is_some()) };
            }
            if let (Some(ctor), Some(object)) = (inner.spec.ctor, NonNull::new(object)) {
                ctor(object);
            }
        }
    }

    /// Gives a slab that is in no list back to the page allocator.
    pub(super) fn give_slab(&self, inner: &Inner, page: *mut Page) {
        let nr = inner.cut.order.pages() as usize;
        self.give_tagged(page.cast(), nr);
    }

    /// Frees an object to this CPU's array, part of which goes to the slabs if it is full; or to the slabs.
    ///
    /// # Safety
    ///
    /// As for [`kfree`](Slab::kfree); the object's frame has the cache's tag.
    pub(super) unsafe fn cache_free_slow(
        &self,
        inner: &Inner,
        object: NonNull<u8>,
        caller: &'static Location<'static>,
    ) -> Result<(), Refused> {
        let inside = self.own(object.as_ptr());
        if !inner.slot.is_plain() {
            // SAFETY: the caller's promise.
            return unsafe { self.free_checked(inner, inside, caller) };
        }
        if self.settings.init_on_free {
            // SAFETY: the caller's promise.
            unsafe { self.wipe(inner, inside) }?;
        }
        let mut empty = List::new();
        let mut slabs = inner.slabs.lock(self.arch);
        // SAFETY: the lock masks interrupts.
        let fronts = unsafe { Fronts::new(self.block_of_this_cpu()) };
        let front = inner.front(fronts);
        let mark = inside.addr() ^ self.key();
        if inner.capacity > 0 {
            // SAFETY: the tag says that it lies in a slab of this cache, whose lock is held.
            let free = unsafe { Page::is_free(inner.cut.page_of(inside), &inner.cut, inside) }?;
            // An object that is marked and not free in its slab is in an array, this CPU's or another's.
            // SAFETY: the caller's promise.
            let marked = !cfg!(miri) && unsafe { inside.cast::<usize>().read() } == mark;
            if free || marked || (cfg!(miri) && front.objects().any(|held| held == inside)) {
                return Err(FaultKind::DoubleFree);
            }
        }
        let mut result = Ok(());
        if inner.capacity > 0 && fronts.is_some() {
            if front.is_full() {
                let batch = slabs.batch(Way::ToSlabs, inner.capacity);
                // SAFETY: what was pushed to the array has the cache's tag.
                let put = |last: &[*mut u8]| unsafe { slabs.put_all(&inner.cut, inner.keep, last, &mut empty) };
                result = front.take_top(batch, put).map_err(Refused::from);
            }
            front.push(inside);
            // SAFETY: a free object of this cache, eight bytes at least.
            unsafe { inside.cast::<usize>().write(mark) };
        } else {
            // SAFETY: the tag says that it lies in a slab of this cache.
            unsafe { slabs.put_one(&inner.cut, inner.keep, inside, &mut empty) }?;
        }
        drop(slabs);
        self.give_slabs(inner, empty);
        result
    }

    /// Gives slabs back that are in no list of the cache any more.
    #[inline]
    pub(super) fn give_slabs(&self, inner: &Inner, mut slabs: List) {
        // SAFETY: they are this call's alone.
        while let Some(page) = unsafe { slabs.pop() } {
            self.give_slab(inner, page);
        }
    }

    /// What `init_on_free` has to do before an object is freed.
    ///
    /// # Safety
    ///
    /// As for [`cache_free_slow`](Self::cache_free_slow).
    #[cold]
    #[inline(never)]
    unsafe fn wipe(&self, inner: &Inner, inside: *mut u8) -> Result<(), Refused> {
        if inner.keeps_content() {
            return Ok(());
        }
        let slabs = inner.slabs.lock(self.arch);
        // SAFETY: the tag says that it lies in a slab of this cache, whose lock is held.
        if unsafe { Page::is_free(inner.cut.page_of(inside), &inner.cut, inside) }? {
            return Err(FaultKind::DoubleFree);
        }
        drop(slabs);
        // SAFETY: the object's bytes, which nothing uses any more.
        unsafe { inside.write_bytes(0, inner.spec.size) };
        Ok(())
    }

    /// Frees an object of a debugged cache, which is checked and poisoned on the way. Damage is reported here and does not
    /// stop the free; what is no object in use does.
    ///
    /// # Safety
    ///
    /// As for [`cache_free_slow`](Self::cache_free_slow).
    #[cold]
    #[inline(never)]
    unsafe fn free_checked(
        &self,
        inner: &Inner,
        inside: *mut u8,
        caller: &'static Location<'static>,
    ) -> Result<(), Refused> {
        let mut empty = List::new();
        // Held to the end: whoever validates takes the slot's bit and its zones together.
        let mut slabs = inner.slabs.lock(self.arch);
        // SAFETY: the tag says that it lies in a slab of this cache, whose lock is held.
        if unsafe { Page::is_free(inner.cut.page_of(inside), &inner.cut, inside) }? {
            return Err(FaultKind::DoubleFree);
        }
        let track = debug::track(caller, self.arch.cpu(), self.tick());
        // SAFETY: a slot of this cache in use.
        let owners = unsafe { inner.slot.owners(inside) };
        let mut fault = Fault::new(FaultKind::NotSlab, inner.spec.name, inside.addr(), inner.spec.size);
        // SAFETY: the object's bytes.
        fault = unsafe { fault.with_bytes(inside, inner.spec.size) };
        // SAFETY: a slot of this cache in use, which the caller gives up.
        let damage = unsafe { inner.slot.release(inside, track, inner.keeps_content()) };
        // SAFETY: as above. Debugged caches have no arrays.
        let result = unsafe { slabs.put_one(&inner.cut, inner.keep, inside, &mut empty) };
        drop(slabs);
        self.give_slabs(inner, empty);
        if let Some(kind) = damage {
            fault.kind = kind;
            (fault.allocated, fault.freed) = owners;
            fault.caller = Some(caller);
            self.report(fault);
        }
        result.map_err(Refused::from)
    }
}
