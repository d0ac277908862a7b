// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reports of the page allocator: `/proc/pagetypeinfo`, `/proc/zoneinfo`, `/proc/vmstat`, and how fragmented memory is.

use core::fmt;

use crate::addr::{NR_ORDERS, Order};
use crate::buddy::Mobility;
use crate::page_alloc::{CpuPages, ZoneReport};

/// Blocks that are shown of one kind at most, as Linux cuts them off.
const MOST_BLOCKS: u64 = 100_000;

/// `/proc/pagetypeinfo`: free blocks of each order by type, then blocks of the largest order by type.
///
/// # Errors
///
/// Those of `w`.
pub fn pagetypeinfo<W: fmt::Write>(w: &mut W, zones: impl Iterator<Item = ZoneReport> + Clone) -> fmt::Result {
    writeln!(w, "Page block order: {}", Order::MAX.as_usize())?;
    writeln!(w, "Pages per block:  {}\n", Order::MAX.pages())?;
    write!(w, "{:<43} ", "Free pages count per migrate type at order")?;
    for order in 0..NR_ORDERS {
        write!(w, "{order:>6} ")?;
    }
    w.write_char('\n')?;
    for zone in zones.clone() {
        for (mobility, nr_free) in Mobility::ALL.iter().zip(zone.nr_free_of) {
            let (node, kind) = (zone.info.node, zone.info.kind.name());
            write!(w, "Node {node:>4}, zone {kind:>8}, type {:>12} ", mobility.name())?;
            for count in nr_free {
                let cut = if count > MOST_BLOCKS { ">" } else { "" };
                write!(w, "{cut}{:>6} ", count.min(MOST_BLOCKS))?;
            }
            w.write_char('\n')?;
        }
    }
    write!(w, "\n{:<23}", "Number of blocks type ")?;
    for mobility in Mobility::ALL {
        write!(w, "{:>12} ", mobility.name())?;
    }
    w.write_char('\n')?;
    for zone in zones {
        write!(w, "Node {}, zone {:>8} ", zone.info.node, zone.info.kind.name())?;
        for count in zone.nr_chunks_of {
            write!(w, "{count:>12} ")?;
        }
        w.write_char('\n')?;
    }
    Ok(())
}

/// `/proc/zoneinfo`, without the lines of which this system has no notion.
///
/// # Errors
///
/// Those of `w`.
pub fn zoneinfo<W: fmt::Write>(
    w: &mut W,
    zones: impl Iterator<Item = ZoneReport>,
    cpus: impl Iterator<Item = CpuPages> + Clone,
) -> fmt::Result {
    for zone in zones {
        writeln!(w, "Node {}, zone {:>8}", zone.info.node, zone.info.kind.name())?;
        let marks = zone.marks;
        writeln!(w, "  pages free     {}", zone.info.free_pages)?;
        for (label, pages) in [
            ("boost", 0),
            ("min", marks.min),
            ("low", marks.low),
            ("high", marks.high),
            ("promo", marks.promo),
            ("spanned", zone.spanned_pages),
            ("present", zone.info.present_pages),
            ("managed", zone.info.managed_pages),
            ("cma", 0),
        ] {
            writeln!(w, "        {label:<9}{pages}")?;
        }
        let [dma, normal] = zone.protection;
        writeln!(w, "        protection: ({dma}, {normal})")?;
        writeln!(w, "      {:<12} {}", "nr_free_pages", zone.info.free_pages)?;
        writeln!(w, "  pagesets")?;
        for cpu in cpus.clone() {
            writeln!(w, "    cpu: {}", cpu.cpu)?;
            for (label, pages) in [("count:", cpu.count), ("high:", cpu.high), ("batch:", cpu.batch)] {
                writeln!(w, "              {label:<10}{pages}")?;
            }
        }
        writeln!(w, "  {:<20}{}", "start_pfn:", zone.start_pfn)?;
    }
    Ok(())
}

/// The lines of `/proc/vmstat` that this system counts.
///
/// # Errors
///
/// Those of `w`.
pub fn vmstat<W: fmt::Write>(w: &mut W, zones: impl Iterator<Item = ZoneReport> + Clone) -> fmt::Result {
    let all = zones.clone();
    let sum = |of: fn(ZoneReport) -> u64| all.clone().map(of).sum::<u64>();
    writeln!(w, "nr_free_pages {}", sum(|zone| zone.info.free_pages))?;
    writeln!(
        w,
        "nr_free_pages_blocks {}",
        sum(|zone| zone.info.nr_free.last().copied().unwrap_or(0) * Order::MAX.pages())
    )?;
    for zone in zones {
        writeln!(w, "allocstall_{} {}", zone.info.kind.lower_name(), zone.alloc_stalls)?;
    }
    // No lines of Linux: it has no words.
    writeln!(w, "pgwords_hoarded {}", sum(|zone| zone.words_hoarded))?;
    writeln!(w, "pgwords_released {}", sum(|zone| zone.words_released))?;
    writeln!(w, "pgalloc_failed {}", sum(|zone| zone.failures))
}

