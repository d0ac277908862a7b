// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reports in the formats that Linux users, and their scripts, know.
//!
//! [`buddyinfo`], [`meminfo`] and [`iomem`] are the files of that name under `/proc`, to the space;
//! [`free`] is what procps-ng 4 prints. Lines of which this system has no notion are left out; those
//! that are there have Linux's names, units and order.
//!
//! *Lock:* none; whoever collects the figures decides how consistent they are.
#![forbid(unsafe_code)]

mod pages;
mod vmalloc;

use core::fmt;

pub use self::pages::{
    CELLS_PER_LINE, Cell, extfrag, fragmap, fragmentation_index, pagetypeinfo, unusable_index, vmstat, zoneinfo,
};
pub use self::vmalloc::{vmallocinfo, vmallocinfo_lazy};
use crate::addr::PhysRange;
use crate::zone::ZoneInfo;

/// `/proc/buddyinfo`: free blocks of each order, a zone a line. The space at its end is Linux's.
///
/// # Errors
///
/// Those of `w`.
pub fn buddyinfo<W: fmt::Write>(w: &mut W, zones: impl IntoIterator<Item = ZoneInfo>) -> fmt::Result {
    for zone in zones {
        write!(w, "Node {}, zone {:>8} ", zone.node, zone.kind.name())?;
        for nr_free in zone.nr_free {
            write!(w, "{nr_free:>6} ")?;
        }
        w.write_char('\n')?;
    }
    Ok(())
}

/// Figures for [`meminfo`] and [`free`], in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MemInfo {
    /// RAM under management.
    pub total_bytes: u64,
    /// Free frames.
    pub free_bytes: u64,
    /// What can be allocated before somebody goes short: free, minus reserves, plus reclaimable.
    pub available_bytes: u64,
    /// Block device buffers.
    pub buffers_bytes: u64,
    /// File pages.
    pub cached_bytes: u64,
    /// Swap space.
    pub swap_total_bytes: u64,
    /// Unused swap space.
    pub swap_free_bytes: u64,
    /// Shared anonymous memory.
    pub shmem_bytes: u64,
    /// Slab pages of caches that can shrink.
    pub slab_reclaimable_bytes: u64,
    /// Slab pages of other caches.
    pub slab_unreclaimable_bytes: u64,
    /// Stacks of the kernel.
    pub kernel_stack_bytes: u64,
    /// Translation tables.
    pub page_tables_bytes: u64,
    /// The vmalloc range of addresses.
    pub vmalloc_total_bytes: u64,
    /// Pages mapped in it.
    pub vmalloc_used_bytes: u64,
    /// Per-CPU data.
    pub percpu_bytes: u64,
    /// What a test of memory at boot found to be bad; `None` without one.
    pub memtest_bad_bytes: Option<u64>,
    /// Contiguous memory areas, if there are any.
    pub cma_total_bytes: u64,
    /// What of them is neither taken nor lent.
    pub cma_free_bytes: u64,
}

const KIB: u64 = 1024;

/// `/proc/meminfo`.
///
/// # Errors
///
/// Those of `w`.
pub fn meminfo<W: fmt::Write>(w: &mut W, info: &MemInfo) -> fmt::Result {
    let lines = [
        ("MemTotal:", info.total_bytes),
        ("MemFree:", info.free_bytes),
        ("MemAvailable:", info.available_bytes),
        ("Buffers:", info.buffers_bytes),
        ("Cached:", info.cached_bytes),
        ("SwapTotal:", info.swap_total_bytes),
        ("SwapFree:", info.swap_free_bytes),
        ("Shmem:", info.shmem_bytes),
        ("Slab:", info.slab_reclaimable_bytes.saturating_add(info.slab_unreclaimable_bytes)),
        ("SReclaimable:", info.slab_reclaimable_bytes),
        ("SUnreclaim:", info.slab_unreclaimable_bytes),
        ("KernelStack:", info.kernel_stack_bytes),
        ("PageTables:", info.page_tables_bytes),
        ("VmallocTotal:", info.vmalloc_total_bytes),
        ("VmallocUsed:", info.vmalloc_used_bytes),
        ("VmallocChunk:", 0),
        ("Percpu:", info.percpu_bytes),
        ("CmaTotal:", info.cma_total_bytes),
        ("CmaFree:", info.cma_free_bytes),
    ];
    for (label, bytes) in lines {
        writeln!(w, "{label:<16}{:>8} kB", bytes / KIB)?;
    }
    // A few bad bytes are not none.
    info.memtest_bad_bytes.map_or(Ok(()), |bytes| writeln!(w, "EarlyMemtestBad: {:>5} kB", bytes.div_ceil(KIB)))
}

