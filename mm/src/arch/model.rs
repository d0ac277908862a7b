// SPDX-License-Identifier: MIT OR Apache-2.0
//! An adversarial MMU: several CPUs, each of which keeps every translation that it could ever have seen.
//!
//! A real CPU *may* walk the tables at any moment, for any address, and keep what it finds until it is told to
//! forget it. The model does not guess which of that happens: for each CPU it holds the whole set of what could
//! be cached now (the *may-set*: TLB entries, and walk-cache entries that point to tables), and grows it at each
//! table write. So a fault of the code under test is found in the first run that could show it on hardware, not
//! when luck has it; what is left to chance, or to the exhaustive mode, is the order in which CPUs run
//! ([`sched`]).
//!
//! ```text
//!   store ---> pending: walkers may read the old and the new value
//!   DSB  ----> the new value only; invalidates of this CPU are complete
//!   TLBI ----> what matches is dying, unless a walker can still find it
//!   ISB  ----> this CPU's own later accesses use nothing from before
//! ```
//!
//! It reports ([`Violation`]): a freed frame or table that can still be reached, break-before-make violations, a
//! walker in garbage, undefined or ineffective instructions, and (when the test asks) an access whose outcome is
//! not the only one possible. `docs/mmu-model.md` lists the rules of the Arm ARM that it knows, and those that it
//! does not.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test tool: what goes wrong here is a bug of the test, and must end it"
)]

extern crate std;

mod cached;
pub mod frames;
mod invalidate;
pub mod sched;
mod state;

use core::cell::Cell;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::string::String;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread_local;
use std::vec::Vec;

pub use self::cached::Installed;
use self::sched::Scheduler;
pub use self::state::Counts;
use self::state::State;
use super::{Arch, CacheOp, Dsb, IrqState, MmuFeatures, Tlbi};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr, VirtRange};
use crate::sync::LockId;

/// Most CPUs that a model has.
pub const MODEL_CPUS: usize = 8;

/// What a model machine has.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// CPUs, 1 to [`MODEL_CPUS`].
    pub cpus: usize,
    /// The first physical address that the model holds in memory.
    pub base: PhysAddr,
    /// Frames from there on: tables, and pages that are written to.
    pub frames: u64,
    /// What the MMUs can do.
    pub features: MmuFeatures,
    /// FEAT_TTL: invalidates read the level hint in bits 47:44. Without it those bits are RES0.
    pub ttl: bool,
}

impl Default for Machine {
    fn default() -> Self {
        let base = PhysAddr::new_saturating(0x4000_0000);
        Self { cpus: 2, base, frames: 64, features: MmuFeatures::default(), ttl: true }
    }
}

/// What the code under test did wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A CPU can hold two translations of one address that differ in size, output address, memory type, the
    /// contiguous hint or nG: an entry was changed without break-before-make, or a group is not uniform.
    BreakBeforeMake {
        /// Where.
        virt: u64,
        /// The two descriptors.
        descriptors: (u64, u64),
    },
    /// A frame was given back while a CPU can still translate to it.
    FrameReachable {
        /// By this address.
        virt: u64,
        /// The frame's address.
        frame: u64,
    },
    /// A frame was given back while a walker can still read it as a table.
    TableReachable {
        /// The frame's address.
        frame: u64,
    },
    /// A walker can read a frame that is no table (any more, or not yet).
    WalkOutside {
        /// The frame's address.
        frame: u64,
    },
    /// A walker can read what was in a frame before it was cleared to become a table.
    Garbage {
        /// The entry's address.
        entry: u64,
    },
    /// A valid entry that the architecture has no meaning for at its level.
    BadDescriptor {
        /// The entry's address.
        entry: u64,
        /// Its value.
        descriptor: u64,
    },
    /// An instruction that this machine does not have, or with operand bits that have no meaning.
    BadInvalidate {
        /// The instruction.
        op: Tlbi,
        /// Its operand.
        operand: u64,
    },
    /// Live entries were replaced while other CPUs ran.
    NotStopped,
    /// The way to the entries that were replaced led through them.
    CutOff {
        /// Where they were to be reached.
        virt: u64,
    },
    /// An access has more than one possible outcome, or another one than it should.
    WrongOutcome {
        /// The address.
        virt: u64,
        /// What can happen, in words.
        found: String,
    },
}

