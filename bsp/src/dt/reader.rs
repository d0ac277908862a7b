// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a node is: decided by where it stands, then by what it is compatible with.
//!
//! One visit a node. What refers to other nodes (aliases, clocks, `stdout-path`) is put together at the end.

mod chosen;
mod devices;
mod interrupts;
mod memory;
mod pins;
mod props;

use arrayvec::ArrayVec;

use self::devices::Clocks;
use self::interrupts::Interrupts;
use self::pins::Pins;
use self::props::Props;
use super::DtError;
use super::place::{Level, Place};
use super::values::{has, strings};
use super::walk::{Name, Node, Visitor};
use crate::info::{BootInfo, Conduit, DmaWindow, Oddity, Psci, Text, set_text};

/// What the children of a node of the first level are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Section {
    ReservedMemory,
    Cpus,
    Other,
}

/// Fills a [`BootInfo`] from the nodes it is shown.
pub(super) struct Reader<'a, 'b> {
    info: &'b mut BootInfo,
    place: Place<'a>,
    /// The first-level node that the walk is in.
    section: Section,
    /// `/aliases`: name and path.
    aliases: ArrayVec<(&'a str, &'a [u8]), 64>,
    /// The path of each of `info.uarts`, and the clock it refers to.
    uarts: ArrayVec<(Text<96>, Option<u32>), 16>,
    clocks: Clocks,
    interrupts: Interrupts<'a>,
    pins: Pins<'a>,
    /// Names from the root down to the node at hand.
    path: ArrayVec<Name<'a>, 16>,
}

impl<'a> Visitor<'a> for Reader<'a, '_> {
    fn node(&mut self, depth: usize, node: &Node<'a>) -> Result<(), DtError> {
        let mut props = Props::default();
        node.properties(|name, value| props.take(name, value))?;
        self.place.rise_to(depth);
        self.path.truncate(depth.saturating_sub(1));
        if depth > 0 {
            let _ = self.path.try_push(node.name);
        }
        let mut level = Level {
            address_cells: props.address_cells.map_or(2, |cells| cells as usize),
            size_cells: props.size_cells.map_or(1, |cells| cells as usize),
            enabled: self.place.is_enabled() && props.is_enabled(),
            ranges: props.ranges,
            dma_ranges: props.dma_ranges,
            dma_coherent: props.dma_coherent.unwrap_or(self.place.parent().is_some_and(|parent| parent.dma_coherent)),
            dma_window: DmaWindow::IDENTITY,
            interrupt_parent: props.interrupt_parent.or(self.place.parent().and_then(|parent| parent.interrupt_parent)),
        };
        level.dma_window = self.place.dma_window(&level);
        match depth {
            0 => self.root(&props),
            1 => self.first_level(node, &props, &level)?,
            2 if level.enabled && self.section == Section::ReservedMemory => self.reserved_memory(node, &props),
            2 if level.enabled && self.section == Section::Cpus => self.cpu(node, &props),
            _ => {}
        }
        self.anywhere(node, &props, &level, depth);
        self.place.enter(level);
        Ok(())
    }
}

impl<'a, 'b> Reader<'a, 'b> {
    /// A reader that has seen nothing. `info` is empty.
    pub(super) fn new(info: &'b mut BootInfo) -> Self {
        Self {
            info,
            place: Place::default(),
            section: Section::Other,
            aliases: ArrayVec::new(),
            uarts: ArrayVec::new(),
            clocks: Clocks::default(),
            interrupts: Interrupts::default(),
            pins: Pins::default(),
            path: ArrayVec::new(),
        }
    }

    fn root(&mut self, props: &Props<'a>) {
        let mut changed = set_text(&mut self.info.model, props.model.unwrap_or_default());
        let first = props.compatible.and_then(|list| strings(list).next()).unwrap_or_default();
        changed |= set_text(&mut self.info.compatible, first);
        if changed {
            self.info.note(Oddity::BadText, "/");
        }
        let pi = |entry: &[u8]| {
            [&b"raspberrypi,"[..], b"brcm,bcm27", b"brcm,bcm28"].iter().any(|board| entry.starts_with(board))
        };
        if strings(props.compatible.unwrap_or_default()).any(pi) {
            self.info.set_raspberry_pi();
        }
    }

    fn first_level(&mut self, node: &Node<'a>, props: &Props<'a>, level: &Level<'a>) -> Result<(), DtError> {
        self.section = match (node.name.base, node.name.unit) {
            ("reserved-memory", None) => Section::ReservedMemory,
            ("cpus", None) => Section::Cpus,
            _ => Section::Other,
        };
        match node.name.base {
            "aliases" => node.properties(|name, path| {
                if name != "phandle" && self.aliases.try_push((name, path)).is_err() {
                    self.info.note(Oddity::TooMany, "aliases");
                }
            })?,
            "chosen" => self.chosen(props),
            _ if level.enabled && props.device_type.is_some_and(|kind| has(kind, "memory")) => self.memory(node, props),
            _ => {}
        }
        Ok(())
    }

    /// What may stand at any depth.
    fn anywhere(&mut self, node: &Node<'a>, props: &Props<'a>, level: &Level<'a>, depth: usize) {
        if let Some(phandle) = props.phandle
            && let Some(frequency) = props.clock_frequency
            && props.is_compatible("fixed-clock")
        {
            self.clocks.add(phandle, frequency);
        }
        if !level.enabled {
            return;
        }
        if let Some(end) = self.place.dma_end(level) {
            self.info.dma_limit = Some(self.info.dma_limit.map_or(end, |limit| limit.min(end)));
        }
        if self.info.psci.is_none()
            && ["arm,psci", "arm,psci-0.2", "arm,psci-1.0"].iter().any(|name| props.is_compatible(name))
        {
            let conduit = match props.method {
                Some(method) if has(method, "smc") => Some(Conduit::Smc),
                Some(method) if has(method, "hvc") => Some(Conduit::Hvc),
                _ => None,
            };
            self.info.psci = conduit.map(|conduit| Psci { conduit });
        }
        if props.compatible.is_some() {
            self.device(node, props, level);
        }
        self.pins(node, props, depth);
    }

    /// Puts together what refers to each other, sorts, and adds the header's list.
    pub(super) fn finish(&mut self, reserve_map: &[u8]) {
        self.reserve_map(reserve_map);
        self.connect_uarts();
        self.interrupts.connect(self.info);
        self.pins.connect(self.info);
        sort_short(&mut self.info.memory, &|a, b| a < b);
        sort_short(&mut self.info.reserved, &|a, b| (a.range, a.kind) < (b.range, b.kind));
    }
}

/// Sorts a short list. The library's sorts are made for long ones, and each use of them adds kilobytes to the image.
fn sort_short<T>(list: &mut [T], is_less: &dyn Fn(&T, &T) -> bool) {
    for end in 1..list.len() {
        let mut at = end;
        while at > 0
            && let Some([before, item]) = list.get(at - 1..=at)
            && is_less(item, before)
        {
            list.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// A node's name as the tree writes it.
fn full_name<const N: usize>(name: Name<'_>) -> Text<N> {
    let mut text = Text::new();
    let parts = [Some(name.base), name.unit.map(|_| "@"), name.unit];
    // Longer than the specification allows: cut.
    for char in parts.into_iter().flatten().flat_map(str::chars) {
        if text.try_push(char).is_err() {
            break;
        }
    }
    text
}