/// In what [`free`] counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Unit {
    /// `-b`.
    Bytes,
    /// `-k`, and without an option.
    #[default]
    Kibi,
    /// `-m`.
    Mebi,
    /// `-g`.
    Gibi,
    /// `-h`: three digits at most, each figure in the unit that suits it.
    Human,
}

impl Unit {
    /// The unit of a command line option; `None` if it is not one of these.
    #[must_use]
    pub fn from_option(option: &str) -> Option<Self> {
        Some(match option {
            "-b" | "--bytes" => Self::Bytes,
            "-k" | "--kibi" => Self::Kibi,
            "-m" | "--mebi" => Self::Mebi,
            "-g" | "--gibi" => Self::Gibi,
            "-h" | "--human" => Self::Human,
            _ => return None,
        })
    }

    /// Writes a figure, right-aligned in 11 columns.
    fn write<W: fmt::Write>(self, w: &mut W, kib: u64) -> fmt::Result {
        match self {
            Self::Bytes => write!(w, "{:>11}", u128::from(kib) * 1024),
            Self::Kibi => write!(w, "{kib:>11}"),
            Self::Mebi => write!(w, "{:>11}", kib >> 10),
            Self::Gibi => write!(w, "{:>11}", kib >> 20),
            Self::Human => write_human(w, kib),
        }
    }
}

/// As procps: one decimal if that fits in five columns with the unit, else none.
fn write_human<W: fmt::Write>(w: &mut W, kib: u64) -> fmt::Result {
    if kib == 0 {
        return write!(w, "{:>10}B", 0);
    }
    for (power, letter) in ['K', 'M', 'G', 'T', 'P'].into_iter().enumerate() {
        let shift = 10 * power;
        let tenths = rounded(u128::from(kib) * 10, shift);
        if tenths < 100 {
            return write!(w, "{:>7}.{}{letter}i", tenths / 10, tenths % 10);
        }
        if kib >> shift < 1000 {
            return write!(w, "{:>9}{letter}i", kib >> shift);
        }
    }
    write!(w, "{:>9}Ei", kib >> 50)
}

/// `value / 2^shift`, a half going to the even neighbour, as `printf` rounds.
const fn rounded(value: u128, shift: usize) -> u128 {
    let (whole, rest) = (value >> shift, value & ((1 << shift) - 1));
    let twice = rest << 1;
    let up = twice > 1 << shift || (twice == 1 << shift && whole % 2 == 1);
    whole + up as u128
}

/// The table of the `free` command: used is what is not available.
///
/// # Errors
///
/// Those of `w`.
pub fn free<W: fmt::Write>(w: &mut W, info: &MemInfo, unit: Unit) -> fmt::Result {
    let (total, free) = (info.total_bytes / KIB, info.free_bytes / KIB);
    let available = info.available_bytes / KIB;
    let available = if available > total { free } else { available };
    let cache = [info.buffers_bytes, info.cached_bytes, info.slab_reclaimable_bytes];
    let cache = cache.iter().map(|bytes| bytes / KIB).sum();
    let (swap_total, swap_free) = (info.swap_total_bytes / KIB, info.swap_free_bytes / KIB);
    w.write_str("               total        used        free      shared  buff/cache   available\n")?;
    let used = total.saturating_sub(available);
    let memory = [total, used, free, info.shmem_bytes / KIB, cache, available];
    write_row(w, "Mem:", unit, &memory)?;
    let swap = [swap_total, swap_total.saturating_sub(swap_free), swap_free];
    write_row(w, "Swap:", unit, &swap)
}

