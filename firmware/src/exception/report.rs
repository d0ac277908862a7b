// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of a fault: what happened, where, and what the machine looked like. Takes no lock, and looks at each
//! address by AT before it reads there.

use core::fmt::{self, Write};

use aarch64_cpu::registers::{MPIDR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1};
use mm::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use mm::arch::Arch;
use tock_registers::interfaces::Readable;

use super::{Fault, Frame, SERROR, SYNCHRONOUS};
use crate::cpu::hardware;
use crate::fault::{Class, Pstate, walk};
use crate::layout::{DIRECT_MAP, DIRECT_MAP_LIMIT, IMAGE, Image, VMALLOC_END, VMALLOC_START};
use crate::symbols::Code;
use crate::{backtrace, boot, memory, stack, translate};

/// The headline.
impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let syndrome = self.frame.syndrome();
        match self.kind {
            SYNCHRONOUS => {}
            SERROR => return write!(f, "SError, an asynchronous external abort, seen in {}", self.source()),
            other => return write!(f, "unexpected {} in {}", if other == 1 { "IRQ" } else { "FIQ" }, self.source()),
        }
        let address = syndrome.has_address().then_some(self.frame.far);
        if let Some(stack) = address.and_then(stack::overflowed) {
            write!(
                f,
                "stack overflow on CPU {}: {:#018x} is in the guard page of the {}: ",
                stack.cpu, self.frame.far, stack.name
            )?;
        }
        write!(f, "{syndrome}")?;
        match (syndrome.class(), translate::peek::<u32>(self.frame.elr)) {
            (Class::Undefined, Some(instruction)) => write!(f, " {instruction:#010x}")?,
            (Class::Fetch, _) if self.frame.far == 0 => f.write_str(": call of a null pointer")?,
            (Class::Read | Class::Write, _) if self.frame.far < PAGE_SIZE => f.write_str(": null pointer")?,
            _ => {}
        }
        address.map_or(Ok(()), |address| write!(f, " at {address:#018x}"))?;
        if self.source == 0 { Ok(()) } else { write!(f, " in {}", self.source()) }
    }
}

impl Fault<'_> {
    fn source(&self) -> &'static str {
        match self.source {
            0 => "the kernel",
            1 => "an exception handler",
            2 => "a 64-bit program",
            _ => "a 32-bit program",
        }
    }
}

/// Everything below the headline.
pub(super) fn write(fault: &Fault<'_>, w: &mut dyn Write) -> fmt::Result {
    let frame = fault.frame;
    let syndrome = frame.syndrome();
    write_cpu(w)?;
    writeln!(w, "ESR {:#018x}: {}", frame.esr, syndrome.details())?;
    if fault.kind == SYNCHRONOUS && syndrome.has_address() {
        write_address(w, frame.far, syndrome.class() == Class::Write)?;
    } else {
        writeln!(w, "FAR {:#018x}: not set by this exception", frame.far)?;
    }
    write_registers(w, frame)?;
    write_code(w, frame.elr)?;
    // After a call into nowhere no function has made a record yet: the caller is in the link register.
    let is_wild_call = !memory::is_text(frame.elr);
    let [x29, x30] = [29, 30].map(|index: usize| frame.x.get(index).copied().unwrap_or(0));
    backtrace::write(w, Some(frame.elr), is_wild_call.then_some(x30), x29)
}

/// Which CPU, and when.
pub(crate) fn write_cpu(w: &mut dyn Write) -> fmt::Result {
    let (cpu, mpidr, now) = (hardware().cpu(), MPIDR_EL1.get(), boot::uptime_ns());
    let (seconds, micros) = (now / 1_000_000_000, now / 1000 % 1_000_000);
    writeln!(w, "CPU {cpu} (MPIDR {mpidr:#x}) at {seconds}.{micros:06} s, Quire {}", env!("CARGO_PKG_VERSION"))
}

