// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this crate asks of a CPU: one small trait, and its back ends.
//!
//! Everything in `mm` is generic over [`Arch`], so that the same code runs on the real CPU, in a host
//! process and under Miri. This is the only place of the crate with instructions or pointers made from
//! physical addresses.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::addr::{PhysAddr, VirtAddr};
use crate::page_alloc::word;
use crate::slab::fast;
use crate::sync::LockId;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod aarch64;
#[cfg(not(target_os = "none"))]
pub mod host;
#[cfg(not(target_os = "none"))]
pub mod model;
pub mod ops;

pub use ops::{CacheOp, Dsb, MmuFeatures, Tlbi};

/// Most CPUs that the memory manager keeps data for: numbers from 0 to this less one. A table of pointers for them, and
/// what comes right behind it, is in reach of the offset of a load of a pair (504 bytes).
pub const MAX_CPUS: usize = 56;

/// A slab's arrays of each CPU, by its number: see [`Arch::local`].
pub type Arrays = [AtomicPtr<u8>; MAX_CPUS];

/// The interrupt mask of a CPU as it was: what [`Arch::restore_interrupts`] brings back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the mask must be restored"]
pub struct IrqState(
    /// In the back end's own encoding; DAIF on AArch64.
    pub u64,
);

/// The hardware under the memory manager.
///
/// # Safety
///
/// An implementation promises:
/// 1. For every table address that it is given, [`store_descriptor`](Arch::store_descriptor) and
///    [`load_descriptor`](Arch::load_descriptor) touch the eight bytes of that entry and nothing else,
///    as one single-copy atomic access.
/// 2. [`zero_table`](Arch::zero_table) clears that frame and nothing else.
/// 3. [`dsb`](Arch::dsb), [`isb`](Arch::isb) and [`tlbi`](Arch::tlbi) are those instructions.
/// 4. [`cpu`](Arch::cpu) is below [`MAX_CPUS`]; between [`mask_interrupts`](Arch::mask_interrupts) and the
///    matching restore it does not change, and no other context has the same number.
/// 5. [`direct_map`](Arch::direct_map) gives a pointer that is valid for reads and writes of all of that RAM.
/// 6. What it has in place of the bodies here does the same; [`pop`](Arch::pop), [`push`](Arch::push) and those named after
///    them undivided for all that runs on the CPU.
pub unsafe trait Arch: Sync {
    /// The number of the CPU that runs this, from 0 up. While interrupts are not masked the caller may be
    /// elsewhere by the time it looks: then it is a hint.
    fn cpu(&self) -> usize;

    /// This CPU's entry of the slab's table of per-CPU arrays. Interrupts are masked.
    ///
    /// A back end with a word of its own for each CPU may return that instead: it begins as
    /// [`NO_ARRAYS`](crate::slab::NO_ARRAYS) and is what [`set_local`](Arch::set_local) stored last. Such a back end
    /// serves one slab.
    #[inline(always)]
    fn local(&self, table: &Arrays) -> *mut u8 {
        // SAFETY: `cpu` is below MAX_CPUS.
        unsafe { table.get_unchecked(self.cpu()) }.load(Ordering::Relaxed)
    }

    /// Keeps what [`local`](Arch::local) is to return on this CPU, which is in the table as well. Interrupts are masked.
    fn set_local(&self, _arrays: *mut u8) {}

    /// Takes the top object of this CPU's array of `tag` and clears its first word; null if the array is empty. For this and
    /// the next five, which are the slab's fast paths, a back end may know a way without masking interrupts.
    ///
    /// # Safety
    ///
    /// `arrays` are a slab's, and the tag is one of its.
    #[inline(always)]
    unsafe fn pop(&self, arrays: &Arrays, tag: u32) -> *mut u8 {
        fast::pop(self, arrays, tag)
    }

    /// The same from the array for sizes of `step`: so many steps of eight bytes and one, up to 4096 bytes.
    ///
    /// # Safety
    ///
    /// `arrays` are a slab's, and `step` is below 512.
    #[inline(always)]
    unsafe fn pop_sized(&self, arrays: &Arrays, step: usize) -> *mut u8 {
        fast::pop_sized(self, arrays, step)
    }

