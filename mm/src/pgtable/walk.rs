// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a tree: one address without a lock, or all leaves in order, without recursion.

use super::{CONTIGUOUS_GROUP, Descriptor, ENTRIES, HELD, PAGE_LEVEL, PageTable, Regime, index, level_size};
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

/// Reads a tree beside its writer. Each entry is one single-copy atomic load: what is found was there at some
/// moment of the call.
#[derive(Debug)]
pub struct Walker<'a, A> {
    arch: &'a A,
    root: PhysAddr,
    regime: Regime,
}

impl<'a, A: Arch> Walker<'a, A> {
    pub(super) const fn new(arch: &'a A, root: PhysAddr, regime: Regime) -> Self {
        Self { arch, root, regime }
    }

    /// The same tree, reached by an [`Arch`] that lives longer than the borrow of the tree.
    #[must_use]
    pub const fn by<'b, B: Arch>(&self, arch: &'b B) -> Walker<'b, B> {
        Walker { arch, root: self.root, regime: self.regime }
    }

    /// The leaf that translates `virt`, if any. Takes no lock. Complexity: at most four loads.
    ///
    /// # Safety
    ///
    /// No table of the tree is used for something else while this runs. Only [`trim`](PageTable::trim) gives tables
    /// back: the caller borrows the tree, or the source keeps what it is given until all lookups have ended.
    #[must_use]
    #[inline]
    pub unsafe fn lookup(&self, virt: VirtAddr) -> Option<Leaf> {
        if !self.regime.contains(virt) {
            return None;
        }
        let mut table = self.root;
        for level in 0..=PAGE_LEVEL {
            // SAFETY: the tree's tables are reachable, and by the caller's promise still tables.
            let descriptor = Descriptor::from_raw(unsafe { self.arch.load_descriptor(table, index(virt, level)) });
            if !descriptor.is_valid() {
                return None;
            }
            if !descriptor.is_table(level) {
                let virt = VirtAddr::new(virt.as_raw() & !(level_size(level) - 1));
                return Some(Leaf { virt, level, descriptor });
            }
            table = descriptor.address();
        }
        None
    }
}

/// A table on the way down.
#[derive(Clone, Copy, Debug)]
struct Step {
    table: PhysAddr,
    /// The entry to look at next.
    next: usize,
    /// Entries in use so far.
    used: usize,
}

/// Iterator over the valid leaves of a [`PageTable`], ascending.
#[derive(Debug)]
pub struct Leaves<'a, A> {
    tree: &'a PageTable<A>,
    path: [Step; PAGE_LEVEL + 1],
    level: usize,
    tables: u64,
    /// An address for which a count is wrong.
    miscounted: Option<VirtAddr>,
}

impl<'a, A: Arch> Leaves<'a, A> {
    pub(super) fn new(tree: &'a PageTable<A>) -> Self {
        let start = Step { table: tree.root, next: 0, used: 0 };
        Self { tree, path: [start; PAGE_LEVEL + 1], level: 0, tables: 1, miscounted: None }
    }

    /// From the first leaf that ends behind `virt` on. For reading leaves only: what was skipped is not counted.
    pub(super) fn starting_at(tree: &'a PageTable<A>, virt: VirtAddr) -> Self {
        let mut leaves = Self::new(tree);
        let (spot, _) = tree.locate(virt.max(tree.regime.base()), PAGE_LEVEL);
        let mut table = tree.root;
        for level in 0..=spot.level {
            let next = index(virt.max(tree.regime.base()), level);
            if let Some(step) = leaves.path.get_mut(level) {
                // Above the last table, the entry has been looked at: it is the way down.
                *step = Step { table, next: next + usize::from(level != spot.level), used: 0 };
            }
            table = tree.load(table, next).address();
        }
        leaves.level = spot.level;
        leaves
    }

    /// Tables seen so far.
    pub(super) const fn tables(&self) -> u64 {
        self.tables
    }

    /// See [`PageTable::validate`].
    pub(super) fn validate(mut self) -> Result<(), VirtAddr> {
        let mut group: Option<(Leaf, u64)> = None;
        for leaf in self.by_ref() {
            // A group is 16 leaves that go on from each other, from a group's beginning on both sides.
            group = match group {
                Some((last, left)) if left > 0 => {
                    if !last.continues_with(leaf) {
                        return Err(leaf.virt);
                    }
                    Some((leaf, left - 1))
                }
                _ if leaf.descriptor.is_contiguous() => {
                    let starts =
                        leaf.virt.is_aligned(leaf.reach()) && leaf.descriptor.address().is_aligned(leaf.reach());
                    if !starts {
                        return Err(leaf.virt);
                    }
                    Some((leaf, CONTIGUOUS_GROUP as u64 - 1))
                }
                _ => None,
            };
        }
        match (self.miscounted, group) {
            (Some(virt), _) => Err(virt),
            (None, Some((leaf, 1..))) => Err(leaf.virt),
            _ => Ok(()),
        }
    }

    /// The address that the entry looked at last on each level adds up to.
    fn virt(&self) -> VirtAddr {
        let steps = self.path.iter().take(self.level + 1).enumerate();
        let offset: u64 = steps.map(|(level, step)| (step.next as u64 - 1) * level_size(level)).sum();
        VirtAddr::new(self.tree.regime.base().as_raw() + offset)
    }

    /// Up again; from the root there is no way up.
    fn ascend(&mut self) -> Option<()> {
        let used = self.path.get(self.level)?.used;
        self.level = self.level.checked_sub(1)?;
        let above = self.path.get(self.level)?;
        let counted = self.tree.load(above.table, above.next - 1).entries();
        if counted != used && counted != HELD {
            self.miscounted = self.miscounted.or(Some(self.virt()));
        }
        Some(())
    }
}

impl<A: Arch> Iterator for Leaves<'_, A> {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        loop {
            let step = self.path.get_mut(self.level)?;
            if step.next == ENTRIES {
                self.ascend()?;
                continue;
            }
            let descriptor = self.tree.load(step.table, step.next);
            step.next += 1;
            step.used += usize::from(!descriptor.is_none());
            if descriptor.is_table(self.level) {
                self.level += 1;
                self.tables += 1;
                *self.path.get_mut(self.level)? = Step { table: descriptor.address(), next: 0, used: 0 };
            } else if descriptor.is_valid() {
                return Some(Leaf { virt: self.virt(), level: self.level, descriptor });
            }
        }
    }
}
