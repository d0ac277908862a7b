// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tags of a space, in frames that are taken when a part of the space is first used.
//!
//! ```text
//!   top    512 roots
//!   root   512 leaves, 1 GiB less a bit of address space
//!   leaf   504 tags, and a bit for each that is the first of an area: one frame
//! ```
//!
//! Frames are kept: address space is used again from the bottom, so there are as many as were ever needed at
//! once. A frame of tags stands for about 2 MiB of address space. *Lock:* the space's.

use core::fmt;
use core::ops::Range;

use super::block::{Head, NoTags, Page, TagStore};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::arch::Arch;
use crate::pgtable::TableSource;

/// Tags in a leaf; with a bit each they fill a frame.
const LEAF_TAGS: u32 = 504;
/// Words of the bits behind them.
const BIT_WORDS: u32 = 8;
/// No leaf begins there.
const NO_LEAF: Page = Page::MAX - LEAF_TAGS;
/// Links in a table.
const LINKS: u32 = 512;
const WORDS: u32 = LEAF_TAGS + BIT_WORDS;
const _: () = assert!(WORDS as u64 * 8 == PAGE_SIZE && LINKS as u64 * 8 == PAGE_SIZE);

/// Pages that a store has tags for: just less than 504 GiB of address space.
const LIMIT: u64 = LEAF_TAGS as u64 * LINKS as u64 * LINKS as u64;
const _: () = assert!(LIMIT >= super::block::MAX_PAGES as u64);

/// See the head of this file.
pub(super) struct Tags<A, S> {
    arch: A,
    frames: S,
    top: PhysAddr,
    /// The leaf used last, and its first page: most operations stay in one.
    leaf_start: Page,
    leaf: PhysAddr,
    nr_frames: u64,
}

impl<A, S> fmt::Debug for Tags<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tags").field("top", &self.top).field("nr_frames", &self.nr_frames).finish_non_exhaustive()
    }
}

impl<A: Arch, S: TableSource> Tags<A, S> {
    /// A store whose frames come from `frames`.
    ///
    /// # Errors
    ///
    /// [`NoTags`] if there is not even one.
    pub(super) fn new(arch: A, mut frames: S) -> Result<Self, NoTags> {
        let top = new_frame(&arch, &mut frames)?;
        Ok(Self { arch, frames, top, leaf_start: NO_LEAF, leaf: top, nr_frames: 1 })
    }

    /// Frames taken so far.
    pub(super) const fn nr_frames(&self) -> u64 {
        self.nr_frames
    }

    /// The frame of a leaf, if it was provided.
    fn leaf(&self, index: u32) -> Option<PhysAddr> {
        self.link(self.link(self.top, index / LINKS)?, index % LINKS)
    }

    /// Where the tag of `page` is.
    #[inline(always)]
    fn place(&self, page: Page) -> Option<(PhysAddr, u32)> {
        let tag = page.wrapping_sub(self.leaf_start);
        if tag < LEAF_TAGS { Some((self.leaf, tag)) } else { self.place_elsewhere(page) }
    }

    #[inline(never)]
    fn place_elsewhere(&self, page: Page) -> Option<(PhysAddr, u32)> {
        Some((self.leaf(page / LEAF_TAGS)?, page % LEAF_TAGS))
    }

    fn link(&self, table: PhysAddr, index: u32) -> Option<PhysAddr> {
        let link = self.read(table, index);
        if link == 0 { None } else { Some(PhysAddr::new_saturating(link & !1)) }
    }

    #[inline(never)]
    fn provide_leaf(&mut self, index: u32) -> Result<(), NoTags> {
        let root = self.make_link(self.top, index / LINKS)?;
        self.leaf = self.make_link(root, index % LINKS)?;
        self.leaf_start = index * LEAF_TAGS;
        Ok(())
    }

    #[inline(never)]
    fn get_elsewhere(&self, page: Page) -> u64 {
        self.get(page)
    }

    #[inline(never)]
    fn set_elsewhere(&mut self, page: Page, word: u64) {
        self.set(page, word);
    }

    #[inline(never)]
    fn focus_elsewhere(&mut self, index: u32) {
        if let Some(leaf) = self.leaf(index) {
            self.leaf = leaf;
            self.leaf_start = index * LEAF_TAGS;
        }
    }

    /// Frame 0 is a frame like any other, so a link has its lowest bit set.
    fn make_link(&mut self, table: PhysAddr, index: u32) -> Result<PhysAddr, NoTags> {
        if let Some(there) = self.link(table, index) {
            return Ok(there);
        }
        let frame = new_frame(&self.arch, &mut self.frames)?;
        self.nr_frames += 1;
        self.write(table, index, frame.as_raw() | 1);
        Ok(frame)
    }

    #[inline(always)]
    fn word(&self, frame: PhysAddr, index: u32) -> *mut u64 {
        self.arch.direct_map(frame).cast::<u64>().wrapping_add(index as usize)
    }

