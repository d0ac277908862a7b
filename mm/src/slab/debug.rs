// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `slub_debug=` adds to the objects of a cache, and what it finds.
//!
//! ```text
//!   [ red zone ][ object ......... ][ red zone ][ size asked for ][ allocated ][ freed ]
//!    Z                               Z           Z or U            U            U
//! ```
//!
//! The bytes are Linux's, so that a dump reads as everywhere: red zones 0xbb while free and 0xcc in use, poison 0x6b
//! and a last 0xa5 in a free object.

use core::panic::Location;

use bitflags::bitflags;

use super::fault::{FaultKind, Track};

/// A red zone around a free object.
pub const RED_INACTIVE: u8 = 0xbb;
/// A red zone around an object in use.
pub const RED_ACTIVE: u8 = 0xcc;
/// Every byte of a free object but the last.
pub const POISON_FREE: u8 = 0x6b;
/// The last byte of a free object.
pub const POISON_END: u8 = 0xa5;

bitflags! {
    /// The letters of `slub_debug=`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
    pub struct Debug: u8 {
        /// F: all checks of consistency. The cheap ones, double free and wrong cache, are always on.
        const CONSISTENCY = 1 << 0;
        /// Z: red zones.
        const RED_ZONE = 1 << 1;
        /// P: poison.
        const POISON = 1 << 2;
        /// U: who allocated and who freed.
        const OWNER = 1 << 3;
        /// A: subject to `failslab=`.
        const FAILSLAB = 1 << 4;
    }
}

/// `slub_debug=FLAGS[,NAME..]`: what for which caches.
#[derive(Clone, Copy, Default, Debug)]
pub struct DebugSpec<'a> {
    flags: Debug,
    names: &'a str,
}

/// A letter that `slub_debug=` does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownLetter(pub char);

impl<'a> DebugSpec<'a> {
    /// Nothing for any cache.
    pub const NONE: Self = Self { flags: Debug::empty(), names: "" };

    /// Parses the option's value: letters, then names after a comma, where a `*` at the end stands for any rest. No
    /// letters at all mean `FZPU`; `-` means none.
    ///
    /// # Errors
    ///
    /// [`UnknownLetter`] for the first one.
    pub fn parse(value: &'a str) -> Result<Self, UnknownLetter> {
        let (letters, names) = value.split_once(',').unwrap_or((value, ""));
        let mut flags = Debug::empty();
        for letter in letters.chars() {
            flags |= match letter.to_ascii_uppercase() {
                'F' => Debug::CONSISTENCY,
                'Z' => Debug::RED_ZONE,
                'P' => Debug::POISON,
                'U' => Debug::OWNER,
                'A' => Debug::FAILSLAB,
                // Tracing of single calls is the log's affair; order limits are not needed.
                'T' | 'O' | '-' => Debug::empty(),
                other => return Err(UnknownLetter(other)),
            };
        }
        if letters.is_empty() {
            flags = Debug::CONSISTENCY | Debug::RED_ZONE | Debug::POISON | Debug::OWNER;
        }
        Ok(Self { flags, names })
    }

    /// What is on for a cache of this name.
    #[must_use]
    pub fn of(&self, name: &str) -> Debug {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        if self.names.is_empty() || self.names.split(',').any(matches) { self.flags } else { Debug::empty() }
    }
}

/// Where things are in a slot. Offsets are from the object's first byte, which lies `lead` into the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) debug: Debug,
    /// Bytes that the cache promises for each object.
    pub(super) size: usize,
    pub(super) lead: usize,
    /// One past the right red zone: where the size and the tracks are.
    meta: usize,
    /// Bytes of the whole slot, but for rounding.
    pub(super) bytes: usize,
}

/// What `Debug::OWNER` keeps at the end of a slot.
#[repr(C)]
#[derive(Clone, Copy)]
struct Owners {
    allocated: Option<Track>,
    freed: Option<Track>,
}

impl Slot {
    /// The layout of a slot for objects of `size` bytes at multiples of `align`.
    pub(super) const fn new(debug: Debug, size: usize, align: usize) -> Self {
        let red = debug.contains(Debug::RED_ZONE);
        let lead = if !red {
            0
        } else if align > 8 {
            align
        } else {
            8
        };
        let mut meta = size.next_multiple_of(8);
        if red {
            meta += 8;
        }
        let mut end = meta;
        if debug.intersects(Debug::RED_ZONE.union(Debug::OWNER)) {
            end += 8;
        }
        if debug.contains(Debug::OWNER) {
            end += size_of::<Owners>();
        }
        Self { debug, size, lead, meta, bytes: lead + end }
    }

