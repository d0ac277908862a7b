// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine for slab tests: memory, a buddy allocator over it, and a slab over that.
#![allow(clippy::allow_attributes, reason = "which of these apply depends on the test file")]
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test helper may fail loudly")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::arch::Arch;
use mm::arch::host::Host;
use mm::buddy::{Buddy, Mobility, PageBlock};
use mm::gfp::Gfp;
use mm::slab::{DebugSpec, Fault, PageSource, Settings, Slab};

/// The ways a slab can be set up; under Miri those that differ most.
pub(crate) const MODES: &[&str] =
    if cfg!(miri) { &["tiny", "default"] } else { &["tiny", "default", "debug", "init", "one group", "owner"] };

/// Set up that way.
pub(crate) fn settings(mode: &str, report: fn(&Fault)) -> Settings {
    let mut settings = Settings::new(256 << 20, 1, report);
    match mode {
        "tiny" => settings.tiny = Some(true),
        "debug" => settings.debug = DebugSpec::parse("FZPU").unwrap(),
        "owner" => settings.debug = DebugSpec::parse("U").unwrap(),
        "init" => (settings.init_on_alloc, settings.init_on_free) = (true, true),
        "one group" => (settings.tiny, settings.one_group) = (Some(true), true),
        _ => {}
    }
    settings
}

/// Where RAM begins: as far up as on QEMU's virt.
pub(crate) const BASE: u64 = 0x4000_0000;
/// What the memory is aligned to: the largest block.
const ALIGN: usize = 4 << 20;

/// RAM of a whole number of pages.
pub(crate) struct Ram {
    words: *mut u64,
    layout: Layout,
}

impl Ram {
    pub(crate) fn new(pages: usize) -> Self {
        let layout = Layout::from_size_align(pages * PAGE_SIZE as usize, ALIGN).unwrap();
        // SAFETY: the size is not 0.
        let words = unsafe { alloc_zeroed(layout) }.cast();
        Self { words, layout }
    }

    /// All of it. Called once.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        // SAFETY: allocated with that size, and borrowed from this value.
        unsafe { std::slice::from_raw_parts_mut(self.words, self.layout.size() / 8) }
    }

    pub(crate) fn span(&self) -> PhysRange {
        let start = PhysAddr::new(BASE).unwrap();
        PhysRange::new(start, start.checked_add(self.layout.size() as u64).unwrap()).unwrap()
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.words.cast(), self.layout) };
    }
}

/// A page source over a buddy allocator, with a switch that makes it run dry.
pub(crate) struct Pages {
    buddy: Mutex<Buddy<'static>>,
    metadata: *mut [u64],
    /// Allocations that still succeed.
    pub(crate) left: AtomicUsize,
    /// Of those behind them the first fails alone.
    pub(crate) fails_once: AtomicBool,
    pub(crate) total: u64,
}

impl Pages {
    pub(crate) fn new(span: PhysRange) -> Self {
        let metadata = Box::into_raw(vec![0; Buddy::metadata_words(std::iter::once(span))].into_boxed_slice());
        // SAFETY: allocated above, and freed when the buddy allocator is gone.
        let mut buddy = Buddy::new(std::iter::once(span), unsafe { &mut *metadata }).unwrap();
        buddy.add_range(span).unwrap();
        let total = buddy.free_pages();
        Self {
            buddy: Mutex::new(buddy),
            metadata,
            left: AtomicUsize::new(usize::MAX),
            fails_once: AtomicBool::new(false),
            total,
        }
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.buddy.lock().unwrap().free_pages()
    }

    /// Pages that are taken.
    pub(crate) fn taken(&self) -> u64 {
        self.total - self.free_pages()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: from `new`; the buddy allocator does not look at it any more.
        drop(unsafe { Box::from_raw(self.metadata) });
    }
}

// SAFETY: the metadata is only kept to be freed.
unsafe impl Sync for Pages {}
// SAFETY: the same.
unsafe impl Send for Pages {}

// SAFETY: a buddy hands each frame out once, and takes parts of blocks back.
unsafe impl PageSource for Pages {
    const SPLITS: bool = true;

    fn take(&self, order: Order, _: Gfp) -> Option<PageBlock> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            if self.fails_once.load(Ordering::Relaxed) {
                self.left.store(usize::MAX, Ordering::Relaxed);
            }
            return None;
        }
        if left != usize::MAX {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        self.buddy.lock().unwrap().alloc(order, Mobility::Unmovable).ok()
    }

    fn give(&self, block: PageBlock) {
        if let Err(error) = self.buddy.lock().unwrap().free(block) {
            panic!("{error}");
        }
    }
}

/// Everything that a slab on the host consists of.
pub(crate) struct Machine {
    pub(crate) ram: Ram,
    pub(crate) host: Host<'static>,
    pub(crate) pages: Pages,
    /// Tags of the slabs that were made.
    tags: Mutex<Vec<*mut [AtomicU16]>>,
}

pub(crate) type HostSlab<'a> = Slab<'a, Host<'static>, &'a Pages>;

impl Machine {
    pub(crate) fn new(pages: usize) -> Self {
        let mut ram = Ram::new(pages);
        // SAFETY: the words live as long as the machine, whose fields are dropped together.
        let words = unsafe { &mut *std::ptr::from_mut(ram.words()) };
        let host = Host::new(ram.span().start(), words);
        let pages = Pages::new(ram.span());
        Self { ram, host, pages, tags: Mutex::new(Vec::new()) }
    }

    pub(crate) fn slab(&self, settings: Settings) -> HostSlab<'_> {
        self.slab_on(&self.host, settings)
    }

    /// The same on CPUs of another kind.
    pub(crate) fn slab_on<'a, A: Arch>(&'a self, arch: &'a A, settings: Settings) -> Slab<'a, A, &'a Pages> {
        let tags = (0..HostSlab::nr_tags(self.ram.span())).map(|_| AtomicU16::new(0));
        let tags = Box::into_raw(tags.collect::<Box<[_]>>());
        self.tags.lock().unwrap().push(tags);
        // SAFETY: allocated above, and freed with the machine, which the slab borrows.
        Slab::new(arch, &self.pages, self.ram.span(), unsafe { &mut *tags }, settings).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for tags in self.tags.lock().unwrap().drain(..) {
            // SAFETY: from `slab`; every slab is gone.
            drop(unsafe { Box::from_raw(tags) });
        }
    }
}

// SAFETY: the raw pointers are only kept to be freed.
unsafe impl Sync for Machine {}
// SAFETY: the same.
unsafe impl Send for Machine {}

/// Whether all bytes are `fill`: one comparison, which Miri does at once.
pub(crate) fn all_are(bytes: &[u8], fill: u8) -> bool {
    bytes == vec![fill; bytes.len()]
}