/// What would fail a request of an order, as a number from 0 (too little memory) to 1000 (memory in pieces); `None`
/// if a block is there, which Linux shows as -1.000.
#[must_use]
pub fn fragmentation_index(nr_free: &[u64; NR_ORDERS], order: usize) -> Option<u64> {
    let requested = 1 << order;
    let blocks: u64 = nr_free.iter().sum();
    let pages: u64 = nr_free.iter().zip(0..).map(|(count, order)| count << order).sum();
    let has_block = nr_free.iter().skip(order).any(|count| *count != 0);
    if has_block {
        return None;
    }
    // Without a free block it is memory that lacks.
    let Some(per_block) = (1000 + pages * 1000 / requested).checked_div(blocks) else { return Some(0) };
    Some(1000u64.saturating_sub(per_block))
}

/// Which part of free memory is in blocks too small for an order, in thousandths.
#[must_use]
pub fn unusable_index(nr_free: &[u64; NR_ORDERS], order: usize) -> u64 {
    let pages = |(count, order): (&u64, u32)| count << order;
    let all: u64 = nr_free.iter().zip(0..).map(pages).sum();
    let usable: u64 = nr_free.iter().zip(0..).skip(order).map(pages).sum();
    ((all - usable) * 1000).checked_div(all).unwrap_or(1000)
}

/// Both indices for each order, as Linux's `extfrag_index` and `unusable_index` under debugfs.
///
/// # Errors
///
/// Those of `w`.
pub fn extfrag<W: fmt::Write>(w: &mut W, zones: impl Iterator<Item = ZoneReport> + Clone) -> fmt::Result {
    for zone in zones {
        write!(w, "extfrag_index   Node {}, zone {:>8} ", zone.info.node, zone.info.kind.name())?;
        for order in 0..NR_ORDERS {
            match fragmentation_index(&zone.info.nr_free, order) {
                Some(index) => write!(w, "{}.{:03} ", index / 1000, index % 1000)?,
                None => w.write_str("-1.000 ")?,
            }
        }
        write!(w, "\nunusable_index  Node {}, zone {:>8} ", zone.info.node, zone.info.kind.name())?;
        for order in 0..NR_ORDERS {
            let index = unusable_index(&zone.info.nr_free, order);
            write!(w, "{}.{:03} ", index / 1000, index % 1000)?;
        }
        w.write_char('\n')?;
    }
    Ok(())
}

/// A stretch of a zone's frames, for [`fragmap`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cell {
    /// Frames that are RAM.
    pub ram: u64,
    /// Those of them that are free in the zone.
    pub free: u64,
    /// The order of the largest free block in it, plus 1; 0 if there is none.
    pub largest: u8,
}

/// Cells in a line of the picture.
pub const CELLS_PER_LINE: usize = 64;

impl Cell {
    /// It in a byte, for those who draw it elsewhere: below, the order of the largest free block plus 1; above that, how
    /// much of it is free, in fifteenths rounded up. 255 where there is no RAM.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        if self.ram == 0 {
            return u8::MAX;
        }
        let share = (self.free.min(self.ram) * 15).div_ceil(self.ram);
        (share as u8) << 4 | self.largest & 0xf
    }

    /// How a cell looks: a colour for its largest free block, a block character for how much of it is free.
    fn write<W: fmt::Write>(self, w: &mut W) -> fmt::Result {
        if self.ram == 0 {
            return w.write_char(' ');
        }
        // Green: the largest order is there. Yellow: four pages and more. Red: less, or nothing.
        let colour = match self.largest {
            11.. => 32,
            3.. => 33,
            _ => 31,
        };
        let shade = match (self.free * 4).div_ceil(self.ram) {
            0 => '.',
            1 => '\u{2591}',
            2 => '\u{2592}',
            3 => '\u{2593}',
            _ => '\u{2588}',
        };
        write!(w, "\x1b[{colour}m{shade}\x1b[0m")
    }
}

