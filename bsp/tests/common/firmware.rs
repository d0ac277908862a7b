// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the firmware does with a tree before there is a page allocator, without a board: for whoever feeds it
//! trees that nobody vouches for. The fuzz target and the mutation test run the same lines.

use bsp::console::choose_console;
use bsp::dt::{self, DtError};
use bsp::info::{BootInfo, EnableMethod, RawRange, ReservedKind};
use mm::addr::{PhysAddr, PhysRange};
use mm::memblock::{Memblock, MemblockError, Request, ReserveFlags, Tag};

/// RAM that a Cortex-A72 can reach.
const LIMIT: PhysAddr = PhysAddr::new_saturating(1 << 44);

/// Reads `blob` into `info` and checks what must hold of any tree: whatever is refused is refused with a reason
/// that can be printed, and what is read makes sense.
pub(crate) fn boot(blob: &[u8], info: &mut BootInfo) -> Result<(), DtError> {
    if let Err(error) = dt::read(blob, info) {
        assert!(!error.to_string().is_empty());
        return Err(error);
    }
    check(info);
    copy(blob);
    if !info.is_truncated() {
        // Too many regions for the boot-time allocator is an answer too.
        let _ = take_memory(info);
    }
    Ok(())
}

/// The lists are what their documentation says.
fn check(info: &BootInfo) {
    assert!(info.memory.is_sorted());
    assert!(info.memory.iter().all(|bank| bank.range.size != 0));
    assert!(info.reserved.is_sorted_by_key(|entry| entry.range));
    assert!(info.reserved.iter().all(|entry| entry.range.size != 0));
    assert!(info.dynamic.iter().all(|wish| wish.size != 0));
    assert!(info.nr_cpus >= info.cpus.len());
    let wires =
        info.uarts.iter().filter_map(|uart| uart.interrupt).chain(info.intcs.iter().filter_map(|intc| intc.parent));
    let timer = info.timer.iter().flat_map(|timer| timer.interrupts.iter().copied());
    assert!(wires.chain(timer).all(|wire| wire.controller < info.intcs.len()));
    assert!(info.stdout_uart.is_none_or(|index| index < info.uarts.len()));
    assert_eq!(choose_console(info, &info.bootargs).is_some(), !info.uarts.is_empty());
    assert!(info.bootargs.chars().all(|char| !char.is_control()));
    assert!(info.problems.iter().all(|problem| !problem.to_string().is_empty()));
}

/// The compact copy is whole, no larger, and its own compact copy.
fn copy(blob: &[u8]) {
    let size = dt::compact_size(blob).unwrap_or(0);
    assert!(size <= blob.len());
    let mut first = vec![0; size];
    assert_eq!(dt::compact(blob, &mut first), Ok(size));
    let mut second = vec![0; size];
    assert_eq!(dt::compact(&first, &mut second), Ok(size));
    assert_eq!(first, second);
}

/// Banks, reservations and wishes go into memblock in the firmware's order; then every byte is accounted for.
fn take_memory(info: &BootInfo) -> Result<(), MemblockError> {
    let mut memblock = Box::new(Memblock::new());
    let clipped = |range: RawRange| PhysRange::clipped(range.base, range.size, LIMIT).0;
    for bank in &info.memory {
        memblock.add(clipped(bank.range), bank.node)?;
    }
    for no_map in [true, false] {
        for entry in info.reserved.iter().filter(|entry| (entry.kind == ReservedKind::NoMap) == no_map) {
            memblock.reserve(clipped(entry.range), Tag(1), flags_of(entry.kind))?;
        }
    }
    for cpu in &info.cpus {
        if let EnableMethod::SpinTable { release } = cpu.method {
            let word = clipped(RawRange { base: release, size: 8 });
            memblock.reserve(word.frames_touched(), Tag(2), ReserveFlags::empty())?;
        }
    }
    for wish in &info.dynamic {
        let mut request = Request::new(wish.size, Tag(3)).flags(flags_of(wish.kind)).align(wish.align.max(1));
        if let Some(within) = wish.within {
            request = request.within(clipped(within));
        }
        if let Ok(range) = memblock.alloc(request) {
            assert!(range.size() >= wish.size && memblock.is_memory(range.start()));
        }
    }
    let ledger = memblock.ledger();
    assert_eq!(ledger.total_bytes, ledger.free_bytes + ledger.reserved_bytes + ledger.rounding_bytes);
    assert_eq!(ledger.free_bytes, memblock.free_ranges().map(|free| free.range.size()).sum::<u64>());
    for free in memblock.free_ranges() {
        assert!(memblock.is_memory(free.range.start()) && memblock.owner_of(free.range.start()).is_none());
        assert!(free.range.end() <= LIMIT);
    }
    Ok(())
}

const fn flags_of(kind: ReservedKind) -> ReserveFlags {
    match kind {
        ReservedKind::NoMap => ReserveFlags::NOMAP,
        ReservedKind::Reusable => ReserveFlags::REUSABLE,
        ReservedKind::Plain | ReservedKind::MemReserve => ReserveFlags::empty(),
    }
}
