// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only two CPUs could show from outside: the moment between the decision to flush and the end of the flush.

use std::sync::Mutex;

use super::*;
use crate::arch::host::Host;

/// Frames one by one, each used once.
struct Frames(Mutex<core::ops::Range<u64>>, Mutex<u64>);

// SAFETY: each frame is handed out once.
unsafe impl PageSource for Frames {
    const SPLITS: bool = true;

    fn take(&self, order: Order, _: Gfp) -> Option<PageBlock> {
        let frame = if order == Order::ZERO { self.0.lock().unwrap().next()? } else { return None };
        Some(PageBlock::from_raw(crate::addr::Pfn::new(frame)?, order))
    }

    fn give(&self, block: PageBlock) {
        *self.1.lock().unwrap() += block.order().pages();
    }
}

impl TableSource for &Frames {
    fn table(&mut self) -> Option<PhysAddr> {
        self.take(Order::ZERO, Gfp::ATOMIC).map(|block| block.pfn().addr())
    }

    fn give_back(&mut self, _: PhysAddr) {}
}

#[test]
fn nothing_comes_back_while_the_flush_is_under_way() {
    let mut words = vec![0; 64 * 512];
    let host = Host::new(PhysAddr::ZERO, &mut words);
    let frames = Frames(Mutex::new(0..64), Mutex::new(0));
    let tlb = Tlb::new(&host);
    let mut tables = &frames;
    let root = PageTable::new(&host, Regime::Upper, &mut tables).unwrap().root();
    let start = VirtAddr::new(0xffff_8000_0000_0000);
    let config = Config { start, size: 1 << 30, ram_pages: 64, lazy_pages: 1000, huge: true, regions: 1 };
    // SAFETY: the tree was just made, and nobody else changes it.
    let vmalloc = unsafe { Vmalloc::new(&host, &frames, &tlb, root, Regime::Upper, config) };
    let read_only = Request { attributes: crate::pgtable::Attributes::RODATA, ..Request::new(PAGE_SIZE, Gfp::KERNEL) };
    let put_away = vmalloc.alloc(&Request::new(3 * PAGE_SIZE, Gfp::KERNEL)).unwrap();
    let queued = vmalloc.alloc(&read_only).unwrap();
    [put_away, queued].into_iter().for_each(|virt| vmalloc.free(virt).unwrap());
    let reap = || vmalloc.peek(vmalloc.home(), |state| vmalloc.reap(state, 64, 64)).unwrap();
    vmalloc.peek(vmalloc.home(), |state| state.make_due(tlb.stamp(Regime::Upper)));
    assert_eq!((reap(), *frames.1.lock().unwrap()), (0, 0));
    tlb.flush_everything(Regime::Upper);
    assert_eq!((reap(), *frames.1.lock().unwrap()), (4, 4));
    assert!(vmalloc.validate());
}
