// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of `top=` (`firmware/src/top.rs`), by their words, put together to samples.

/// The state of a target at one moment, as it has told it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Sample {
    pub(crate) number: u64,
    pub(crate) zones: Vec<Zone>,
    pub(crate) hoarded_pages: u64,
    pub(crate) caches: Vec<Cache>,
    pub(crate) vmalloc: Vmalloc,
    /// Names and counts.
    pub(crate) tlb: Vec<(String, u64)>,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Zone {
    pub(crate) node: u64,
    pub(crate) kind: String,
    pub(crate) managed_pages: u64,
    pub(crate) free_pages: u64,
    /// Free blocks of each order.
    pub(crate) blocks: Vec<u64>,
    /// Equal stretches from the first frame to the last: see [`Cell`].
    pub(crate) map: Vec<Cell>,
}

/// A stretch of a zone, as `mm::report::Cell::to_byte` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell(u8);

/// In how large pieces a stretch is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pieces {
    /// A block of the largest order is there.
    Largest,
    /// One of four pages or more.
    Some,
    /// Less, or nothing.
    Small,
}

impl Cell {
    /// As `fragmap` colours it.
    pub(crate) const fn pieces(self) -> Pieces {
        match self.largest() {
            Some(10..) => Pieces::Largest,
            Some(2..) => Pieces::Some,
            _ => Pieces::Small,
        }
    }

    /// The order of its largest free block.
    pub(crate) const fn largest(self) -> Option<u8> {
        if self.0 == u8::MAX { None } else { (self.0 & 0xf).checked_sub(1) }
    }

    /// How much of it is free, 0 to 15; `None` where there is no RAM.
    pub(crate) const fn share(self) -> Option<u8> {
        if self.0 == u8::MAX { None } else { Some(self.0 >> 4) }
    }
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) active: u64,
    pub(crate) objects: u64,
    pub(crate) size: u64,
    pub(crate) slabs: u64,
    pub(crate) pages_per_slab: u64,
}

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Vmalloc {
    pub(crate) areas: u64,
    pub(crate) pages: u64,
    pub(crate) lazy_pages: u64,
    pub(crate) tag_frames: u64,
}

/// Takes records until a sample is whole.
#[derive(Default, Debug)]
pub(crate) struct Collector(Sample);

impl Collector {
    /// The next message of a record. What is not of `top=`, or has lost something on the wire, is left out.
    pub(crate) fn take(&mut self, message: &str) -> Option<Sample> {
        let rest = message.strip_prefix("top: ")?;
        let (what, rest) = rest.split_once(' ')?;
        let (head, list) = rest.split_once('[').unwrap_or((rest, ""));
        let words: Vec<&str> = head.split_whitespace().collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1)?.parse::<u64>().ok()
        };
        let list = || list.trim_end_matches(']').split(", ").filter_map(|word| word.parse::<u64>().ok());
        match what {
            "zone" => self.0.zones.push(Zone {
                node: after("node")?,
                kind: (*words.get(3)?).to_owned(),
                managed_pages: after("managed")?,
                free_pages: after("free")?,
                blocks: list().collect(),
                map: Vec::new(),
            }),
            "map" => {
                let index: usize = words.first()?.parse().ok()?;
                self.0.zones.get_mut(index)?.map =
                    list().filter_map(|byte| u8::try_from(byte).ok()).map(Cell).collect();
            }
            "hoarded" => self.0.hoarded_pages = words.first()?.parse().ok()?,
            "cache" => self.0.caches.push(Cache {
                name: (*words.first()?).to_owned(),
                active: after("active")?,
                objects: after("objects")?,
                size: after("size")?,
                slabs: after("slabs")?,
                pages_per_slab: after("pages")?,
            }),
            "vmalloc" => {
                self.0.vmalloc = Vmalloc {
                    areas: after("areas")?,
                    pages: after("pages")?,
                    lazy_pages: after("lazy")?,
                    tag_frames: after("tags")?,
                };
            }
            "tlb" => self.0.tlb.push(((*words.first()?).to_owned(), words.get(1)?.parse().ok()?)),
            "end" => {
                let whole = Sample { number: words.first()?.parse().ok()?, ..std::mem::take(&mut self.0) };
                return (!whole.zones.is_empty()).then_some(whole);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a target with 512 MiB said, the map cut short.
    pub(crate) const MESSAGES: [&str; 7] = [
        "top: zone 0 node 0 Normal managed 130702 free 124019 blocks [31, 114, 190, 215, 226, 277, 2, 3, 1, 3, 104]",
        "top: map 0 [186, 150, 0, 255, 251, 251, 251]",
        "top: hoarded 415",
        "top: cache kmalloc-packed active 152 objects 152 size 1096 slabs 57 pages 1",
        "top: vmalloc areas 8 pages 30 lazy 7 tags 3",
        "top: tlb nr_tlb_remote_flush 12",
        "top: end 5",
    ];

    pub(crate) fn sample() -> Sample {
        let mut collector = Collector::default();
        MESSAGES.iter().find_map(|message| collector.take(message)).unwrap()
    }

    #[test]
    fn records_become_a_sample() {
        let sample = sample();
        assert_eq!((sample.number, sample.hoarded_pages), (5, 415));
        let zone = &sample.zones[0];
        assert_eq!((zone.kind.as_str(), zone.free_pages, zone.blocks.len()), ("Normal", 124_019, 11));
        let cells: Vec<_> = zone.map.iter().map(|cell| (cell.largest(), cell.share())).collect();
        assert_eq!(cells[..4], [(Some(9), Some(11)), (Some(5), Some(9)), (None, Some(0)), (None, None)]);
        assert_eq!(sample.caches[0].slabs, 57);
        assert_eq!(sample.vmalloc, Vmalloc { areas: 8, pages: 30, lazy_pages: 7, tag_frames: 3 });
        assert_eq!(sample.tlb, [("nr_tlb_remote_flush".to_owned(), 12)]);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let mut collector = Collector::default();
        for message in
            ["boot: done", "top: zone 0 node", "top: map 7 [1]", "top: cache", "top: ", "top: end x", "top: end 1"]
        {
            assert_eq!(collector.take(message), None, "{message}");
        }
    }
}
