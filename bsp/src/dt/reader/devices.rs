// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processors and the devices that this firmware drives, known by `compatible` (3.7, 3.8; Linux's bindings).

use arrayvec::ArrayVec;

use super::super::place::Level;
use super::super::values::{has, number, word};
use super::super::walk::Node;
use super::interrupts::Wire;
use super::props::Props;
use super::{Reader, full_name};
use crate::info::{
    Cpu, EnableMethod, IntcKind, InterruptController, Master, MasterKind, Oddity, RawRange, Timer, Uart, UartKind,
};

const UARTS: [(&str, UartKind); 3] =
    [("arm,pl011", UartKind::Pl011), ("arm,sbsa-uart", UartKind::Pl011), ("brcm,bcm2835-aux-uart", UartKind::BcmAux)];

const INTCS: [(&str, IntcKind); 8] = [
    ("arm,gic-v3", IntcKind::GicV3),
    ("arm,gic-400", IntcKind::GicV2),
    ("arm,cortex-a15-gic", IntcKind::GicV2),
    ("arm,cortex-a7-gic", IntcKind::GicV2),
    ("arm,cortex-a9-gic", IntcKind::GicV2),
    ("brcm,bcm2836-l1-intc", IntcKind::BcmL1),
    ("brcm,bcm2836-armctrl-ic", IntcKind::BcmArmctrl),
    ("brcm,bcm2835-armctrl-ic", IntcKind::BcmArmctrl),
];

const TIMERS: [&str; 2] = ["arm,armv8-timer", "arm,armv7-timer"];
const WATCHDOGS: [&str; 3] = ["brcm,bcm2711-pm", "brcm,bcm2835-pm", "brcm,bcm2835-pm-wdt"];

impl<'a> Reader<'a, '_> {
    /// A child of `/cpus` that is enabled.
    pub(super) fn cpu(&mut self, node: &Node<'a>, props: &Props<'a>) {
        if node.name.base != "cpu" && !props.device_type.is_some_and(|kind| has(kind, "cpu")) {
            return;
        }
        self.info.nr_cpus += 1;
        let cells = self.place.parent().map_or(1, |parent| parent.address_cells);
        let mpidr = props.reg.and_then(|reg| reg.get(..cells * 4)).and_then(number).unwrap_or(0);
        let method = match props.enable_method {
            Some(method) if has(method, "psci") => EnableMethod::Psci,
            Some(method) if has(method, "spin-table") => {
                props.release_address.map_or(EnableMethod::Unknown, |release| EnableMethod::SpinTable { release })
            }
            _ => EnableMethod::Unknown,
        };
        // More processors than fit are counted, and never started.
        let _ = self.info.cpus.try_push(Cpu { mpidr, method, node: props.numa_node.unwrap_or(0) });
    }

    /// An enabled node with a `compatible`.
    pub(super) fn device(&mut self, node: &Node<'a>, props: &Props<'a>, level: &Level<'a>) {
        if let Some((compatible, kind)) = UARTS.into_iter().find(|entry| props.is_compatible(entry.0)) {
            self.uart(node, props, level, compatible, kind);
        } else if let Some((_, kind)) = INTCS.into_iter().find(|entry| props.is_compatible(entry.0)) {
            self.interrupt_controller(node, props, level, kind);
        } else if self.info.timer.is_none() && TIMERS.iter().any(|name| props.is_compatible(name)) {
            self.info.timer = Some(Timer::default());
            self.interrupts.timer = Wire::of(props, level);
        } else if self.info.watchdog.is_none() && WATCHDOGS.iter().any(|name| props.is_compatible(name)) {
            self.info.watchdog = props.reg.and_then(|reg| self.place.cpu_range(reg, 0)).map(|range| range.base);
        } else if props.is_compatible("virtio,mmio") {
            self.master(node, props, level, MasterKind::VirtioMmio);
        } else if props.is_compatible("brcm,bcm2835-dma") {
            self.master(node, props, level, MasterKind::Bcm2835Dma { channels: props.dma_channels.unwrap_or(0) });
        }
    }

    /// A device that reads and writes RAM.
    fn master(&mut self, node: &Node<'a>, props: &Props<'a>, level: &Level<'a>, kind: MasterKind) {
        let Some(RawRange { base, size }) = props.reg.and_then(|reg| self.place.cpu_range(reg, 0)) else {
            self.info.note(Oddity::Unreachable, &full_name::<48>(node.name));
            return;
        };
        let windows = self.place.dma_windows();
        let buses = &mut self.info.dma_buses;
        let bus = buses.iter().position(|known| *known == windows).or_else(|| {
            buses.try_push(windows).ok()?;
            Some(buses.len() - 1)
        });
        let master = |bus: usize| Master { kind, base, size, is_coherent: level.dma_coherent, bus: bus as u8 };
        if bus.is_none_or(|bus| self.info.masters.try_push(master(bus)).is_err()) {
            self.info.note(Oddity::TooMany, &full_name::<48>(node.name));
        }
    }

    fn uart(
        &mut self,
        node: &Node<'a>,
        props: &Props<'a>,
        level: &Level<'a>,
        compatible: &'static str,
        kind: UartKind,
    ) {
        let name = full_name(node.name);
        let Some(range) = props.reg.and_then(|reg| self.place.cpu_range(reg, 0)) else {
            self.info.note(Oddity::Unreachable, &name);
            return;
        };
        let RawRange { base, size } = range;
        let clock_hz = props.clock_frequency;
        let uart =
            Uart { kind, compatible, base, size, clock_hz, serial_index: None, interrupt: None, pins: [None; 4], name };
        if self.info.uarts.try_push(uart).is_err() {
            self.info.note(Oddity::TooMany, &name);
            return;
        }
        let clock = props.clocks.and_then(|clocks| word(clocks.get(..4)?));
        // As long as the list above, which had room.
        let _ = self.uarts.try_push((self.current_path(), clock));
        let _ = self.interrupts.uarts.try_push(Wire::of(props, level));
        let _ = self.pins.uarts.try_push(props.pinctrl.unwrap_or_default());
    }

    fn interrupt_controller(&mut self, node: &Node<'a>, props: &Props<'a>, level: &Level<'a>, kind: IntcKind) {
        let reg = props.reg.unwrap_or_default();
        let regs = (0..8).map_while(|index| self.place.cpu_range(reg, index)).collect();
        let redistributor_regions = props.redistributor_regions.unwrap_or(1) as usize;
        let controller = InterruptController { kind, regs, parent: None, redistributor_regions };
        if self.info.intcs.try_push(controller).is_err() {
            // Boards have one or two; chained ones of other makes are not in the list.
            self.info.note(Oddity::TooMany, &full_name::<48>(node.name));
            return;
        }
        // As long as the list above, which had room.
        let _ = self.interrupts.controllers.try_push((props.phandle, props.interrupt_cells, Wire::of(props, level)));
    }
}

/// Fixed clocks, by the number other nodes know them by.
#[derive(Debug, Default)]
pub(super) struct Clocks(ArrayVec<(u32, u32), 32>);

impl Clocks {
    /// A clock of `frequency` Hz. Those that do not fit are unknown to everybody, which is safe.
    pub(super) fn add(&mut self, phandle: u32, frequency: u32) {
        let _ = self.0.try_push((phandle, frequency));
    }

    pub(super) fn find(&self, phandle: u32) -> Option<u32> {
        self.0.iter().find(|clock| clock.0 == phandle).map(|clock| clock.1)
    }
}
