// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real CPU: tables are reached at a constant offset from their physical address.

pub mod restart;
mod stores;

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR2_EL1};
use tock_registers::interfaces::Readable;

pub use self::restart::CpuWords;
use super::{Arch, Arrays, CacheOp, Dsb, IrqState, MAX_CPUS, MmuFeatures, Tlbi};
use crate::addr::{PhysAddr, VirtAddr};
use crate::slab::fast;

/// AArch64 at EL1, or at EL2 for trees of [`Regime::El2`](crate::pgtable::Regime::El2), with a linear map of (at least) the
/// tables. The slab's fast paths mask interrupts, or are [sequences that are restarted](restart) if `RESTARTS`.
#[derive(Clone, Copy, Debug)]
pub struct AArch64<const RESTARTS: bool = false> {
    offset: u64,
    stop_others: Option<StopOthers>,
}

/// [`AArch64`] with fast paths of the slab that do not mask interrupts.
pub type Restarting = AArch64<true>;

/// Runs its argument while every other CPU waits as [`Arch::with_others_stopped`] says.
pub type StopOthers = fn(&mut dyn FnMut());

impl AArch64 {
    /// A CPU that sees physical address `pa` at virtual address `pa + offset`, modulo 2^64.
    ///
    /// # Safety
    ///
    /// 1. Every frame that is used as a table or handed out as RAM through this value is mapped there as
    ///    Normal write-back memory, readable and writable, for as long as the value is used.
    /// 2. On every CPU that uses it, TPIDR_EL1 points to data of that CPU alone, whose first eight bytes hold
    ///    its number, below [`MAX_CPUS`].
    #[must_use]
    pub const unsafe fn new(offset: u64) -> Self {
        Self { offset, stop_others: None }
    }

    /// The same with fast paths that do not mask interrupts: `kmalloc` and `kfree` of what a CPU has at hand take three
    /// instructions less, and those are the slow ones.
    ///
    /// # Safety
    ///
    /// 1. On every CPU that uses it, TPIDR_EL1 points to [`CpuWords`] of that CPU alone.
    /// 2. One slab at a time is made with it; where there was another before, the CPUs' words are as new.
    /// 3. **The exception entry takes part**: code that an exception has interrupted at ELR_EL1 (or ELR_EL2) goes on at
    ///    [`restart::resume_at`] of that, if between the two the slab may have been used on this CPU, or the interrupted
    ///    code may go on on another one. That is each IRQ, and each FIQ that is used; a synchronous exception whose handler
    ///    frees, allocates or changes threads before the instruction is tried again; and whatever looks like one
    ///    (a debugger's stub). Without that, objects are handed out twice.
    /// 4. [`restart::is_linked_in_order`] is true, and code runs where it was linked to.
    #[must_use]
    pub const unsafe fn restarting(self) -> Restarting {
        let Self { offset, stop_others } = self;
        AArch64 { offset, stop_others }
    }
}

impl<const RESTARTS: bool> AArch64<RESTARTS> {
    /// The same on a machine with more than one CPU.
    ///
    /// # Safety
    ///
    /// `stop_others` does what [`Arch::with_others_stopped`] says.
    #[must_use]
    pub const unsafe fn stopping_others_by(self, stop_others: StopOthers) -> Self {
        Self { stop_others: Some(stop_others), ..self }
    }

    /// Where this CPU sees `phys`.
    #[must_use]
    pub const fn virt(&self, phys: PhysAddr) -> VirtAddr {
        VirtAddr::new(phys.as_raw().wrapping_add(self.offset))
    }

    fn entry(&self, table: PhysAddr, index: usize) -> *mut u64 {
        core::ptr::with_exposed_provenance_mut::<u64>(self.virt(table).as_raw() as usize).wrapping_add(index & 511)
    }
}

// SAFETY: (1) `entry` names eight aligned bytes inside the table, and volatile accesses of a u64 are single
// LDR/STR instructions; (2) the loop below stays inside one frame; (3) the barriers are those of the contract;
// (4) `new` was promised what TPIDR_EL1 says, and only the CPU itself runs while its interrupts are masked;
// (5) `new` was promised the mapping; (6) `restarting` was promised that a sequence that was interrupted begins again.
unsafe impl<const RESTARTS: bool> Arch for AArch64<RESTARTS> {
    #[inline(always)]
    fn cpu(&self) -> usize {
        let number: u64;
        // SAFETY: TPIDR_EL1 points to readable data whose first eight bytes are the number, by `new`. Not
        // `pure`: a thread may go on elsewhere.
        unsafe {
            core::arch::asm!("mrs {0}, tpidr_el1", "ldr {0}, [{0}]", out(reg) number, options(nostack, readonly, preserves_flags));
        }
        // SAFETY: below MAX_CPUS by `new`; saves every user a bounds check.
        unsafe { core::hint::assert_unchecked(number < MAX_CPUS as u64) };
        number as usize
    }