    #[inline(always)]
    fn read(&self, frame: PhysAddr, index: u32) -> u64 {
        // SAFETY: the frame is this store's, RAM that `arch` shows; writers have `&mut self`.
        unsafe { self.word(frame, index).read() }
    }

    #[inline(always)]
    fn write(&mut self, frame: PhysAddr, index: u32, word: u64) {
        // SAFETY: the frame is this store's, RAM that `arch` shows; nobody reads while we have `&mut self`.
        unsafe { self.word(frame, index).write(word) }
    }

    /// The first marked tag of a leaf from `first` on.
    fn first_mark(&self, leaf: PhysAddr, first: u32) -> Option<u32> {
        (first / 64..BIT_WORDS).find_map(|word| {
            let bits = self.read(leaf, LEAF_TAGS + word);
            let bits = if word == first / 64 { bits & (u64::MAX << (first % 64)) } else { bits };
            (bits != 0).then(|| word * 64 + bits.trailing_zeros())
        })
    }

    /// The last marked tag of a leaf at or before `last`.
    fn last_mark(&self, leaf: PhysAddr, last: u32) -> Option<u32> {
        (0..=last / 64).rev().find_map(|word| {
            let bits = self.read(leaf, LEAF_TAGS + word);
            let bits = if word == last / 64 { bits & (u64::MAX >> (63 - last % 64)) } else { bits };
            bits.checked_ilog2().map(|bit| word * 64 + bit)
        })
    }
}

/// A frame of zeros.
fn new_frame<A: Arch>(arch: &A, frames: &mut impl TableSource) -> Result<PhysAddr, NoTags> {
    let frame = frames.table().ok_or(NoTags)?;
    // SAFETY: the source gives frames that are ours alone and that `arch` shows; a frame is this long.
    unsafe { arch.direct_map(frame).write_bytes(0, PAGE_SIZE as usize) };
    Ok(frame)
}

impl<A: Arch, S: TableSource> TagStore for Tags<A, S> {
    #[inline(always)]
    fn provide(&mut self, page: Page) -> Result<(), NoTags> {
        if page.wrapping_sub(self.leaf_start) < LEAF_TAGS { Ok(()) } else { self.provide_leaf(page / LEAF_TAGS) }
    }

    fn provide_all(&mut self, pages: Range<Page>) -> Result<(), NoTags> {
        let mut page = pages.start;
        while page < pages.end {
            self.provide(page)?;
            page = (page / LEAF_TAGS + 1) * LEAF_TAGS;
        }
        Ok(())
    }

    fn words(&self, page: Page, count: u32) -> &[u64] {
        let Some((leaf, tag)) = self.place(page) else { return &[] };
        let count = count.min(LEAF_TAGS - tag) as usize;
        // SAFETY: the frame is this store's, RAM that `arch` shows, and these words are in it; writers have `&mut self`.
        unsafe { core::slice::from_raw_parts(self.word(leaf, tag), count) }
    }

    #[inline(always)]
    fn get(&self, page: Page) -> u64 {
        // A page that was not provided for is a bug of the space; it reads as no block.
        match self.place(page) {
            Some((leaf, tag)) => self.read(leaf, tag),
            None => 0,
        }
    }

    #[inline(always)]
    fn set(&mut self, page: Page, word: u64) {
        if let Some((leaf, tag)) = self.place(page) {
            self.write(leaf, tag, word);
        }
    }

    #[inline(always)]
    fn head(&self, page: Page) -> Head {
        let tag = page.wrapping_sub(self.leaf_start);
        if tag <= LEAF_TAGS - 4 {
            let read = |at| self.read(self.leaf, tag + at);
            Head { word: read(0), note: read(1), extent: read(2), run: read(3) }
        } else {
            // Word by word, in registers: by reference, what is read above would be in memory too.
            let read = |at| self.get_elsewhere(page + at);
            Head { word: read(0), note: read(1), extent: read(2), run: read(3) }
        }
    }

    #[inline(always)]
    fn set_head(&mut self, page: Page, head: Head) {
        let tag = page.wrapping_sub(self.leaf_start);
        if tag <= LEAF_TAGS - 4 {
            let place = self.word(self.leaf, tag).cast::<Head>();
            // SAFETY: as in `write`; all four are in the leaf.
            unsafe { place.write(head) };
        } else {
            self.set_elsewhere(page, head.word);
            self.set_elsewhere(page + 1, head.note);
            self.set_elsewhere(page + 2, head.extent);
            self.set_elsewhere(page + 3, head.run);
        }
    }

    #[inline(always)]
    fn focus(&mut self, page: Page) {
        if page.wrapping_sub(self.leaf_start) >= LEAF_TAGS {
            self.focus_elsewhere(page / LEAF_TAGS);
        }
    }

