// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lock of this crate: a spin lock that masks interrupts, so that a handler can take it too.
//!
//! Locks have a [`Rank`], and a CPU takes them in ascending order only; then no two CPUs can wait for each
//! other. The [`Arch`] hears of each wish, taking and release, and may check the order and measure the time;
//! while a lock is waited for, it may do what others wait for this CPU to do.
//!
//! *Order:* translation tables, slab, vmalloc space, DMA, zone, lane, per-CPU data; then whatever a firmware adds.
//! Nothing is printed, zeroed or flushed under the last three.

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::arch::{Arch, IrqState};

/// A lock's place in the order: higher ones are taken later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rank(u8);

impl Rank {
    /// A translation tree.
    pub const PAGE_TABLE: Self = Self(16);
    /// A slab cache.
    pub const SLAB: Self = Self(24);
    /// The vmalloc address space, with the part of a translation tree that is its own.
    pub const SPACE: Self = Self(28);
    /// A pool of small blocks for a device.
    pub const DMA_POOL: Self = Self(29);
    /// What is with devices.
    pub const DMA: Self = Self(30);
    /// A zone of the page allocator.
    pub const ZONE: Self = Self(32);
    /// A part of a zone that CPUs keep apart.
    pub const LANE: Self = Self(36);
    /// Data of one CPU that others may look into.
    pub const PER_CPU: Self = Self(40);

    /// A rank of the user's own: 0 to 63, between, before or behind those above.
    #[must_use]
    pub const fn new(rank: u8) -> Option<Self> {
        if rank < 64 { Some(Self(rank)) } else { None }
    }

    /// 0 to 63.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

/// One particular lock, for whoever watches over them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockId {
    /// Its rank.
    pub rank: Rank,
    /// Its address, which tells it from others of that rank.
    pub address: usize,
}

/// A value behind a spin lock that is held with interrupts masked.
pub struct IrqSpinLock<T> {
    rank: Rank,
    inner: SpinMutex<T>,
}

impl<T> IrqSpinLock<T> {
    /// An open lock.
    #[must_use]
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: SpinMutex::new(value) }
    }

    /// Masks interrupts, then waits for the lock. Guards of one CPU are dropped in reverse order.
    #[inline]
    pub fn lock<'a, A: Arch>(&'a self, arch: &'a A) -> IrqGuard<'a, T, A> {
        let (state, id) = (arch.mask_interrupts(), self.id());
        let inner = match self.inner.try_lock() {
            Some(inner) => {
                arch.lock_taken_at_once(id);
                inner
            }
            None => self.wait(arch),
        };
        IrqGuard { inner: ManuallyDrop::new(inner), id, arch, state, on_this_cpu: PhantomData }
    }

    #[cold]
    fn wait(&self, arch: &impl Arch) -> SpinMutexGuard<'_, T> {
        arch.lock_wanted(self.id());
        let mut round = 0;
        loop {
            // Only looks until the lock is open: a write would take the cache line from the holder.
            while self.inner.is_locked() {
                arch.lock_waiting(self.id(), round);
                round += 1;
                core::hint::spin_loop();
            }
            if let Some(inner) = self.inner.try_lock() {
                arch.lock_taken(self.id());
                return inner;
            }
        }
    }

    fn id(&self) -> LockId {
        LockId { rank: self.rank, address: (&raw const self.inner).addr() }
    }

    /// Takes the lock if it is open.
    #[inline]
    pub fn try_lock<'a, A: Arch>(&'a self, arch: &'a A) -> Option<IrqGuard<'a, T, A>> {
        let state = arch.mask_interrupts();
        match self.inner.try_lock() {
            Some(inner) => {
                let id = self.id();
                arch.lock_taken(id);
                Some(IrqGuard { inner: ManuallyDrop::new(inner), id, arch, state, on_this_cpu: PhantomData })
            }
            None => {
                // SAFETY: the state was taken above.
                unsafe { arch.restore_interrupts(state) };
                None
            }
        }
    }

    /// The value, while nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// Opens the lock by force, for a machine that is about to end.
    ///
    /// # Safety
    ///
    /// The holder never runs again.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: the caller's promise is the one that this asks for.
        unsafe { self.inner.force_unlock() };
    }
}

impl<T: fmt::Debug> fmt::Debug for IrqSpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqSpinLock").field("rank", &self.rank).field("inner", &self.inner).finish()
    }
}

/// Opens its lock and then restores the interrupt mask, when dropped. It stays on the CPU that took the lock.
#[derive(Debug)]
pub struct IrqGuard<'a, T, A: Arch> {
    inner: ManuallyDrop<SpinMutexGuard<'a, T>>,
    id: LockId,
    arch: &'a A,
    state: IrqState,
    on_this_cpu: PhantomData<*const ()>,
}

