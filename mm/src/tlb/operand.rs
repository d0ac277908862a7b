// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which invalidates cover a range, and their operands (Arm ARM C5.5).
//!
//! By page: `ASID` in bits 63:48, a level hint in 47:44 (0: none), the page number in 43:0. The upper bits of an
//! address of TTBR1 are set, and must not get into the hint: a core that reads it would ignore the invalidate.
//!
//! By range: `ASID` in 63:48, granule in 47:46, `SCALE` in 45:44, `NUM` in 43:39, a level hint in 38:37, the page
//! number in 36:0. It covers `(NUM + 1) * 2^(5 * SCALE + 1)` pages.

use super::Span;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};
use crate::arch::{Arch, Tlbi};
use crate::pgtable::{Asid, Regime};

const ASID_SHIFT: u32 = 48;
const PAGE_BITS: u64 = (1 << 44) - 1;
const RANGE_PAGE_BITS: u64 = (1 << 37) - 1;
const GRANULE_4K: u64 = 1 << 46;
const SCALE_SHIFT: u32 = 44;
const NUM_SHIFT: u32 = 39;
/// The most pages that the largest scale covers.
const MAX_RANGE_PAGES: u64 = 32 << 16;

const fn asid_bits(regime: Regime) -> u64 {
    match regime {
        Regime::User(Asid(asid)) => (asid as u64) << ASID_SHIFT,
        Regime::Upper | Regime::Lower | Regime::El2 => 0,
    }
}

/// The operand for one page.
#[must_use]
pub const fn page(regime: Regime, virt: VirtAddr) -> u64 {
    asid_bits(regime) | virt.as_raw() >> PAGE_SHIFT & PAGE_BITS
}

/// The operand for `(num + 1) << (5 * scale + 1)` pages.
const fn range(regime: Regime, virt: VirtAddr, scale: u32, num: u64) -> u64 {
    let page = virt.as_raw() >> PAGE_SHIFT & RANGE_PAGE_BITS;
    asid_bits(regime) | GRANULE_4K | (scale as u64) << SCALE_SHIFT | num << NUM_SHIFT | page
}

/// The invalidate of everything.
pub(super) const fn everything(regime: Regime) -> (Tlbi, u64) {
    match regime {
        Regime::Upper | Regime::Lower => (Tlbi::All, 0),
        Regime::User(_) => (Tlbi::Asid, asid_bits(regime)),
        Regime::El2 => (Tlbi::AllEl2, 0),
    }
}

const fn page_op(regime: Regime, tables: bool) -> Tlbi {
    match (regime, tables) {
        (Regime::Upper | Regime::Lower, true) => Tlbi::PageAnyAsid,
        (Regime::Upper | Regime::Lower, false) => Tlbi::LastLevelPageAnyAsid,
        (Regime::User(_), true) => Tlbi::Page,
        (Regime::User(_), false) => Tlbi::LastLevelPage,
        (Regime::El2, true) => Tlbi::PageEl2,
        (Regime::El2, false) => Tlbi::LastLevelPageEl2,
    }
}

const fn range_op(regime: Regime, tables: bool) -> Tlbi {
    match (regime, tables) {
        (Regime::Upper | Regime::Lower, true) => Tlbi::RangeAnyAsid,
        (Regime::Upper | Regime::Lower, false) => Tlbi::LastLevelRangeAnyAsid,
        (Regime::User(_), true) => Tlbi::Range,
        (Regime::User(_), false) => Tlbi::LastLevelRange,
        (Regime::El2, true) => Tlbi::RangeEl2,
        (Regime::El2, false) => Tlbi::LastLevelRangeEl2,
    }
}

/// Whether ranges are worth it: from the third invalidate by page on.
fn by_range(span: &Span, tlb_range: bool) -> bool {
    tlb_range && span.size > 2 * span.step()
}

/// Invalidates that [`each`] issues for `span`.
#[inline(always)]
pub(super) fn count(span: &Span, tlb_range: bool) -> u64 {
    if !by_range(span, tlb_range) {
        let before = span.start.as_raw() & (span.step() - 1);
        return (before + span.size).div_ceil(span.step());
    }
    let pages = span.size / PAGE_SIZE;
    if pages > MAX_RANGE_PAGES {
        return u64::MAX >> 8;
    }
    let below = pages % MAX_RANGE_PAGES;
    (pages / MAX_RANGE_PAGES) + (0..4).filter(|&scale| scaled(below, scale) != 0).count() as u64 + below % 2
}

