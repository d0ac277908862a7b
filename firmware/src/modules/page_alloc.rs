// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page allocator's promises, tried on the machine's own.

use mm::addr::{Order, PAGE_SIZE, Pfn};
use mm::buddy::PageBlock;
use mm::gfp::Gfp;
use mm::page_alloc::Pages;

use super::registry::Module;
use super::{Case, check, ktap};
use crate::cpu::Hardware;
use crate::{boot, memory};

pub(super) const MODULE: Module =
    Module { name: "page_alloc", parameters: &[], run: |_, is_enough| ktap::run("page_alloc", &CASES, is_enough) };

const CASES: [Case; 10] = [
    ("every_order_is_aligned", every_order),
    ("blocks_do_not_overlap", no_overlap),
    ("buddies_merge", merge),
    ("alloc_exact_gives_the_rest_back", exact),
    ("bulk", bulk),
    ("zeroed_pages", zeroed),
    ("dma_zone", dma),
    ("contiguous_range", contiguous),
    ("bad_frees_are_refused", bad_frees),
    ("no_memory_is_an_error", no_memory),
];
const NO_MEMORY: &str = "no memory";
const NOT_BACK: &str = "a page is not back";

fn pages() -> Result<&'static Pages<'static, Hardware>, &'static str> {
    boot::machine().map(|machine| machine.memory.pages).ok_or("no machine")
}

fn direct(pfn: Pfn) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut(memory::direct_map(pfn.addr()).as_raw() as usize)
}

/// The first word of each page of a block.
fn first_words(block: &PageBlock) -> impl Iterator<Item = *mut u64> + use<> {
    let first = direct(block.pfn());
    (0..block.order().pages() as usize).map(move |page| first.wrapping_add(page * 512))
}

/// Apart, like [`take`]: the allocator's fast path is in the image often enough.
#[inline(never)]
fn give(block: PageBlock) -> Result<(), &'static str> {
    pages()?.free(block).map_err(|_| "a block was refused")
}

#[inline(never)]
fn take(gfp: Gfp, order: Order) -> Result<PageBlock, &'static str> {
    pages()?.alloc(gfp | Gfp::NOWARN, order).map_err(|_| NO_MEMORY)
}

fn every_order() -> Result<(), &'static str> {
    for order in Order::all() {
        let Ok(block) = take(Gfp::KERNEL | Gfp::NORETRY, order) else { continue };
        let is_aligned = block.pfn().is_aligned(order) && block.order() == order;
        give(block)?;
        check(is_aligned, "a block is not at a multiple of its size")?;
    }
    Ok(())
}

fn no_overlap() -> Result<(), &'static str> {
    let mut blocks = [const { None }; 32];
    for (number, slot) in blocks.iter_mut().enumerate() {
        let order = Order::new(number % 4).unwrap_or_default();
        let block = take(Gfp::KERNEL, order).ok();
        for word in block.iter().flat_map(first_words) {
            // SAFETY: a frame of ours, in the direct map.
            unsafe { word.write(number as u64) };
        }
        *slot = block;
    }
    let mut whole = true;
    for (number, block) in blocks.into_iter().enumerate() {
        let Some(block) = block else { continue };
        // SAFETY: as above.
        whole &= first_words(&block).all(|word| unsafe { word.read() } == number as u64);
        give(block)?;
    }
    check(whole, "two blocks share a frame")
}

/// Frees every page of a large block alone; then there is a large block again.
fn merge() -> Result<(), &'static str> {
    let order = Order::new(7).unwrap_or_default();
    let largest = pages()?.largest_free(Gfp::KERNEL);
    let block = take(Gfp::KERNEL, order).map_err(|_| "SKIP no free block of 512 KiB")?;
    let first = pages()?.split(block);
    for pfn in (first.as_raw()..).take(order.pages() as usize).filter_map(Pfn::new) {
        give(PageBlock::from_raw(pfn, Order::ZERO))?;
    }
    pages()?.drain();
    check(pages()?.largest_free(Gfp::KERNEL) >= largest, "the pages of a block did not become one again")?;
    pages()?.validate().map_err(|_| "the zones are not as they should be")
}

