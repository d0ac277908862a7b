// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an area is to be mapped to, piece by piece, wherever that is noted. One type for all of it, so that the code that
//! maps is there once.
#![forbid(unsafe_code)]

use super::area::Run;
use super::block::{Page, TagStore};
use super::space::Space;
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr};
use crate::pgtable::Piece;

/// Where it is noted.
#[derive(Debug)]
enum Notes<'a, T> {
    /// Runs as words.
    Words(core::slice::Iter<'a, u64>),
    /// Single frames.
    Frames(core::slice::Iter<'a, Pfn>),
    /// The runs of an area, from this one on, until so many pages are told.
    Area { space: &'a Space<T>, first: Page, index: u32, left: u64 },
    /// All of it was told.
    End,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Pieces<'a, T> {
    notes: Notes<'a, T>,
    /// What comes next.
    rest: Piece,
    /// Whole, so that large descriptors can be used; else page by page.
    huge: bool,
}

const NOTHING: Piece = Piece { phys: PhysAddr::ZERO, size: 0 };

impl<T> Clone for Pieces<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        let notes = match &self.notes {
            Notes::Words(words) => Notes::Words(words.clone()),
            Notes::Frames(frames) => Notes::Frames(frames.clone()),
            Notes::Area { space, first, index, left } => {
                Notes::Area { space, first: *first, index: *index, left: *left }
            }
            Notes::End => Notes::End,
        };
        Self { notes, ..*self }
    }
}

impl<'a, T: TagStore> Pieces<'a, T> {
    /// One piece.
    pub(super) const fn one(piece: Piece, huge: bool) -> Self {
        Self { notes: Notes::End, rest: piece, huge }
    }

    /// Runs as words.
    pub(super) fn of_words(words: &'a [u64], huge: bool) -> Self {
        Self { notes: Notes::Words(words.iter()), rest: NOTHING, huge }
    }

    /// Single frames.
    pub(super) fn of_frames(frames: &'a [Pfn]) -> Self {
        Self { notes: Notes::Frames(frames.iter()), rest: NOTHING, huge: true }
    }

    /// The runs of an area.
    pub(super) fn of_area(space: &'a Space<T>, first: Page, huge: bool) -> Self {
        let (_, left) = space.extent(first);
        Self { notes: Notes::Area { space, first, index: 0, left }, rest: NOTHING, huge }
    }

    fn note(&mut self) -> Option<Piece> {
        match &mut self.notes {
            Notes::Words(words) => words.next().map(|word| Run::from_word(*word).piece()),
            Notes::Frames(frames) => frames.next().map(|frame| Piece { phys: frame.addr(), size: PAGE_SIZE }),
            Notes::Area { space, first, index, left } => {
                if *left == 0 {
                    return None;
                }
                let run = space.run(*first, *index);
                *index += 1;
                *left = left.saturating_sub(u64::from(run.pages.max(1)));
                Some(run.piece())
            }
            Notes::End => None,
        }
    }
}

impl<T: TagStore> Iterator for Pieces<'_, T> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.rest.size == 0 {
            self.rest = self.note()?;
        }
        let size = if self.huge { self.rest.size } else { PAGE_SIZE };
        let piece = Piece { size, ..self.rest };
        self.rest = Piece {
            phys: PhysAddr::new_saturating(self.rest.phys.as_raw() + size),
            size: self.rest.size.saturating_sub(size),
        };
        Some(piece)
    }

    /// All of it, with a loop of its own for each kind of notes.
    #[inline(always)]
    fn fold<B, F: FnMut(B, Piece) -> B>(mut self, init: B, mut act: F) -> B {
        let mut done = init;
        match &mut self.notes {
            Notes::Frames(frames) => {
                for frame in frames {
                    done = act(done, Piece { phys: frame.addr(), size: PAGE_SIZE });
                }
            }
            Notes::Area { space, first, index, left } if self.huge => {
                while *left != 0 {
                    let words = space.run_words(*first, *index, *left as u32);
                    if words.is_empty() {
                        break;
                    }
                    for run in words.iter().map(|word| Run::from_word(*word)) {
                        done = act(done, run.piece());
                        *index += 1;
                        *left = left.saturating_sub(u64::from(run.pages));
                        if *left == 0 {
                            break;
                        }
                    }
                }
            }
            _ => {
                for piece in self {
                    done = act(done, piece);
                }
            }
        }
        done
    }
}