/// What there is at the address: by the map's plan, by the tables, and by the hardware.
fn write_address(w: &mut dyn Write, address: u64, is_write: bool) -> fmt::Result {
    writeln!(w, "FAR {address:#018x}: {}", Place(address))?;
    let half = VirtAddr::new(address);
    let root = match address >> 48 {
        0xffff => Some(("TTBR1", TTBR1_EL1.get_baddr())),
        0 if TCR_EL1.is_set(TCR_EL1::EPD0) => None,
        0 => Some(("TTBR0", TTBR0_EL1.get_baddr())),
        _ => None,
    };
    match root {
        Some((name, root)) => {
            writeln!(w, "walk from {name}:")?;
            for step in walk(PhysAddr::new_saturating(root), half, load) {
                writeln!(w, "  {step}")?;
            }
        }
        None => writeln!(w, "walk: no table translates it")?,
    }
    let (name, par) = if is_write { ("W", translate::for_write(address)) } else { ("R", translate::for_read(address)) };
    writeln!(w, "AT S1E1{name}: PAR_EL1 {:#018x}: {par}", par.as_raw())
}

/// An entry of a translation table, as long as the table is where the kernel can read it.
fn load(table: PhysAddr, index: usize) -> Option<u64> {
    let virt = if memory::is_mapped() {
        memory::direct_map(table).as_raw()
    } else {
        table.as_raw().wrapping_add(boot::image().offset())
    };
    let is_there = translate::for_read(virt).page() == Some(table);
    is_there.then(|| translate::peek(virt + index as u64 * 8))?
}

/// Where an address belongs, by the memory map.
struct Place(u64);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0;
        let in_section = |section: &crate::layout::Section| {
            (section.virt.start().as_raw()..section.virt.end().as_raw()).contains(&address)
        };
        match address {
            0..PAGE_SIZE => f.write_str("first page, which is never mapped"),
            PAGE_SIZE..0x0001_0000_0000_0000 => f.write_str("lower half, for programs"),
            0x0001_0000_0000_0000..DIRECT_MAP => f.write_str("in no half of the address space"),
            _ if address - DIRECT_MAP < DIRECT_MAP_LIMIT => {
                write!(f, "direct map of physical address {:#x}", address - DIRECT_MAP)
            }
            VMALLOC_START..VMALLOC_END => f.write_str("vmalloc area"),
            _ => match Image::at(PhysAddr::ZERO).sections().iter().find(|section| in_section(section)) {
                Some(section) => write!(f, "kernel {}", section.name),
                None if address < IMAGE => f.write_str("between vmalloc area and kernel image"),
                None => f.write_str("above the kernel image"),
            },
        }
    }
}

fn write_registers(w: &mut dyn Write, frame: &Frame) -> fmt::Result {
    let [x30] = [30].map(|index: usize| frame.x.get(index).copied().unwrap_or(0));
    writeln!(w, "pstate {}", Pstate::new(frame.spsr))?;
    writeln!(w, "pc  {:016x} {}", frame.elr, Code::at(frame.elr))?;
    writeln!(w, "lr  {x30:016x} {}", Code::returning_to(x30))?;
    let sp = frame.sp();
    match stack::of(sp.saturating_sub(1)) {
        Some(stack) => {
            let left = sp - stack.range.start().as_raw();
            writeln!(w, "sp  {sp:016x} {} of CPU {}, {left} bytes left", stack.name, stack.cpu)?;
        }
        None => match stack::overflowed(sp) {
            Some(stack) => writeln!(w, "sp  {sp:016x} below the {} of CPU {}", stack.name, stack.cpu)?,
            None => writeln!(w, "sp  {sp:016x} in no stack")?,
        },
    }
    for (row, registers) in frame.x.chunks(3).enumerate() {
        for (column, register) in registers.iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            write!(w, "{gap}x{:<2} {register:016x}", row * 3 + column)?;
        }
        writeln!(w)?;
    }
    Ok(())
}

/// The instructions up to the one that failed.
fn write_code(w: &mut dyn Write, pc: u64) -> fmt::Result {
    if translate::peek::<u32>(pc).is_none() {
        return writeln!(w, "code: not readable at {pc:#018x}");
    }
    write!(w, "code:")?;
    for address in (1..=4).rev().map(|back| pc.wrapping_sub(back * 4)) {
        match translate::peek::<u32>(address) {
            Some(word) => write!(w, " {word:08x}")?,
            None => write!(w, " ????????")?,
        }
    }
    let word = translate::peek::<u32>(pc).unwrap_or(0);
    writeln!(w, " ({word:08x})")
}
