// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only user of the `fdt` crate: every node once, in the blob's order.
//!
//! Its iterators repeat an error for ever, so the first one ends the walk.

use fdt::helpers::UnalignedFallibleNode;
use fdt::nodes::AsNode;
use fdt::{Fdt, FdtError};

use super::DtError;

/// Who is shown the tree.
pub(super) trait Visitor<'a> {
    /// A node `depth` levels below the root (which is 0 itself).
    fn node(&mut self, depth: usize, node: &Node<'a>) -> Result<(), DtError>;
}

/// The name of a node: `base@unit`, or just `base`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) base: &'a str,
    pub(super) unit: Option<&'a str>,
}

/// A node: its name, and its properties on demand.
pub(super) struct Node<'a> {
    node: UnalignedFallibleNode<'a>,
    pub(super) name: Name<'a>,
}

impl<'a> Node<'a> {
    fn new(node: UnalignedFallibleNode<'a>) -> Result<Self, FdtError> {
        let name = node.name()?;
        Ok(Self { name: Name { base: name.name, unit: name.unit_address }, node })
    }

    /// Calls `each` with every property, in order.
    pub(super) fn properties(&self, mut each: impl FnMut(&'a str, &'a [u8])) -> Result<(), DtError> {
        let properties = self.node.properties().map_err(gave_up)?;
        for property in properties.iter() {
            let property = property.map_err(gave_up)?;
            each(property.name, property.value);
        }
        Ok(())
    }
}

/// Shows all nodes of a checked blob to `visitor`.
pub(super) fn walk<'a>(blob: &'a [u8], visitor: &mut impl Visitor<'a>) -> Result<(), DtError> {
    let root = Fdt::new_unaligned_fallible(blob).and_then(|tree| tree.root()).map_err(gave_up)?;
    visitor.node(0, &Node::new(root.as_node()).map_err(gave_up)?)?;
    for item in root.all_nodes().map_err(gave_up)? {
        let (depth, node) = item.map_err(gave_up)?;
        visitor.node(depth, &Node::new(node).map_err(gave_up)?)?;
    }
    Ok(())
}

/// The check has passed the blob, so the parser's reasons are of no use to anybody.
fn gave_up(_: FdtError) -> DtError {
    DtError::Parser
}