    /// Puts an object into this CPU's array of `tag` and marks it in its first word. False, and nothing is changed, if the
    /// array is full or the object is marked already.
    ///
    /// # Safety
    ///
    /// 1. `arrays` are a slab's, and the tag is one of its.
    /// 2. `object` can be read and written, and if it is an object of that array, nothing uses it from now on.
    #[inline(always)]
    unsafe fn push(&self, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { fast::push(self, arrays, object, tag) }
    }

    /// The same for the array for sizes of `step`.
    ///
    /// # Safety
    ///
    /// As for [`push`](Arch::push) and [`pop_sized`](Arch::pop_sized).
    #[inline(always)]
    unsafe fn push_sized(&self, arrays: &Arrays, object: *mut u8, step: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe { fast::push_sized(self, arrays, object, step) }
    }

    /// The same for the array of `tag`, and false if that is not the tag of the object's frame.
    ///
    /// # Safety
    ///
    /// 1. `arrays` are a slab's, and the tag is one of its.
    /// 2. If `object` is an object of that array, nothing uses it from now on.
    #[inline(always)]
    unsafe fn push_checked(&self, arrays: &Arrays, object: *mut u8, tag: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { fast::push_checked(self, arrays, object, tag) }
    }

    /// The same for the array whose tag the object's frame has.
    ///
    /// # Errors
    ///
    /// That tag; that of a frame which is not the slab's for what lies outside its span.
    ///
    /// # Safety
    ///
    /// 1. `arrays` are a slab's.
    /// 2. If `object` is one of the slab, nothing uses it from now on.
    #[inline(always)]
    unsafe fn push_by_frame(&self, arrays: &Arrays, object: *mut u8) -> Result<(), u16> {
        // SAFETY: the caller's promise.
        unsafe { fast::push_by_frame(self, arrays, object) }
    }

    /// Masks interrupts on this CPU. Nests: each call is undone by its own restore, the latest first.
    fn mask_interrupts(&self) -> IrqState;

    /// Undoes the matching [`mask_interrupts`](Arch::mask_interrupts).
    ///
    /// # Safety
    ///
    /// `state` comes from the latest mask on this CPU that has not been undone.
    unsafe fn restore_interrupts(&self, state: IrqState);

    /// This CPU is about to wait for a lock, interrupts masked: the moment to check the order.
    #[inline(always)]
    fn lock_wanted(&self, _lock: LockId) {}

    /// Somebody else holds the lock; called over and over while this CPU waits with interrupts masked, so that it
    /// can still do what others wait for. `round` counts the calls of one wait from 0.
    #[inline(always)]
    fn lock_waiting(&self, _lock: LockId, _round: u64) {}

    /// This CPU took the lock.
    #[inline(always)]
    fn lock_taken(&self, _lock: LockId) {}

    /// This CPU wanted the lock, and took it without waiting: both of the above.
    #[inline(always)]
    fn lock_taken_at_once(&self, lock: LockId) {
        self.lock_wanted(lock);
        self.lock_taken(lock);
    }

    /// The lock is about to be released.
    #[inline(always)]
    fn lock_released(&self, _lock: LockId) {}

    /// Where the CPU sees the RAM at `phys`. Makes a pointer, touches nothing.
    fn direct_map(&self, phys: PhysAddr) -> *mut u8;

    /// Clears the lowest bit of a word that has one, with acquire semantics, and returns the word as it was. A back end
    /// may know fewer instructions for it.
    #[inline(always)]
    fn take_lowest(&self, word: &AtomicU64) -> u64 {
        word::take(word)
    }

    /// Sets bits in a word that has others, and none of these, with release semantics; otherwise `false`.
    #[inline(always)]
    fn put_beside(&self, word: &AtomicU64, bits: u64) -> bool {
        word::put(word, bits)
    }

