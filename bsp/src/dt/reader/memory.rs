// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM and what must be left of it (Devicetree Specification 3.4, 3.5, 5.3; Linux `drivers/of/fdt.c`).

use super::super::values::{entries, number, split};
use super::super::walk::Node;
use super::props::Props;
use super::{Reader, full_name};
use crate::info::{DynamicReservation, MemoryBank, Oddity, RawRange, Reservation, ReservedKind, Text};

impl<'a> Reader<'a, '_> {
    /// A node of the root with `device_type = "memory"`.
    pub(super) fn memory(&mut self, node: &Node<'a>, props: &Props<'a>) {
        let Some(list) = props.usable_memory.or(props.reg) else { return };
        let name: Text<48> = full_name(node.name);
        self.ranges(list, &name, |reader, range| {
            let bank = MemoryBank { range, node: props.numa_node.unwrap_or(0), hotpluggable: props.hotpluggable };
            if reader.info.memory.try_push(bank).is_err() {
                reader.info.lost_ranges += 1;
            }
        });
    }

    /// A child of `/reserved-memory`.
    pub(super) fn reserved_memory(&mut self, node: &Node<'a>, props: &Props<'a>) {
        let kind = match (props.no_map, props.reusable) {
            (true, _) => ReservedKind::NoMap,
            (false, true) => ReservedKind::Reusable,
            (false, false) => ReservedKind::Plain,
        };
        let name: Text<48> = full_name(node.name);
        if let Some(list) = props.reg {
            self.ranges(list, &name, |reader, range| reader.reserve(Reservation { range, kind, name }));
        } else if let Some(size) = props.size.and_then(number).filter(|size| *size != 0) {
            let mut within = None;
            if let Some(list) = props.alloc_ranges {
                self.ranges(list, &name, |_, range| within = within.or(Some(range)));
            }
            let align = props.alignment.and_then(number).unwrap_or(0);
            let wish = DynamicReservation { size, align, within, kind, is_cma_default: props.cma_default, name };
            if self.info.dynamic.try_push(wish).is_err() {
                self.info.note(Oddity::TooMany, "reserved-memory");
            }
        }
    }

    /// The header's list: pairs of 64-bit address and size.
    pub(super) fn reserve_map(&mut self, map: &[u8]) {
        for entry in map.as_chunks::<16>().0 {
            let [base, size] = [0, 8].map(|at| entry.get(at..at + 8).and_then(number).unwrap_or(0));
            if size != 0 {
                let name = crate::info::name(b"memreserve");
                self.reserve(Reservation { range: RawRange { base, size }, kind: ReservedKind::MemReserve, name });
            }
        }
    }

    fn reserve(&mut self, reservation: Reservation) {
        if self.info.reserved.try_push(reservation).is_err() {
            self.info.lost_ranges += 1;
        }
    }

    /// Every non-empty (base, size) of a list, in the parent's cells. No bus stands between RAM and the CPU.
    fn ranges(&mut self, list: &[u8], name: &str, mut each: impl FnMut(&mut Self, RawRange)) {
        let Some(parent) = self.place.parent() else { return };
        let (address_cells, size_cells) = (parent.address_cells, parent.size_cells);
        let (list, partial) = entries(list, address_cells + size_cells);
        if partial {
            self.info.note(Oddity::PartialEntry, name);
        }
        for entry in list {
            let range = split(entry, address_cells)
                .filter(|(base, size)| base.len() <= 8 && size.len() <= 8)
                .and_then(|(base, size)| Some(RawRange { base: number(base)?, size: number(size)? }));
            match range {
                Some(range) if range.size != 0 => each(self, range),
                Some(_) => {}
                None => self.info.note(Oddity::TooManyCells, name),
            }
        }
    }
}
