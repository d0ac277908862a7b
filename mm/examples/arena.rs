// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory core as an arena allocator of a host program: some memory of its own, objects of all sizes in it, and all of
//! them gone at once.
//!
//! What works like this, without an MMU of one's own: [`memblock`](mm::memblock), [`page_alloc`](mm::page_alloc),
//! [`slab`](mm::slab) and [`kmalloc`](mm::kmalloc). What maps needs one, or the model of one in `mm::arch::model`:
//! [`pgtable`](mm::pgtable), [`tlb`](mm::tlb), [`vmalloc`](mm::vmalloc), [`kvmalloc`](mm::kvmalloc).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::error::Error;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU16;

use mm::addr::{PhysAddr, PhysRange};
use mm::allocators::{AllocError, Allocator, Vec};
use mm::arch::Arch;
use mm::arch::host::Host;
use mm::gfp::Gfp;
use mm::memblock::Memblock;
use mm::page_alloc::{Config, Pages};

use mm::slab::{PageSource, Settings, Slab, report};

/// What collections of the arena are given.
struct Arena<'s, 'a, A: Arch, S: PageSource>(&'s Slab<'a, A, S>);

impl<A: Arch, S: PageSource> Clone for Arena<'_, '_, A, S> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

// SAFETY: objects stay where they are until they are freed, and every copy stands for the same slab.
unsafe impl<A: Arch, S: PageSource> Allocator for Arena<'_, '_, A, S> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let object = self.0.kmalloc_aligned(layout.size(), layout.align(), Gfp::KERNEL).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(object, layout.size()))
    }

    unsafe fn deallocate(&self, object: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise: it came from here with this layout.
        unsafe { self.0.kfree_sized(object, layout.size(), layout.align()) };
    }
}

/// Memory of the host, as large blocks want to be aligned.
struct Memory(*mut u8, Layout);

impl Memory {
    fn new(bytes: usize) -> Result<Self, Box<dyn Error>> {
        let layout = Layout::from_size_align(bytes, 4 << 20)?;
        // SAFETY: the size is not 0.
        let first = unsafe { alloc_zeroed(layout) };
        if first.is_null() { handle_alloc_error(layout) } else { Ok(Self(first, layout)) }
    }

    fn words(&mut self) -> &mut [u64] {
        // SAFETY: allocated with that size, and borrowed from this value.
        unsafe { std::slice::from_raw_parts_mut(self.0.cast(), self.1.size() / 8) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0, self.1) };
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    const BYTES: usize = 16 << 20;
    // The arena's addresses, as far as frames are concerned: any that are not 0 will do.
    let start = PhysAddr::new(1 << 30).ok_or("no such address")?;
    let span = PhysRange::new(start, start.checked_add(BYTES as u64).ok_or("too long")?).ok_or("inverted")?;
    let mut memory = Memory::new(BYTES)?;
    let host = Host::new(start, memory.words());
    let mut memblock = Memblock::new();
    memblock.add(span, 0)?;
    let config = Config::DEFAULT;
    let mut metadata = vec![0; Pages::<Host<'_>>::metadata_bytes(&memblock, &config) as usize / 8];
    let pages = Pages::build(&host, &memblock, &config, &mut metadata)?;
    let mut tags: std::vec::Vec<_> =
        (0..Slab::<Host<'_>, &Pages<'_, Host<'_>>>::nr_tags(span)).map(|_| AtomicU16::new(0)).collect();
    let settings = Settings::new(BYTES as u64, 1, |fault| eprint!("{fault}"));
    let slab = Slab::new(&host, &pages, span, &mut tags, settings).map_err(|error| format!("{error:?}"))?;
    let arena = Arena(&slab);

    // Lists of lists, as a parser or a compiler makes them.
    let mut lists = Vec::new_in(arena.clone());
    for length in 0..1000_u64 {
        let mut list = Vec::new_in(arena.clone());
        list.extend(0..length);
        lists.push(list);
    }
    let sum: u64 = lists.iter().flatten().sum();
    let mut text = String::new();
    report::slabtop(&mut text, &slab.caches().collect::<std::vec::Vec<_>>(), 8)?;
    println!("{text}\nsum {sum}, {} pages of {} in use", slab.pages(), pages.managed_pages());
    if sum != 166_167_000 || slab.nr_faults() != 0 {
        return Err("the lists are not what they were".into());
    }
    // The end of an arena: nothing is freed one by one.
    std::mem::forget(lists);
    Ok(())
}
