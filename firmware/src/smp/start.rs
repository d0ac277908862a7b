// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting the other CPUs: each gets its data, its stacks and a line in the table that `boot/entry.S` searches, is let
//! go in the way that the tree says, and is waited for.
//!
//! A CPU comes in with its MMU and caches off, so what it reads then is cleaned to the point of coherency. To turn its
//! MMU on it stands on a page that is mapped to itself, by a tree of its own for the lower half that is gone again
//! once all are in. One that comes too late finds that it is not wanted, and stops; its memory stays with it.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::asm;
use aarch64_cpu::registers::MPIDR_EL1;
use bsp::info::{Conduit, Cpu, EnableMethod, RawRange};
use mm::addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use mm::arch::{Arch, CacheOp, MAX_CPUS};
use mm::pgtable::{Attributes, MapError, PageTable, Regime, TableSource};
use smccc::psci;
use tock_registers::interfaces::Readable;

use super::set_online;
use crate::boot::Machine;
use crate::cpu::{self, PerCpu};
use crate::layout::{FAULT_STACK_SIZE, Image};
use crate::memory::direct_map;
use crate::stacks::{Stack, StackError, Use};
use crate::{exception, irq, pr_err, pr_info, pr_warn, thread, tick, time};

/// The affinity fields of MPIDR_EL1: what tells CPUs apart (Arm ARM D24.2.121).
const AFFINITY: u64 = 0xff_00ff_ffff;
/// How long all CPUs together may take to come.
const LIMIT_MS: u64 = 3_000;
/// Interrupt handlers run there.
const IRQ_STACK: u64 = 16 * 1024;
/// The idle thread runs there; the CPU's data is at its top.
const IDLE_STACK: u64 = 16 * 1024;

/// What `boot/entry.S` reads with the MMU off; it knows the offsets.
#[repr(C)]
struct Secondaries {
    /// Roots of both halves.
    lower: AtomicU64,
    upper: AtomicU64,
    nr: AtomicU64,
    _padding: AtomicU64,
    entries: [Secondary; MAX_CPUS],
}

#[repr(C)]
struct Secondary {
    mpidr: AtomicU64,
    /// Its [`PerCpu`].
    data: AtomicU64,
}

#[unsafe(no_mangle)]
static SECONDARIES: Secondaries = Secondaries {
    lower: AtomicU64::new(0),
    upper: AtomicU64::new(0),
    nr: AtomicU64::new(0),
    _padding: AtomicU64::new(0),
    entries: [const { Secondary { mpidr: AtomicU64::new(0), data: AtomicU64::new(0) } }; MAX_CPUS],
};

/// Where a CPU is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum State {
    /// Let go; it may come.
    Starting,
    /// It came, and sets itself up.
    Coming,
    /// It takes part.
    Online,
    /// It was given up.
    Missing,
}

/// A CPU's [`State`], which it and the boot CPU decide on once.
#[derive(Debug)]
pub(crate) struct StartState(AtomicU32);

impl StartState {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(State::Starting as u32))
    }

    /// Whether `state` was the first to be decided on.
    fn settle(&self, state: State) -> bool {
        self.0.compare_exchange(State::Starting as u32, state as u32, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The CPU itself says how it ended, once it has come.
    fn finish(&self, state: State) {
        self.0.store(state as u32, Ordering::Release);
    }

    /// Whether it may still come, or is about to take part.
    fn is_on_its_way(&self) -> bool {
        let state = self.0.load(Ordering::Acquire);
        state == State::Starting as u32 || state == State::Coming as u32
    }
}

/// Why a CPU was not started.
#[derive(Clone, Copy, Debug)]
enum StartError {
    Stack(StackError),
    Unknown,
    NoPsci,
    Psci(psci::Error),
    /// Its release word cannot be reached, or is ours.
    Release(u64),
    /// Another one has the same MPIDR.
    Twice,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack(error) => error.fmt(f),
            Self::Unknown => f.write_str("the device tree does not say how"),
            Self::NoPsci => f.write_str("it wants PSCI, which the device tree does not describe"),
            Self::Psci(error) => write!(f, "PSCI refuses: {error:?}"),
            Self::Release(address) => write!(f, "its release word at {address:#x} cannot be one"),
            Self::Twice => f.write_str("the device tree has it twice"),
        }
    }
}

