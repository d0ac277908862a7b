// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions: a fault ends the machine with a report, unless a test has announced it.
//!
//! The handler runs on the fault stack (SP_EL1); see `exception/vectors.S`. Interrupts stay masked.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::log::record;
use crate::{boot, memory, output, power, println};

core::arch::global_asm!(include_str!("exception/vectors.S"));

/// The interrupted registers, as `exception/vectors.S` stores them.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    x: [u64; 31],
    sp: u64,
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
}

const _: () = assert!(size_of::<Frame>() == 288);

/// What kind of access faulted: ESR_EL1.EC, as far as this firmware tells them apart (Arm ARM D24.2.40).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Cause {
    /// An instruction that does not exist here.
    Undefined = 1,
    /// Instruction fetch.
    Fetch,
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Everything else.
    Other,
}

impl Cause {
    fn of(esr: u64) -> Self {
        match esr >> 26 & 0x3f {
            0x00 => Self::Undefined,
            0x20 | 0x21 => Self::Fetch,
            0x24 | 0x25 if esr & (1 << 6) != 0 => Self::Write,
            0x24 | 0x25 => Self::Read,
            _ => Self::Other,
        }
    }
}

/// A fault that a test has announced: the cause (0 for none), the first address and the one past the last.
static EXPECTED_CAUSE: AtomicU32 = AtomicU32::new(0);
static EXPECTED_START: AtomicU64 = AtomicU64::new(0);
static EXPECTED_END: AtomicU64 = AtomicU64::new(0);
/// Faults that are being reported; more than one means that the report itself failed.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Announces a fault in `addresses`: when it comes, the machine ends with status 0 instead of a report.
pub fn expect(cause: Cause, addresses: Range<u64>) {
    EXPECTED_START.store(addresses.start, Ordering::Relaxed);
    EXPECTED_END.store(addresses.end, Ordering::Relaxed);
    EXPECTED_CAUSE.store(cause as u32, Ordering::Relaxed);
}

fn is_expected(cause: Cause, address: u64) -> bool {
    let addresses = EXPECTED_START.load(Ordering::Relaxed)..EXPECTED_END.load(Ordering::Relaxed);
    EXPECTED_CAUSE.load(Ordering::Relaxed) == cause as u32 && addresses.contains(&address)
}

/// Called by `exception/vectors.S`.
#[unsafe(no_mangle)]
extern "C" fn exception_taken(entry: u64, frame: &Frame) {
    let cause = Cause::of(frame.esr);
    if cause == Cause::Undefined && is_semihosting_call(frame.elr) {
        // Nobody listens to semihosting: this is a real machine.
        power::off();
    }
    let depth = DEPTH.fetch_add(1, Ordering::Relaxed);
    if depth > 1 {
        power::exit(FAULT_STATUS);
    }
    // SAFETY: every path below ends the machine, and this is the only CPU that runs.
    unsafe { output::steal() };
    if depth == 0 && is_expected(cause, frame.far) {
        println!("expected: {}", Syndrome(frame.esr));
        println!("1 passed, 0 failed");
        power::exit(0);
    }
    boot::open_last_resort();
    report(entry, frame);
    power::exit(FAULT_STATUS);
}

/// The status that a fault ends QEMU with: as a shell's after an abort signal.
const FAULT_STATUS: u32 = 134;

fn is_semihosting_call(elr: u64) -> bool {
    // An undefined instruction was fetched from there, so there is text; only the image has any.
    memory::is_text(elr) && {
        let instruction: *const u32 = core::ptr::with_exposed_provenance(elr as usize);
        // SAFETY: `elr` lies in the image's text, which is mapped readable and never changes; the PC is
        // always aligned to an instruction.
        unsafe { instruction.read_volatile() == power::SEMIHOSTING_CALL }
    }
}

fn report(entry: u64, frame: &Frame) {
    const CLASS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];
    const SOURCE: [&str; 4] = ["the kernel", "the fault handler", "a 64-bit program", "a 32-bit program"];
    let name = |names: [&'static str; 4], index: u64| names.get(index as usize & 3).copied().unwrap_or("?");
    println!();
    println!("quire: fatal: {} in {}: {}", name(CLASS, entry), name(SOURCE, entry >> 2), Syndrome(frame.esr));
    println!("ESR {:#010x}  FAR {:#018x}  ELR {:#018x}  SPSR {:#x}", frame.esr, frame.far, frame.elr, frame.spsr);
    for (index, pair) in frame.x.chunks(2).enumerate() {
        match *pair {
            [even, odd] => println!("x{:<2} {even:#018x}  x{:<2} {odd:#018x}", index * 2, index * 2 + 1),
            [last] => println!("x{:<2} {last:#018x}  sp  {:#018x}", index * 2, frame.sp),
            _ => {}
        }
    }
    memory::explain(frame.far);
    record!(error, "fault: ESR {=u64:#x}, FAR {=u64:#x}, ELR {=u64:#x}", frame.esr, frame.far, frame.elr);
}

/// ESR_EL1 in words.
struct Syndrome(u64);

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.0 >> 26 & 0x3f {
            0x00 => "undefined instruction",
            0x07 => "floating point or SIMD, which this kernel does not use",
            0x0e => "illegal execution state",
            0x15 => "SVC",
            0x18 => "trapped system register access",
            0x20 | 0x21 => "instruction abort",
            0x22 => "misaligned PC",
            0x24 | 0x25 if self.0 & (1 << 6) != 0 => "data abort on a write",
            0x24 | 0x25 => "data abort on a read",
            0x26 => "misaligned SP",
            0x2f => "SError",
            0x3c => "BRK",
            other => return write!(f, "exception class {other:#x}"),
        };
        f.write_str(class)?;
        if matches!(self.0 >> 26 & 0x3f, 0x20 | 0x21 | 0x24 | 0x25) {
            let status = self.0 & 0x3f;
            match status >> 2 {
                0 => write!(f, ", address size fault at level {}", status & 3)?,
                1 => write!(f, ", translation fault at level {}", status & 3)?,
                2 => write!(f, ", access flag fault at level {}", status & 3)?,
                3 => write!(f, ", permission fault at level {}", status & 3)?,
                _ if status == 0x10 => f.write_str(", external abort")?,
                _ if status == 0x21 => f.write_str(", alignment fault")?,
                _ => write!(f, ", fault status {status:#x}")?,
            }
        }
        Ok(())
    }
}
