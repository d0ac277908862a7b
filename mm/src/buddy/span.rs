// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which frames there are, and the dense numbering of their chunks.
//!
//! A *span* is a run of RAM. Chunks are aligned to their size, spans are not: two spans may begin and
//! end in one chunk, which then has one number, and one leaf.

use core::ops::Range;

use super::CHUNK_PAGES;
use super::lane::Lane;
use crate::addr::PhysRange;

/// Words of a span in the metadata.
pub(super) const SPAN_WORDS: usize = 4;

/// Frames `start..end` of RAM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The number of a chunk of this span is its address divided by its size, plus this.
    bias: u64,
    /// The number of the chunk after the last.
    end_chunk: u64,
}

impl Span {
    #[inline(always)]
    const fn chunk_of(self, pfn: u64) -> u64 {
        (pfn / CHUNK_PAGES).wrapping_add(self.bias)
    }

    #[inline(always)]
    const fn place(self, pfn: u64) -> (usize, u32) {
        (self.chunk_of(pfn) as usize, (pfn % CHUNK_PAGES) as u32)
    }
}

/// Spans of these ranges, which are sorted and apart; empty ones are left out.
fn number(ranges: impl Iterator<Item = PhysRange>) -> impl Iterator<Item = Span> {
    let mut previous: Option<Span> = None;
    ranges.map(PhysRange::frames_inside).filter(|range| !range.is_empty()).map(move |range| {
        let (start, end) = (range.start().pfn().as_raw(), range.end().pfn().as_raw());
        let (first, last) = (start / CHUNK_PAGES, (end - 1) / CHUNK_PAGES);
        let number = previous.map_or(0, |before| {
            let shared = (before.end - 1) / CHUNK_PAGES == first;
            before.end_chunk - u64::from(shared)
        });
        let end_chunk = number + (last - first) + 1;
        *previous.insert(Span { start, end, bias: number.wrapping_sub(first), end_chunk })
    })
}

/// How many spans and chunks these ranges make.
pub(super) fn count(ranges: impl Iterator<Item = PhysRange>) -> (usize, usize) {
    number(ranges).fold((0, 0), |(nr_spans, _), span| (nr_spans + 1, span.end_chunk as usize))
}

/// The spans of one allocator, lowest first, kept in its metadata.
#[derive(Debug)]
pub(super) struct Spans<'a> {
    table: &'a [[u64; SPAN_WORDS]],
    /// The one that a block was last freed in, which most zones have no other of: looked at first.
    recent: Span,
}

impl<'a> Spans<'a> {
    pub(super) fn new(ranges: impl Iterator<Item = PhysRange>, table: &'a mut [u64]) -> Self {
        let (table, _) = table.as_chunks_mut();
        let mut recent = Span { start: 0, end: 0, bias: 0, end_chunk: 0 };
        for (entry, span) in table.iter_mut().zip(number(ranges)) {
            *entry = [span.start, span.end, span.bias, span.end_chunk];
            recent = span;
        }
        Self { table, recent }
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.table.iter().map(|&[start, end, bias, end_chunk]| Span { start, end, bias, end_chunk })
    }

    /// As [`locate`](Spans::locate), in the span that was used last.
    #[inline(always)]
    pub(super) fn locate_recent(&self, pfn: u64, pages: u64) -> Option<(usize, u32)> {
        let span = self.recent;
        let offset = pfn.wrapping_sub(span.start);
        let length = span.end - span.start;
        // A frame below the span is far above its end here.
        let inside = if pages == 1 { offset < length } else { offset < length && pages <= length - offset };
        inside.then(|| span.place(pfn))
    }

    /// Makes the span of these frames the one that is looked at first; `false` if there is none.
    pub(super) fn turn_to(&mut self, pfn: u64, pages: u64) -> bool {
        match self.span_of(pfn, pages) {
            Some(span) => {
                self.recent = span;
                true
            }
            None => false,
        }
    }