impl From<StackError> for StartError {
    fn from(error: StackError) -> Self {
        Self::Stack(error)
    }
}

/// Starts interrupts, the tick and threads on this CPU, and then all other CPUs, as far as the tree names them and
/// `maxcpus=` allows. Whatever goes wrong is reported, and the machine goes on without.
pub(crate) fn start(machine: &'static Machine) {
    let boot = cpu::this();
    let own = MPIDR_EL1.get() & AFFINITY;
    let in_tree = machine.info.cpus.iter().find(|cpu| cpu.mpidr & AFFINITY == own);
    boot.set_identity(own, in_tree.map_or(0, |cpu| cpu.node), "boot CPU");
    machine.memory.pages.set_node(boot.number(), boot.node());
    boot.id.read();
    if in_tree.is_none() {
        pr_warn!("smp: the device tree does not name the CPU that boots, MPIDR {own:#x}");
    }
    match start_boot_cpu(machine, boot) {
        Ok(()) => {}
        Err(error) => {
            // Without interrupts a CPU hears of nothing that others want.
            pr_err!("smp: {error}: no interrupts, no other CPUs");
            return;
        }
    }
    start_others(machine, own);
}

fn start_boot_cpu(machine: &'static Machine, boot: &'static PerCpu) -> Result<(), BootCpuError> {
    let irq_stack =
        Stack::new(&machine.memory, Use::Interrupt, IRQ_STACK, 0, boot.node()).map_err(BootCpuError::Stack)?;
    boot.set_irq_stack(keep(irq_stack));
    thread::start_boot_cpu(machine, boot).map_err(BootCpuError::Stack)?;
    irq::start(machine).map_err(BootCpuError::Irq)?;
    if let Err(error) = tick::start(machine) {
        pr_err!("tick: there is none: {error}");
    }
    irq::unmask();
    Ok(())
}

enum BootCpuError {
    Stack(StackError),
    Irq(bsp::irq::IrqError),
}

impl fmt::Display for BootCpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack(error) => error.fmt(f),
            Self::Irq(error) => error.fmt(f),
        }
    }
}

/// A stack for good; its top.
fn keep(stack: Stack) -> u64 {
    let top = stack.top().as_raw();
    core::mem::forget(stack);
    top
}

fn start_others(machine: &'static Machine, own: u64) {
    let most = machine.options.max_cpus.unwrap_or(MAX_CPUS).clamp(1, MAX_CPUS);
    let others = machine.info.cpus.iter().filter(|cpu| cpu.mpidr & AFFINITY != own);
    let start = time::ticks();
    let trampoline = match Trampoline::new(machine) {
        Ok(trampoline) => trampoline,
        Err(error) => {
            pr_err!("smp: no trampoline: {error}");
            return;
        }
    };
    let mut nr = 1;
    for described in others.take(most - 1) {
        if let Err(error) = start_one(machine, described, nr) {
            pr_err!("smp: CPU with MPIDR {:#x} is not started: {error}", described.mpidr);
        } else {
            nr += 1;
        }
    }
    let started = || (1..nr).filter_map(cpu::get);
    while started().any(|cpu| cpu.start.is_on_its_way()) && !time::has_passed(start, LIMIT_MS) {
        core::hint::spin_loop();
    }
    let mut missing = 0;
    for cpu in started() {
        if cpu.start.settle(State::Missing) {
            missing += 1;
            pr_err!("smp: CPU {} (MPIDR {:#x}, {}) does not come", cpu.number(), cpu.mpidr(), cpu.method());
        }
    }
    if missing == 0 {
        trampoline.give_back(machine);
    }
    let named = machine.info.nr_cpus.max(1);
    pr_info!("smp: {} of {named} CPUs after {} us", super::nr_online(), time::to_ns(time::ticks() - start) / 1000);
    if named > most {
        pr_warn!("smp: {} CPUs of the device tree are left out", named - most);
    }
}

