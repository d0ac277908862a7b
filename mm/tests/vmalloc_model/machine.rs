// SPDX-License-Identifier: MIT OR Apache-2.0
//! A model machine whose frames a buddy allocator hands out: in garbage, and watched.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mm::addr::{Order, PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use mm::arch::Arch;
use mm::arch::model::{Installed, Machine as ModelMachine, Model};
use mm::buddy::{Buddy, Mobility, PageBlock};
use mm::gfp::Gfp;
use mm::pgtable::{Attributes, PageTable, Regime, TableSource};
use mm::slab::PageSource;
use mm::tlb::Tlb;
use mm::vmalloc::{Config, Request, Vmalloc, VmallocError};

pub(crate) const START: u64 = 0xffff_8000_0000_0000;
pub(crate) const CPUS: usize = 4;

/// Frames of the model.
pub(crate) struct Source {
    model: &'static Model,
    buddy: Mutex<Buddy<'static>>,
    total: u64,
    /// Blocks that may still be had.
    pub(crate) left: AtomicU64,
    /// The largest order that is given.
    pub(crate) largest: AtomicU64,
    /// Whether areas may be handed on.
    pub(crate) recycles: AtomicBool,
}

impl Source {
    fn new(model: &'static Model, range: PhysRange) -> Self {
        let words = vec![0; Buddy::metadata_words(std::iter::once(range))].leak();
        let mut buddy = Buddy::new(std::iter::once(range), words).unwrap();
        buddy.add_range(range).unwrap();
        model.release(range);
        let total = buddy.free_pages();
        let [left, largest] = [u64::MAX, 10].map(AtomicU64::new);
        Self { model, buddy: Mutex::new(buddy), total, left, largest, recycles: AtomicBool::new(true) }
    }

    /// Frames that somebody has.
    pub(crate) fn in_use(&self) -> u64 {
        self.total - self.buddy.lock().unwrap().free_pages()
    }
}

// SAFETY: a buddy hands each frame out once, and takes parts of blocks back.
unsafe impl PageSource for Source {
    const SPLITS: bool = true;

    fn take(&self, order: Order, _: Gfp) -> Option<PageBlock> {
        if order.as_usize() as u64 > self.largest.load(Ordering::Relaxed) {
            return None;
        }
        let less = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(1) };
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        let block = self.buddy.lock().unwrap().alloc(order, Mobility::Unmovable).ok()?;
        let range = block.range();
        self.model.take(range);
        // SAFETY: the frames are ours, and the model's memory.
        unsafe { self.model.direct_map(range.start()).write_bytes(0xa5, range.size() as usize) };
        Some(block)
    }

    fn give(&self, block: PageBlock) {
        self.model.release(block.range());
        self.buddy.lock().unwrap().free(block).unwrap();
    }

    fn recycles(&self) -> bool {
        self.recycles.load(Ordering::Relaxed)
    }
}

impl TableSource for &Source {
    fn table(&mut self) -> Option<PhysAddr> {
        self.take(Order::ZERO, Gfp::ATOMIC).map(|block| block.pfn().addr())
    }

    fn give_back(&mut self, table: PhysAddr) {
        self.give(PageBlock::from_raw(table.pfn(), Order::ZERO));
    }
}

pub(crate) type Area = Vmalloc<'static, Model, &'static Source>;

/// What an area should hold.
#[derive(Clone, Debug)]
struct Content {
    bytes: u64,
    /// The mark of each page, written when it was new, and whether its end was asked for ever since.
    marks: Vec<(u64, bool)>,
}

/// The machine, and what should be where.
pub(crate) struct Machine {
    pub(crate) model: &'static Model,
    pub(crate) source: &'static Source,
    pub(crate) tlb: &'static Tlb<&'static Model>,
    pub(crate) vmalloc: &'static Area,
    contents: BTreeMap<u64, Content>,
    next_mark: u64,
    /// Frames that were in use before any area.
    pub(crate) idle: u64,
}

pub(crate) fn config(frames: u64) -> Config {
    let start = VirtAddr::new(START);
    Config { start, size: 1 << 30, ram_pages: frames, lazy_pages: 64, huge: true, regions: 1 }
}

impl Machine {
    pub(crate) fn new(frames: u64) -> Self {
        Self::with(frames, config(frames))
    }

    pub(crate) fn with(frames: u64, config: Config) -> Self {
        let machine = ModelMachine { cpus: CPUS, frames, ..ModelMachine::default() };
        let model: &'static Model = Box::leak(Box::new(Model::new(machine)));
        let range = PhysRange::clipped(machine.base.as_raw(), frames * PAGE_SIZE, PhysAddr::new_saturating(u64::MAX)).0;
        let source: &'static Source = Box::leak(Box::new(Source::new(model, range)));
        let tlb: &'static Tlb<_> = Box::leak(Box::new(Tlb::new(model)));
        let mut tables = source;
        let root = PageTable::new(model, Regime::Upper, &mut tables).unwrap().root();
        model.install(root, Installed::Upper);
        // SAFETY: the tree was just made, and nobody else changes it.
        let vmalloc = unsafe { Vmalloc::new(model, source, tlb, root, Regime::Upper, config) };
        let vmalloc: &'static Area = Box::leak(Box::new(vmalloc));
        Self { model, source, tlb, vmalloc, contents: BTreeMap::new(), next_mark: 0, idle: 1 }
    }

    pub(crate) fn alloc(&mut self, request: &Request) -> Result<VirtAddr, VmallocError> {
        let virt = self.vmalloc.alloc(request)?;
        assert!(virt.is_aligned(request.align.max(PAGE_SIZE)));
        let pages = request.bytes.div_ceil(PAGE_SIZE) as usize;
        let old = self.contents.insert(virt.as_raw(), Content { bytes: request.bytes, marks: Vec::new() });
        assert!(old.is_none(), "handed out twice");
        self.mark(virt, pages, request.gfp.contains(Gfp::ZERO));
        Ok(virt)
    }

