// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the page allocator.

use super::{Command, Table};
use crate::bench;

pub(super) const TABLE: Table = Table {
    title: "Pages",
    commands: &[Command {
        name: "bench",
        arguments: "[NAME [seed=N..]]",
        help: "instructions per operation; alone, the list",
        run: bench::run,
    }],
    files: &[],
};