impl<T, A: Arch> Deref for IrqGuard<'_, T, A> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T, A: Arch> DerefMut for IrqGuard<'_, T, A> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T, A: Arch> Drop for IrqGuard<'_, T, A> {
    #[inline]
    fn drop(&mut self) {
        self.arch.lock_released(self.id);
        // SAFETY: dropped here and nowhere else; the value is not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
        // SAFETY: the state is that of this lock's mask, on this CPU; guards drop in reverse order.
        unsafe { self.arch.restore_interrupts(self.state) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PhysAddr, VirtAddr};
    use crate::arch::host::Host;
    use crate::arch::{CacheOp, Dsb, MmuFeatures, Tlbi};

    static COUNT: IrqSpinLock<u64> = IrqSpinLock::new(Rank::ZONE, 0);

    #[test]
    fn a_value_is_changed_by_one_thread_at_a_time() {
        let rounds = if cfg!(miri) { 20 } else { 10_000 };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let host = Host::new(PhysAddr::ZERO, &mut []);
                    (0..rounds).for_each(|_| *COUNT.lock(&host) += 1);
                });
            }
        });
        let host = Host::new(PhysAddr::ZERO, &mut []);
        assert_eq!(*COUNT.lock(&host), 2 * rounds);
    }

    #[test]
    fn a_lock_that_is_held_is_not_taken_again() {
        let host = Host::new(PhysAddr::ZERO, &mut []);
        let lock = IrqSpinLock::new(Rank::SLAB, ());
        let guard = lock.lock(&host);
        assert!(lock.try_lock(&host).is_none());
        drop(guard);
        assert!(lock.try_lock(&host).is_some());
    }

    /// A host that opens `CONTENDED` when somebody waits for it, and writes down what it hears.
    struct Listener {
        heard: std::sync::Mutex<Vec<(&'static str, u8)>>,
        host: Host<'static>,
    }

    static CONTENDED: IrqSpinLock<u64> = IrqSpinLock::new(Rank::SLAB, 7);

    impl Listener {
        fn hear(&self, what: &'static str, lock: LockId) {
            self.heard.lock().unwrap().push((what, lock.rank.as_u8()));
        }
    }

    // SAFETY: as `Host`, to which all that counts is passed on.
    unsafe impl Arch for Listener {
        fn cpu(&self) -> usize {
            self.host.cpu()
        }
        fn mask_interrupts(&self) -> IrqState {
            self.host.mask_interrupts()
        }
        unsafe fn restore_interrupts(&self, state: IrqState) {
            // SAFETY: the caller's promise, passed on.
            unsafe { self.host.restore_interrupts(state) }
        }
        fn lock_wanted(&self, lock: LockId) {
            self.hear("wanted", lock);
        }
        fn lock_waiting(&self, lock: LockId, _: u64) {
            self.hear("waiting", lock);
            // SAFETY: the holder below forgot its guard.
            unsafe { CONTENDED.force_unlock() };
        }
        fn lock_taken(&self, lock: LockId) {
            self.hear("taken", lock);
        }
        fn lock_released(&self, lock: LockId) {
            self.hear("released", lock);
        }
        fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
            self.host.direct_map(phys)
        }
        unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
            // SAFETY: the caller's promise, passed on.
            unsafe { self.host.load_descriptor(table, index) }
        }
        unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
            // SAFETY: the caller's promise, passed on.
            unsafe { self.host.store_descriptor(table, index, descriptor) }
        }
        unsafe fn zero_table(&self, table: PhysAddr) {
            // SAFETY: the caller's promise, passed on.
            unsafe { self.host.zero_table(table) }
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
            // SAFETY: the caller's promise, passed on.
            unsafe { self.host.replace_live(entries, count, first, step) }
        }
        fn with_others_stopped(&self, body: &mut dyn FnMut()) {
            self.host.with_others_stopped(body);
        }
        unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64) {
            // SAFETY: the caller's promise, passed on.
            unsafe { self.host.maintain_cache(op, virt, size) }
        }
    }

    #[test]
    fn the_arch_hears_what_happens_to_a_lock() {
        let arch = Listener { heard: Default::default(), host: Host::new(PhysAddr::ZERO, &mut []) };
        core::mem::forget(CONTENDED.try_lock(&arch));
        assert_eq!(*CONTENDED.lock(&arch), 7);
        let heard = ["taken", "wanted", "waiting", "taken", "released"].map(|what| (what, Rank::SLAB.as_u8()));
        assert_eq!(*arch.heard.lock().unwrap(), heard);
    }

    #[test]
    fn ranks_are_ordered_as_the_locks_are_taken() {
        let order = [Rank::PAGE_TABLE, Rank::SLAB, Rank::SPACE, Rank::ZONE, Rank::LANE, Rank::PER_CPU];
        assert!(order.is_sorted());
        assert_eq!(Rank::new(63).map(Rank::as_u8), Some(63));
        assert_eq!(Rank::new(64), None);
    }
}
