// SPDX-License-Identifier: MIT OR Apache-2.0
//! The benchmarks of translation tables: on a tree that no CPU walks, so that what is mapped is never touched.
//!
//! Each row is measured twice: instructions with the hardware as it is, and barriers and invalidates with one that counts
//! them. Tables are there before, as they are in use; the flush is a row of its own.

use mm::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use mm::arch::Arch;
use mm::pgtable::{Attributes, MapError, PageTable, Piece, Regime, TableSource};
use mm::tlb::Tlb;

use super::counting::{Barriers, Counting};
use super::{Bench, Context, counter};
use crate::console::Failure;
use crate::cpu::hardware;
use crate::layout::VMALLOC_START;
use crate::memory::TableFrames;

const MIB: u64 = 1 << 20;

/// A row: where, to what, how much, and what the figure is divided by.
struct Row {
    name: &'static str,
    virt: u64,
    phys: u64,
    size: u64,
    /// Physical pieces, not next to each other.
    pieces: u64,
    per: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Mapping and unmapping, without the flush.
    Pair,
    /// The flush of what was unmapped.
    Flush,
    /// Mapping alone, tables included.
    Map,
}

impl Row {
    const fn new(name: &'static str, virt: u64, phys: u64, size: u64) -> Self {
        Self { name, virt, phys, size, pieces: 1, per: 1, what: What::Pair }
    }
}

const ROWS: [Row; 12] = [
    Row::new("page", 0, 0x1000, PAGE_SIZE),
    Row { what: What::Flush, ..Row::new("page_flush", 0, 0x1000, PAGE_SIZE) },
    Row { per: 16, ..Row::new("pages_16", 0x3000, 0x1000, 16 * PAGE_SIZE) },
    Row { what: What::Flush, ..Row::new("pages_16_flush", 0x3000, 0x1000, 16 * PAGE_SIZE) },
    Row { per: 512, ..Row::new("pages_512", 2 * MIB, 0x1000, 512 * PAGE_SIZE) },
    Row { pieces: 16, per: 16, ..Row::new("pieces_16", 0x2_0000, 0x1000, PAGE_SIZE) },
    Row::new("group_64K", 4 * MIB, 0, 64 << 10),
    Row::new("block_2M", 6 * MIB, 0, 2 * MIB),
    Row { what: What::Flush, ..Row::new("block_2M_flush", 6 * MIB, 0, 2 * MIB) },
    Row::new("group_32M", 32 * MIB, 0, 32 * MIB),
    Row { what: What::Map, ..Row::new("ram_1G", 2 << 30, 0, 1 << 30) },
    Row { what: What::Map, ..Row::new("ram_1G_by_2M", 4 << 30, 2 * MIB, 1 << 30) },
];

pub(super) const BENCHES: &[Bench] = &[Bench {
    name: "pt_",
    help: "mapping and unmapping, without and with the flush; barriers beside it",
    variants: ROWS.len(),
    suffix: |variant, w| w.write_str(ROWS.get(variant).map_or("", |row| row.name)),
    run,
}];

fn run(context: &mut Context<'_>, variant: usize) -> Result<(), Failure> {
    let Some(row) = ROWS.get(variant) else { return Ok(()) };
    let (mut counts, overhead) = ([0; 30], counter::overhead());
    let mut frames = TableFrames(&context.machine.memory);
    let refused = |_| Failure::Because("not enough memory for the tables");
    rounds(hardware(), row, &mut frames, counter::now, |round, start, end| {
        if let Some(count) = counts.get_mut(round) {
            *count = (end - start).saturating_sub(overhead);
        }
    })
    .map_err(refused)?;
    let (counting, mut barriers) = (Counting::new(), Barriers::default());
    rounds(&counting, row, &mut frames, || counting.barriers(), |_, start, end| barriers = end - start)
        .map_err(refused)?;
    let Barriers { dsb, isb, tlbi } = barriers;
    context.report(format_args!("pt_{}", row.name), counter::median(&counts), row.per, "instructions")?;
    Ok(context.note(format_args!("pt_{}: {dsb} DSB, {isb} ISB, {tlbi} TLBI", row.name))?)
}

/// Runs a row some times on a tree of its own; `look` is told what `read` said before and after. The first round, which
/// finds no tables, is left out.
fn rounds<A: Arch + Copy, R>(
    arch: A,
    row: &Row,
    frames: &mut impl TableSource,
    read: impl Fn() -> R,
    mut look: impl FnMut(usize, R, R),
) -> Result<(), MapError> {
    const ROUNDS: usize = 30;
    let tlb = Tlb::new(arch);
    let mut tree = PageTable::new(arch, Regime::Upper, frames)?;
    let mut done = round(&mut tree, &tlb, row, frames, &read).map(drop);
    for number in 0..ROUNDS {
        done = done.and_then(|()| {
            let (start, end) = round(&mut tree, &tlb, row, frames, &read)?;
            look(number, start, end);
            Ok(())
        });
    }
    // Whatever came of it, the tables go back.
    let trimmed = tree.trim(Regime::Upper.base(), 1 << 48, &tlb, frames);
    frames.give_back(tree.root());
    done.and(trimmed.map(drop))
}

/// Runs a row once; what `read` said before and after.
fn round<A: Arch, R>(
    tree: &mut PageTable<A>,
    tlb: &Tlb<A>,
    row: &Row,
    frames: &mut impl TableSource,
    read: impl Fn() -> R,
) -> Result<(R, R), MapError> {
    let virt = VirtAddr::new(VMALLOC_START + row.virt);
    let phys = |piece: u64| PhysAddr::new_saturating(row.phys + piece * 3 * PAGE_SIZE);
    let pieces = (0..row.pieces).map(|piece| Piece { phys: phys(piece), size: row.size });
    let size = row.pieces * row.size;
    let (first, is_one, what) = (phys(0), row.pieces == 1, row.what);
    let start = read();
    if is_one {
        tree.map(virt, first, size, Attributes::DATA, frames)?;
    } else {
        tree.map_pieces(virt, pieces, Attributes::DATA, frames)?;
    }
    let mapped = if what == What::Map { Some(read()) } else { None };
    let unmapped = tree.unmap(virt, size, tlb, frames)?;
    let end = read();
    let before = read();
    unmapped.flush(tlb).release();
    let flushed = read();
    if what == What::Map {
        tree.trim(virt, size, tlb, frames)?;
    }
    Ok(match (what, mapped) {
        (What::Flush, _) => (before, flushed),
        (_, Some(mapped)) => (start, mapped),
        _ => (start, end),
    })
}