    #[inline(always)]
    fn local(&self, table: &Arrays) -> *mut u8 {
        if RESTARTS {
            // SAFETY: by `restarting`.
            return unsafe { (*CpuWords::of_this_cpu()).arrays() }.load(Ordering::Relaxed);
        }
        // SAFETY: `cpu` is below MAX_CPUS.
        unsafe { table.get_unchecked(self.cpu()) }.load(Ordering::Relaxed)
    }

    fn set_local(&self, arrays: *mut u8) {
        if RESTARTS {
            // SAFETY: by `restarting`.
            unsafe { (*CpuWords::of_this_cpu()).arrays() }.store(arrays, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    unsafe fn pop(&self, arrays: &Arrays, tag: u32) -> *mut u8 {
        // SAFETY: by `restarting`, and the caller's promise.
        if RESTARTS { unsafe { restart::pop(tag) } } else { fast::pop(self, arrays, tag) }
    }

    #[inline(always)]
    unsafe fn pop_sized(&self, arrays: &Arrays, step: usize) -> *mut u8 {
        // SAFETY: by `restarting`, and the caller's promise.
        if RESTARTS { unsafe { restart::pop_sized(step) } } else { fast::pop_sized(self, arrays, step) }
    }

    #[inline(always)]
    unsafe fn push(&self, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
        if RESTARTS {
            // SAFETY: by `restarting`, and the caller's promise.
            return unsafe { restart::push(object, tag) };
        }
        // SAFETY: the caller's promise.
        unsafe { fast::push(self, arrays, object, tag) }
    }

    #[inline(always)]
    unsafe fn push_sized(&self, arrays: &Arrays, object: *mut u8, step: usize) -> bool {
        if RESTARTS {
            // SAFETY: by `restarting`, and the caller's promise.
            return unsafe { restart::push_sized(object, step) };
        }
        // SAFETY: the caller's promise.
        unsafe { fast::push_sized(self, arrays, object, step) }
    }

    #[inline(always)]
    unsafe fn push_checked(&self, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
        if RESTARTS {
            // SAFETY: by `restarting`, and the caller's promise.
            return unsafe { restart::push_checked(object, tag) };
        }
        // SAFETY: the caller's promise.
        unsafe { fast::push_checked(self, arrays, object, tag) }
    }

    #[inline(always)]
    unsafe fn push_by_frame(&self, arrays: &Arrays, object: *mut u8) -> Result<(), u16> {
        if RESTARTS {
            // SAFETY: by `restarting`, and the caller's promise.
            return unsafe { restart::push_by_frame(object) };
        }
        // SAFETY: the caller's promise.
        unsafe { fast::push_by_frame(self, arrays, object) }
    }

    #[inline(always)]
    fn mask_interrupts(&self) -> IrqState {
        let daif: u64;
        // SAFETY: changes PSTATE.I alone. Without `nomem`, the compiler moves no access across it.
        unsafe {
            core::arch::asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack, preserves_flags))
        };
        IrqState(daif)
    }

    #[inline(always)]
    unsafe fn restore_interrupts(&self, state: IrqState) {
        // SAFETY: brings back what `mask_interrupts` found, which the caller promises; a barrier to the compiler.
        unsafe { core::arch::asm!("msr daif, {}", in(reg) state.0, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.virt(phys).as_raw() as usize)
    }

    #[inline(always)]
    fn take_lowest(&self, word: &AtomicU64) -> u64 {
        let before: u64;
        // SAFETY: an exclusive pair on an atomic, which is what `word::take` does in more instructions: an empty word is
        // stored as it was.
        unsafe {
            core::arch::asm!(
                "2: ldaxr {before}, [{word}]",
                "sub {after}, {before}, #1",
                "and {after}, {after}, {before}",
                "stxr {failed:w}, {after}, [{word}]",
                "cbnz {failed:w}, 2b",
                word = in(reg) word.as_ptr(),
                before = out(reg) before,
                after = out(reg) _,
                failed = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        before
    }

    #[inline(always)]
    fn put_beside(&self, word: &AtomicU64, bits: u64) -> bool {
        // SAFETY: as above, for `word::put`: none of the bits is there (`tst`), and others are (`ccmp`). The monitor that
        // an early exit leaves open is closed by the next exclusive store or exception return (Arm ARM B2.17).
        unsafe {
            core::arch::asm!(
                "2: ldxr {now}, [{word}]",
                "tst {now}, {bits}",
                "ccmp {now}, #0, #4, eq",
                "b.eq {refused}",
                "orr {now}, {now}, {bits}",
                "stlxr {failed:w}, {now}, [{word}]",
                "cbnz {failed:w}, 2b",
                word = in(reg) word.as_ptr(),
                bits = in(reg) bits,
                now = out(reg) _,
                failed = out(reg) _,
                refused = label { return false },
                options(nostack),
            );
        }
        true
    }

    /// By blocks of `DC ZVA` if they are to be zero: it stores as many bytes as DCZID_EL0 says, of Normal memory of any
    /// cacheability (Arm ARM C5.3.25).
    #[inline(never)]
    unsafe fn fill(&self, start: PhysAddr, bytes: u64, byte: u8) {
        let at = self.direct_map(start);
        let id: u64;
        // SAFETY: reads an ID register.
        unsafe { core::arch::asm!("mrs {}, dczid_el0", out(reg) id, options(nomem, nostack, preserves_flags, pure)) };
        // DZP in bit 4: not to be used. Words as a power of two below that: 64 bytes everywhere that we know.
        if byte != 0 || id & 0x1f != 4 {
            // SAFETY: the caller's memory, which the direct map shows.
            return unsafe { at.write_bytes(byte, bytes as usize) };
        }
        // SAFETY: the caller's memory, a multiple of the page size; the block is 64 bytes.
        unsafe { stores::zero_by_blocks(at, bytes) };
    }

    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: the caller gives a reachable table, so the entry is mapped and aligned.
        unsafe { self.entry(table, index).read_volatile() }
    }

    #[inline(always)]
    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: the caller gives a reachable table, so the entry is mapped, writable and aligned.
        unsafe { self.entry(table, index).write_volatile(descriptor) }
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        // SAFETY: the frame is the caller's alone and mapped writable.
        unsafe { stores::zero_frame(self.entry(table, 0)) };
    }

    #[inline]
    unsafe fn fill_descriptors(&self, table: PhysAddr, index: usize, count: usize, first: u64, step: u64) {
        // SAFETY: `count` entries from `index` on are inside the table, by the caller's promise, and mapped writable.
        unsafe { stores::descriptors(self.entry(table, index), count, first, step) };
    }

    #[inline(always)]
    fn dsb(&self, kind: Dsb) {
        macro_rules! dsb {
            ($kind:expr) => {
                // SAFETY: a barrier only; without `nomem` the compiler moves no access across it.
                unsafe { core::arch::asm!("dsb #{}", const $kind as u8, options(nostack, preserves_flags)) }
            };
        }
        match kind {
            Dsb::NonShareableStores => dsb!(Dsb::NonShareableStores),
            Dsb::NonShareable => dsb!(Dsb::NonShareable),
            Dsb::InnerShareableStores => dsb!(Dsb::InnerShareableStores),
            Dsb::InnerShareable => dsb!(Dsb::InnerShareable),
            Dsb::FullSystem => dsb!(Dsb::FullSystem),
        }
    }

    #[inline(always)]
    fn isb(&self) {
        barrier::isb(barrier::SY);
    }

    #[inline(always)]
    fn tlbi(&self, op: Tlbi, operand: u64) {
        macro_rules! tlbi {
            (all: $($all:ident)*; by_operand: $($op:ident)*) => {
                match op {
                    // SAFETY: forgets translations, which is always sound. Not moved across stores to tables.
                    // Without an operand the register field must name XZR (Arm ARM C5.5).
                    $(Tlbi::$all => unsafe {
                        core::arch::asm!(
                            "sys #{op1}, c8, c{crm}, #{op2}",
                            op1 = const Tlbi::$all.op1(),
                            crm = const Tlbi::$all.crm(),
                            op2 = const Tlbi::$all.op2(),
                            options(nostack, preserves_flags),
                        )
                    },)*
                    // SAFETY: as above.
                    $(Tlbi::$op => unsafe {
                        core::arch::asm!(
                            "sys #{op1}, c8, c{crm}, #{op2}, {operand}",
                            op1 = const Tlbi::$op.op1(),
                            crm = const Tlbi::$op.crm(),
                            op2 = const Tlbi::$op.op2(),
                            operand = in(reg) operand,
                            options(nostack, preserves_flags),
                        )
                    },)*
                }
            };
        }
        tlbi!(all: AllLocal All AllEl2; by_operand: Asid Page LastLevelPage PageAnyAsid LastLevelPageAnyAsid Range
            LastLevelRange RangeAnyAsid LastLevelRangeAnyAsid PageEl2 LastLevelPageEl2 RangeEl2 LastLevelRangeEl2);
    }

    fn mmu_features(&self) -> MmuFeatures {
        // Fields without a name in the register crate's older versions, by their place (Arm ARM D24.2.61, D24.2.66).
        let field = |register: u64, shift: u32| register >> shift & 0xf;
        MmuFeatures {
            tlb_range: field(ID_AA64ISAR0_EL1.get(), 56) >= 2,
            bbm_level_2: field(ID_AA64MMFR2_EL1.get(), 52) >= 2,
            asid_16_bits: field(ID_AA64MMFR0_EL1.get(), 4) >= 2,
        }
    }

    #[inline(never)]
    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        // SAFETY: break, everywhere, before make (Arm ARM D8.16.1); the caller promises that what is used here
        // does not depend on the entries. Registers only: the stack may be among what is broken. Each level invalidates
        // what it translates by itself (Arm ARM C5.5).
        unsafe {
            core::arch::asm!(
                "mov {at}, {entries}",
                "mov {left}, {count}",
                "2:",
                "str xzr, [{at}], #8",
                "subs {left}, {left}, #1",
                "b.ne 2b",
                "dsb ishst",
                "mrs {left}, CurrentEL",
                "tbnz {left}, #3, 4f",
                "tlbi vmalle1is",
                "b 5f",
                "4: tlbi alle2is",
                "5: dsb ish",
                "isb",
                "3:",
                "str {first}, [{entries}], #8",
                "add {first}, {first}, {step}",
                "subs {count}, {count}, #1",
                "b.ne 3b",
                "dsb ishst",
                "isb",
                at = out(reg) _,
                left = out(reg) _,
                entries = inout(reg) entries.as_raw() => _,
                count = inout(reg) count => _,
                first = inout(reg) first => _,
                step = in(reg) step,
                options(nostack),
            );
        }
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        match self.stop_others {
            Some(stop_others) => stop_others(body),
            None => body(),
        }
    }

    unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64) {
        // DminLine and IminLine: log2 of words (Arm ARM D24.2.34).
        let ctr: u64;
        // SAFETY: reads an ID register.
        unsafe { core::arch::asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags, pure)) };
        let (data, code) = (4 << (ctr >> 16 & 0xf), 4 << (ctr & 0xf));
        let end = virt.as_raw().wrapping_add(size);
        macro_rules! lines {
            ($line:expr, $instruction:literal) => {{
                let mut at = virt.as_raw() & !($line - 1);
                while at < end {
                    // SAFETY: the caller's bytes are mapped, and what is done to their lines is allowed.
                    unsafe { core::arch::asm!($instruction, in(reg) at, options(nostack, preserves_flags)) };
                    at += $line;
                }
            }};
        }
        match op {
            CacheOp::Clean => lines!(data, "dc cvac, {}"),
            CacheOp::Invalidate => lines!(data, "dc ivac, {}"),
            CacheOp::CleanInvalidate => lines!(data, "dc civac, {}"),
            CacheOp::SyncInstructions => {
                lines!(data, "dc cvau, {}");
                self.dsb(Dsb::InnerShareable);
                lines!(code, "ic ivau, {}");
                self.dsb(Dsb::InnerShareable);
                self.isb();
                return;
            }
        }
        self.dsb(Dsb::FullSystem);
    }

    fn cache_granule(&self) -> u64 {
        let ctr: u64;
        // SAFETY: reads an ID register.
        unsafe { core::arch::asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags, pure)) };
        // CWG, log2 of words; 0 says nothing, and then it is at most 2 KiB (Arm ARM D24.2.34).
        match ctr >> 24 & 0xf {
            0 => 2048,
            words => 4 << words,
        }
    }
}
