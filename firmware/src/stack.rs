// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stacks that code runs on, and the guard page below each: for reports, which must know them without a lock.

use mm::addr::{PhysAddr, VirtRange};

use crate::layout::Image;
use crate::stacks;

/// A stack.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// What it is called: `stack`, `fault stack`.
    pub name: &'static str,
    /// The CPU that runs on it.
    pub cpu: usize,
    /// Where it is; it grows from the end down.
    pub range: VirtRange,
    /// What lies below it and is never mapped.
    pub guard: VirtRange,
}

/// All stacks.
pub fn all() -> impl Iterator<Item = Stack> {
    // A stack of the image is the section behind a guard page.
    let sections = Image::at(PhysAddr::ZERO).sections();
    let pairs = sections.into_iter().zip(sections.into_iter().skip(1));
    let guarded = pairs.filter(|(guard, stack)| guard.attributes.is_none() && stack.attributes.is_some());
    let boot = guarded.map(|(guard, stack)| Stack { name: stack.name, cpu: 0, range: stack.virt, guard: guard.virt });
    boot.chain(stacks::all().map(|place| Stack {
        name: place.used_for.name(),
        cpu: place.cpu,
        range: place.range,
        guard: place.guard,
    }))
}

/// The stack that `address` lies in.
#[must_use]
pub fn of(address: u64) -> Option<Stack> {
    all().find(|stack| contains(stack.range, address))
}

/// The stack whose guard page `address` lies in: what ran on it has overflowed.
#[must_use]
pub fn overflowed(address: u64) -> Option<Stack> {
    all().find(|stack| contains(stack.guard, address))
}

fn contains(range: VirtRange, address: u64) -> bool {
    (range.start().as_raw()..range.end().as_raw()).contains(&address)
}