/// Prepares CPU `number` and lets it go.
fn start_one(machine: &'static Machine, described: &Cpu, number: usize) -> Result<(), StartError> {
    let (memory, node, mpidr) = (&machine.memory, described.node, described.mpidr & AFFINITY);
    let method = match described.method {
        EnableMethod::Psci => "PSCI",
        EnableMethod::SpinTable { .. } => "spin table",
        EnableMethod::Unknown => return Err(StartError::Unknown),
    };
    if cpu::all().any(|cpu| cpu.mpidr() == mpidr) {
        return Err(StartError::Twice);
    }
    let idle = Stack::new(memory, Use::Idle, IDLE_STACK, number, node)?;
    let irq = Stack::new(memory, Use::Interrupt, IRQ_STACK, number, node)?;
    let fault = Stack::new(memory, Use::Fault, FAULT_STACK_SIZE, number, node)?;
    let place = idle.top().as_raw() - (size_of::<PerCpu>() as u64).next_multiple_of(64);
    let data: *mut PerCpu = core::ptr::with_exposed_provenance_mut(place as usize);
    // SAFETY: the top of a new stack, aligned, which nobody else uses before the CPU comes, and whose user then begins
    // below.
    unsafe { data.write(PerCpu::new(number, core::ptr::with_exposed_provenance_mut(fault.top().as_raw() as usize))) };
    // SAFETY: as above; it is not moved as long as the stack is there.
    let data = unsafe { &*data };
    data.set_identity(mpidr, node, method);
    memory.pages.set_node(number, node);
    data.set_irq_stack(irq.top().as_raw());
    data.set_first_stack(place);
    // SAFETY: it has this number, and is taken back below if its stack goes.
    unsafe { cpu::set(number, Some(data)) };

    let Some(entry) = SECONDARIES.entries.get(number - 1) else { return Err(StartError::Unknown) };
    entry.mpidr.store(mpidr, Ordering::Relaxed);
    entry.data.store(place, Ordering::Relaxed);
    SECONDARIES.nr.store(number as u64, Ordering::Relaxed);
    clean_to_memory(VirtAddr::new((&raw const SECONDARIES).addr() as u64), size_of::<Secondaries>() as u64);
    match release(machine, described, mpidr, entry_point(machine.memory.image)) {
        Ok(()) => {
            // From now on it may come, however late: its memory is its own.
            [idle, irq, fault].into_iter().for_each(core::mem::forget);
            Ok(())
        }
        Err(error) => {
            SECONDARIES.nr.store(number as u64 - 1, Ordering::Relaxed);
            // SAFETY: forgets what goes away with its stack.
            unsafe { cpu::set(number, None) };
            Err(error)
        }
    }
}

fn release(machine: &'static Machine, described: &Cpu, mpidr: u64, entry: PhysAddr) -> Result<(), StartError> {
    match described.method {
        EnableMethod::Psci => {
            let conduit = machine.info.psci.ok_or(StartError::NoPsci)?.conduit;
            match conduit {
                Conduit::Smc => psci::cpu_on::<smccc::Smc>(mpidr, entry.as_raw(), 0),
                Conduit::Hvc => psci::cpu_on::<smccc::Hvc>(mpidr, entry.as_raw(), 0),
            }
            .map_err(StartError::Psci)
        }
        EnableMethod::SpinTable { release } => {
            let word = release_word(machine, release).ok_or(StartError::Release(release))?;
            let pointer: *mut u64 = core::ptr::with_exposed_provenance_mut(word.as_raw() as usize);
            // SAFETY: the word is mapped and aligned, and it is there for this; a core that waits looks at nothing else.
            unsafe { pointer.write_volatile(entry.as_raw()) };
            // The core looks with its caches off.
            clean_to_memory(word, 8);
            asm::sev();
            Ok(())
        }
        EnableMethod::Unknown => Err(StartError::Unknown),
    }
}

