// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab's fast paths as *restartable sequences*: instead of masking interrupts, they let whatever interrupts them have
//! them begin again. (Linux's `rseq` and its old `kuser_cmpxchg` of Arm, and the per-CPU mode of tcmalloc, do so.)
//!
//! ```text
//!   start:  mrs, ldr, ...        reads the CPU's block, a top, ...; writes what nobody looks at yet
//!   commit: str top              one store, and the object is in the array, or out of it
//!   end:
//! ```
//!
//! Where each sequence lies is noted in a table of the image (section `mm_restart`). Whoever returns from an exception goes
//! on at [`resume_at`] the interrupted instruction: at `start` if it lies behind that and up to `commit`, which has then not
//! been executed. So nobody who runs in between, on this CPU or on the one that the interrupted thread goes on on, sees
//! or makes a difference. What stands before `commit` may be done any number of times:
//!
//! - A pop reads, and takes the object by the commit. The mark is wiped behind it, when the object is the caller's alone.
//! - A push writes the object above the top, where nothing is, marks it, and commits. The mark has to stand before the
//!   object can be taken again, by an interrupt; but a second round would take it for that of a second free. So the one
//!   instruction at which it stands and the object is not in the array yet, the commit itself, has a way of its own
//!   back to `start`: it clears the mark.
//!
//! A sequence is a dozen instructions, up to two dozen; it ends unless interrupts leave no time for so few.

use core::arch::asm;
use core::sync::atomic::AtomicPtr;

use crate::slab::NO_ARRAYS;
use crate::slab::front::layout::{FIRST_FRAME, FRAME_SHIFT, FULL, NONE, PLACE, TAG_SHIFT, TAGS, TOP_SHIFT};

/// What TPIDR_EL1 points to begins so, for [`Restarting`](super::Restarting).
#[derive(Debug)]
#[repr(C)]
pub struct CpuWords {
    number: u64,
    /// What [`Arch::local`](crate::arch::Arch::local) returns.
    arrays: AtomicPtr<u8>,
}

impl CpuWords {
    /// Of CPU `number`, which is below [`MAX_CPUS`](crate::arch::MAX_CPUS).
    #[must_use]
    pub const fn new(number: usize) -> Self {
        Self { number: number as u64, arrays: AtomicPtr::new(NO_ARRAYS.cast_mut()) }
    }

    /// The CPU's number.
    #[must_use]
    pub const fn number(&self) -> usize {
        self.number as usize
    }

    #[inline(always)]
    pub(super) const fn arrays(&self) -> &AtomicPtr<u8> {
        &self.arrays
    }

    /// Where the CPU's own are.
    #[inline(always)]
    pub(super) fn of_this_cpu() -> *const Self {
        let words: *const Self;
        // SAFETY: reads a register. Not `pure`: a thread may go on elsewhere.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) words, options(nomem, nostack, preserves_flags)) };
        words
    }
}

/// Where [`CpuWords`] has the block.
const ARRAYS: usize = core::mem::offset_of!(CpuWords, arrays);

/// An entry of the table. Addresses are distances from the field itself, so the table is the same wherever it lies.
#[derive(Debug)]
#[repr(C)]
struct Sequence {
    start: i32,
    /// Bytes.
    len: u32,
    resume: i32,
}

impl Sequence {
    fn start(&self) -> usize {
        (&raw const self.start).addr().wrapping_add_signed(self.start as isize)
    }

    fn resume(&self) -> usize {
        (&raw const self.resume).addr().wrapping_add_signed(self.resume as isize)
    }
}

/// Notes the instructions from one label to another, and where to go on instead. The section is kept by the linker, which
/// finds no reference to it (`R`).
#[rustfmt::skip]
macro_rules! note {
    ($start:literal, $end:literal, $resume:literal) => {
        concat!(
            ".pushsection mm_restart, \"aR\", %progbits\n",
            ".p2align 2\n",
            ".word ", $start, " - .\n",
            ".word ", $end, " - ", $start, "\n",
            ".word ", $resume, " - .\n",
            ".popsection\n",
        )
    };
}

/// The beginning of each sequence: this CPU's block.
macro_rules! block {
    () => {
        "2: mrs {block}, tpidr_el1\n ldr {block}, [{block}, #{ARRAYS}]"
    };
}

/// The end of a pop whose array's top is at an index of the block.
#[rustfmt::skip]
macro_rules! pop {
    ($index:literal) => {
        concat!(
            "ldr {top}, [{block}, ", $index, "]\n",
            "ldr {object}, [{top}], #-{PLACE}\n",
            "cbz {object}, 4f\n",
            "str {top}, [{block}, ", $index, "]\n",
            "3: str xzr, [{object}]\n",
            "4:\n",
            note!("2b", "3b", "2b"),
        )
    };
}

