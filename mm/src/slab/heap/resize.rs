// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing the size of an object of the packed heap.

use super::{GRANULE, GRANULES, Heap, LEAST, LEAST_NOTED, Wrong, granules, marks, used};

impl Heap {
    /// Makes an object `bytes` long where it is: a shorter one gives its end back, a longer one takes from the free
    /// block behind it. Returns the new size, or `None` if it must move.
    ///
    /// # Safety
    ///
    /// As for [`free`](Self::free), but that the first `bytes` stay in use.
    pub(in crate::slab) unsafe fn resize(
        &mut self,
        group: usize,
        object: *mut u8,
        bytes: usize,
    ) -> Result<Option<usize>, Wrong> {
        // SAFETY: the caller's promise.
        let marks = unsafe { marks(object) };
        let start = used(marks, object)?;
        let end = marks.end(start);
        let mut stop = start + granules(bytes);
        let mut limit = end;
        if end < GRANULES && marks.is_free(end) && (stop > end || end - stop >= LEAST) {
            limit = marks.end(end);
        }
        if stop > limit {
            return Ok(None);
        }
        if limit > end {
            // SAFETY: its marks say that it is free.
            if !unsafe { self.unlink(group, object, end, limit) } {
                return Ok(None);
            }
            marks.clear_start(end);
            marks.set_used(end);
        }
        if limit - stop < LEAST {
            stop = limit;
        } else {
            self.set_aside(group, object, marks, stop, limit);
        }
        if end - start >= LEAST_NOTED {
            self.note(group, object, start, None);
        }
        if stop - start >= LEAST_NOTED {
            self.note(group, object, start, Some(stop));
        }
        Ok(Some((stop - start) * GRANULE))
    }
}
