// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cache for values of one type.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::{CacheError, CacheFlags, CacheRef, CacheSpec, OutOfMemory, PageSource, Slab};
use crate::arch::Arch;
use crate::gfp::Gfp;

/// A cache whose objects are values of `T`. Dropping it destroys the cache; values still in use are reported as
/// leaks and stay valid.
pub struct Cache<'s, 'a, T, A: Arch, S: PageSource> {
    slab: &'s Slab<'a, A, S>,
    cache: CacheRef,
    values: PhantomData<fn(T) -> T>,
}

/// A value in a [`Cache`]: owns it, and frees it when dropped.
pub struct CacheBox<'c, 's, 'a, T, A: Arch, S: PageSource> {
    value: NonNull<T>,
    cache: &'c Cache<'s, 'a, T, A, S>,
}

impl<'s, 'a, T, A: Arch, S: PageSource> Cache<'s, 'a, T, A, S> {
    /// A cache of that name.
    ///
    /// # Errors
    ///
    /// [`CacheError`], among others if `T` has no size.
    pub fn new(slab: &'s Slab<'a, A, S>, name: &'static str, flags: CacheFlags) -> Result<Self, CacheError> {
        let spec = CacheSpec { align: align_of::<T>(), flags, ..CacheSpec::new(name, size_of::<T>()) };
        Ok(Self { slab, cache: slab.cache_create(spec)?, values: PhantomData })
    }

    /// Takes an object and moves `value` into it.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; then the value is dropped.
    #[track_caller]
    pub fn alloc(&self, value: T, gfp: Gfp) -> Result<CacheBox<'_, 's, 'a, T, A, S>, OutOfMemory> {
        let object = self.slab.cache_alloc(self.cache, gfp)?.cast::<T>();
        // SAFETY: a new object of T's size and alignment.
        unsafe { object.write(value) };
        Ok(CacheBox { value: object, cache: self })
    }

    /// The handle, for what works on any cache.
    #[must_use]
    pub const fn handle(&self) -> CacheRef {
        self.cache
    }
}

impl<T, A: Arch, S: PageSource> Drop for Cache<'_, '_, T, A, S> {
    fn drop(&mut self) {
        // SAFETY: nobody else has this value, and every `CacheBox` borrows from it; what leaked was reported.
        let _ = unsafe { self.slab.cache_destroy(self.cache) };
    }
}

impl<T, A: Arch, S: PageSource> Drop for CacheBox<'_, '_, '_, T, A, S> {
    #[track_caller]
    fn drop(&mut self) {
        // SAFETY: the box owns the value, which is not used again.
        unsafe { self.value.drop_in_place() };
        // SAFETY: it came from this cache.
        unsafe { self.cache.slab.cache_free(self.cache.cache, self.value.cast()) };
    }
}

impl<T, A: Arch, S: PageSource> core::ops::Deref for CacheBox<'_, '_, '_, T, A, S> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the box owns the value.
        unsafe { self.value.as_ref() }
    }
}

impl<T, A: Arch, S: PageSource> core::ops::DerefMut for CacheBox<'_, '_, '_, T, A, S> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the box owns the value.
        unsafe { self.value.as_mut() }
    }
}

impl<T, A: Arch, S: PageSource> fmt::Debug for Cache<'_, '_, T, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl<T: fmt::Debug, A: Arch, S: PageSource> fmt::Debug for CacheBox<'_, '_, '_, T, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// SAFETY: the box is the value's only owner, and the cache may be used from any thread.
unsafe impl<T: Send, A: Arch, S: PageSource> Send for CacheBox<'_, '_, '_, T, A, S> {}
// SAFETY: a shared box gives shared access to the value, and nothing else.
unsafe impl<T: Sync, A: Arch, S: PageSource> Sync for CacheBox<'_, '_, '_, T, A, S> {}
