// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each CPU has for itself, reached by TPIDR_EL1, and the hardware as `mm` sees it.
//!
//! CPUs are numbered in the tree's order, but for the one that boots, which is 0. Each has a [`PerCpu`] for as long as
//! the machine runs. A relaxed store means that only the CPU itself writes a field, or that it was written before the
//! CPU came up; what several CPUs write says how.

mod id;

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::TPIDR_EL1;
use bsp::irq::Target;
use mm::addr::{PhysAddr, VirtAddr};
use mm::arch::aarch64::{AArch64, CpuWords, Restarting};
use mm::arch::{Arch, Arrays, CacheOp, Dsb, IrqState, MAX_CPUS, MmuFeatures, Tlbi};
use mm::sync::LockId;
use spin::Once;
use tock_registers::interfaces::Readable;

pub use self::id::Id;
use crate::irq::{self, LineCounts};
use crate::layout::{DIRECT_MAP, FAULT_STACK_END};
use crate::smp::{self, Mailbox, SignalCounts, StartState};
use crate::sync::watch::{self, Watch};
use crate::thread::Sched;
use crate::tick::Clock;

/// Data of one CPU. Assembly knows the first fields by their offsets.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PerCpu {
    /// The number, and the slab's arrays: here `mm` finds them.
    words: CpuWords,
    /// Top of the stack that exceptions are taken on (SP_EL1): `exception/vectors.S`.
    fault_stack: AtomicPtr<u8>,
    /// Top of the stack that interrupt handlers run on: `irq/entry.S`.
    irq_stack: AtomicU64,
    /// Top of the stack that the CPU comes in on, if it was started: `boot/entry.S`.
    first_stack: AtomicU64,
    /// Affinity fields of MPIDR_EL1.
    mpidr: AtomicU64,
    node: AtomicU32,
    /// Whether an interrupt handler runs.
    in_interrupt: AtomicBool,
    /// How it was started.
    method: Once<&'static str>,
    /// How the interrupt controller knows it.
    irq_target: AtomicU64,
    pub(crate) start: StartState,
    pub(crate) id: Id,
    /// The locks it holds.
    pub(crate) watch: Watch,
    /// Sequences of the slab that interrupts made begin again.
    pub(crate) restarts: AtomicU32,
    pub(crate) lines: [LineCounts; irq::MAX_LINES],
    pub(crate) signals: SignalCounts,
    pub(crate) mailbox: Mailbox,
    pub(crate) clock: Clock,
    pub(crate) sched: Sched,
}

impl PerCpu {
    /// Where `exception/vectors.S` finds the fault stack.
    pub(crate) const FAULT_STACK: usize = offset_of!(Self, fault_stack);
    /// Where `irq/entry.S` finds the interrupt stack.
    pub(crate) const IRQ_STACK: usize = offset_of!(Self, irq_stack);
    /// Where `boot/entry.S` finds a CPU's first stack.
    pub(crate) const FIRST_STACK: usize = offset_of!(Self, first_stack);

    /// Data of CPU `number`, which is below [`MAX_CPUS`].
    pub(crate) const fn new(number: usize, fault_stack: *mut u8) -> Self {
        Self {
            words: CpuWords::new(number),
            fault_stack: AtomicPtr::new(fault_stack),
            irq_stack: AtomicU64::new(0),
            first_stack: AtomicU64::new(0),
            mpidr: AtomicU64::new(0),
            node: AtomicU32::new(0),
            in_interrupt: AtomicBool::new(false),
            method: Once::new(),
            irq_target: AtomicU64::new(0),
            start: StartState::new(),
            id: Id::new(),
            watch: Watch::new(),
            restarts: AtomicU32::new(0),
            lines: [const { LineCounts::new() }; irq::MAX_LINES],
            signals: [const { AtomicU32::new(0) }; bsp::irq::NR_SIGNALS as usize],
            mailbox: Mailbox::new(),
            clock: Clock::new(),
            sched: Sched::new(number),
        }
    }

    /// The CPU's number, below [`MAX_CPUS`].
    #[must_use]
    pub const fn number(&self) -> usize {
        self.words.number()
    }