fn exact() -> Result<(), &'static str> {
    let free = || Ok(pages()?.free_pages() + pages()?.hoarded_pages());
    let before = free()?;
    let first = pages()?.alloc_exact(Gfp::KERNEL, 5 * PAGE_SIZE).map_err(|_| NO_MEMORY)?;
    let taken = before.saturating_sub(free()?);
    pages()?.free_exact(first, 5 * PAGE_SIZE).map_err(|_| "it was refused")?;
    // Others may take a page meanwhile, so this bounds what five cost.
    check((5..8).contains(&taken), "five pages cost eight")
}

fn bulk() -> Result<(), &'static str> {
    let mut frames = [Pfn::default(); 64];
    let taken = pages()?.alloc_bulk(Gfp::KERNEL, &mut frames);
    let frames = frames.get_mut(..taken).unwrap_or_default();
    pages()?.free_bulk(frames).map_err(|_| "it was refused")?;
    check(taken > 0, NO_MEMORY)?;
    let is_twice = |(at, frame): (usize, &Pfn)| frames.iter().take(at).any(|before| before == frame);
    check(!frames.iter().enumerate().any(is_twice), "a frame came twice")
}

fn zeroed() -> Result<(), &'static str> {
    let order = Order::new(2).unwrap_or_default();
    for round in 0..2 {
        let gfp = if round == 0 { Gfp::KERNEL } else { Gfp::KERNEL | Gfp::ZERO };
        let block = take(gfp, order)?;
        let mut words = (0..order.bytes() as usize / 8).map(|at| direct(block.pfn()).wrapping_add(at));
        // SAFETY: frames of ours, in the direct map.
        let zero = round == 0 || words.clone().all(|word| unsafe { word.read() } == 0);
        // SAFETY: as above.
        words.by_ref().for_each(|word| unsafe { word.write(0xa5) });
        give(block)?;
        check(zero, "not all of it is zero")?;
    }
    Ok(())
}

fn dma() -> Result<(), &'static str> {
    let limit = boot::machine().and_then(|machine| machine.info.dma_limit);
    let limit = limit.ok_or("SKIP devices reach all of this machine's RAM")?;
    let block = take(Gfp::KERNEL | Gfp::DMA, Order::ZERO)?;
    let end = block.range().end().as_raw();
    give(block)?;
    check(end <= limit, "it lies where not every device reaches")
}

fn contiguous() -> Result<(), &'static str> {
    let range = pages()?.alloc_contig_pages(Gfp::KERNEL, 3).map_err(|_| "SKIP no run of pages could be had")?;
    let nr = range.pages();
    pages()?.free_contig_range(range).map_err(|_| "it was refused")?;
    check(nr == 3, "not as many as were asked for")
}

fn bad_frees() -> Result<(), &'static str> {
    let one = Order::new(1).unwrap_or_default();
    let block = take(Gfp::KERNEL, one)?;
    let (pfn, order) = (block.pfn(), block.order());
    give(block)?;
    check(pages()?.free(PageBlock::from_raw(pfn, order)).is_err(), "a block was freed twice")?;
    let nowhere = Pfn::new(1 << 36).ok_or("no such frame")?;
    check(pages()?.free(PageBlock::from_raw(nowhere, Order::ZERO)).is_err(), "what is no RAM was freed")?;
    pages()?.validate().map_err(|_| "the zones are not as they should be")
}

/// Takes all there is without the reserves; then who cannot wait still gets a page, and all of it comes back.
fn no_memory() -> Result<(), &'static str> {
    let quiet = Gfp::NORETRY;
    // Each block's first word leads to the one before.
    let mut chain = 0;
    for order in Order::all().rev() {
        while let Ok(block) = take(Gfp::NOWAIT | quiet, order) {
            let word = direct(block.pfn());
            // SAFETY: a frame of ours, in the direct map.
            unsafe { word.write(chain) };
            chain = block.into_bits() + 1;
        }
    }
    let refused = take(Gfp::NOWAIT | quiet, Order::ZERO);
    let reserve = take(Gfp::ATOMIC | quiet, Order::ZERO);
    let (is_refused, has_reserve) = (refused.is_err(), reserve.is_ok());
    for block in [refused, reserve].into_iter().flatten() {
        give(block)?;
    }
    while chain != 0 {
        let block = PageBlock::from_bits(chain - 1);
        // SAFETY: written above.
        chain = unsafe { direct(block.pfn()).read() };
        give(block)?;
    }
    pages()?.drain();
    pages()?.validate().map_err(|_| NOT_BACK)?;
    check(is_refused, "there is no end of it")?;
    check(has_reserve, "nothing is in reserve for who cannot wait")
}
