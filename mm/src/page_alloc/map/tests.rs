// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the map of words.

use super::*;
use crate::addr::PhysAddr;
use crate::gfp::Gfp;

fn frames(start: u64, end: u64) -> PhysRange {
    let at = |pfn: u64| PhysAddr::new(pfn << PAGE_SHIFT).unwrap();
    PhysRange::new(at(start), at(end)).unwrap()
}

#[test]
fn words_are_found_by_frame_and_shared_borders_are_apart() {
    let mut nowhere = [7; 2];
    let ranges = [frames(70, 100), frames(100, 300), frames(1 << 30, (1 << 30) + 1)];
    let mut metadata = ranges.map(|range| vec![!0; WordMap::metadata_words(range, 2)]);
    let mut map = WordMap::new(&mut nowhere, 2);
    for (zone, (range, metadata)) in ranges.into_iter().zip(&mut metadata).enumerate() {
        assert!(map.add(range, zone, metadata));
    }
    let find = |pfn| map.find_frame(Pfn::new(pfn).unwrap());
    for pfn in [0, 69, 300, (1 << 30) - 1, (1 << 30) + 1] {
        assert_eq!(find(pfn), None);
    }
    let border = [find(99).unwrap(), find(100).unwrap()];
    assert_eq!(border.map(|place| map.zone(place)), [0, 1]);
    map.word(border[0]).set_tag(Tag::hoarded(List::from_raw(7)));
    assert_eq!(map.word(border[1]).tag(), Tag::FRESH);
    assert!(map.word(border[0]).tag().is_hoarded_for(List::from_raw(7)));
    map.word(find(299).unwrap()).free.store(5, Relaxed);
    assert_eq!(find(299).unwrap().pfn(43), Pfn::new(299).unwrap());
    assert_eq!(map.word(find(256).unwrap()).free.load(Relaxed), 5);
    assert_eq!(map.word(Place::NOWHERE).free.load(Relaxed), 0);
    let order = Order::new(9).unwrap();
    map.word(find(1 << 30).unwrap()).set_tag(Tag::head(List::of(Gfp::USER, order)));
    let tag = map.word(find(1 << 30).unwrap()).tag();
    assert_eq!((tag.order(), tag.is_plain(), tag.plain().is_plain()), (9, false, true));
    assert_eq!(tag.plain().last_list(), tag.last_list());
    assert!(Tag::FRESH.is_plain() && Tag::FRESH.order() > 10);
}