/// A violation, and when and where it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The CPU whose translations are concerned.
    pub cpu: usize,
    /// How many operations came before.
    pub step: u64,
    /// What.
    pub violation: Violation,
}

/// A frame of the model's memory, aligned as one.
#[repr(align(4096))]
struct Frame([AtomicU64; 512]);

/// The machine.
pub struct Model {
    state: Mutex<State>,
    base: PhysAddr,
    memory: Box<[Frame]>,
    scheduler: OnceLock<Scheduler>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("base", &self.base).field("frames", &self.memory.len()).finish_non_exhaustive()
    }
}

thread_local! {
    /// The model CPU that this thread is.
    static CPU: Cell<usize> = const { Cell::new(0) };
}

impl Model {
    /// A machine whose memory is full of descriptors that lead nowhere good.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        let frame = || Frame([const { AtomicU64::new(frames::GARBAGE) }; 512]);
        let memory = (0..machine.frames).map(|_| frame()).collect();
        Self { state: Mutex::new(State::new(machine)), base: machine.base, memory, scheduler: OnceLock::new() }
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.state().cpus()
    }

    /// Runs `body` as CPU `cpu`.
    pub fn on<R>(&self, cpu: usize, body: impl FnOnce() -> R) -> R {
        let before = CPU.replace(cpu);
        let result = body();
        CPU.set(before);
        result
    }

    /// The table at `root` is live on all CPUs from now on, for what `space` says.
    pub fn install(&self, root: PhysAddr, space: Installed) {
        let mut state = self.state();
        for cpu in 0..state.cpus() {
            state.install(self, cpu, root.as_raw(), space);
        }
    }

    /// CPU `cpu` leaves the table at `root`; what it has cached of it stays.
    pub fn uninstall(&self, cpu: usize, root: PhysAddr) {
        self.state().uninstall(cpu, root.as_raw());
    }

    /// Translations of these addresses may lead to free frames: the direct map.
    pub fn exempt(&self, range: VirtRange) {
        self.state().exempt(range);
    }

    /// The frames of `range` go back to where they came from. Reports who can still reach them.
    pub fn release(&self, range: PhysRange) {
        self.state().release(range);
    }

    /// The frames of `range` are in use again.
    pub fn take(&self, range: PhysRange) {
        self.state().take(range);
    }

    /// Checks that an access to `virt` by `cpu` can only go to `phys`, with the permissions and memory type of
    /// `like`, a page descriptor.
    pub fn expect_mapped(&self, cpu: usize, virt: VirtAddr, phys: PhysAddr, like: u64) {
        self.state().expect_mapped(self, cpu, virt.as_raw(), phys.as_raw(), like);
    }

    /// Checks that an access to `virt` by `cpu` can only fault.
    pub fn expect_unmapped(&self, cpu: usize, virt: VirtAddr) {
        self.state().expect_unmapped(cpu, virt.as_raw());
    }

    /// How often each instruction ran so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// What was wrong so far; forgets it.
    #[must_use]
    pub fn take_reports(&self) -> Vec<Report> {
        core::mem::take(&mut self.state().reports)
    }

    /// # Panics
    ///
    /// If anything was wrong so far.
    pub fn assert_clean(&self) {
        let reports = self.take_reports();
        assert!(reports.is_empty(), "the model found: {reports:#x?}");
    }

    /// Another CPU goes first, if there is a schedule: for loops that wait.
    pub fn wait(&self) {
        if let Some(scheduler) = self.scheduler.get() {
            scheduler.switch(CPU.get(), true);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scheduler may let another CPU run before this operation.
    fn step(&self) -> MutexGuard<'_, State> {
        if let Some(scheduler) = self.scheduler.get() {
            scheduler.switch(CPU.get(), false);
        }
        self.state()
    }

    fn word(&self, address: u64) -> &AtomicU64 {
        let at = address.wrapping_sub(self.base.as_raw()) / 8;
        self.memory
            .get(at as usize / 512)
            .and_then(|frame| frame.0.get(at as usize % 512))
            .unwrap_or_else(|| panic!("{address:#x} is not in the model's memory"))
    }

    fn has(&self, frame: u64) -> bool {
        frame >= self.base.as_raw() && (frame - self.base.as_raw()) / PAGE_SIZE < self.memory.len() as u64
    }

    fn read(&self, address: u64) -> u64 {
        self.word(address).load(Ordering::Relaxed)
    }

    fn write(&self, state: &mut State, address: u64, value: u64) {
        let old = self.word(address).swap(value, Ordering::Relaxed);
        state.stored(self, CPU.get(), address, old, value);
    }
}

