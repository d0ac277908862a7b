// SPDX-License-Identifier: MIT OR Apache-2.0
//! What went wrong with an object, and how it is said.

use core::fmt;
use core::panic::Location;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::table::Tag;
use super::{PageSource, Refused, Slab};
use crate::arch::Arch;

/// How many bytes of an object a report shows.
const DUMP: usize = 64;

/// Who did something to an object, when owner tracking is on (`slub_debug=U`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Track {
    /// The call that did it.
    pub caller: &'static Location<'static>,
    /// On which CPU.
    pub cpu: u16,
    /// The slab's count of operations then: tells what came first.
    pub when: u64,
}

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// The object is free already.
    DoubleFree,
    /// The pointer is not the beginning of an object.
    NotAnObject,
    /// The object belongs to another cache than the one it was freed to: that one's name.
    WrongCache(&'static str),
    /// The memory is not the slab's.
    NotSlab,
    /// Bytes before the object were overwritten.
    LeftRedzone {
        /// The first bad byte, from the beginning of the object.
        offset: isize,
        /// What it is.
        found: u8,
        /// What it was.
        expected: u8,
    },
    /// Bytes behind the object were overwritten.
    RightRedzone {
        /// The first bad byte, from the beginning of the object.
        offset: isize,
        /// What it is.
        found: u8,
        /// What it was.
        expected: u8,
    },
    /// The object was written to after it was freed.
    Poison {
        /// The first bad byte, from the beginning of the object.
        offset: isize,
        /// What it is.
        found: u8,
        /// What it was.
        expected: u8,
    },
    /// Links of free memory in the packed heap were overwritten; what they led to is lost.
    HeapLinks,
    /// The cache was destroyed while this many objects were in use; their memory is kept.
    ObjectsRemaining(usize),
    /// An object that is still in use when its cache is destroyed.
    Leaked,
    /// No memory was left for an allocation that cannot fail.
    OutOfMemory(usize),
}

/// A fault that the slab found. It is reported, and what cannot be trusted is not used again; nothing panics.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The cache's name, or `kmalloc` for the packed heap.
    pub cache: &'static str,
    /// The object's address, as it is passed around.
    pub object: usize,
    /// Bytes of the object.
    pub size: usize,
    /// The first bytes of the object and how many they are.
    pub bytes: ([u8; DUMP], usize),
    /// Who allocated it.
    pub allocated: Option<Track>,
    /// Who freed it.
    pub freed: Option<Track>,
    /// Who called when the fault was found.
    pub caller: Option<&'static Location<'static>>,
}

impl Fault {
    pub(super) const fn new(kind: FaultKind, cache: &'static str, object: usize, size: usize) -> Self {
        Self { kind, cache, object, size, bytes: ([0; DUMP], 0), allocated: None, freed: None, caller: None }
    }

    /// Copies the first bytes of the object.
    ///
    /// # Safety
    ///
    /// `size` bytes at `object` can be read.
    pub(super) unsafe fn with_bytes(mut self, object: *const u8, size: usize) -> Self {
        let len = size.min(DUMP);
        // SAFETY: the caller's promise; the copy is no longer than the array.
        unsafe { object.copy_to_nonoverlapping(self.bytes.0.as_mut_ptr(), len) };
        self.bytes.1 = len;
        self
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DoubleFree => f.write_str("Object already free"),
            Self::NotAnObject => f.write_str("Invalid object pointer"),
            Self::WrongCache(other) => write!(f, "Wrong slab cache: object is from {other}"),
            Self::NotSlab => f.write_str("Not slab memory"),
            Self::LeftRedzone { .. } => f.write_str("Left Redzone overwritten"),
            Self::RightRedzone { .. } => f.write_str("Right Redzone overwritten"),
            Self::Poison { .. } => f.write_str("Poison overwritten"),
            Self::HeapLinks => f.write_str("Freechain corrupt"),
            Self::ObjectsRemaining(nr) => write!(f, "Objects remaining on shutdown: {nr}"),
            Self::Leaked => f.write_str("Object still in use"),
            Self::OutOfMemory(bytes) => write!(f, "Out of memory for {bytes} bytes"),
        }
    }
}

/// As Linux's SLUB reports, in its words and order: header, what was expected, who, and the bytes.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:=<77}\nBUG {} (size {}): {}\n{:-<77}", "", self.cache, self.size, self.kind, "")?;
        if let FaultKind::LeftRedzone { offset, found, expected }
        | FaultKind::RightRedzone { offset, found, expected }
        | FaultKind::Poison { offset, found, expected } = self.kind
        {
            let at = self.object.wrapping_add_signed(offset);
            writeln!(f, "0x{at:016x} @offset={offset}. First byte 0x{found:02x} instead of 0x{expected:02x}")?;
        }
        for (what, track) in [("Allocated", self.allocated), ("Freed", self.freed)] {
            if let Some(track) = track {
                writeln!(f, "{what} in {} cpu={} op={}", track.caller, track.cpu, track.when)?;
            }
        }
        writeln!(f, "Object 0x{:016x}", self.object)?;
        let shown = self.bytes.0.get(..self.bytes.1).unwrap_or_default();
        for (line, bytes) in shown.chunks(16).enumerate() {
            write!(f, "Object   {:016x}:", self.object.wrapping_add(line * 16))?;
            bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
            f.write_str("  ")?;
            for byte in bytes {
                let shown = if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
                write!(f, "{shown}")?;
            }
            writeln!(f)?;
        }
        if let Some(caller) = self.caller {
            writeln!(f, "Found in {caller}")?;
        }
        Ok(())
    }
}

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Says that a free was refused.
    #[cold]
    pub(super) fn refuse(&self, kind: Refused, tag: Tag, object: NonNull<u8>, caller: &'static Location<'static>) {
        let (cache, size) = self.inner(tag).map_or(("kmalloc", 0), |inner| (inner.spec.name, inner.spec.size));
        let mut fault = Fault::new(kind, cache, object.addr().get(), size);
        fault.caller = Some(caller);
        if let Some(inner) = self.inner(tag)
            && kind == FaultKind::DoubleFree
        {
            let inside = self.own(object.as_ptr());
            // SAFETY: a slot of that cache; only free bytes of it and its metadata are looked at.
            (fault.allocated, fault.freed) = unsafe { inner.slot.owners(inside) };
            // SAFETY: as above.
            fault = unsafe { fault.with_bytes(inside, size) };
        }
        self.report(fault);
    }

    /// Counts a fault and passes it to the user's function. No lock is held.
    #[cold]
    pub(super) fn report(&self, fault: Fault) {
        self.counters.nr_faults.fetch_add(1, Ordering::Relaxed);
        (self.settings.report)(&fault);
    }

    /// Faults found so far.
    #[must_use]
    pub fn nr_faults(&self) -> u64 {
        self.counters.nr_faults.load(Ordering::Relaxed)
    }
}
