// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM behind a cache that is as unkind as it may be, and a device that reads and writes RAM past it.
//!
//! The host's words are what the CPU sees. Of each page that is mapped cacheable the model has a second copy, what RAM
//! holds, and a third, what RAM held when the line was last the same: a line that differs from that is dirty.
//!
//! - a dirty line reaches RAM when it is cleaned; and at any other moment too, which is after each write of a device:
//!   what the device wrote is lost then, if the line had not been cleaned before
//! - a line that the CPU has stays as it is until it is invalidated, whatever a device writes; and what is invalidated is
//!   filled again at once, so that only an invalidate after the device's write helps
//! - invalidating throws away what was not cleaned, whoever's it is
//! - of a page that becomes uncached, dirty lines stay behind, and are written back over what is put there
#![expect(clippy::indexing_slicing, reason = "a test tool: what goes wrong here is a bug of the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use mm::addr::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::arch::host::Host;
use mm::arch::{Arch, CacheOp, Dsb, IrqState, MmuFeatures, Tlbi};
use mm::dma::Platform;

/// Bytes of a line.
const LINE: usize = 64;
const PAGE: usize = PAGE_SIZE as usize;

/// A page that is mapped cacheable, from when it is first of interest.
struct Cached {
    ram: Box<[u8; PAGE]>,
    clean: Box<[u8; PAGE]>,
}

#[derive(Default)]
struct State {
    cached: BTreeMap<u64, Cached>,
    uncached: BTreeSet<u64>,
    /// Dirty lines of pages that are uncached now, by address.
    left_behind: BTreeMap<u64, [u8; LINE]>,
    operations: u64,
}

/// The machine.
pub(crate) struct Machine<'h> {
    host: Host<'h>,
    ram: Vec<PhysRange>,
    granule: u64,
    state: Mutex<State>,
}

impl<'h> Machine<'h> {
    /// A machine with this RAM, whose caches write back `granule` bytes at once.
    pub(crate) fn new(host: Host<'h>, ram: Vec<PhysRange>, granule: u64) -> Self {
        Self { host, ram, granule, state: Mutex::default() }
    }

    fn words(&self, phys: u64, size: usize) -> *mut [u8] {
        std::ptr::slice_from_raw_parts_mut(self.host.direct_map(PhysAddr::new(phys).unwrap()), size)
    }

    /// What the CPU sees.
    pub(crate) fn cpu_read(&self, phys: u64, size: usize) -> Vec<u8> {
        // SAFETY: RAM of the host, which the test alone uses.
        unsafe { (*self.words(phys, size)).to_vec() }
    }

    /// The CPU writes.
    pub(crate) fn cpu_write(&self, phys: u64, bytes: &[u8]) {
        for page in pages(phys, bytes.len()) {
            self.state.lock().unwrap().page(self, page);
        }
        // SAFETY: as above.
        unsafe { (*self.words(phys, bytes.len())).copy_from_slice(bytes) };
    }

    /// What a device reads at a CPU address.
    pub(crate) fn device_read(&self, phys: u64, size: usize) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        (phys..phys + size as u64).map(|at| state.ram_byte(self, at)).collect()
    }

    /// A device writes at a CPU address. Then every dirty line is written back.
    pub(crate) fn device_write(&self, phys: u64, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        for (at, byte) in (phys..).zip(bytes) {
            state.set_ram_byte(self, at, *byte);
        }
        state.write_back(self, phys, bytes.len());
    }

    /// Cache operations so far.
    pub(crate) fn operations(&self) -> u64 {
        self.state.lock().unwrap().operations
    }

    /// Bytes that are uncached.
    pub(crate) fn uncached_bytes(&self) -> u64 {
        self.state.lock().unwrap().uncached.len() as u64 * PAGE_SIZE
    }

    /// Whether a page is uncached.
    pub(crate) fn is_uncached(&self, phys: u64) -> bool {
        self.state.lock().unwrap().uncached.contains(&(phys & !(PAGE_SIZE - 1)))
    }
}

fn pages(phys: u64, size: usize) -> impl Iterator<Item = u64> {
    (phys & !(PAGE_SIZE - 1)..phys + size as u64).step_by(PAGE)
}

impl State {
    /// The page as the model has it, if it is cacheable.
    fn page(&mut self, machine: &Machine<'_>, page: u64) -> Option<&mut Cached> {
        if self.uncached.contains(&page) {
            return None;
        }
        Some(self.cached.entry(page).or_insert_with(|| {
            let bytes: Box<[u8; PAGE]> = machine.cpu_read(page, PAGE).into_boxed_slice().try_into().unwrap();
            Cached { ram: bytes.clone(), clean: bytes }
        }))
    }

    fn ram_byte(&mut self, machine: &Machine<'_>, at: u64) -> u8 {
        match self.page(machine, at & !(PAGE_SIZE - 1)) {
            Some(page) => page.ram[at as usize % PAGE],
            None => machine.cpu_read(at, 1)[0],
        }
    }