/// A picture of a zone: where memory is free, and in how large pieces.
///
/// # Errors
///
/// Those of `w`.
pub fn fragmap<W: fmt::Write>(w: &mut W, zone: &ZoneReport, cells: &[Cell]) -> fmt::Result {
    let (node, kind) = (zone.info.node, zone.info.kind.name());
    let per_cell = zone.spanned_pages.div_ceil(cells.len().max(1) as u64);
    writeln!(w, "Node {node}, zone {kind:>8}: {per_cell} pages a character, free in part or in full")?;
    for (line, cells) in cells.chunks(CELLS_PER_LINE).enumerate() {
        let start = zone.start_pfn + (line * CELLS_PER_LINE) as u64 * per_cell;
        write!(w, "{:>12x} ", start << crate::addr::PAGE_SHIFT)?;
        for cell in cells {
            cell.write(w)?;
        }
        w.write_char('\n')?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PhysAddr, PhysRange};
    use crate::arch::host::Host;
    use crate::gfp::Gfp;
    use crate::memblock::Memblock;
    use crate::page_alloc::{Config, Pages};

    #[test]
    fn indices_are_those_of_linux() {
        let mut nr_free = [0; NR_ORDERS];
        assert_eq!((fragmentation_index(&nr_free, 3), unusable_index(&nr_free, 3)), (Some(0), 1000));
        // 1000 single pages: a request for 8 fails for their being single, 1 - (1 + 125) / 1000.
        nr_free[0] = 1000;
        assert_eq!((fragmentation_index(&nr_free, 3), unusable_index(&nr_free, 3)), (Some(874), 1000));
        assert_eq!((fragmentation_index(&nr_free, 0), unusable_index(&nr_free, 0)), (None, 0));
        // A few: for want of memory.
        nr_free[0] = 2;
        assert_eq!(fragmentation_index(&nr_free, 10), Some(500));
        nr_free[4] = 1;
        assert_eq!((fragmentation_index(&nr_free, 3), unusable_index(&nr_free, 3)), (None, 111));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many frames")]
    fn reports_have_the_columns_of_linux() {
        let range = PhysRange::below(PhysAddr::new(64 << 20).unwrap());
        let mut memblock = Memblock::new();
        memblock.add(range, 0).unwrap();
        let config = Config { dma_limit: PhysAddr::new(16 << 20), ..Config::DEFAULT };
        let mut metadata = vec![!0; Pages::<Host<'_>>::metadata_bytes(&memblock, &config) as usize / 8];
        let host = Host::new(PhysAddr::ZERO, &mut []);
        let pages = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
        let block = pages.alloc(Gfp::KERNEL, Order::MAX).unwrap();
        let cpu = CpuPages { cpu: 0, count: 7, high: 64, batch: 64 };
        let text = |write: &dyn Fn(&mut String) -> fmt::Result| {
            let mut text = String::new();
            write(&mut text).unwrap();
            text
        };
        let types = text(&|w| pagetypeinfo(w, pages.zone_reports()));
        let head =
            "Page block order: 10\nPages per block:  1024\n\nFree pages count per migrate type at order       0 ";
        assert!(types.starts_with(head), "{types}");
        assert!(types.contains("Node    0, zone      DMA, type    Unmovable      0      0 "), "{types}");
        assert!(
            types.contains("\nNumber of blocks type     Unmovable      Movable  Reclaimable   HighAtomic "),
            "{types}"
        );
        let info = text(&|w| zoneinfo(w, pages.zone_reports(), core::iter::once(cpu)));
        assert!(
            info.starts_with("Node 0, zone      DMA\n  pages free     4096\n        boost    0\n        min      64\n"),
            "{info}"
        );
        assert!(info.contains("        present  12288\n"), "{info}");
        assert!(info.contains("        protection: (0, 48)\n"), "{info}");
        assert!(info.contains("    cpu: 0\n              count:    7\n              high:     64\n"), "{info}");
        let stat = text(&|w| vmstat(w, pages.zone_reports()));
        assert!(stat.starts_with("nr_free_pages 15360\nnr_free_pages_blocks 15360\nallocstall_dma 0\n"), "{stat}");
        let frag = text(&|w| extfrag(w, pages.zone_reports()));
        assert!(frag.contains("unusable_index  Node 0, zone   Normal 0.000 0.000 "), "{frag}");
        let mut cells = [Cell::default(); 16];
        assert_eq!(pages.survey(1, &mut cells), Some(16));
        let first = Cell { ram: 768, free: 0, largest: 0 };
        assert_eq!(cells[0], first);
        assert_eq!(cells[15], Cell { ram: 768, free: 768, largest: 11 });
        let picture = text(&|w| fragmap(w, &pages.zone_reports().nth(1).unwrap(), &cells));
        assert!(picture.starts_with("Node 0, zone   Normal: 768 pages a character"), "{picture}");
        assert!(picture.contains("     1000000 \x1b[31m.\x1b[0m"), "{picture}");
        pages.free(block).unwrap();
    }
}