    /// The affinity fields of its MPIDR_EL1.
    #[must_use]
    pub fn mpidr(&self) -> u64 {
        self.mpidr.load(Ordering::Relaxed)
    }

    /// The node whose memory is near.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.node.load(Ordering::Relaxed)
    }

    /// How it was started.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.method.get().copied().unwrap_or("not started")
    }

    /// The timer ticks that it has taken.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.clock.ticks()
    }

    /// Sequences of the slab that its interrupts made begin again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Whether it runs an interrupt handler.
    #[must_use]
    pub fn in_interrupt(&self) -> bool {
        self.in_interrupt.load(Ordering::Relaxed)
    }

    pub(crate) fn set_in_interrupt(&self, is: bool) {
        self.in_interrupt.store(is, Ordering::Relaxed);
    }

    pub(crate) fn set_identity(&self, mpidr: u64, node: u32, method: &'static str) {
        self.mpidr.store(mpidr, Ordering::Relaxed);
        self.node.store(node, Ordering::Relaxed);
        self.method.call_once(|| method);
    }

    pub(crate) fn set_irq_stack(&self, top: u64) {
        self.irq_stack.store(top, Ordering::Relaxed);
    }

    pub(crate) fn set_first_stack(&self, top: u64) {
        self.first_stack.store(top, Ordering::Relaxed);
    }

    pub(crate) fn set_irq_target(&self, target: Target) {
        self.irq_target.store(target.0, Ordering::Relaxed);
    }

    pub(crate) fn irq_target(&self) -> Target {
        Target(self.irq_target.load(Ordering::Relaxed))
    }
}

/// The boot CPU's data; `entry.S` points TPIDR_EL1 here before the first line of Rust.
#[unsafe(no_mangle)]
static BOOT_CPU: PerCpu = PerCpu::new(0, FAULT_STACK_END.cast_mut());

/// The data of the other CPUs, by number; null for those that were never started.
static OTHERS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// Makes the data of a CPU known, or unknown again if the CPU could not be let go.
///
/// # Safety
///
/// `data` is that of CPU `number`, and lives as long as it is known.
pub(crate) unsafe fn set(number: usize, data: Option<&'static PerCpu>) {
    if let Some(slot) = OTHERS.get(number) {
        let data = data.map_or(core::ptr::null_mut(), |data| (&raw const *data).cast_mut());
        slot.store(data, Ordering::Release);
    }
}

/// The data of the CPU that runs this. While interrupts are not masked it may be looked at, and changed where the
/// field allows; threads stay on their CPU.
#[must_use]
#[inline(always)]
pub fn this() -> &'static PerCpu {
    let data: *const PerCpu = core::ptr::with_exposed_provenance(TPIDR_EL1.get() as usize);
    // SAFETY: `entry.S` points TPIDR_EL1 to the CPU's data, which is shared and lives as long as the machine.
    unsafe { &*data }
}

/// The data of CPU `number`, if it was ever started.
#[must_use]
pub fn get(number: usize) -> Option<&'static PerCpu> {
    if number == 0 {
        return Some(&BOOT_CPU);
    }
    let data = OTHERS.get(number)?.load(Ordering::Acquire);
    // SAFETY: null, or the data of a CPU, which is shared and lives as long as the machine.
    unsafe { data.as_ref() }
}

/// The data of all CPUs that were ever started, in ascending order.
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    (0..MAX_CPUS).filter_map(get)
}

/// CTR_EL0: the lines of this CPU's caches.
#[must_use]
pub fn cache_type() -> u64 {
    let value: u64;
    // SAFETY: reads an ID register.
    unsafe { core::arch::asm!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, preserves_flags, pure)) };
    value
}

/// The CPU and the direct map, as the memory manager uses them.
#[derive(Debug)]
pub struct Hardware(Restarting);

static HARDWARE: Hardware = Hardware({
    // SAFETY: the direct map shows all RAM that is handed out once `memory::start` is through, and nobody touches RAM
    // by this value before; `entry.S` sets TPIDR_EL1.
    let masking = unsafe { AArch64::new(DIRECT_MAP) };
    // SAFETY: TPIDR_EL1 points to a `PerCpu`, which begins with its words; the machine's slab is the only one; `irq/entry.S`
    // has sequences begin again, other exceptions that return use no slab, and `irq::start` looks at the order.
    unsafe { masking.restarting() }
});