    /// Fills `bytes`, a multiple of the page size, from `start`, at a page, with copies of a byte.
    ///
    /// # Safety
    ///
    /// They are RAM that [`direct_map`](Arch::direct_map) shows, belong to the caller, and nothing refers to them.
    #[inline]
    unsafe fn fill(&self, start: PhysAddr, bytes: u64, byte: u8) {
        // SAFETY: the caller's memory, which the direct map shows, by (5).
        unsafe { self.direct_map(start).write_bytes(byte, bytes as usize) };
    }

    /// Reads entry `index` (0 to 511) of the translation table at `table`.
    ///
    /// # Safety
    ///
    /// `table` is a translation table that this `Arch` can reach.
    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64;

    /// Writes entry `index` (0 to 511) of the translation table at `table`.
    ///
    /// # Safety
    ///
    /// 1. `table` is a translation table that this `Arch` can reach.
    /// 2. The new entry obeys break-before-make against the old one (Arm ARM D8.16.1).
    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64);

    /// Clears the frame at `table`, so that it can become a translation table.
    ///
    /// # Safety
    ///
    /// The frame belongs to the caller, this `Arch` can reach it, and nothing else refers to it.
    unsafe fn zero_table(&self, table: PhysAddr);

    /// Writes entries `index` to `index + count - 1` of the translation table at `table`, in ascending order, each
    /// as [`store_descriptor`](Arch::store_descriptor) does: `first`, then each larger by `step` than the last.
    ///
    /// # Safety
    ///
    /// 1. `table` is a translation table that this `Arch` can reach, and `index + count` is at most 512.
    /// 2. Each new entry obeys break-before-make against the old one (Arm ARM D8.16.1).
    unsafe fn fill_descriptors(&self, table: PhysAddr, index: usize, count: usize, first: u64, step: u64) {
        let mut descriptor = first;
        for index in index..index + count {
            // SAFETY: the caller's promises are the ones that this asks for.
            unsafe { self.store_descriptor(table, index, descriptor) };
            descriptor = descriptor.wrapping_add(step);
        }
    }

    /// Waits for earlier accesses, table writes and invalidates of this CPU.
    fn dsb(&self, kind: Dsb);

    /// Later instructions of this CPU see all that is complete.
    fn isb(&self);

    /// Issues a TLB invalidate. It may take effect at once or as late as the next [`dsb`](Arch::dsb) that waits
    /// for it. Invalidating too much is harmless; see [`crate::tlb`] for who decides what is enough.
    fn tlbi(&self, op: Tlbi, operand: u64);

    /// What the MMUs of this machine can do.
    fn mmu_features(&self) -> MmuFeatures;

    /// Makes all earlier descriptor writes visible to the table walkers of every CPU, and to this CPU's own
    /// next instruction: `DSB ISHST; ISB` (Arm ARM D8.2.6, K11.5.3).
    fn publish_tables(&self) {
        self.dsb(Dsb::InnerShareableStores);
        self.isb();
    }

    /// Replaces `count` live entries by others of different size, while nobody can use them: writes zeros,
    /// invalidates everything, writes `first` and its successors as [`fill_descriptors`](Arch::fill_descriptors)
    /// does, with all barriers. Uses no memory besides the entries, no stack either, until the new entries hold.
    ///
    /// # Safety
    ///
    /// 1. `entries` is where the first entry is mapped writable, by a translation that does not depend on any of
    ///    the entries; all of them are in one table.
    /// 2. No other CPU uses what they translate until this returns, and interrupts are masked. Neither the code
    ///    of this function nor the exception vectors are translated by them.
    /// 3. The new entries translate what the old ones did.
    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64);

    /// Runs `body` while every other CPU waits, interrupts masked, in code and on a stack of the kernel image.
    /// On a machine with one CPU it just runs.
    fn with_others_stopped(&self, body: &mut dyn FnMut());

    /// Cache maintenance of `size` bytes from `virt` to the point of coherency (of unification for
    /// instructions), and the barriers that complete it. Lines that are touched partly are treated as a whole.
    ///
    /// # Safety
    ///
    /// 1. The bytes are mapped, readable.
    /// 2. For [`CacheOp::Invalidate`] the lines they touch, whole, belong to the caller, and no CPU has data in
    ///    them that it needs.
    unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64);

    /// Bytes that a cache writes back at once, at least a line (CTR_EL0.CWG): a buffer that a device writes must own
    /// whole ones.
    fn cache_granule(&self) -> u64 {
        64
    }
}

