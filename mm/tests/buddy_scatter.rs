// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where long-lived pages come to lie while others come and go: grouping by mobility keeps them together, so that the
//! rest of memory can become whole again.
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

use std::collections::BTreeSet;

use mm::addr::{MAX_ORDER, Order, PAGE_SIZE, PhysAddr, PhysRange};
use mm::buddy::{Buddy, Mobility, PageBlock};

const CHUNK: u64 = 1024;
/// 512 MiB.
const CHUNKS: u64 = 128;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) as usize * n) >> 32
    }

    /// Small ones most of the time.
    fn order(&mut self) -> Order {
        Order::new(self.below(1 << (MAX_ORDER - 1)).trailing_zeros().min(6) as usize).unwrap()
    }
}

struct Result {
    /// Chunks with an unmovable page in them.
    tainted: usize,
    /// The fewest that could hold these pages.
    needed: usize,
    /// Chunks that are whole when everything movable and reclaimable has gone.
    whole: u64,
    /// Allocations that failed.
    failed: usize,
}

/// Movable blocks fill so many hundredths of memory and come and go at random; all the while unmovable pages trickle in,
/// one in eight of which goes again, and reclaimable ones, half of which do. No movable page moves and nothing is
/// reclaimed: the worst case.
fn churn(grouping: bool, percent: u64) -> Result {
    let range = PhysRange::below(PhysAddr::new(CHUNKS * CHUNK * PAGE_SIZE).unwrap());
    let mut metadata = vec![0; Buddy::metadata_words(std::iter::once(range))];
    let mut buddy = Buddy::new(std::iter::once(range), &mut metadata).unwrap();
    buddy.add_range(range).unwrap();
    buddy.set_grouping(grouping);
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let full = CHUNKS * CHUNK / 100 * percent;
    let used = |buddy: &Buddy<'_>| CHUNKS * CHUNK - buddy.free_pages();
    let (mut movable, mut unmovable, mut reclaimable) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed = 0;
    let mut take =
        |buddy: &mut Buddy<'_>, held: &mut Vec<PageBlock>, order, mobility| match buddy.alloc(order, mobility) {
            Ok(block) => held.push(block),
            Err(_) => failed += 1,
        };
    for round in 0..400_000_usize {
        while used(&buddy) > full && !movable.is_empty() {
            let index = rng.below(movable.len());
            buddy.free(movable.swap_remove(index)).unwrap();
        }
        take(&mut buddy, &mut movable, rng.order(), Mobility::Movable);
        if round % 50 == 0 {
            take(&mut buddy, &mut unmovable, Order::ZERO, Mobility::Unmovable);
            if round % 400 == 0 {
                let index = rng.below(unmovable.len());
                buddy.free(unmovable.swap_remove(index)).unwrap();
            }
        }
        if round % 100 == 0 {
            take(&mut buddy, &mut reclaimable, Order::ZERO, Mobility::Reclaimable);
            if round % 200 == 0 {
                let index = rng.below(reclaimable.len());
                buddy.free(reclaimable.swap_remove(index)).unwrap();
            }
        }
    }
    assert_eq!(buddy.validate(), Ok(()));
    let chunk_of = |block: &PageBlock| block.pfn().as_raw() / CHUNK;
    let tainted: BTreeSet<u64> = unmovable.iter().map(chunk_of).collect();
    movable.into_iter().chain(reclaimable).for_each(|block| buddy.free(block).unwrap());
    let whole = buddy.nr_free()[MAX_ORDER];
    assert_eq!(whole + tainted.len() as u64, CHUNKS);
    Result { tainted: tainted.len(), needed: unmovable.len().div_ceil(CHUNK as usize), whole, failed }
}

#[test]
#[cfg_attr(miri, ignore = "many operations")]
fn long_lived_pages_gather_in_few_chunks() {
    for percent in [50, 80, 90, 97] {
        let (grouped, mixed) = (churn(true, percent), churn(false, percent));
        println!(
            "{percent} % full: {} chunks tainted with grouping ({} needed), {} without; {} and {} whole; {} and {} failed",
            grouped.tainted, grouped.needed, mixed.tainted, grouped.whole, mixed.whole, grouped.failed, mixed.failed,
        );
        assert!(grouped.tainted <= grouped.needed + 4, "{} at {percent} %", grouped.tainted);
        assert!(mixed.tainted >= 4 * grouped.tainted, "{} at {percent} %", mixed.tainted);
    }
}
