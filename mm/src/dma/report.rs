// SPDX-License-Identifier: MIT OR Apache-2.0
//! How things stand: pools, bounce buffers, and what each device has, with whoever asked for it.
#![forbid(unsafe_code)]

use core::panic::Location;

use super::bounce::SLOT_BYTES;
use super::device::Device;
use super::record::{Kind, Record};
use super::{Direction, DmaError, MAX_DEVICES, Mapper, Platform};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::arch::Arch;
use crate::slab::PageSource;

/// Something that a device has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The device's name.
    pub device: &'static str,
    /// Where the memory is; of a bounced mapping, the memory itself.
    pub phys: PhysAddr,
    /// Bytes.
    pub bytes: u64,
    /// Who reads and writes.
    pub direction: Direction,
    /// What kind of mapping.
    pub kind: Kind,
    /// Whether it goes through a bounce buffer.
    pub is_bounced: bool,
    /// Who asked for it.
    pub caller: &'static Location<'static>,
}

/// Figures of all devices together. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// RAM that is mapped uncached.
    pub pool_bytes: u64,
    /// What of it is free.
    pub pool_free_bytes: u64,
    /// What of it came from the page allocator.
    pub grown_bytes: u64,
    /// The bounce area; 0 while nobody needed one.
    pub bounce_bytes: u64,
    /// What of it is in use.
    pub bounce_used_bytes: u64,
    /// The most that ever was.
    pub bounce_most_bytes: u64,
    /// Mappings.
    pub mappings: u64,
    /// What is needed to remember all this.
    pub metadata_bytes: u64,
}

/// What one device has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceUse {
    /// Its name.
    pub name: &'static str,
    /// Allocations that it shares with the CPU, and their bytes.
    pub coherent: (u64, u64),
    /// Mappings, and their bytes.
    pub streaming: (u64, u64),
    /// How many of them are bounced.
    pub bounced: u64,
}

impl<A: Arch, S: PageSource, P: Platform> Mapper<'_, A, S, P> {
    /// Figures of all together. O(chunks).
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let chunks = self.chunks.lock(self.arch);
        for chunk in chunks.iter() {
            let bytes = u64::from(chunk.pages()) * PAGE_SIZE;
            usage.pool_bytes += bytes;
            usage.pool_free_bytes += u64::from(chunk.free_pages()) * PAGE_SIZE;
            usage.grown_bytes += if chunk.is_grown() { bytes } else { 0 };
            usage.metadata_bytes += chunk.tag_pages() * PAGE_SIZE;
        }
        drop(chunks);
        let bounce = self.bounce.lock(self.arch);
        usage.bounce_bytes = u64::from(bounce.slots()) * SLOT_BYTES;
        usage.bounce_used_bytes = u64::from(bounce.used) * SLOT_BYTES;
        usage.bounce_most_bytes = u64::from(bounce.most) * SLOT_BYTES;
        drop(bounce);
        let records = self.records.lock(self.arch);
        usage.mappings = records.all().len() as u64;
        usage.metadata_bytes += records.pages() * PAGE_SIZE;
        usage
    }

    /// Calls `visit` for everything that devices have, outside of any lock; what comes and goes meanwhile may be missed.
    /// O(n log n) for n mappings, O(pages) for coherent memory.
    pub fn for_each_held(&self, mut visit: impl FnMut(&Held)) {
        self.visit(None, &mut visit);
    }

    fn visit(&self, device: Option<u16>, visit: &mut dyn FnMut(&Held)) {
        let is_meant = |number: u16| device.is_none_or(|device| device == number);
        let mut next = 0;
        loop {
            let chunks = self.chunks.lock(self.arch);
            let tags = chunks.iter().flat_map(super::chunk::Chunk::tags);
            let found =
                tags.filter(|(phys, tag)| phys.as_raw() >= next && is_meant(tag.device)).min_by_key(|(phys, _)| *phys);
            drop(chunks);
            let Some((phys, tag)) = found else { break };
            next = phys.as_raw() + PAGE_SIZE;
            if let (Some(device), Some(caller)) = (self.name(tag.device), tag.caller) {
                let bytes = u64::from(tag.pages) * PAGE_SIZE;
                let (direction, kind) = (Direction::Both, Kind::Coherent);
                visit(&Held { device, phys, bytes, direction, kind, is_bounced: false, caller });
            }
        }
        let mut at = 0;
        loop {
            let record: Option<Record> = self.records.lock(self.arch).all().get(at).copied();
            let Some(record) = record else { break };
            at += 1;
            if is_meant(record.device())
                && let Some(device) = self.name(record.device())
            {
                visit(&Held {
                    device,
                    phys: record.start(),
                    bytes: record.bytes(),
                    direction: record.direction(),
                    kind: record.kind(),
                    is_bounced: record.slot().is_some(),
                    caller: record.caller(),
                });
            }
        }
    }

    fn name(&self, device: u16) -> Option<&'static str> {
        *self.names.lock(self.arch).get(usize::from(device))?
    }

    /// What each device has.
    pub fn devices(&self) -> impl Iterator<Item = DeviceUse> {
        (0..MAX_DEVICES as u16).filter_map(|number| {
            let name = self.name(number)?;
            let mut all = DeviceUse { name, coherent: (0, 0), streaming: (0, 0), bounced: 0 };
            self.visit(Some(number), &mut |held| {
                let sum = match held.kind {
                    Kind::Coherent => &mut all.coherent,
                    Kind::Streaming => &mut all.streaming,
                };
                sum.0 += 1;
                sum.1 += held.bytes;
                all.bounced += u64::from(held.is_bounced);
            });
            Some(all)
        })
    }

    /// A driver ends: its device has nothing any more. What it still has is shown to `leak`.
    ///
    /// # Errors
    ///
    /// The device, if there is such: it stays known, and its memory stays its own, since the device may be using it.
    #[expect(clippy::result_large_err, reason = "a device that cannot be released is still there")]
    pub fn release(&self, device: Device, mut leak: impl FnMut(&Held)) -> Result<(), (Device, DmaError)> {
        let mut count = 0;
        self.visit(Some(device.number), &mut |held| {
            count += 1;
            leak(held);
        });
        if count > 0 {
            return Err((device, DmaError::InUse(count)));
        }
        if let Some(name) = self.names.lock(self.arch).get_mut(usize::from(device.number)) {
            *name = None;
        }
        Ok(())
    }

    /// Whether everything is consistent. O(pages + mappings).
    #[must_use]
    pub fn validate(&self) -> bool {
        let is_sorted = self.records.lock(self.arch).all().is_sorted_by_key(Record::start);
        is_sorted && self.bounce.lock(self.arch).validate() && self.chunks.lock(self.arch).iter().all(|c| c.validate())
    }
}