    fn span_of(&self, pfn: u64, pages: u64) -> Option<Span> {
        let span = self.iter().find(|span| pfn < span.end)?;
        (pfn >= span.start && pages <= span.end - pfn).then_some(span)
    }

    /// The chunk of `pfn` and the place in it, if that and the next frames, `pages` together, are
    /// RAM of one span. O(spans), of which a zone of a board has one to three.
    #[inline]
    pub(super) fn locate(&self, pfn: u64, pages: u64) -> Option<(usize, u32)> {
        self.locate_recent(pfn, pages).or_else(|| Some(self.span_of(pfn, pages)?.place(pfn)))
    }

    /// The chunks, in the order of their numbers, as first frames; one that two spans share comes twice.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.runs().flat_map(|(chunks, first)| chunks.zip((first..).step_by(CHUNK_PAGES as usize)))
    }

    /// The same by spans: the numbers of its chunks, and the first frame of the first.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<usize>, u64)> + '_ {
        self.iter().map(|span| {
            (span.chunk_of(span.start) as usize..span.end_chunk as usize, span.start / CHUNK_PAGES * CHUNK_PAGES)
        })
    }

    /// Which of the 64 chunks from number `first` on are of a lane.
    pub(super) fn chunks_of(&self, lane: Lane, first: u64) -> u64 {
        let mut mask = 0;
        for span in self.iter() {
            // Those numbers that are the span's.
            let start = span.chunk_of(span.start).max(first) - first;
            let end = span.end_chunk.saturating_sub(first).min(64);
            if start < end {
                let ours = u64::MAX >> (64 - (end - start)) << start;
                mask |= lane.chunks(first.wrapping_sub(span.bias)) & ours;
            }
        }
        mask
    }

    /// How many whole chunks from frame `start`, where one begins, to `end` lie in its span; at least
    /// 1, which then turns out to be foreign.
    pub(super) fn whole_chunks(&self, start: u64, end: u64) -> usize {
        let span_end = self.iter().map(|span| span.end).find(|span_end| start < *span_end);
        let end = span_end.map_or(end, |span_end| span_end.min(end));
        ((end.saturating_sub(start) / CHUNK_PAGES) as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PAGE_SIZE, PhysAddr};

    #[test]
    fn chunks_are_numbered_without_gaps_and_shared_ones_once() {
        let runs = [(10, 20), (30, 1024), (1030, 1031), (5000, 9000), (9010, 9011), (1 << 40, 0)];
        let ranges = runs.iter().map(|&(start, end)| {
            let address = |pfn: u64| PhysAddr::new(pfn.min(20_000) * PAGE_SIZE).unwrap();
            PhysRange::new(address(start), address(end.max(start))).unwrap()
        });
        assert_eq!(count(ranges.clone()), (5, 2 + 5));
        let mut table = [0; 5 * SPAN_WORDS];
        let spans = Spans::new(ranges, &mut table);
        assert_eq!(spans.locate(19, 1), Some((0, 19)));
        assert_eq!(spans.locate(19, 2), None);
        assert_eq!(spans.locate(25, 1), None);
        assert_eq!(spans.locate(1023, 1), Some((0, 1023)));
        assert_eq!(spans.locate(1030, 1), Some((1, 6)));
        assert_eq!(spans.locate(5000, 4000), Some((2, 5000 % 1024)));
        assert_eq!(spans.locate(9010, 1), Some((6, 9010 % 1024)));
        assert_eq!(spans.locate(9011, 1), None);
        let chunks: Vec<_> = spans.chunks().collect();
        let numbered = [(0, 0), (0, 0), (1, 1024), (2, 4096), (3, 5120), (4, 6144), (5, 7168), (6, 8192), (6, 8192)];
        assert_eq!(chunks, numbered);
        assert_eq!(spans.whole_chunks(5120, 20_000), 3);
        assert_eq!(spans.whole_chunks(15_000, 20_000), 4);
    }
}