/// The hardware.
#[must_use]
#[inline(always)]
pub fn hardware() -> &'static Hardware {
    &HARDWARE
}

impl Hardware {
    /// The same for translation tables that nobody else uses.
    #[must_use]
    pub const fn table_arch(&self) -> Restarting {
        self.0
    }
}

// SAFETY: every promise is kept by `AArch64`, to which all but the watch over locks is passed on.
unsafe impl Arch for Hardware {
    #[inline(always)]
    fn cpu(&self) -> usize {
        self.0.cpu()
    }

    #[inline(always)]
    fn local(&self, arrays: &Arrays) -> *mut u8 {
        self.0.local(arrays)
    }

    fn set_local(&self, arrays: *mut u8) {
        self.0.set_local(arrays);
    }

    #[inline(always)]
    unsafe fn pop(&self, arrays: &Arrays, tag: u32) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.pop(arrays, tag) }
    }

    #[inline(always)]
    unsafe fn pop_sized(&self, arrays: &Arrays, step: usize) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.pop_sized(arrays, step) }
    }

    #[inline(always)]
    unsafe fn push(&self, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.push(arrays, object, tag) }
    }

    #[inline(always)]
    unsafe fn push_sized(&self, arrays: &Arrays, object: *mut u8, step: usize) -> bool {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.push_sized(arrays, object, step) }
    }

    #[inline(always)]
    unsafe fn push_checked(&self, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.push_checked(arrays, object, tag) }
    }

    #[inline(always)]
    unsafe fn push_by_frame(&self, arrays: &Arrays, object: *mut u8) -> Result<(), u16> {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.push_by_frame(arrays, object) }
    }

    #[inline(always)]
    fn mask_interrupts(&self) -> IrqState {
        self.0.mask_interrupts()
    }

    #[inline(always)]
    unsafe fn restore_interrupts(&self, state: IrqState) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.restore_interrupts(state) }
    }

    #[inline(always)]
    fn lock_wanted(&self, lock: LockId) {
        if watch::is_on() {
            watch::wanted(lock);
        }
    }

    #[inline(always)]
    fn lock_waiting(&self, lock: LockId, round: u64) {
        watch::waiting(lock, round);
    }

    #[inline(always)]
    fn lock_taken(&self, lock: LockId) {
        if watch::is_on() {
            watch::taken(lock);
        }
    }

    #[inline(always)]
    fn lock_taken_at_once(&self, lock: LockId) {
        if watch::is_on() {
            watch::taken_at_once(lock);
        }
    }

    #[inline(always)]
    fn lock_released(&self, lock: LockId) {
        if watch::is_on() {
            watch::released(lock);
        }
    }

    #[inline(always)]
    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        self.0.direct_map(phys)
    }

    #[inline(always)]
    fn take_lowest(&self, word: &AtomicU64) -> u64 {
        self.0.take_lowest(word)
    }

    #[inline(always)]
    fn put_beside(&self, word: &AtomicU64, bits: u64) -> bool {
        self.0.put_beside(word, bits)
    }

    unsafe fn fill(&self, start: PhysAddr, bytes: u64, byte: u8) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.fill(start, bytes, byte) }
    }

    #[inline(always)]
    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.load_descriptor(table, index) }
    }

    #[inline(always)]
    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.store_descriptor(table, index, descriptor) }
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.zero_table(table) }
    }

    #[inline(always)]
    unsafe fn fill_descriptors(&self, table: PhysAddr, index: usize, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.fill_descriptors(table, index, count, first, step) }
    }

    #[inline(always)]
    fn dsb(&self, kind: Dsb) {
        self.0.dsb(kind);
    }

    #[inline(always)]
    fn isb(&self) {
        self.0.isb();
    }

    #[inline(always)]
    fn tlbi(&self, op: Tlbi, operand: u64) {
        self.0.tlbi(op, operand);
    }

    fn mmu_features(&self) -> MmuFeatures {
        self.0.mmu_features()
    }

    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.replace_live(entries, count, first, step) }
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        smp::park_others(body);
    }

    unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.maintain_cache(op, virt, size) }
    }
}
