// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of what is mapped: permissions, memory types, validity.
//!
//! ```text
//!   check    every page is there, and none would become writable and executable
//!   split    boundaries at both ends
//!   write    permissions in place; memory types are broken first
//!   flush    once, for all
//!   mend     what was broken is made anew
//! ```

use super::split::Manner;
use super::{Attributes, Descriptor, ENTRIES, MapError, PAGE_LEVEL, PageTable, Regime, Spot, TableSource, Transition};
use super::{index, level_size};
use crate::addr::VirtAddr;
use crate::arch::{Arch, Dsb};
use crate::tlb::{Span, Tlb};

/// What becomes of each page: the family of Linux's `set_memory_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// `set_memory_ro`.
    ReadOnly,
    /// `set_memory_rw`. Refused for what is executable.
    ReadWrite,
    /// `set_memory_x`: executable at the tree's own exception level; for a user's tree, by EL0. Refused for what is
    /// writable. New code needs [`CacheOp::SyncInstructions`](crate::arch::CacheOp) first.
    Execute,
    /// `set_memory_nx`.
    NoExecute,
    /// `set_memory_valid`: out of use, remembering what it was; or in use again.
    Valid(bool),
    /// Permissions and memory type. A memory type takes break-before-make: users fault meanwhile.
    Attributes(Attributes),
}

impl Change {
    fn apply(self, regime: Regime, leaf: Descriptor) -> Descriptor {
        match self {
            Self::ReadOnly => leaf.with_write(false),
            Self::ReadWrite => leaf.with_write(true),
            Self::Execute => leaf.with_execute(regime, true),
            Self::NoExecute => leaf.with_execute(regime, false),
            Self::Valid(valid) => leaf.with_valid(valid),
            Self::Attributes(attributes) => leaf.with_attributes(regime, attributes),
        }
    }
}

/// What has been written so far.
#[derive(Default)]
struct Written {
    any: bool,
    /// The lowest level of what TLBs may hold.
    flush: Option<usize>,
    broken: bool,
}

impl<A: Arch> PageTable<A> {
    /// Changes all pages of `size` bytes from `virt` on; when it returns, no CPU uses them as before. Blocks and
    /// contiguous groups that are only partly inside are split: for that moment, all of the block is invalid. See
    /// [`change_live`](PageTable::change_live) for memory where that must not be. Complexity: a few steps per
    /// descriptor.
    ///
    /// # Errors
    ///
    /// [`MapError::NotMapped`], [`MapError::WritableAndExecutable`] with the first address for which it is so;
    /// [`MapError::NoTable`] if a block cannot be split. Nothing has changed then.
    pub fn change(
        &mut self,
        virt: VirtAddr,
        size: u64,
        change: Change,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.check_change(virt, size, change)?;
        self.split_ends(virt, size, &Manner::Break, tlb, source)?;
        self.write_changes(virt, size, change, tlb);
        Ok(())
    }

    /// The same for memory that is in use, the kernel's own: a live block at the edge is split while all other
    /// CPUs are stopped. Where pages or whole blocks are mapped (memory that is page-mapped from the beginning),
    /// nobody is stopped.
    ///
    /// # Errors
    ///
    /// As [`change`](PageTable::change) and [`split_stopped`](PageTable::split_stopped).
    ///
    /// # Safety
    ///
    /// Those of [`split_stopped`](PageTable::split_stopped); and nobody needs of the pages what they lose.
    pub unsafe fn change_live(
        &mut self,
        virt: VirtAddr,
        size: u64,
        change: Change,
        fixmap: VirtAddr,
        tlb: &Tlb<A>,
        source: &mut impl TableSource,
    ) -> Result<(), MapError> {
        self.check_change(virt, size, change)?;
        match self.split_ends(virt, size, &Manner::Refuse, tlb, source) {
            // SAFETY: the caller's promise.
            Err(MapError::WouldSplit(_)) => unsafe { self.split_stopped(virt, size, fixmap, tlb, source)? },
            other => other?,
        }
        self.write_changes(virt, size, change, tlb);
        Ok(())
    }

    /// The run of entries at `at`, inside `left` bytes: where, and how many.
    fn run(&self, at: VirtAddr, left: u64) -> (Spot, usize, usize) {
        let (spot, _) = self.locate(at, PAGE_LEVEL);
        let step = level_size(spot.level);
        let slot = index(at, spot.level);
        let wanted = (at.as_raw() % step + left).div_ceil(step);
        (spot, slot, (wanted as usize).min(ENTRIES - slot))
    }

    fn check_change(&self, virt: VirtAddr, size: u64, change: Change) -> Result<(), MapError> {
        self.check_range(virt, size)?;
        let mut done = 0;
        while done < size {
            let at = VirtAddr::new(virt.as_raw() + done);
            let (spot, slot, count) = self.run(at, size - done);
            let step = level_size(spot.level);
            for n in 0..count {
                let entry = self.load(spot.table, slot + n);
                if entry.is_table(spot.level) {
                    break;
                }
                let here = VirtAddr::new(virt.as_raw() + done);
                if entry.is_none() {
                    return Err(MapError::NotMapped(here));
                }
                let new = change.apply(self.regime, entry);
                if new.is_writable() && self.regime.is_executable(new) {
                    return Err(MapError::WritableAndExecutable(here));
                }
                done += step - here.as_raw() % step;
            }
        }
        Ok(())
    }

    fn write_changes(&mut self, virt: VirtAddr, size: u64, change: Change, tlb: &Tlb<A>) {
        let mut written = Written::default();
        let features = tlb.features();
        let regime = self.regime;
        self.for_each_leaf(virt, size, |level, old| {
            let new = change.apply(regime, old);
            if new == old {
                return None;
            }
            written.any = true;
            let transition = Transition::between(old, new, level, features);
            if transition != Transition::Write {
                written.flush = written.flush.max(Some(level));
            }
            if transition == Transition::BreakBeforeMake {
                written.broken = true;
                return Some(old.broken());
            }
            Some(new)
        });
        if !written.any {
            return;
        }
        let Some(level) = written.flush else { return self.arch.publish_tables() };
        self.arch.dsb(Dsb::InnerShareableStores);
        tlb.flush_span(regime, &Span { start: virt, size, level: level as u8, tables: false });
        if written.broken {
            self.for_each_leaf(virt, size, |_, old| old.is_broken().then(|| change.apply(regime, old.mended())));
            self.arch.publish_tables();
        }
    }

    /// Shows every leaf to `edit`, which gives what is to be written instead. There are no holes.
    fn for_each_leaf(
        &mut self,
        virt: VirtAddr,
        size: u64,
        mut edit: impl FnMut(usize, Descriptor) -> Option<Descriptor>,
    ) {
        let mut done = 0;
        while done < size {
            let at = VirtAddr::new(virt.as_raw() + done);
            let (spot, slot, count) = self.run(at, size - done);
            for slot in slot..slot + count {
                let entry = self.load(spot.table, slot);
                if entry.is_table(spot.level) {
                    break;
                }
                if let Some(new) = edit(spot.level, entry) {
                    self.store(spot.table, slot, new);
                }
                done += level_size(spot.level);
            }
        }
    }
}
