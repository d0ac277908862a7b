// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stacks: pages of their own, mapped behind a page that never is, so that an overflow faults.
//!
//! ```text
//!   slot n, 64 KiB                                                    slot n + 1
//!   [ guard: at least one page, never mapped | pages, growing down  ][ guard ...
//! ```
//!
//! They are not in the direct map's addresses, so a CPU keeps its stack while the direct map is changed.
//!
//! Who has which slot is one word a slot, written once to take it and once to free it: a report of a fault can look
//! stacks up without a lock. *Locks:* the kernel map's and the zones', while a stack is made and taken apart.

use core::fmt;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use mm::addr::{PAGE_SIZE, VirtAddr, VirtRange};
use mm::pgtable::{Attributes, MapError};

use crate::layout::{STACKS, STACKS_END};
use crate::memory::{Memory, TableFrames};
use crate::pr_err;

/// Bytes of address space for a stack and its guard.
const SLOT: u64 = 64 * 1024;
/// The largest stack, in bytes.
pub const MAX_SIZE: u64 = SLOT - PAGE_SIZE;
const SLOTS: usize = ((STACKS_END - STACKS) / SLOT) as usize;

/// Who has each slot: a [`Tag`], or 0.
static OWNERS: [AtomicU16; SLOTS] = [const { AtomicU16::new(0) }; SLOTS];
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

/// A slot's owner as one word: bit 15 set, CPU in 13:8, use in 5:4, pages in 3:0.
#[derive(Clone, Copy)]
struct Tag(u16);

impl Tag {
    const fn new(used_for: Use, cpu: usize, size: u64) -> Self {
        Self(1 << 15 | (cpu as u16 & 63) << 8 | (used_for as u16) << 4 | (size / PAGE_SIZE) as u16 & 15)
    }

    fn place(self, slot: usize) -> Option<Place> {
        let used_for = *Use::ALL.get(usize::from(self.0 >> 4 & 3)).filter(|_| self.0 != 0)?;
        let bottom = top_of(slot).as_raw() - u64::from(self.0 & 15) * PAGE_SIZE;
        let range = VirtRange::new(VirtAddr::new(bottom), top_of(slot))?;
        let guard = VirtRange::new(VirtAddr::new(top_of(slot).as_raw() - SLOT), VirtAddr::new(bottom))?;
        Some(Place { used_for, cpu: usize::from(self.0 >> 8 & 63), range, guard })
    }
}

const fn top_of(slot: usize) -> VirtAddr {
    VirtAddr::new(STACKS + (slot as u64 + 1) * SLOT)
}

/// All stacks in use.
pub fn all() -> impl Iterator<Item = Place> {
    OWNERS.iter().enumerate().filter_map(|(slot, owner)| Tag(owner.load(Ordering::Relaxed)).place(slot))
}

/// The stack in use whose slot `address` lies in, be it in the stack or in the guard below it.
#[must_use]
pub fn at(address: VirtAddr) -> Option<Place> {
    let slot = (address.as_raw().checked_sub(STACKS)? / SLOT) as usize;
    Tag(OWNERS.get(slot)?.load(Ordering::Relaxed)).place(slot)
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
    /// Every slot is taken.
    NoSlot,
    /// Out of memory.
    NoMemory,
    /// The map refused it.
    Map(MapError),
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "a stack of {size} bytes is not offered; at most {MAX_SIZE} are"),
            Self::NoSlot => write!(f, "all {SLOTS} stacks are in use"),
            Self::NoMemory => f.write_str("no memory for a stack"),
            Self::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StackError {}

/// A stack. Its pages go back to the page allocator when it is dropped, which must not happen on it.
#[derive(Debug)]
#[must_use]
pub struct Stack {
    memory: &'static Memory,
    slot: usize,
    size: u64,
}

impl Stack {
    /// A stack of at least `size` bytes for CPU `cpu`, its pages from `node` if it has any.
    ///
    /// # Errors
    ///
    /// [`StackError`].
    pub fn new(memory: &'static Memory, used_for: Use, size: u64, cpu: usize, node: u32) -> Result<Self, StackError> {
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(StackError::Size(size));
        }
        let size = size.next_multiple_of(PAGE_SIZE);
        let slot = take_slot(Tag::new(used_for, cpu, size)).ok_or(StackError::NoSlot)?;
        // From here on dropping it undoes what was done: pages that are not mapped are left out then.
        let stack = Self { memory, slot, size };
        BYTES.fetch_add(size, Ordering::Relaxed);
        let mut virt = stack.bottom();
        while virt < stack.top() {
            let frame = memory.take_frame(node).ok_or(StackError::NoMemory)?;
            let mut tables = TableFrames(memory);
            let mapped = memory.map.lock().map(virt, frame, PAGE_SIZE, Attributes::DATA, &mut tables);
            if let Err(error) = mapped {
                memory.give_frame(frame);
                return Err(if error == MapError::NoTable { StackError::NoMemory } else { StackError::Map(error) });
            }
            virt = VirtAddr::new(virt.as_raw() + PAGE_SIZE);
        }
        Ok(stack)
    }

    /// One past the highest byte.
    #[must_use]
    pub const fn top(&self) -> VirtAddr {
        top_of(self.slot)
    }

    /// The lowest byte; the guard is below.
    #[must_use]
    pub const fn bottom(&self) -> VirtAddr {
        VirtAddr::new(self.top().as_raw() - self.size)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let memory = self.memory;
        let mut map = memory.map.lock();
        let give = |frame| memory.give_frame(frame);
        // SAFETY: the stack belongs to nobody but this value.
        if let Err(error) = unsafe { map.unmap(self.bottom(), self.size, &mut TableFrames(memory), give) } {
            pr_err!("stacks: the stack below {:?} is lost: {error}", self.top());
            return;
        }
        drop(map);
        BYTES.fetch_sub(self.size, Ordering::Relaxed);
        if let Some(owner) = OWNERS.get(self.slot) {
            // Whoever takes it next finds the pages gone.
            owner.store(0, Ordering::Release);
        }
    }
}

/// The lowest slot that is free.
fn take_slot(tag: Tag) -> Option<usize> {
    let free = |owner: &AtomicU16| owner.compare_exchange(0, tag.0, Ordering::Acquire, Ordering::Relaxed).is_ok();
    OWNERS.iter().position(free)
}