    #[inline]
    fn mark(&mut self, page: Page, is_first: bool) {
        if let Some((leaf, tag)) = self.place(page) {
            let bit = 1 << (tag % 64);
            let word = self.read(leaf, LEAF_TAGS + tag / 64) & !bit;
            self.write(leaf, LEAF_TAGS + tag / 64, if is_first { word | bit } else { word });
        }
    }

    #[inline(always)]
    fn is_marked(&self, page: Page) -> bool {
        match self.place(page) {
            Some((leaf, tag)) => self.read(leaf, LEAF_TAGS + tag / 64) >> (tag % 64) & 1 != 0,
            None => false,
        }
    }

    fn marked_before(&self, page: Page) -> Option<Page> {
        let (index, tag) = (page / LEAF_TAGS, page % LEAF_TAGS);
        let mark_in = |index: u32, last| Some(index * LEAF_TAGS + self.last_mark(self.leaf(index)?, last)?);
        mark_in(index, tag).or_else(|| {
            (0..=index.checked_sub(1)? / LINKS).rev().find_map(|root| {
                self.link(self.top, root)?;
                let leaves = root * LINKS..((root + 1) * LINKS).min(index);
                leaves.rev().find_map(|index| mark_in(index, LEAF_TAGS - 1))
            })
        })
    }

    fn marked_in(&self, pages: Range<Page>) -> Option<Page> {
        let leaves = pages.start / LEAF_TAGS..pages.end.div_ceil(LEAF_TAGS);
        let roots = leaves.start / LINKS..leaves.end.div_ceil(LINKS);
        roots.into_iter().find_map(|root| {
            self.link(self.top, root)?;
            let own = leaves.start.max(root * LINKS)..leaves.end.min((root + 1) * LINKS);
            own.into_iter().find_map(|index| {
                let from = pages.start.saturating_sub(index * LEAF_TAGS);
                let mark = index * LEAF_TAGS + self.first_mark(self.leaf(index)?, from)?;
                (mark < pages.end).then_some(mark)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::host::Host;
    use crate::vmalloc::space::{Space, SpaceError};

    struct Frames(Range<u64>);

    impl TableSource for Frames {
        fn table(&mut self) -> Option<PhysAddr> {
            self.0.next().and_then(|frame| PhysAddr::new(frame * PAGE_SIZE))
        }

        fn give_back(&mut self, _: PhysAddr) {}
    }

    fn with_tags(frames: u64, test: impl FnOnce(Tags<Host<'_>, Frames>)) {
        // Frame 0 is among them.
        let mut words = vec![0xdead_beef_dead_beef; frames as usize * 512];
        test(Tags::new(Host::new(PhysAddr::ZERO, &mut words), Frames(0..frames)).unwrap());
    }

    #[test]
    fn words_hold_what_is_written_wherever_they_are() {
        with_tags(12, |mut tags| {
            let pages = [0, 503, 504, 1007, 504 * 512 - 1, 504 * 512, (LIMIT - 1) as u32];
            for page in pages {
                tags.provide(page).unwrap();
                tags.set(page, u64::from(page) * 7 + 1);
                tags.mark(page, page % 2 == 1);
            }
            assert_eq!(tags.nr_frames(), 1 + 3 + 5);
            for page in pages {
                assert_eq!(tags.get(page), u64::from(page) * 7 + 1, "{page}");
            }
            assert_eq!(tags.marked_in(0..503), None);
            assert_eq!(tags.marked_in(0..504), Some(503));
            assert_eq!(tags.marked_in(504..u32::MAX), Some(1007));
            assert_eq!(tags.marked_in(1008..LIMIT as u32), Some(504 * 512 - 1));
            assert_eq!(tags.marked_before(502), None);
            assert_eq!(tags.marked_before(1006), Some(503));
            assert_eq!(tags.marked_before(504 * 512 - 2), Some(1007));
            assert_eq!(tags.marked_before((LIMIT - 2) as u32), Some(504 * 512 - 1));
            assert_eq!(tags.marked_before((LIMIT - 1) as u32), Some((LIMIT - 1) as u32));
            tags.mark(503, false);
            assert_eq!(tags.marked_before(1006), None);
        });
    }

    #[test]
    fn a_space_without_frames_for_its_tags_says_so_and_stays_whole() {
        with_tags(4, |tags| {
            let mut space = Space::new(tags, 100_000).unwrap();
            let mut firsts = Vec::new();
            let error = loop {
                match space.alloc(100, 1, 0) {
                    Ok(first) => firsts.push(first),
                    Err(error) => break error,
                }
            };
            // Two leaves: 1008 pages, the borders of the last block included.
            assert_eq!((error, firsts.len()), (SpaceError::NoTags, 10));
            assert!(space.validate());
            firsts.into_iter().for_each(|first| space.free(first));
            assert_eq!(space.free_pages(), 100_000);
            assert!(space.validate());
        });
    }
}