/// The operands of all pages of `span`, or of its first page in each block.
#[inline(always)]
fn pages(span: &Span, regime: Regime, mut issue: impl FnMut(u64)) {
    let step = span.step();
    let first = span.start.as_raw() & !(step - 1);
    let last = span.start.as_raw() + (span.size - 1);
    let mut at = page(regime, VirtAddr::new(first));
    // The operands of one half go up with the addresses: no carry reaches the fields above.
    let end = page(regime, VirtAddr::new(last));
    while at <= end {
        issue(at);
        at += step >> PAGE_SHIFT;
    }
}

/// How many units of `scale` there are in `pages`, up to 31.
const fn scaled(pages: u64, scale: u32) -> u64 {
    pages >> (5 * scale + 1) & 31
}

/// Issues the invalidates that cover `span`.
#[inline]
pub(super) fn each<A: Arch>(arch: &A, span: &Span, regime: Regime, tlb_range: bool) {
    each_op(span, regime, tlb_range, |op, operand| arch.tlbi(op, operand));
}

#[inline(always)]
fn each_op(span: &Span, regime: Regime, tlb_range: bool, mut issue: impl FnMut(Tlbi, u64)) {
    if !by_range(span, tlb_range) {
        // One loop for each instruction, not a choice in each round.
        match page_op(regime, span.tables) {
            Tlbi::LastLevelPageAnyAsid => pages(span, regime, |at| issue(Tlbi::LastLevelPageAnyAsid, at)),
            Tlbi::LastLevelPage => pages(span, regime, |at| issue(Tlbi::LastLevelPage, at)),
            op => pages(span, regime, |at| issue(op, at)),
        }
        return;
    }
    let op = range_op(regime, span.tables);
    let mut pages = span.size / PAGE_SIZE;
    let mut at = span.start.as_raw();
    if pages >= MAX_RANGE_PAGES {
        issue(op, range(regime, VirtAddr::new(at), 3, 31));
        pages -= MAX_RANGE_PAGES;
        at = at.wrapping_add(MAX_RANGE_PAGES * PAGE_SIZE);
    }
    for scale in (0..4).rev() {
        let units = scaled(pages, scale);
        if units != 0 {
            issue(op, range(regime, VirtAddr::new(at), scale, units - 1));
            at = at.wrapping_add((units << (5 * scale + 1)) * PAGE_SIZE);
        }
    }
    if !pages.is_multiple_of(2) {
        issue(page_op(regime, span.tables), page(regime, VirtAddr::new(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMALLOC: u64 = 0xffff_8000_0000_0000;

    #[test]
    fn an_upper_address_leaves_the_fields_above_it_alone() {
        let virt = VirtAddr::new(VMALLOC + 0x1234_5000);
        assert_eq!(page(Regime::Upper, virt), 0xff8_0001_2345);
        let user = page(Regime::User(Asid(0xabcd)), VirtAddr::new(0x1234_5000));
        assert_eq!(user, 0xabcd_0000_0001_2345);
    }

    #[test]
    fn ranges_and_single_pages_add_up() {
        for pages in (1..200).chain([511, 512, 513, 4095, 65_535, 65_537, 2_097_151, 2_097_152]) {
            let span = Span { start: VirtAddr::new(VMALLOC), size: pages * PAGE_SIZE, level: 3, tables: false };
            let mut next = VMALLOC >> PAGE_SHIFT & RANGE_PAGE_BITS;
            let mut ops = 0;
            each_op(&span, Regime::Upper, true, |op, operand| {
                ops += 1;
                let (scale, num) = (operand >> SCALE_SHIFT & 3, operand >> NUM_SHIFT & 31);
                let covers = if op.crm() == 2 { (num + 1) << (5 * scale + 1) } else { 1 };
                assert_eq!(operand & RANGE_PAGE_BITS, next & RANGE_PAGE_BITS, "{pages} pages: a gap");
                next += covers;
            });
            assert_eq!(next - (VMALLOC >> PAGE_SHIFT & RANGE_PAGE_BITS), pages);
            assert_eq!(count(&span, true), ops, "{pages} pages");
        }
    }

    #[test]
    fn blocks_are_counted_as_they_are_invalidated() {
        for (offset, size, level, expected) in
            [(0, 0x1000, 3, 1), (0, 0x20_0000, 2, 1), (0x1000, 0x20_0000, 2, 2), (0x3f_f000, 0x2000, 2, 2)]
        {
            let span = Span { start: VirtAddr::new(VMALLOC + offset), size, level, tables: true };
            let mut ops = 0;
            each_op(&span, Regime::Upper, false, |_, _| ops += 1);
            assert_eq!((ops, count(&span, false)), (expected, expected), "{span:?}");
        }
    }
}
