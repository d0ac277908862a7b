// SPDX-License-Identifier: MIT OR Apache-2.0
//! The space against a plain list of areas, with tags that run out whenever the test wants.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Words in an array, garbage until provided, and a store that may refuse.
struct Words {
    words: Vec<Option<u64>>,
    marks: std::collections::BTreeSet<Page>,
    left: usize,
}

/// Words that come and go together, as in a frame.
const LEAF: usize = 8;

impl Words {
    fn new(pages: Page, left: usize) -> Self {
        Self { words: vec![None; pages as usize + LEAF], marks: Default::default(), left }
    }
}

impl TagStore for Words {
    fn provide(&mut self, page: Page) -> Result<(), NoTags> {
        let leaf = page as usize / LEAF * LEAF;
        if self.words[leaf].is_none() {
            self.left = self.left.checked_sub(1).ok_or(NoTags)?;
            self.words[leaf..leaf + LEAF].fill(Some(0xdead_beef_dead_beef));
        }
        Ok(())
    }

    fn words(&self, _: Page, _: u32) -> &[u64] {
        &[]
    }

    fn get(&self, page: Page) -> u64 {
        self.words[page as usize].expect("a tag that was never provided")
    }

    fn set(&mut self, page: Page, word: u64) {
        *self.words[page as usize].as_mut().expect("a tag that was never provided") = word;
    }

    fn mark(&mut self, page: Page, is_first: bool) {
        self.get(page);
        if is_first {
            self.marks.insert(page)
        } else {
            self.marks.remove(&page)
        };
    }

    fn is_marked(&self, page: Page) -> bool {
        self.marks.contains(&page)
    }

    fn marked_before(&self, page: Page) -> Option<Page> {
        self.marks.range(..=page).next_back().copied()
    }

    fn marked_in(&self, pages: std::ops::Range<Page>) -> Option<Page> {
        self.marks.range(pages).next().copied()
    }
}

#[test]
fn classes_cover_every_length_in_order() {
    let mut last = (0, 1);
    for pages in (2..5000).chain([MAX_PAGES / 3, MAX_PAGES - 1, MAX_PAGES]) {
        let class = Class::of(pages);
        assert!((class.power, class.part) >= last && class.power < POWERS && class.part < SPLIT, "{pages}");
        last = (class.power, class.part);
        let above = Class::at_least(pages);
        // Every length of the class that is searched is long enough, and no class before it is.
        assert!((above.power, above.part) >= last);
        if pages < 4000 {
            let shortest = (2..9000).find(|pages| Class::of(*pages) == above).unwrap();
            assert!(shortest >= pages, "{pages}: {shortest}");
        }
    }
}

#[test]
fn a_space_is_used_from_the_bottom_and_becomes_one_again() {
    let mut space = Space::new(Words::new(1000, usize::MAX), 1000).unwrap();
    let firsts: Vec<_> = (0..10).map(|n| space.alloc(2 + n, 1, 0).unwrap()).collect();
    assert_eq!(firsts[..4], [0, 2, 5, 9]);
    // A hole that fits is used before the rest of the space.
    space.free(firsts[3]);
    assert_eq!(space.alloc(5, 1, 0), Ok(9));
    for first in firsts {
        space.free(first);
        assert!(space.validate());
    }
    assert_eq!(space.blocks().collect::<Vec<_>>(), [Block { first: 0, pages: 1000, state: State::Free }]);
    assert_eq!(space.free_pages(), 1000);
}

#[test]
fn the_whole_space_can_be_had_and_no_more() {
    let mut space = Space::new(Words::new(64, usize::MAX), 64).unwrap();
    assert_eq!(space.alloc(65, 1, 0), Err(SpaceError::NoSpace));
    assert_eq!(space.alloc(Page::MAX, 1, 0), Err(SpaceError::NoSpace));
    assert_eq!(space.alloc(2, 1 << 31, 0), Err(SpaceError::NoSpace));
    assert_eq!(space.alloc(63, 1, 0), Ok(0));
    assert_eq!(space.alloc(2, 1, 0), Err(SpaceError::NoSpace));
    assert!(space.validate());
    space.free(0);
    assert_eq!(space.alloc(64, 64, 0), Ok(0));
}