/// The end of a push, as above; `mark` is what an address is marked with. What is refused leaves 0 in `left`.
#[rustfmt::skip]
macro_rules! push {
    ($index:literal, $refused:literal) => {
        concat!(
            "ldr {top}, [{block}, ", $index, "]\n",
            "ands {left}, {top}, #{FULL}\n",
            "b.eq ", $refused, "\n",
            "ldr {left}, [{object}]\n",
            "eor {mark}, {mark}, {object}\n",
            "subs {left}, {left}, {mark}\n",
            "b.eq ", $refused, "\n",
            "str {object}, [{top}, #{PLACE}]!\n",
            "str {mark}, [{object}]\n",
            "3: str {top}, [{block}, ", $index, "]\n",
            "4:\n",
            note!("2b", "3b", "2b"),
            note!("3b", "4b", "5f"),
            ".subsection 1\n",
            "5: str xzr, [{object}]\n",
            "b 2b\n",
            ".subsection 0\n",
        )
    };
}

/// Looks the tag of the object's frame up: its byte of the table, which begins at `mark`.
#[rustfmt::skip]
macro_rules! tag_of_frame {
    ($outside:literal) => {
        concat!(
            "ldp {tag}, {left}, [{block}, #{FIRST_FRAME}]\n",
            "sub {tag}, {object}, {tag}\n",
            "lsr {tag}, {tag}, #{FRAME_SHIFT}\n",
            "cmp {tag}, {left}\n",
            "b.hs ", $outside, "\n",
            "ldr {mark}, [{block}, #{TAGS}]\n",
            "ldrb {tag:w}, [{mark}, {tag}]\n",
        )
    };
}

/// [`Arch::pop`](crate::arch::Arch::pop).
///
/// # Safety
///
/// As there, and [`restarting`](super::AArch64::restarting) was promised what it asks for.
#[inline(always)]
pub(super) unsafe fn pop(tag: u32) -> *mut u8 {
    let object;
    // SAFETY: the CPU's own block, whose arrays end with null; undivided, by the promise.
    unsafe {
        asm!(
            block!(),
            pop!("{tag:w}, uxtw #{TOP_SHIFT}"),
            tag = in(reg) tag,
            block = out(reg) _,
            top = out(reg) _,
            object = out(reg) object,
            ARRAYS = const ARRAYS,
            TOP_SHIFT = const TOP_SHIFT,
            PLACE = const PLACE,
            options(nostack, preserves_flags),
        );
    }
    object
}

/// [`Arch::pop_sized`](crate::arch::Arch::pop_sized).
///
/// # Safety
///
/// As for [`pop`], and there.
#[inline(always)]
pub(super) unsafe fn pop_sized(step: usize) -> *mut u8 {
    let object;
    // SAFETY: as above; a step below 512 has a tag.
    unsafe {
        asm!(
            block!(),
            "ldrh {tag:w}, [{block}, {step}, lsl #{TAG_SHIFT}]",
            pop!("{tag}, lsl #{TOP_SHIFT}"),
            step = in(reg) step,
            tag = out(reg) _,
            block = out(reg) _,
            top = out(reg) _,
            object = out(reg) object,
            ARRAYS = const ARRAYS,
            TAG_SHIFT = const TAG_SHIFT,
            TOP_SHIFT = const TOP_SHIFT,
            PLACE = const PLACE,
            options(nostack, preserves_flags),
        );
    }
    object
}

/// [`Arch::push`](crate::arch::Arch::push).
///
/// # Safety
///
/// As for [`pop`], and there.
#[inline(always)]
pub(super) unsafe fn push(object: *mut u8, tag: u32) -> bool {
    // SAFETY: the CPU's own block; an array that is not full has a place above its top; undivided, by the promise. The
    // object can be written.
    unsafe {
        asm!(
            block!(),
            "ldr {mark}, [{block}, #{TAGS}]",
            push!("{tag:w}, uxtw #{TOP_SHIFT}", "{refused}"),
            object = in(reg) object,
            tag = in(reg) tag,
            block = out(reg) _,
            top = out(reg) _,
            left = out(reg) _,
            mark = out(reg) _,
            refused = label { return false },
            ARRAYS = const ARRAYS,
            TAGS = const TAGS,
            TOP_SHIFT = const TOP_SHIFT,
            FULL = const FULL,
            PLACE = const PLACE,
            options(nostack),
        );
    }
    true
}

/// [`Arch::push_sized`](crate::arch::Arch::push_sized).
///
/// # Safety
///
/// As for [`pop`], and there.
#[inline(always)]
pub(super) unsafe fn push_sized(object: *mut u8, step: usize) -> bool {
    // SAFETY: as above.
    unsafe {
        asm!(
            block!(),
            "ldrh {tag:w}, [{block}, {step}, lsl #{TAG_SHIFT}]",
            "ldr {mark}, [{block}, #{TAGS}]",
            push!("{tag}, lsl #{TOP_SHIFT}", "{refused}"),
            object = in(reg) object,
            step = in(reg) step,
            tag = out(reg) _,
            block = out(reg) _,
            top = out(reg) _,
            left = out(reg) _,
            mark = out(reg) _,
            refused = label { return false },
            ARRAYS = const ARRAYS,
            TAGS = const TAGS,
            TAG_SHIFT = const TAG_SHIFT,
            TOP_SHIFT = const TOP_SHIFT,
            FULL = const FULL,
            PLACE = const PLACE,
            options(nostack),
        );
    }
    true
}

