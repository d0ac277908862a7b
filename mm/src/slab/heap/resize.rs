// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing the size of an object of the packed heap.

use super::super::GROUP_LARGE;
use super::kind::Kind;
use super::{GRANULE, Heap, LEAST, Marks, Register, Wrong, frame, granules};

impl Heap {
    /// Makes an object `bytes` long where it is: a shorter one gives its end back, a longer one takes from the free
    /// block behind it. Returns the new size, or `None` if it must move.
    ///
    /// # Safety
    ///
    /// `object` lies in a frame of this heap and group, with access to the whole frame; if it is an object, nothing uses more
    /// of it than the first `bytes` from now on.
    pub(in crate::slab) unsafe fn resize(
        &mut self,
        group: usize,
        object: *mut u8,
        bytes: usize,
    ) -> Result<Option<usize>, Wrong> {
        if group == GROUP_LARGE {
            // SAFETY: the caller's promise.
            unsafe { self.resize_in::<Register>(group, object, bytes) }
        } else {
            // SAFETY: the same.
            unsafe { self.resize_in::<Marks>(group, object, bytes) }
        }
    }

    /// # Safety
    ///
    /// As for [`resize`](Self::resize); frames of the group are of this kind.
    #[inline(always)]
    unsafe fn resize_in<K: Kind>(
        &mut self,
        group: usize,
        object: *mut u8,
        bytes: usize,
    ) -> Result<Option<usize>, Wrong> {
        // SAFETY: the caller's promise.
        let frame = unsafe { frame::<K>(object) };
        let (start, end) = frame.used(object)?;
        let mut stop = start + granules(bytes).max(K::LEAST_OBJECT);
        let mut limit = end;
        if stop > end || end - stop >= LEAST {
            limit = frame.free_behind(end);
        }
        if stop > limit {
            return Ok(None);
        }
        // SAFETY: the frame says that it is free.
        if limit > end && !unsafe { self.unlink(group, object, end, limit) } {
            return Ok(None);
        }
        if limit - stop < LEAST {
            stop = limit;
        }
        frame.resize(start, end, stop, limit);
        if stop < limit {
            self.insert(group, object, stop, limit);
        }
        Ok(Some((stop - start) * GRANULE))
    }
}
