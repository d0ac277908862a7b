// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions: a translation fault that is none any more is retried; any other ends the machine with a report.
//!
//! The kernel runs on SP_EL0 and its exceptions on SP_EL1, the CPU's fault stack, with interrupts masked; see
//! `exception/vectors.S`. An exception on the fault stack goes on below, or starts over at its top if the stack
//! pointer is of no use any more.

pub(crate) mod provoke;
mod report;
mod spurious;

use core::mem::offset_of;

use aarch64_cpu::asm::barrier;

use crate::cpu::PerCpu;
use crate::fatal::{self, Cause, Event};
use crate::fault::{Class, Pstate, Syndrome};
use crate::layout::FAULT_STACK_SIZE;
use crate::log::record;
use crate::power;

pub(crate) use self::report::write_cpu;
pub use self::spurious::{MAX_RETRIES, nr_retried};

core::arch::global_asm!(
    include_str!("exception/vectors.S"),
    FRAME_SIZE = const size_of::<Frame>(),
    FAULT_STACK = const PerCpu::FAULT_STACK,
    FAULT_STACK_SIZE = const FAULT_STACK_SIZE,
);

/// The interrupted registers, as `exception/vectors.S` stores them.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    x: [u64; 31],
    sp_el0: u64,
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
    sp_el1: u64,
    _reserved: u64,
    /// A frame record (AAPCS64 6.4.6), so that a trace of the handler goes on in what it interrupted.
    _record: [u64; 2],
}

const _: () =
    assert!(size_of::<Frame>() == 320 && offset_of!(Frame, sp_el1) == 288 && offset_of!(Frame, _record) == 304);

impl Frame {
    fn syndrome(&self) -> Syndrome {
        Syndrome::new(self.esr)
    }

    /// The stack pointer of the interrupted code.
    fn sp(&self) -> u64 {
        if Pstate::new(self.spsr).is_handler() { self.sp_el1 } else { self.sp_el0 }
    }
}

/// The kinds of exceptions, in the vector table's order.
const SYNCHRONOUS: u64 = 0;
const SERROR: u64 = 3;

/// Called by `exception/vectors.S` with the number of the vector. The frame is what the interrupted code goes on
/// with, if this returns.
#[unsafe(no_mangle)]
extern "C" fn exception_taken(vector: u64, frame: &Frame) {
    let kind = vector & 3;
    let syndrome = frame.syndrome();
    if kind == SYNCHRONOUS {
        if syndrome.class() == Class::Undefined && power::is_semihosting_call(frame.elr) {
            // Nobody listens to semihosting: this is a real machine.
            power::end_for_real();
        }
        if spurious::is_gone(syndrome, frame.far, frame.elr) {
            return;
        }
    }
    fatal::end(&Fault { kind, source: vector >> 2, frame })
}

/// An exception that nobody handles.
pub(crate) struct Fault<'a> {
    /// 0 to 3: synchronous, IRQ, FIQ, SError.
    kind: u64,
    /// 0 to 3: the kernel, a handler, a 64-bit program, a 32-bit program.
    source: u64,
    frame: &'a Frame,
}

impl Event for Fault<'_> {
    fn cause(&self) -> Cause {
        Cause::Fault(match self.kind {
            SYNCHRONOUS => self.frame.syndrome().class(),
            SERROR => Class::SError,
            _ => Class::Other,
        })
    }

    fn failure(&self) -> power::Failure {
        power::Failure::Fault
    }

    fn address(&self) -> u64 {
        let has_address = self.kind == SYNCHRONOUS && self.frame.syndrome().has_address();
        if has_address { self.frame.far } else { self.frame.elr }
    }

    fn write(&self, w: &mut dyn core::fmt::Write) -> core::fmt::Result {
        report::write(self, w)
    }

    fn record(&self) {
        let Frame { esr, far, elr, .. } = *self.frame;
        record!(error, "fault: ESR {=u64:#x}, FAR {=u64:#x}, ELR {=u64:#x}", esr, far, elr);
    }
}

/// Lets asynchronous external aborts come, so that they are reported where they happen and not lost.
pub(crate) fn unmask_serror() {
    // SAFETY: the vectors are in place, and stand an SError at any instruction.
    unsafe { core::arch::asm!("msr daifclr, #4", options(nostack, preserves_flags)) };
    barrier::isb(barrier::SY);
}