fn write_row<W: fmt::Write>(w: &mut W, label: &str, unit: Unit, kib: &[u64]) -> fmt::Result {
    write!(w, "{label:<8}")?;
    for figure in kib {
        w.write_char(' ')?;
        unit.write(w, *figure)?;
    }
    w.write_char('\n')
}

/// `/proc/iomem`: a range a line, last address inclusive, two spaces for each level of `depth`. Empty
/// ranges are left out.
///
/// # Errors
///
/// Those of `w`.
pub fn iomem<W: fmt::Write, N: fmt::Display>(
    w: &mut W,
    resources: impl IntoIterator<Item = (PhysRange, usize, N)>,
) -> fmt::Result {
    for (range, depth, name) in resources {
        let (start, end) = (range.start().as_raw(), range.end().as_raw());
        if !range.is_empty() {
            writeln!(w, "{:indent$}{start:08x}-{:08x} : {name}", "", end - 1, indent = 2 * depth)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;
    use crate::arch::host::Host;
    use crate::memblock::Memblock;
    use crate::page_alloc::{Config, Pages};

    fn r(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start).unwrap(), PhysAddr::new(end).unwrap()).unwrap()
    }

    #[test]
    fn buddyinfo_keeps_the_trailing_space() {
        let mut memblock = Memblock::new();
        memblock.add(r(0x1000, 0x4000_0000), 0).unwrap();
        memblock.add(r(0x1_0000_0000, 0x1_0080_1000), 1).unwrap();
        let config = Config { dma_limit: PhysAddr::new(0x3000_0000), ..Config::DEFAULT };
        let mut metadata = vec![!0; Pages::<Host<'_>>::metadata_bytes(&memblock, &config) as usize / 8];
        let host = Host::new(PhysAddr::ZERO, &mut []);
        let zones = Pages::build(&host, &memblock, &config, &mut metadata).unwrap();
        let mut text = String::new();
        buddyinfo(&mut text, zones.info().into_iter().flatten()).unwrap();
        assert_eq!(
            text,
            "Node 0, zone      DMA      1      1      1      1      1      1      1      1      1      1    191 \n\
             Node 0, zone   Normal      0      0      0      0      0      0      0      0      0      0     64 \n\
             Node 1, zone   Normal      1      0      0      0      0      0      0      0      0      0      2 \n"
        );
    }

    /// What procps-ng 4.0.2 was given, and printed below.
    const INFO: MemInfo = MemInfo {
        total_bytes: 1_000_000 * KIB,
        free_bytes: 500_000 * KIB,
        available_bytes: 600_000 * KIB,
        buffers_bytes: KIB,
        cached_bytes: 100 * KIB,
        swap_total_bytes: 10_240 * KIB,
        swap_free_bytes: 1023 * KIB,
        shmem_bytes: 9 * KIB,
        slab_reclaimable_bytes: 4 * KIB,
        slab_unreclaimable_bytes: 3 * KIB + 1023,
        kernel_stack_bytes: 64 * KIB,
        page_tables_bytes: 1234 * KIB,
        vmalloc_total_bytes: 135_288_315_904 * KIB,
        vmalloc_used_bytes: 8 * KIB,
        percpu_bytes: 0,
        memtest_bad_bytes: None,
        cma_total_bytes: 65_536 * KIB,
        cma_free_bytes: 60_000 * KIB,
    };

    #[test]
    fn meminfo_is_aligned_as_linux_aligns_it() {
        let mut text = String::new();
        meminfo(&mut text, &INFO).unwrap();
        assert_eq!(
            text,
            "MemTotal:        1000000 kB\n\
             MemFree:          500000 kB\n\
             MemAvailable:     600000 kB\n\
             Buffers:               1 kB\n\
             Cached:              100 kB\n\
             SwapTotal:         10240 kB\n\
             SwapFree:           1023 kB\n\
             Shmem:                 9 kB\n\
             Slab:                  7 kB\n\
             SReclaimable:          4 kB\n\
             SUnreclaim:            3 kB\n\
             KernelStack:          64 kB\n\
             PageTables:         1234 kB\n\
             VmallocTotal:   135288315904 kB\n\
             VmallocUsed:           8 kB\n\
             VmallocChunk:          0 kB\n\
             Percpu:                0 kB\n\
             CmaTotal:          65536 kB\n\
             CmaFree:           60000 kB\n"
        );
    }

    fn free_text(info: &MemInfo, unit: Unit) -> String {
        let mut text = String::new();
        free(&mut text, info, unit).unwrap();
        let (header, rows) = text.split_once('\n').unwrap();
        assert_eq!(header, "               total        used        free      shared  buff/cache   available");
        rows.to_string()
    }

    #[test]
    fn free_prints_what_procps_prints() {
        assert_eq!(
            free_text(&INFO, Unit::default()),
            "Mem:         1000000      400000      500000           9         105      600000\n\
             Swap:          10240        9217        1023\n"
        );
        assert_eq!(
            free_text(&INFO, Unit::Bytes),
            "Mem:      1024000000   409600000   512000000        9216      107520   614400000\n\
             Swap:       10485760     9438208     1047552\n"
        );
        assert_eq!(
            free_text(&INFO, Unit::Mebi),
            "Mem:             976         390         488           0           0         585\n\
             Swap:             10           9           0\n"
        );
        assert_eq!(
            free_text(&INFO, Unit::Gibi),
            "Mem:               0           0           0           0           0           0\n\
             Swap:              0           0           0\n"
        );
        assert_eq!(
            free_text(&INFO, Unit::Human),
            "Mem:           976Mi       390Mi       488Mi       9.0Ki       105Ki       585Mi\n\
             Swap:           10Mi       9.0Mi       1.0Mi\n"
        );
        let absurd = MemInfo { available_bytes: u64::MAX, ..INFO };
        assert_eq!(
            free_text(&absurd, Unit::Kibi),
            "Mem:         1000000      500000      500000           9         105      500000\n\
             Swap:          10240        9217        1023\n"
        );
    }

    #[test]
    fn human_figures_round_as_procps_rounds() {
        for (kib, expected) in [
            (0, "0B"),
            (1, "1.0Ki"),
            (9, "9.0Ki"),
            (10, "10Ki"),
            (999, "999Ki"),
            (1000, "1.0Mi"),
            (1075, "1.0Mi"),
            (1076, "1.1Mi"),
            (1280, "1.2Mi"),
            (1792, "1.8Mi"),
            (10_188, "9.9Mi"),
            (10_239, "9Mi"),
            (10_240, "10Mi"),
            (1_023_999, "999Mi"),
            (1_024_000, "1.0Gi"),
            (10_485_759, "9Gi"),
            (99_999_999, "95Gi"),
            (1 << 30, "1.0Ti"),
            (1 << 53, "8Ei"),
        ] {
            let mut text = String::new();
            write_human(&mut text, kib).unwrap();
            assert_eq!(text, format!("{expected:>11}"), "{kib} KiB");
        }
    }

    #[test]
    fn iomem_nests_and_ends_inclusively() {
        let mut text = String::new();
        let resources = [
            (r(0x900_0000, 0x900_1000), 0, "pl011@9000000"),
            (r(0x4000_0000, 0x6000_0000), 0, "System RAM"),
            (r(0x4020_0000, 0x4024_0000), 1, "Kernel code"),
            (r(0x4024_0000, 0x4024_0000), 1, "Nothing"),
            (r(0x1_0000_0000, 0x1_8000_0000), 0, "System RAM"),
        ];
        iomem(&mut text, resources).unwrap();
        assert_eq!(
            text,
            "09000000-09000fff : pl011@9000000\n\
             40000000-5fffffff : System RAM\n\
             \x20 40200000-4023ffff : Kernel code\n\
             100000000-17fffffff : System RAM\n"
        );
    }

    #[test]
    fn units_are_named_as_procps_names_them() {
        assert_eq!(Unit::from_option("-m"), Some(Unit::Mebi));
        assert_eq!(Unit::from_option("--human"), Some(Unit::Human));
        assert_eq!(Unit::from_option("-x"), None);
    }
}