    /// Marks the pages that are new, which must be zero if `zero`.
    fn mark(&mut self, virt: VirtAddr, pages: usize, zero: bool) {
        let content = self.contents.get_mut(&virt.as_raw()).unwrap();
        content.marks.truncate(pages);
        for page in content.marks.len()..pages {
            let words = words(self.model, self.vmalloc, virt, page);
            if zero {
                assert_eq!((words.0.load(Ordering::Relaxed), words.1.load(Ordering::Relaxed)), (0, 0));
            }
            self.next_mark += 1;
            words.0.store(self.next_mark, Ordering::Relaxed);
            words.1.store(!self.next_mark, Ordering::Relaxed);
            content.marks.push((self.next_mark, true));
        }
        for (end, mark) in (1..).map(|page| page * PAGE_SIZE).zip(&mut content.marks) {
            mark.1 &= end <= content.bytes;
        }
    }

    pub(crate) fn free(&mut self, virt: VirtAddr) {
        self.check_area(virt.as_raw());
        self.contents.remove(&virt.as_raw()).unwrap();
        self.vmalloc.free(virt).unwrap();
        assert!(self.vmalloc.free(virt).is_err(), "freed twice");
    }

    pub(crate) fn resize(&mut self, virt: VirtAddr, request: &Request) -> Result<VirtAddr, VmallocError> {
        self.check_area(virt.as_raw());
        let before = self.contents[&virt.as_raw()].clone();
        let result = self.vmalloc.resize(Some(virt), request);
        let Ok(moved) = result else {
            self.check_area(virt.as_raw());
            return Err(result.unwrap_err());
        };
        let moved = moved.unwrap();
        self.contents.remove(&virt.as_raw());
        self.contents.insert(moved.as_raw(), Content { bytes: request.bytes, ..before });
        self.mark(moved, request.bytes.div_ceil(PAGE_SIZE) as usize, request.gfp.contains(Gfp::ZERO));
        self.check_area(moved.as_raw());
        Ok(moved)
    }

    /// An access of this CPU, which mapped it, goes to `phys` and nowhere else.
    pub(crate) fn expect(&self, cpu: usize, virt: VirtAddr, phys: PhysAddr) {
        self.model.expect_mapped(cpu, virt, phys, Attributes::DATA.page_bits());
    }

    fn check_area(&self, virt: u64) {
        let content = &self.contents[&virt];
        let area = self.vmalloc.find(VirtAddr::new(virt)).unwrap();
        assert_eq!((area.start.as_raw(), area.bytes), (virt, content.bytes));
        assert_eq!(area.pages, content.marks.len() as u64);
        for (page, (mark, is_whole)) in content.marks.iter().enumerate() {
            let (first, last) = words(self.model, self.vmalloc, VirtAddr::new(virt), page);
            assert_eq!(first.load(Ordering::Relaxed), *mark);
            assert!(!is_whole || last.load(Ordering::Relaxed) == !*mark);
        }
        assert_eq!(self.vmalloc.translate(VirtAddr::new(virt + area.size())), None, "the guard is mapped");
    }

    /// Areas, in the order of their addresses.
    pub(crate) fn areas(&self) -> Vec<VirtAddr> {
        self.contents.keys().map(|virt| VirtAddr::new(*virt)).collect()
    }

    /// Everything agrees.
    pub(crate) fn check(&self) {
        self.contents.keys().for_each(|virt| self.check_area(*virt));
        assert!(self.vmalloc.validate());
        let listed: Vec<u64> = self.vmalloc.areas().map(|area| area.start.as_raw()).collect();
        assert_eq!(listed, self.contents.keys().copied().collect::<Vec<_>>());
        let usage = self.vmalloc.usage();
        let pages: usize = self.contents.values().map(|content| content.marks.len()).sum();
        assert_eq!((usage.areas, usage.pages), (self.contents.len() as u64, pages as u64));
        self.model.assert_clean();
    }

    /// Frees everything; all that is left in use is tables and tags.
    pub(crate) fn tear_down(mut self) {
        self.check();
        self.areas().into_iter().for_each(|virt| self.free(virt));
        self.vmalloc.purge();
        self.check();
        let usage = self.vmalloc.usage();
        assert_eq!((usage.lazy_pages, usage.pages), (0, 0));
        let (size, regions) = (self.vmalloc.config().size, self.vmalloc.config().regions as u64);
        assert_eq!(usage.free_address_pages, size / PAGE_SIZE * regions);
        // Level 1, one of level 2, and of level 3 as many as address space was ever used for; and two frames for each
        // region but the first.
        let tables = self.source.in_use() - usage.tag_frames - self.idle;
        assert!(tables <= regions * (4 + size.div_ceil(2 << 20)) - 2, "{tables} tables");
    }
}

/// The first and the last word of a page of an area.
fn words(model: &Model, vmalloc: &Area, virt: VirtAddr, page: usize) -> (&'static AtomicU64, &'static AtomicU64) {
    let virt = VirtAddr::new(virt.as_raw() + page as u64 * PAGE_SIZE);
    let phys = vmalloc.translate(virt).unwrap();
    let first: *const AtomicU64 = model.direct_map(phys).cast_const().cast();
    // SAFETY: a frame of the model's memory, which lives for good.
    let word = |index| unsafe { &*first.wrapping_add(index) };
    (word(0), word(511))
}

/// A generator of its own: the same in each run (Marsaglia 2003).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}
