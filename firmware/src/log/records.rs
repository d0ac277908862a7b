// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structured records: `defmt` frames for a program at the other end of the line, beside the text for people.
//!
//! Off unless the command line says `log=defmt`: then frames go to the console's port, between the text;
//! `log=defmt,ttyAMA1` gives them a port of their own (`log/wire.rs` tells how they are told apart). A frame is put
//! together in memory and sent whole, under the console's lock.
//!
//! *Lock:* the frame, for the time of one record; then the console's. A record inside a record (by a `Format` that
//! records, or a fault in one) is left out and counted, and [`steal`] breaks the lock open for a machine that ends.

use core::cell::UnsafeCell;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use mm::arch::{Arch, IrqState};
use mm::sync::{IrqGuard, IrqSpinLock, Rank};

use crate::boot::uptime_ns;
use crate::cpu::{Hardware, hardware};
use crate::{output, pr_warn};

/// Records an event for programs: `record!(info, "zone {=u8}: {=u64} pages", n, pages)`. Cheap when nobody listens:
/// a load and a branch.
macro_rules! record {
    ($level:ident, $($arg:tt)*) => {
        if $crate::log::records::are_wanted() {
            defmt::$level!($($arg)*)
        }
    };
}
pub(crate) use record;

/// Longest frame on the wire.
const MAX_FRAME: usize = 512;

/// The frame that is being put together.
struct Frame {
    encoder: defmt::Encoder,
    bytes: ArrayVec<u8, MAX_FRAME>,
    is_cut: bool,
}

/// Taken before the console's.
const RANK: Rank = match Rank::new(62) {
    Some(rank) => rank,
    None => Rank::PER_CPU,
};

static FRAME: IrqSpinLock<Frame> =
    IrqSpinLock::new(RANK, Frame { encoder: defmt::Encoder::new(), bytes: ArrayVec::new_const(), is_cut: false });
/// The number of the CPU that makes a record, plus 1; 0 while none does.
static OWNER: AtomicUsize = AtomicUsize::new(0);
/// How deep in records inside its record that CPU is. Only the owner uses it.
static DEPTH: AtomicU32 = AtomicU32::new(0);
/// Records that were left out since the log has said so.
static LOST: AtomicU32 = AtomicU32::new(0);
static WANTED: AtomicBool = AtomicBool::new(false);

/// What the owner holds between the start and the end of a record.
struct Held(UnsafeCell<Option<(IrqGuard<'static, Frame, Hardware>, IrqState)>>);

// SAFETY: only the CPU that `OWNER` names looks inside, with its interrupts masked.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

/// Starts to send records.
pub(crate) fn start() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Whether anybody listens.
#[inline]
pub(crate) fn are_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// Gives up the record that was being made when the machine failed.
///
/// # Safety
///
/// Whoever made it never runs again, and no other CPU records.
pub(crate) unsafe fn steal() {
    // SAFETY: nobody else looks inside, by the caller's promise.
    let held = unsafe { &mut *HELD.0.get() };
    // Its guard would restore an interrupt mask that is of no use any more.
    mem::forget(held.take());
    // SAFETY: the caller's promise is the one that this asks for.
    unsafe { FRAME.force_unlock() };
    DEPTH.store(0, Ordering::Relaxed);
    OWNER.store(0, Ordering::Relaxed);
}

#[defmt::global_logger]
struct Logger;

// SAFETY: between `acquire` and `release` of one record no other CPU gets beyond `acquire`, since the lock is held,
// and this one does not leave, since its interrupts are masked; what it records meanwhile is left out.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        let state = hardware().mask_interrupts();
        let me = hardware().cpu() + 1;
        if OWNER.load(Ordering::Relaxed) == me {
            // The mask is the outer record's to undo.
            DEPTH.fetch_add(1, Ordering::Relaxed);
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut frame = FRAME.lock(hardware());
        OWNER.store(me, Ordering::Relaxed);
        frame.begin();
        // SAFETY: this CPU is the owner, and masked.
        unsafe { *HELD.0.get() = Some((frame, state)) };
    }

    unsafe fn flush() {
        output::drain();
    }

    unsafe fn write(bytes: &[u8]) {
        if DEPTH.load(Ordering::Relaxed) == 0 {
            // SAFETY: defmt writes between `acquire` and `release`, so this CPU is the owner, and masked.
            if let Some((frame, _)) = unsafe { &mut *HELD.0.get() } {
                frame.add(bytes);
            }
        }
    }

    unsafe fn release() {
        if DEPTH.load(Ordering::Relaxed) != 0 {
            DEPTH.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        // SAFETY: defmt releases what it acquired, so this CPU is the owner, and masked.
        let Some((mut frame, state)) = (unsafe { &mut *HELD.0.get() }).take() else { return };
        match frame.end() {
            true if are_wanted() => output::send_frame(&frame.bytes),
            true => {}
            false => drop(LOST.fetch_add(1, Ordering::Relaxed)),
        }
        OWNER.store(0, Ordering::Relaxed);
        drop(frame);
        // SAFETY: the state is that of `acquire`'s mask, on this CPU, and the guard's own is undone.
        unsafe { hardware().restore_interrupts(state) };
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost != 0 {
            pr_warn!("log: {lost} records too long, or inside another one, were left out");
        }
    }
}

impl Frame {
    fn begin(&mut self) {
        // Whatever a record that was given up has left is forgotten.
        self.encoder = defmt::Encoder::new();
        self.bytes.clear();
        self.is_cut = false;
        // The zero that it sends first of all is ours to send, before each frame.
        self.encoder.start_frame(|_| ());
    }

    fn add(&mut self, bytes: &[u8]) {
        let Self { encoder, bytes: frame, is_cut } = self;
        encoder.write(bytes, |bytes| *is_cut |= frame.try_extend_from_slice(bytes).is_err());
    }

    /// Whether it is whole.
    fn end(&mut self) -> bool {
        let Self { encoder, bytes: frame, is_cut } = self;
        encoder.end_frame(|bytes| *is_cut |= frame.try_extend_from_slice(bytes).is_err());
        !self.is_cut
    }
}

// Records of all CPUs in one order, whatever the port makes of it.
defmt::timestamp!("{=u64:us}", uptime_ns() / 1000);
