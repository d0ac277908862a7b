// SPDX-License-Identifier: MIT OR Apache-2.0
//! The leaves of a tree in order, without recursion.

use super::{CONTIGUOUS_GROUP, Descriptor, ENTRIES, PAGE_LEVEL, PageTable, level_size};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::Arch;

/// A page or block descriptor and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first address that it maps.
    pub virt: VirtAddr,
    /// 1, 2 (blocks) or 3 (page).
    pub level: usize,
    /// The entry.
    pub descriptor: Descriptor,
}

impl Leaf {
    /// Bytes that it maps.
    #[must_use]
    pub const fn size(self) -> u64 {
        level_size(self.level)
    }

    /// Bytes that one TLB entry can cover here: the whole group, if the contiguous hint is set.
    #[must_use]
    pub const fn reach(self) -> u64 {
        if self.descriptor.is_contiguous() { self.size() * CONTIGUOUS_GROUP as u64 } else { self.size() }
    }

    /// Whether `next` goes on where this leaf ends, on both sides, in the same way.
    #[must_use]
    pub fn continues_with(self, next: Self) -> bool {
        let size = self.size();
        self.level == next.level
            && self.virt.checked_add(size) == Some(next.virt)
            && self.descriptor.address().checked_add(size) == Some(next.descriptor.address())
            && self.descriptor.attribute_bits() == next.descriptor.attribute_bits()
    }
}

/// Iterator over the leaves of a [`PageTable`], ascending.
#[derive(Debug)]
pub struct Leaves<'a, A> {
    tree: &'a PageTable<A>,
    /// The table of each level on the way down, and the next entry to look at in it.
    path: [(PhysAddr, usize); PAGE_LEVEL + 1],
    level: usize,
}

impl<'a, A: Arch> Leaves<'a, A> {
    pub(super) fn new(tree: &'a PageTable<A>) -> Self {
        let mut path = [(PhysAddr::ZERO, 0); PAGE_LEVEL + 1];
        path[0].0 = tree.root;
        Self { tree, path, level: 0 }
    }

    /// The address that the entry looked at last on each level adds up to.
    fn virt(&self) -> VirtAddr {
        let offset: u64 = self
            .path
            .iter()
            .take(self.level + 1)
            .enumerate()
            .map(|(level, at)| (at.1 as u64 - 1) * level_size(level))
            .sum();
        VirtAddr::new(self.tree.half.base().as_raw() + offset)
    }
}

impl<A: Arch> Iterator for Leaves<'_, A> {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        loop {
            let at = self.path.get_mut(self.level)?;
            if at.1 == ENTRIES {
                // Up again; from the root there is no way up, and the iterator stays at its end.
                self.level = self.level.checked_sub(1)?;
                continue;
            }
            let descriptor = self.tree.load(at.0, at.1);
            at.1 += 1;
            if descriptor.is_table(self.level) {
                self.level += 1;
                *self.path.get_mut(self.level)? = (descriptor.address(), 0);
            } else if descriptor.is_valid() {
                return Some(Leaf { virt: self.virt(), level: self.level, descriptor });
            }
        }
    }
}
