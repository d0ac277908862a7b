// SPDX-License-Identifier: MIT OR Apache-2.0
//! All chunks of an allocator. Their heads stand side by side, apart from what only split chunks need: so that
//! starting up, which writes every head, touches 8 bytes for 4 MiB and no more.

use core::ops::Range;

use super::chunk::{CHUNK_WORDS, Chunk};
use super::index::Head;
use super::view::View;

/// Heads, and for each of them labels and frames.
#[derive(Debug)]
pub(super) struct Chunks<'a> {
    heads: &'a mut [u64],
    words: &'a mut [[u64; CHUNK_WORDS]],
}

impl<'a> Chunks<'a> {
    /// Words of metadata for so many.
    pub(super) const fn metadata_words(nr_chunks: usize) -> usize {
        nr_chunks * (1 + CHUNK_WORDS)
    }

    /// So many chunks, in `metadata`, which may hold anything: the heads are still to be set. `None` if it is less than
    /// [`metadata_words`](Chunks::metadata_words).
    pub(super) fn new(nr_chunks: usize, metadata: &'a mut [u64]) -> Option<Self> {
        let (heads, words) = metadata.split_at_mut_checked(nr_chunks)?;
        let words = words.as_chunks_mut().0.get_mut(..nr_chunks)?;
        Some(Self { heads, words })
    }

    #[inline(always)]
    pub(super) fn get(&self, chunk: usize) -> Option<View<'_>> {
        Some(View { head: Head(*self.heads.get(chunk)?), words: self.words.get(chunk)? })
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, chunk: usize) -> Option<Chunk<'_>> {
        Some(Chunk { head: self.heads.get_mut(chunk)?, words: self.words.get_mut(chunk)? })
    }

    pub(super) const fn len(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = View<'_>> {
        self.heads.iter().zip(self.words.iter()).map(|(head, words)| View { head: Head(*head), words })
    }

    /// The heads of these chunks; none if that is more than there are.
    pub(super) fn heads(&self, chunks: Range<usize>) -> impl Iterator<Item = Head> {
        self.heads.get(chunks).unwrap_or_default().iter().map(|head| Head(*head))
    }

    /// Makes taken chunks of an ordinary type free as a whole, which lie side by side and have this head and those that
    /// follow from it, as far as that is so. Returns how many.
    pub(super) fn free_alike(&mut self, chunks: Range<usize>, first: Head) -> usize {
        let heads = self.heads.get_mut(chunks).unwrap_or_default();
        // What becomes of a head is in bits that those behind it have in common.
        let change = first.0 ^ first.whole().0;
        let (mut taken, mut count) = (first, 0);
        // By eights first, which costs fewer instructions.
        for eight in heads.as_chunks_mut::<8>().0 {
            let (mut next, mut differ) = (taken, 0);
            for head in eight.iter() {
                differ |= *head ^ next.0;
                next = next.next();
            }
            if differ != 0 {
                break;
            }
            *eight = eight.map(|head| head ^ change);
            (taken, count) = (next, count + 8);
        }
        for head in heads.iter_mut().skip(count) {
            if *head != taken.0 {
                break;
            }
            *head ^= change;
            (taken, count) = (taken.next(), count + 1);
        }
        count
    }

    /// Makes heads of chunks side by side, from that of the first.
    pub(super) fn set_heads(&mut self, chunks: Range<usize>, first: Head) {
        let mut head = first;
        for slot in self.heads.get_mut(chunks).unwrap_or_default() {
            *slot = head.0;
            head = head.next();
        }
    }
}