    /// Whether objects need anything done to them.
    #[inline(always)]
    pub(super) const fn is_plain(&self) -> bool {
        self.debug.is_empty()
    }

    fn asked_at(&self, object: *mut u8) -> Option<*mut usize> {
        let kept = self.debug.intersects(Debug::RED_ZONE | Debug::OWNER);
        kept.then(|| object.wrapping_add(self.meta).cast())
    }

    fn owners_at(&self, object: *mut u8) -> Option<*mut Owners> {
        self.debug.contains(Debug::OWNER).then(|| object.wrapping_add(self.meta + 8).cast())
    }

    /// Makes a slot that was never used a free one.
    ///
    /// # Safety
    ///
    /// The slot around `object` is the caller's. (So for all functions here.)
    pub(super) unsafe fn init(&self, object: *mut u8, keep_content: bool) {
        if let Some(asked) = self.asked_at(object) {
            // SAFETY: inside the slot.
            unsafe { asked.write(self.size) };
        }
        if let Some(owners) = self.owners_at(object) {
            // SAFETY: inside the slot.
            unsafe { owners.write(Owners { allocated: None, freed: None }) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.paint(object, RED_INACTIVE, self.size) };
        if !keep_content {
            // SAFETY: the caller's promise.
            unsafe { self.poison(object) };
        }
    }

    /// Fills the red zones. The right one begins behind what was asked for.
    unsafe fn paint(&self, object: *mut u8, red: u8, asked: usize) {
        if !self.debug.contains(Debug::RED_ZONE) {
            return;
        }
        // SAFETY: inside the slot, before the object.
        unsafe { object.wrapping_sub(self.lead).write_bytes(red, self.lead) };
        // SAFETY: inside the slot, behind what was asked for.
        unsafe { object.wrapping_add(asked).write_bytes(red, self.meta - asked) };
    }

    unsafe fn poison(&self, object: *mut u8) {
        if !self.debug.contains(Debug::POISON) || self.size == 0 {
            return;
        }
        // SAFETY: the object's bytes but the last.
        unsafe { object.write_bytes(POISON_FREE, self.size - 1) };
        // SAFETY: the last.
        unsafe { object.wrapping_add(self.size - 1).write(POISON_END) };
    }

    /// Checks a free object and makes it one in use, of `asked` bytes.
    pub(super) unsafe fn allocate(
        &self,
        object: *mut u8,
        asked: usize,
        track: Track,
        keep_content: bool,
    ) -> Option<FaultKind> {
        // SAFETY: the caller's promise.
        let fault = unsafe { self.check(object, RED_INACTIVE, self.size) }
            // SAFETY: the caller's promise.
            .or_else(|| if keep_content { None } else { unsafe { self.check_poison(object) } });
        if let Some(at) = self.asked_at(object) {
            // SAFETY: inside the slot.
            unsafe { at.write(asked) };
        }
        if let Some(owners) = self.owners_at(object) {
            // SAFETY: inside the slot; written by `init`.
            unsafe { (*owners).allocated = Some(track) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.paint(object, RED_ACTIVE, if keep_content { self.size } else { asked }) };
        fault
    }

    /// Checks an object in use and makes it a free one.
    pub(super) unsafe fn release(&self, object: *mut u8, track: Track, keep_content: bool) -> Option<FaultKind> {
        // SAFETY: the caller's promise.
        let fault = unsafe { self.check_used(object, keep_content) };
        if let Some(owners) = self.owners_at(object) {
            // SAFETY: inside the slot; written by `init`.
            unsafe { (*owners).freed = Some(track) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.paint(object, RED_INACTIVE, self.size) };
        if !keep_content {
            // SAFETY: the caller's promise.
            unsafe { self.poison(object) };
        }
        fault
    }

    /// Checks an object in use.
    pub(super) unsafe fn check_used(&self, object: *mut u8, keep_content: bool) -> Option<FaultKind> {
        // SAFETY: the caller's promise.
        let asked = if keep_content { self.size } else { unsafe { self.asked(object) } };
        // SAFETY: the caller's promise.
        unsafe { self.check(object, RED_ACTIVE, asked) }
    }

    /// Checks a free object.
    pub(super) unsafe fn check_free(&self, object: *mut u8, keep_content: bool) -> Option<FaultKind> {
        // SAFETY: the caller's promise.
        unsafe { self.check(object, RED_INACTIVE, self.size) }
            // SAFETY: the caller's promise.
            .or_else(|| if keep_content { None } else { unsafe { self.check_poison(object) } })
    }

    /// Changes how many bytes of an object in use were asked for.
    pub(super) unsafe fn resize(&self, object: *mut u8, asked: usize) {
        if let Some(at) = self.asked_at(object) {
            // SAFETY: inside the slot.
            unsafe { at.write(asked) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.paint(object, RED_ACTIVE, asked) };
    }

    /// How many bytes were asked for, as far as that is kept.
    pub(super) unsafe fn asked(&self, object: *mut u8) -> usize {
        // SAFETY: inside the slot; written by `init`.
        self.asked_at(object).map_or(self.size, |at| unsafe { at.read() }.min(self.size))
    }

    /// Who allocated and who freed it.
    pub(super) unsafe fn owners(&self, object: *mut u8) -> (Option<Track>, Option<Track>) {
        match self.owners_at(object) {
            Some(owners) => {
                // SAFETY: inside the slot; written by `init`.
                let owners = unsafe { owners.read() };
                (owners.allocated, owners.freed)
            }
            None => (None, None),
        }
    }

    unsafe fn check(&self, object: *mut u8, red: u8, asked: usize) -> Option<FaultKind> {
        if !self.debug.contains(Debug::RED_ZONE) {
            return None;
        }
        // SAFETY: the left red zone.
        if let Some((at, found)) = unsafe { first_other(object.wrapping_sub(self.lead), self.lead, red) } {
            return Some(FaultKind::LeftRedzone { offset: at as isize - self.lead as isize, found, expected: red });
        }
        // SAFETY: the right red zone.
        let (at, found) = unsafe { first_other(object.wrapping_add(asked), self.meta - asked, red) }?;
        Some(FaultKind::RightRedzone { offset: (asked + at) as isize, found, expected: red })
    }

    unsafe fn check_poison(&self, object: *mut u8) -> Option<FaultKind> {
        if !self.debug.contains(Debug::POISON) || self.size == 0 {
            return None;
        }
        let last = self.size - 1;
        // SAFETY: the object's bytes but the last.
        if let Some((at, found)) = unsafe { first_other(object, last, POISON_FREE) } {
            return Some(FaultKind::Poison { offset: at as isize, found, expected: POISON_FREE });
        }
        // SAFETY: the last.
        let found = unsafe { object.wrapping_add(last).read() };
        (found != POISON_END).then_some(FaultKind::Poison { offset: last as isize, found, expected: POISON_END })
    }
}

/// The first byte that is not `expected`: where, and what.
///
/// # Safety
///
/// `len` bytes at `start` can be read.
unsafe fn first_other(start: *const u8, len: usize, expected: u8) -> Option<(usize, u8)> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(start, len) };
    bytes.iter().copied().enumerate().find(|(_, byte)| *byte != expected)
}

/// A track of now.
pub(super) const fn track(caller: &'static Location<'static>, cpu: usize, when: u64) -> Track {
    Track { caller, cpu: cpu as u16, when }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_names_are_read_as_linux_does() {
        let spec = DebugSpec::parse("FZ,kmalloc-*,names_cache").unwrap();
        assert_eq!(spec.of("kmalloc-64"), Debug::CONSISTENCY | Debug::RED_ZONE);
        assert_eq!(spec.of("names_cache"), Debug::CONSISTENCY | Debug::RED_ZONE);
        assert_eq!(spec.of("other"), Debug::empty());
        assert_eq!(DebugSpec::parse("FZPU").unwrap().of("any"), Debug::all() - Debug::FAILSLAB);
        assert_eq!(DebugSpec::parse("").unwrap().of("any"), Debug::all() - Debug::FAILSLAB);
        assert_eq!(DebugSpec::parse("-").unwrap().of("any"), Debug::empty());
        assert_eq!(DebugSpec::parse("FQ").unwrap_err(), UnknownLetter('Q'));
    }
}