/// [`Arch::push_checked`](crate::arch::Arch::push_checked).
///
/// # Safety
///
/// As for [`pop`], and there.
#[inline(always)]
pub(super) unsafe fn push_checked(object: *mut u8, tag: u32) -> bool {
    // SAFETY: as above; what lies in a frame with a tag can be read and written.
    unsafe {
        asm!(
            block!(),
            tag_of_frame!("{refused}"),
            "cmp {tag:w}, {wanted:w}",
            "b.ne {refused}",
            push!("{tag}, lsl #{TOP_SHIFT}", "{refused}"),
            object = in(reg) object,
            wanted = in(reg) tag,
            tag = out(reg) _,
            block = out(reg) _,
            top = out(reg) _,
            left = out(reg) _,
            mark = out(reg) _,
            refused = label { return false },
            ARRAYS = const ARRAYS,
            FIRST_FRAME = const FIRST_FRAME,
            FRAME_SHIFT = const FRAME_SHIFT,
            TAGS = const TAGS,
            TOP_SHIFT = const TOP_SHIFT,
            FULL = const FULL,
            PLACE = const PLACE,
            options(nostack),
        );
    }
    true
}

/// [`Arch::push_by_frame`](crate::arch::Arch::push_by_frame).
///
/// # Safety
///
/// As for [`pop`], and there.
#[inline(always)]
pub(super) unsafe fn push_by_frame(object: *mut u8) -> Result<(), u16> {
    let (left, tag): (usize, usize);
    // SAFETY: as above. With results, an `asm!` has no labels of Rust's.
    unsafe {
        asm!(
            block!(),
            tag_of_frame!("6f"),
            push!("{tag}, lsl #{TOP_SHIFT}", "4f"),
            ".subsection 1",
            "6: mov {left}, xzr",
            "mov {tag}, #{NONE}",
            "b 4b",
            ".subsection 0",
            object = in(reg) object,
            tag = out(reg) tag,
            block = out(reg) _,
            top = out(reg) _,
            left = out(reg) left,
            mark = out(reg) _,
            ARRAYS = const ARRAYS,
            FIRST_FRAME = const FIRST_FRAME,
            FRAME_SHIFT = const FRAME_SHIFT,
            TAGS = const TAGS,
            TOP_SHIFT = const TOP_SHIFT,
            FULL = const FULL,
            PLACE = const PLACE,
            NONE = const NONE,
            options(nostack),
        );
    }
    if left == 0 { Err(tag as u16) } else { Ok(()) }
}

/// The table, by ascending addresses.
fn sequences() -> &'static [Sequence] {
    let (start, end): (*const Sequence, *const Sequence);
    // SAFETY: makes two addresses, and notes a sequence of no length, so that the section is there.
    unsafe {
        asm!(
            "2: adrp {start}, __start_mm_restart",
            "add {start}, {start}, :lo12:__start_mm_restart",
            "adrp {end}, __stop_mm_restart",
            "add {end}, {end}, :lo12:__stop_mm_restart",
            note!("2b", "2b", "2b"),
            start = out(reg) start,
            end = out(reg) end,
            options(nomem, nostack, preserves_flags, pure),
        );
    }
    // SAFETY: the linker puts the symbols around the section, which holds entries alone.
    unsafe { core::slice::from_raw_parts(start, (end.addr() - start.addr()) / size_of::<Sequence>()) }
}

/// Where code that was interrupted at `elr` goes on: there, or where the sequence that it was in begins again. To be asked
/// on the CPU that was interrupted, before anything else uses the slab there. O(log of their number), about a hundred
/// instructions.
#[must_use]
pub fn resume_at(elr: u64) -> u64 {
    let sequences = sequences();
    let (at, mut first, mut nr) = (elr as usize, 0, sequences.len());
    // The last that begins at or before.
    while nr > 1 {
        let half = nr / 2;
        // SAFETY: `first + nr` is at most the length.
        if unsafe { sequences.get_unchecked(first + half) }.start() <= at {
            first += half;
        }
        nr -= half;
    }
    match sequences.get(first) {
        Some(sequence) if at.wrapping_sub(sequence.start()) < sequence.len as usize => sequence.resume() as u64,
        _ => elr,
    }
}

/// Whether the linker has put the table in the order of the code, as it does unless it is told to move functions around:
/// [`resume_at`] relies on it.
#[must_use]
pub fn is_linked_in_order() -> bool {
    sequences().is_sorted_by_key(Sequence::start)
}