#[test]
fn an_area_is_found_by_any_page_of_it() {
    let mut space = Space::new(Words::new(100, usize::MAX), 100).unwrap();
    let (a, b) = (space.alloc(10, 1, 0).unwrap(), space.alloc(3, 1, 0).unwrap());
    for page in a..b {
        assert_eq!(space.area_around(page).map(|area| area.first), Some(a));
        assert_eq!(space.area_at(page).is_some(), page == a);
    }
    assert_eq!(space.area_around(b + 2).map(|area| area.first), Some(b));
    assert_eq!(space.area_around(b + 3), None);
    space.set_next_lazy(a, None);
    assert_eq!(space.area_around(a + 1), None);
    assert!(space.validate());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc { pages: Page, align: u32 },
    Free(usize),
    Lazy(usize),
    Reap(usize),
    Extend(usize, Page),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40u32, 0..6u32).prop_map(|(pages, align)| Step::Alloc { pages, align: align.saturating_sub(2) }),
        2 => any::<usize>().prop_map(Step::Free),
        2 => any::<usize>().prop_map(Step::Lazy),
        2 => any::<usize>().prop_map(Step::Reap),
        1 => (any::<usize>(), 1..20u32).prop_map(|(at, more)| Step::Extend(at, more)),
    ]
}

fn nth<V: Copy>(map: &BTreeMap<Page, V>, at: usize) -> Option<(Page, V)> {
    (!map.is_empty()).then(|| map.iter().nth(at % map.len()).map(|(first, value)| (*first, *value)))?
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..Default::default() })]

    #[test]
    fn areas_never_overlap_and_everything_comes_back(
        pages in 2..600u32,
        skew in 0..16u32,
        leaves in prop_oneof![Just(usize::MAX), 2..20usize],
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 20 } else { 200 }),
    ) {
        let Ok(mut space) = Space::new(Words::new(pages, leaves), pages) else { return Ok(()) };
        let (mut busy, mut lazy) = (BTreeMap::new(), BTreeMap::new());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Alloc { pages: wanted, align } => match space.alloc(wanted, 1 << align, skew) {
                    Ok(first) => {
                        let block = space.block_at(first);
                        prop_assert!(block.pages >= wanted.max(2) && block.state == State::Busy);
                        prop_assert!((first + skew).is_multiple_of(1 << align));
                        let taken = busy.iter().chain(&lazy).map(|(first, pages): (&Page, &Page)| *first..*first + *pages);
                        for other in taken {
                            prop_assert!(other.end <= first || block.end() <= other.start);
                        }
                        space.set_info(first, number as u32, number as u64 * 3);
                        busy.insert(first, block.pages);
                    }
                    Err(SpaceError::NoSpace) => {
                        let fits = space.blocks().filter(|block| block.state == State::Free).any(|block| {
                            block.pages >= wanted.max(2) + (2 << align)
                        });
                        prop_assert!(!fits, "a block is long enough");
                    }
                    Err(SpaceError::NoTags) => prop_assert!(leaves != usize::MAX),
                },
                Step::Free(at) => if let Some((first, _)) = nth(&busy, at) {
                    space.free(first);
                    busy.remove(&first);
                },
                Step::Lazy(at) => if let Some((first, pages)) = nth(&busy, at) {
                    space.set_next_lazy(first, lazy.keys().next().copied());
                    prop_assert_eq!(space.next_lazy(first), lazy.keys().next().copied());
                    busy.remove(&first);
                    lazy.insert(first, pages);
                },
                Step::Reap(at) => if let Some((first, _)) = nth(&lazy, at) {
                    space.free(first);
                    lazy.remove(&first);
                },
                Step::Extend(at, more) => if let Some((first, pages)) = nth(&busy, at) {
                    let info = space.info(first);
                    if space.extend(first, pages + more).is_ok() {
                        let now = space.block_at(first).pages;
                        prop_assert!(now >= pages + more);
                        busy.insert(first, now);
                    }
                    prop_assert_eq!(space.info(first), info);
                },
            }
            prop_assert!(space.validate());
            let areas: BTreeMap<_, _> = space.blocks().filter(|b| b.state == State::Busy).map(|b| (b.first, b.pages)).collect();
            prop_assert_eq!(&areas, &busy);
        }
        for first in busy.into_keys().chain(lazy.into_keys()) {
            space.free(first);
        }
        prop_assert!(space.validate());
        prop_assert_eq!(space.blocks().count(), 1);
        prop_assert_eq!(space.free_pages(), pages);
    }
}
