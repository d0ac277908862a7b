// SPDX-License-Identifier: MIT OR Apache-2.0
//! The properties of a node that anybody asks for, taken in one pass.

use super::super::values::{has, one_or_two, word};

/// A node's properties, as far as they matter.
#[derive(Default)]
pub(super) struct Props<'a> {
    pub(super) address_cells: Option<u32>,
    pub(super) size_cells: Option<u32>,
    pub(super) status: Option<&'a [u8]>,
    pub(super) compatible: Option<&'a [u8]>,
    pub(super) device_type: Option<&'a [u8]>,
    pub(super) model: Option<&'a [u8]>,
    pub(super) phandle: Option<u32>,
    pub(super) reg: Option<&'a [u8]>,
    pub(super) usable_memory: Option<&'a [u8]>,
    pub(super) ranges: Option<&'a [u8]>,
    pub(super) dma_ranges: Option<&'a [u8]>,
    pub(super) dma_coherent: Option<bool>,
    pub(super) dma_channels: Option<u32>,
    pub(super) numa_node: Option<u32>,
    pub(super) hotpluggable: bool,
    pub(super) no_map: bool,
    pub(super) reusable: bool,
    pub(super) cma_default: bool,
    pub(super) size: Option<&'a [u8]>,
    pub(super) alignment: Option<&'a [u8]>,
    pub(super) alloc_ranges: Option<&'a [u8]>,
    pub(super) enable_method: Option<&'a [u8]>,
    pub(super) release_address: Option<u64>,
    pub(super) method: Option<&'a [u8]>,
    pub(super) clocks: Option<&'a [u8]>,
    pub(super) clock_frequency: Option<u32>,
    pub(super) interrupts: Option<&'a [u8]>,
    pub(super) interrupts_extended: Option<&'a [u8]>,
    pub(super) interrupt_parent: Option<u32>,
    pub(super) interrupt_cells: Option<u32>,
    pub(super) redistributor_regions: Option<u32>,
    pub(super) label: Option<&'a [u8]>,
    pub(super) gpios: Option<&'a [u8]>,
    pub(super) pinctrl: Option<&'a [u8]>,
    pub(super) pins: Option<&'a [u8]>,
    pub(super) pin_function: Option<&'a [u8]>,
    pub(super) pin_pulls: Option<&'a [u8]>,
    pub(super) bootargs: Option<&'a [u8]>,
    pub(super) stdout_path: Option<&'a [u8]>,
    pub(super) old_stdout_path: Option<&'a [u8]>,
    pub(super) initrd_start: Option<u64>,
    pub(super) initrd_end: Option<u64>,
}

impl<'a> Props<'a> {
    /// Keeps a property if it is one of these.
    pub(super) fn take(&mut self, name: &'a str, value: &'a [u8]) {
        match name {
            "#address-cells" => self.address_cells = word(value),
            "#size-cells" => self.size_cells = word(value),
            "status" => self.status = Some(value),
            "compatible" => self.compatible = Some(value),
            "device_type" => self.device_type = Some(value),
            "model" => self.model = Some(value),
            "phandle" | "linux,phandle" => self.phandle = word(value),
            "reg" => self.reg = Some(value),
            "linux,usable-memory" => self.usable_memory = Some(value),
            "ranges" => self.ranges = Some(value),
            "dma-ranges" => self.dma_ranges = Some(value),
            "dma-coherent" => self.dma_coherent = Some(true),
            "dma-noncoherent" => self.dma_coherent = Some(false),
            "brcm,dma-channel-mask" => self.dma_channels = word(value),
            "numa-node-id" => self.numa_node = word(value),
            "hotpluggable" => self.hotpluggable = true,
            "no-map" => self.no_map = true,
            "reusable" => self.reusable = true,
            "linux,cma-default" => self.cma_default = true,
            "size" => self.size = Some(value),
            "alignment" => self.alignment = Some(value),
            "alloc-ranges" => self.alloc_ranges = Some(value),
            "enable-method" => self.enable_method = Some(value),
            "cpu-release-addr" => self.release_address = one_or_two(value),
            "method" => self.method = Some(value),
            "clocks" => self.clocks = Some(value),
            "clock-frequency" => self.clock_frequency = word(value),
            "interrupts" => self.interrupts = Some(value),
            "interrupts-extended" => self.interrupts_extended = Some(value),
            "interrupt-parent" => self.interrupt_parent = word(value),
            "#interrupt-cells" => self.interrupt_cells = word(value),
            "#redistributor-regions" => self.redistributor_regions = word(value),
            "label" => self.label = Some(value),
            "gpios" => self.gpios = Some(value),
            "pinctrl-0" => self.pinctrl = Some(value),
            "brcm,pins" => self.pins = Some(value),
            "brcm,function" => self.pin_function = Some(value),
            "brcm,pull" => self.pin_pulls = Some(value),
            "bootargs" => self.bootargs = Some(value),
            "stdout-path" => self.stdout_path = Some(value),
            "linux,stdout-path" => self.old_stdout_path = Some(value),
            "linux,initrd-start" => self.initrd_start = one_or_two(value),
            "linux,initrd-end" => self.initrd_end = one_or_two(value),
            _ => {}
        }
    }

    /// Whether the node itself is to be used (2.3.4): no `status`, `okay`, or the old `ok`.
    pub(super) fn is_enabled(&self) -> bool {
        self.status.is_none_or(|status| has(status, "okay") || has(status, "ok"))
    }

    /// Whether `compatible` lists `name`.
    pub(super) fn is_compatible(&self, name: &str) -> bool {
        self.compatible.is_some_and(|list| has(list, name))
    }
}
