// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stacks: areas of vmalloc, so that there is a guard in front of each, and an overflow faults.
//!
//! They are not in the direct map's addresses, so a CPU keeps its stack while the direct map is changed.
//!
//! Where each is, is one word, written once when it is made and once when it goes: a report of a fault can look stacks up
//! without a lock. *Locks:* vmalloc's, while a stack is made and taken apart.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use mm::addr::{PAGE_SIZE, VirtAddr, VirtRange};
use mm::gfp::Gfp;
use mm::vmalloc::{GUARD_PAGES, Request, VmallocError};

use crate::layout::VMALLOC_START;
use crate::memory::Memory;
use crate::pr_err;
use crate::vmalloc::{KernelVmalloc, caller};

/// The largest stack, in bytes.
pub const MAX_SIZE: u64 = 15 * PAGE_SIZE;
/// Most stacks at once.
const SLOTS: usize = 1024;

/// The stacks: a [`Tag`] each, or 0.
static PLACES: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
/// Bytes in all stacks.
static BYTES: AtomicU64 = AtomicU64::new(0);

/// What a stack is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Use {
    /// A CPU has nothing to do.
    Idle,
    /// Interrupt handlers.
    Interrupt,
    /// Reports of faults.
    Fault,
    /// A thread.
    Thread,
}

impl Use {
    const ALL: [Self; 4] = [Self::Idle, Self::Interrupt, Self::Fault, Self::Thread];

    /// What reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle stack",
            Self::Interrupt => "interrupt stack",
            Self::Fault => "fault stack",
            Self::Thread => "thread stack",
        }
    }
}

/// A stack that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// What for.
    pub used_for: Use,
    /// The CPU that runs on it.
    pub cpu: usize,
    /// Where it is; it grows from the end down.
    pub range: VirtRange,
    /// What lies below it and is never mapped.
    pub guard: VirtRange,
}

/// A stack as one word: its first page, counted from the beginning of vmalloc, from bit 16 up; bit 15 set, CPU in 13:8,
/// use in 5:4, pages in 3:0.
#[derive(Clone, Copy)]
struct Tag(u64);

impl Tag {
    const fn new(used_for: Use, cpu: usize, start: VirtAddr, size: u64) -> Self {
        let page = (start.as_raw() - VMALLOC_START) / PAGE_SIZE;
        Self(page << 16 | 1 << 15 | (cpu as u64 & 63) << 8 | (used_for as u64) << 4 | ((size / PAGE_SIZE) & 15))
    }

    fn place(self) -> Option<Place> {
        let used_for = *Use::ALL.get((self.0 >> 4 & 3) as usize).filter(|_| self.0 != 0)?;
        let start = VMALLOC_START + (self.0 >> 16) * PAGE_SIZE;
        let range = VirtRange::new(VirtAddr::new(start), VirtAddr::new(start + (self.0 & 15) * PAGE_SIZE))?;
        let guard = VirtRange::new(VirtAddr::new(start - GUARD_PAGES * PAGE_SIZE), VirtAddr::new(start))?;
        Some(Place { used_for, cpu: (self.0 >> 8 & 63) as usize, range, guard })
    }
}

/// All stacks in use.
pub fn all() -> impl Iterator<Item = Place> {
    PLACES.iter().filter_map(|place| Tag(place.load(Ordering::Relaxed)).place())
}

/// The stack in use that `address` lies in, be it in the stack or in the guard below it.
#[must_use]
pub fn at(address: VirtAddr) -> Option<Place> {
    all().find(|place| place.guard.start() <= address && address < place.range.end())
}

/// Bytes in the stacks that are there.
#[must_use]
pub fn total_bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// Why there is no stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackError {
    /// Larger than [`MAX_SIZE`], or empty.
    Size(u64),
    /// There are as many as there may be.
    TooMany,
    /// Out of memory.
    NoMemory,
    /// There is no area for it.
    Area(VmallocError),
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "a stack of {size} bytes is not offered; at most {MAX_SIZE} are"),
            Self::TooMany => write!(f, "all {SLOTS} stacks are in use"),
            Self::NoMemory => f.write_str("no memory for a stack"),
            Self::Area(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StackError {}

impl From<VmallocError> for StackError {
    fn from(error: VmallocError) -> Self {
        if error == VmallocError::NoMemory { Self::NoMemory } else { Self::Area(error) }
    }
}

/// A stack. It goes back when it is dropped, which must not happen on it.
#[derive(Debug)]
#[must_use]
pub struct Stack {
    vmalloc: &'static KernelVmalloc,
    slot: usize,
    bottom: VirtAddr,
    size: u64,
}

impl Stack {
    /// A stack of at least `size` bytes for CPU `cpu`, its pages from `node` if it has any.
    ///
    /// # Errors
    ///
    /// [`StackError`].
    #[inline(never)]
    pub fn new(memory: &'static Memory, used_for: Use, size: u64, cpu: usize, node: u32) -> Result<Self, StackError> {
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(StackError::Size(size));
        }
        let (vmalloc, size) = (memory.vmalloc, size.next_multiple_of(PAGE_SIZE));
        let request = Request { node: Some(node), caller: caller(), ..Request::new(size, Gfp::KERNEL) };
        let bottom = vmalloc.alloc(&request)?;
        let tag = Tag::new(used_for, cpu, bottom, size);
        let Some(slot) = take_slot(tag) else {
            give_back(vmalloc, bottom);
            return Err(StackError::TooMany);
        };
        BYTES.fetch_add(size, Ordering::Relaxed);
        Ok(Self { vmalloc, slot, bottom, size })
    }

    /// One past the highest byte.
    #[must_use]
    pub const fn top(&self) -> VirtAddr {
        VirtAddr::new(self.bottom.as_raw() + self.size)
    }

    /// The lowest byte; the guard is below.
    #[must_use]
    pub const fn bottom(&self) -> VirtAddr {
        self.bottom
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.size, Ordering::Relaxed);
        // Before somebody else can have the addresses.
        if let Some(place) = PLACES.get(self.slot) {
            place.store(0, Ordering::Release);
        }
        give_back(self.vmalloc, self.bottom);
    }
}

fn give_back(vmalloc: &KernelVmalloc, bottom: VirtAddr) {
    if let Err(error) = vmalloc.free(bottom) {
        pr_err!("stacks: {error}");
    }
}

/// The first word that is free.
fn take_slot(tag: Tag) -> Option<usize> {
    let free = |place: &AtomicU64| place.compare_exchange(0, tag.0, Ordering::Acquire, Ordering::Relaxed).is_ok();
    PLACES.iter().position(free)
}