// SAFETY: (1), (2) every access goes through a bounds-checked atomic of the right word; (3) the model does what
// those instructions do to its tables and TLBs; (4) the number is the thread's, set by the test; tests run one
// thread for each CPU; (5) the words live as long as the model, in cells that may be written through a shared
// borrow.
unsafe impl Arch for Model {
    fn cpu(&self) -> usize {
        CPU.get()
    }

    fn mask_interrupts(&self) -> IrqState {
        IrqState(0)
    }

    unsafe fn restore_interrupts(&self, _: IrqState) {}

    fn lock_waiting(&self, _: LockId, _: u64) {
        self.wait();
    }

    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        let offset = phys.as_raw().wrapping_sub(self.base.as_raw()) as usize;
        self.memory.as_ptr().cast_mut().cast::<u8>().wrapping_add(offset)
    }

    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        self.read(table.as_raw() + index as u64 * 8)
    }

    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        let mut state = self.step();
        self.write(&mut state, table.as_raw() + index as u64 * 8, descriptor);
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        let mut state = self.step();
        for index in 0..512 {
            self.write(&mut state, table.as_raw() + index * 8, 0);
        }
    }

    fn dsb(&self, kind: Dsb) {
        self.step().dsb(CPU.get(), kind);
    }

    fn isb(&self) {
        self.step().isb(CPU.get());
    }

    fn tlbi(&self, op: Tlbi, operand: u64) {
        self.step().tlbi(self, CPU.get(), op, operand);
    }

    fn mmu_features(&self) -> MmuFeatures {
        self.state().features()
    }

    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        let cpu = CPU.get();
        let Some(at) = self.state().begin_replacing(self, cpu, entries.as_raw()) else { return };
        let addresses = (at..).step_by(8).take(count);
        for address in addresses.clone() {
            self.write(&mut self.state(), address, 0);
        }
        self.dsb(Dsb::InnerShareableStores);
        self.tlbi(Tlbi::All, 0);
        self.dsb(Dsb::InnerShareable);
        self.isb();
        self.state().still_reaches(self, cpu, entries.as_raw(), at);
        let mut descriptor = first;
        for address in addresses {
            self.write(&mut self.state(), address, descriptor);
            descriptor = descriptor.wrapping_add(step);
        }
        self.dsb(Dsb::InnerShareableStores);
        self.isb();
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        self.state().stop_others(true);
        body();
        self.state().stop_others(false);
    }

    unsafe fn maintain_cache(&self, _: CacheOp, _: VirtAddr, _: u64) {}
}

/// The bytes of one frame.
fn frame_range(frame: u64) -> PhysRange {
    let at = PhysAddr::new_saturating(frame & !(PAGE_SIZE - 1));
    PhysRange::new(at, PhysAddr::new_saturating(at.as_raw() + PAGE_SIZE)).unwrap_or_default()
}