// SAFETY: every promise is the one of the value behind the reference.
unsafe impl<A: Arch> Arch for &A {
    #[inline(always)]
    fn cpu(&self) -> usize {
        (**self).cpu()
    }

    #[inline(always)]
    fn mask_interrupts(&self) -> IrqState {
        (**self).mask_interrupts()
    }

    #[inline(always)]
    unsafe fn restore_interrupts(&self, state: IrqState) {
        // SAFETY: the caller's promise.
        unsafe { (**self).restore_interrupts(state) };
    }

    #[inline(always)]
    fn lock_wanted(&self, lock: LockId) {
        (**self).lock_wanted(lock);
    }

    #[inline(always)]
    fn lock_waiting(&self, lock: LockId, rounds: u64) {
        (**self).lock_waiting(lock, rounds);
    }

    #[inline(always)]
    fn lock_taken(&self, lock: LockId) {
        (**self).lock_taken(lock);
    }

    #[inline(always)]
    fn lock_taken_at_once(&self, lock: LockId) {
        (**self).lock_taken_at_once(lock);
    }

    #[inline(always)]
    fn lock_released(&self, lock: LockId) {
        (**self).lock_released(lock);
    }

    #[inline(always)]
    fn direct_map(&self, phys: PhysAddr) -> *mut u8 {
        (**self).direct_map(phys)
    }

    #[inline(always)]
    fn take_lowest(&self, word: &AtomicU64) -> u64 {
        (**self).take_lowest(word)
    }

    #[inline(always)]
    fn put_beside(&self, word: &AtomicU64, bits: u64) -> bool {
        (**self).put_beside(word, bits)
    }

    unsafe fn fill(&self, start: PhysAddr, bytes: u64, byte: u8) {
        // SAFETY: the caller's promise.
        unsafe { (**self).fill(start, bytes, byte) };
    }

    #[inline(always)]
    unsafe fn load_descriptor(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { (**self).load_descriptor(table, index) }
    }

    #[inline(always)]
    unsafe fn store_descriptor(&self, table: PhysAddr, index: usize, descriptor: u64) {
        // SAFETY: the caller's promise.
        unsafe { (**self).store_descriptor(table, index, descriptor) };
    }

    #[inline(always)]
    unsafe fn zero_table(&self, table: PhysAddr) {
        // SAFETY: the caller's promise.
        unsafe { (**self).zero_table(table) };
    }

    #[inline(always)]
    unsafe fn fill_descriptors(&self, table: PhysAddr, index: usize, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise.
        unsafe { (**self).fill_descriptors(table, index, count, first, step) };
    }

    #[inline(always)]
    fn dsb(&self, kind: Dsb) {
        (**self).dsb(kind);
    }

    #[inline(always)]
    fn isb(&self) {
        (**self).isb();
    }

    #[inline(always)]
    fn tlbi(&self, op: Tlbi, operand: u64) {
        (**self).tlbi(op, operand);
    }

    fn mmu_features(&self) -> MmuFeatures {
        (**self).mmu_features()
    }

    unsafe fn replace_live(&self, entries: VirtAddr, count: usize, first: u64, step: u64) {
        // SAFETY: the caller's promise.
        unsafe { (**self).replace_live(entries, count, first, step) };
    }

    fn with_others_stopped(&self, body: &mut dyn FnMut()) {
        (**self).with_others_stopped(body);
    }

    unsafe fn maintain_cache(&self, op: CacheOp, virt: VirtAddr, size: u64) {
        // SAFETY: the caller's promise.
        unsafe { (**self).maintain_cache(op, virt, size) };
    }

    fn cache_granule(&self) -> u64 {
        (**self).cache_granule()
    }
}