    fn set_ram_byte(&mut self, machine: &Machine<'_>, at: u64, byte: u8) {
        match self.page(machine, at & !(PAGE_SIZE - 1)) {
            Some(page) => page.ram[at as usize % PAGE] = byte,
            // SAFETY: RAM of the host, which the test alone uses.
            None => unsafe { (*machine.words(at, 1))[0] = byte },
        }
    }

    /// Every dirty line around goes to RAM.
    fn write_back(&mut self, machine: &Machine<'_>, phys: u64, size: usize) {
        for line in lines(phys, size) {
            self.clean(machine, line);
        }
    }

    fn clean(&mut self, machine: &Machine<'_>, line: u64) {
        let at = line as usize % PAGE;
        let now = machine.cpu_read(line, LINE);
        match self.page(machine, line & !(PAGE_SIZE - 1)) {
            Some(page) if now != page.clean[at..at + LINE] => {
                page.ram[at..at + LINE].copy_from_slice(&now);
                page.clean[at..at + LINE].copy_from_slice(&now);
            }
            Some(_) => {}
            None => {
                if let Some(old) = self.left_behind.remove(&line) {
                    // SAFETY: as above.
                    unsafe { (*machine.words(line, LINE)).copy_from_slice(&old) };
                }
            }
        }
    }

    fn invalidate(&mut self, machine: &Machine<'_>, line: u64) {
        let at = line as usize % PAGE;
        match self.page(machine, line & !(PAGE_SIZE - 1)) {
            Some(page) => {
                page.clean[at..at + LINE].copy_from_slice(&page.ram[at..at + LINE]);
                // SAFETY: as above.
                unsafe { (*machine.words(line, LINE)).copy_from_slice(&page.ram[at..at + LINE]) };
            }
            None => drop(self.left_behind.remove(&line)),
        }
    }
}

fn lines(phys: u64, size: usize) -> impl Iterator<Item = u64> {
    (phys & !(LINE as u64 - 1)..phys + size as u64).step_by(LINE)
}

impl Platform for &Machine<'_> {
    fn is_ram(&self, range: PhysRange) -> bool {
        let is_cached = pages(range.start().as_raw(), range.size() as usize).all(|page| !self.is_uncached(page));
        is_cached && self.ram.iter().any(|bank| bank.intersection(range) == Some(range))
    }

    fn set_cached(&self, range: PhysRange, cached: bool) -> bool {
        for page in pages(range.start().as_raw(), range.size() as usize) {
            let mut state = self.state.lock().unwrap();
            if cached {
                assert!(state.uncached.remove(&page), "{page:#x} was cached already");
                continue;
            }
            let now = self.cpu_read(page, PAGE);
            if let Some(Cached { ram, clean }) = state.cached.remove(&page) {
                for at in (0..PAGE).step_by(LINE) {
                    if now[at..at + LINE] != clean[at..at + LINE] {
                        state.left_behind.insert(page + at as u64, now[at..at + LINE].try_into().unwrap());
                    }
                }
                // SAFETY: as above.
                unsafe { (*self.words(page, PAGE)).copy_from_slice(&*ram) };
            }
            assert!(state.uncached.insert(page), "{page:#x} was uncached already");
        }
        true
    }
}

// SAFETY: what is not about caches is the host's, which keeps these promises.
unsafe impl Arch for Machine<'_> {
    fn cpu(&self) -> usize {
        self.host.cpu()
    }

    fn mask_interrupts(&self) -> IrqState {
        self.host.mask_interrupts()
    }

    unsafe fn restore_interrupts(&self, state: IrqState) {
        // SAFETY: the caller's promise.
        unsafe { self.host.restore_interrupts(state) };
    }

    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        self.host.direct_map(phys)
    }

    /// By the CPU, through its caches.
    unsafe fn fill(&self, start: PhysAddr, bytes: u64, byte: u8) {
        self.cpu_write(start.as_raw(), &vec![byte; bytes as usize]);
    }

    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.host.load_descriptor(table, index) }
    }

    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.host.store_descriptor(table, index, descriptor) };
    }

    unsafe fn zero_table(&self, table: PhysAddr) {
        // SAFETY: the caller's promise.
        unsafe { self.host.zero_table(table) };
    }

    fn dsb(&self, kind: Dsb) {
        self.host.dsb(kind);
    }

    fn isb(&self) {
        self.host.isb();
    }

    fn tlbi(&self, op: Tlbi, operand: u64) {
        self.host.tlbi(op, operand);
    }

    fn mmu_features(&self) -> MmuFeatures {
        self.host.mmu_features()
    }

    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.host.replace_live(entries, count, first, step) };
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        self.host.with_others_stopped(body);
    }

    unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64) {
        let offset = self.host.direct_map(PhysAddr::ZERO).addr() as u64;
        let mut state = self.state.lock().unwrap();
        state.operations += 1;
        for line in lines(virt.as_raw().wrapping_sub(offset), size as usize) {
            match op {
                CacheOp::Clean => state.clean(self, line),
                CacheOp::Invalidate => state.invalidate(self, line),
                CacheOp::CleanInvalidate | CacheOp::SyncInstructions => {
                    state.clean(self, line);
                    state.invalidate(self, line);
                }
            }
        }
    }

    fn cache_granule(&self) -> u64 {
        self.granule
    }
}
