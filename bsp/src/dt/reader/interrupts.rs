// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts: from a device's node to the controller that it names (2.4).
//!
//! How many cells a specifier has is known from the controller's node, which may come later in the blob: the wires are
//! noted on the way, and connected at the end.

use arrayvec::ArrayVec;

use super::super::place::Level;
use super::super::values::word;
use super::props::Props;
use crate::info::{BootInfo, Interrupt};

/// A device's interrupts as its node has them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wire<'a> {
    /// The controller's phandle.
    parent: Option<u32>,
    /// Specifiers, one after the other.
    specifiers: &'a [u8],
}

impl<'a> Wire<'a> {
    /// The wire of the node at hand: of `interrupts-extended` the first, which says its own parent, or all of
    /// `interrupts`.
    pub(super) fn of(props: &Props<'a>, level: &Level<'a>) -> Self {
        match props.interrupts_extended.and_then(|list| list.split_at_checked(4)) {
            Some((parent, specifiers)) => Self { parent: word(parent), specifiers },
            None => Self { parent: level.interrupt_parent, specifiers: props.interrupts.unwrap_or_default() },
        }
    }
}

/// All wires and controllers of interest.
#[derive(Debug, Default)]
pub(super) struct Interrupts<'a> {
    /// As [`BootInfo::intcs`]: phandle, `#interrupt-cells`, and where its own interrupt goes.
    pub(super) controllers: ArrayVec<(Option<u32>, Option<u32>, Wire<'a>), 4>,
    /// As [`BootInfo::uarts`].
    pub(super) uarts: ArrayVec<Wire<'a>, 16>,
    pub(super) timer: Wire<'a>,
}

impl Interrupts<'_> {
    /// Fills in what refers to controllers.
    pub(super) fn connect(&self, info: &mut BootInfo) {
        for (uart, wire) in info.uarts.iter_mut().zip(&self.uarts) {
            uart.interrupt = self.specifiers(wire).next();
        }
        for (index, controller) in info.intcs.iter_mut().enumerate() {
            let wire = self.controllers.get(index).map(|controller| controller.2).unwrap_or_default();
            // The first controller is its own parent in some trees.
            controller.parent = self.specifiers(&wire).next().filter(|parent| parent.controller != index);
        }
        if let Some(timer) = &mut info.timer {
            timer.interrupts = self.specifiers(&self.timer).take(timer.interrupts.capacity()).collect();
        }
    }

    /// The interrupts of a wire; none if its controller is not in the list.
    fn specifiers<'w>(&self, wire: &'w Wire<'_>) -> impl Iterator<Item = Interrupt> + use<'w> {
        let controller = self.controllers.iter().position(|entry| entry.0.is_some() && entry.0 == wire.parent);
        let cells = controller.and_then(|index| self.controllers.get(index)?.1);
        // As many cells as any binding has, and a chunk size that is not 0.
        let bytes = cells.filter(|cells| (1..=8).contains(cells)).map_or(usize::MAX, |cells| cells as usize * 4);
        wire.specifiers.chunks_exact(bytes).filter_map(move |specifier| {
            let mut interrupt = Interrupt { controller: controller?, cells: [0; 3] };
            for (cell, bytes) in interrupt.cells.iter_mut().zip(specifier.as_chunks::<4>().0) {
                *cell = u32::from_be_bytes(*bytes);
            }
            Some(interrupt)
        })
    }
}