/// Where a release word is mapped: in the direct map if it is RAM, else as a device, which is as good for one word.
fn release_word(machine: &Machine, release: u64) -> Option<VirtAddr> {
    let is_fit = |phys: &PhysAddr| phys.as_raw().is_multiple_of(8) && !machine.memory.image.range().contains(*phys);
    let phys = PhysAddr::new(release).filter(is_fit)?;
    let virt = direct_map(phys);
    if machine.memory.map.lock().tree().translate(virt) == Some(phys) {
        return Some(virt);
    }
    machine.memory.map_device(RawRange { base: release, size: 8 }).ok()
}

unsafe extern "C" {
    /// `boot/entry.S`.
    static secondary_start: u8;
}

/// Where other CPUs begin, in physical memory.
fn entry_point(image: Image) -> PhysAddr {
    PhysAddr::new_saturating(((&raw const secondary_start).addr() as u64).wrapping_sub(image.offset()))
}

/// Writes back what caches hold of a range, which is mapped, for those who look with their caches off.
fn clean_to_memory(virt: VirtAddr, size: u64) {
    // SAFETY: the callers have just written or read there; a clean loses nothing.
    unsafe { cpu::hardware().maintain_cache(CacheOp::Clean, virt, size) };
}

/// The identity map of the image's first page, for the lower half.
struct Trampoline {
    /// Root, then the three levels below it.
    tables: [Option<PhysAddr>; 4],
}

/// Tables that were set aside, so that they can be given back one by one.
struct Tables<'a> {
    tables: &'a [Option<PhysAddr>; 4],
    next: usize,
}

impl TableSource for Tables<'_> {
    fn table(&mut self) -> Option<PhysAddr> {
        let table = *self.tables.get(self.next)?;
        self.next += 1;
        table
    }

    /// They go back together.
    fn give_back(&mut self, _: PhysAddr) {}
}

impl Trampoline {
    fn new(machine: &Machine) -> Result<Self, MapError> {
        let trampoline = Self { tables: core::array::from_fn(|_| machine.memory.take_frame(0)) };
        let image = machine.memory.image;
        let page = image.range().start();
        let mut source = Tables { tables: &trampoline.tables, next: 0 };
        let tree = PageTable::new(cpu::hardware().table_arch(), Regime::Lower, &mut source).and_then(|mut tree| {
            let virt = VirtAddr::new(page.as_raw());
            tree.map(virt, page, PAGE_SIZE, Attributes::TEXT, &mut source).map(|()| tree.root())
        });
        match tree {
            Ok(root) => {
                SECONDARIES.lower.store(root.as_raw(), Ordering::Relaxed);
                let upper = machine.memory.map.lock().tree().root();
                SECONDARIES.upper.store(upper.as_raw(), Ordering::Relaxed);
                // Loaders clean what they load; this page is read with caches off once more.
                clean_to_memory(direct_map(page), PAGE_SIZE);
                Ok(trampoline)
            }
            Err(error) => {
                trampoline.give_back(machine);
                Err(error)
            }
        }
    }

    fn give_back(self, machine: &Machine) {
        self.tables.into_iter().flatten().for_each(|table| machine.memory.give_frame(table));
    }
}

/// From `boot/entry.S`: the CPU runs on its idle stack, its map is the kernel's, and nobody has heard of it yet.
#[unsafe(no_mangle)]
extern "C" fn secondary_main() -> ! {
    let cpu = cpu::this();
    exception::unmask_serror();
    cpu.id.read();
    let ready = irq::start_cpu(cpu);
    if !cpu.start.settle(State::Coming) {
        // Too late: the machine counts without us.
        loop {
            asm::wfi();
        }
    }
    if let Err(error) = ready {
        pr_err!("smp: CPU {} has no interrupts, and stays out: {error}", cpu.number());
        cpu.start.finish(State::Missing);
        loop {
            asm::wfi();
        }
    }
    if let Err(error) = tick::start_cpu(cpu) {
        pr_err!("tick: CPU {} has none: {error}", cpu.number());
    }
    set_online(cpu);
    cpu.start.finish(State::Online);
    thread::idle()
}
