// SPDX-License-Identifier: MIT OR Apache-2.0
//! `slabinfo`, `slabtop` and `kmem`: the slab's reports, as Linux and procps print them.

use core::fmt;
use core::panic::Location;

use super::stats::CacheInfo;
use super::{PageSource, Slab};
use crate::addr::PAGE_SIZE;
use crate::arch::Arch;

/// Writes `/proc/slabinfo`, version 2.1 (Linux `mm/slab_common.c`).
///
/// # Errors
///
/// Those of the writer.
pub fn slabinfo<W: fmt::Write>(w: &mut W, caches: impl IntoIterator<Item = CacheInfo>) -> fmt::Result {
    writeln!(w, "slabinfo - version: 2.1")?;
    writeln!(
        w,
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> \
         : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>"
    )?;
    for cache in caches {
        let CacheInfo { name, active_objects, objects, object_size, per_slab, pages_per_slab, slabs, .. } = cache;
        write!(w, "{name:<17} {active_objects:6} {objects:6} {object_size:6} {per_slab:4} {pages_per_slab:4}")?;
        // No tunables, and as SLUB has it, all slabs are active.
        writeln!(w, " : tunables {0:4} {0:4} {0:4} : slabdata {slabs:6} {slabs:6} {0:6}", 0)?;
    }
    Ok(())
}

/// What `slabtop` sorts by: the letters of its `-s`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SortKey {
    /// `a`: objects in use.
    Active,
    /// `b`: objects of a slab.
    PerSlab,
    /// `c`: memory of the cache.
    CacheSize,
    /// `l`: slabs.
    Slabs,
    /// `v`: slabs in use.
    ActiveSlabs,
    /// `n`: the name, ascending.
    Name,
    /// `o`: objects. The default.
    #[default]
    Objects,
    /// `p`: pages of a slab.
    PagesPerSlab,
    /// `s`: bytes of an object.
    ObjectSize,
    /// `u`: the part of the objects that is in use.
    Use,
}

impl SortKey {
    /// The key that procps gives a letter.
    #[must_use]
    pub const fn from_letter(letter: char) -> Option<Self> {
        Some(match letter {
            'a' => Self::Active,
            'b' => Self::PerSlab,
            'c' => Self::CacheSize,
            'l' => Self::Slabs,
            'v' => Self::ActiveSlabs,
            'n' => Self::Name,
            'o' => Self::Objects,
            'p' => Self::PagesPerSlab,
            's' => Self::ObjectSize,
            'u' => Self::Use,
            _ => return None,
        })
    }

    fn value(self, cache: &CacheInfo) -> usize {
        match self {
            Self::Active => cache.active_objects,
            Self::PerSlab => cache.per_slab,
            Self::CacheSize => cache.bytes(),
            Self::Slabs => cache.slabs,
            Self::ActiveSlabs => cache.active_slabs,
            Self::Name => 0,
            Self::Objects => cache.objects,
            Self::PagesPerSlab => cache.pages_per_slab,
            Self::ObjectSize => cache.object_size,
            Self::Use => cache.percent_used(),
        }
    }

    /// Sorts caches: the largest first, those alike as they come; names ascending.
    pub fn sort(self, caches: &mut [CacheInfo]) {
        sort_short(caches, &|a, b| match self {
            Self::Name => a.name < b.name,
            key => key.value(a) > key.value(b),
        });
    }
}

impl CacheInfo {
    /// Bytes of its slabs.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.slabs * self.pages_per_slab * PAGE_SIZE as usize
    }

    /// Of a hundred objects, how many are in use.
    #[must_use]
    pub const fn percent_used(&self) -> usize {
        match (self.active_objects * 100).checked_div(self.objects) {
            Some(percent) => percent,
            None => 0,
        }
    }
}

/// `part / whole (percent)`, with a tenth.
struct Share(usize, usize);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = (self.0 * 1000).checked_div(self.1).unwrap_or(0);
        write!(f, "({}.{}%)", permille / 10, permille % 10)
    }
}

/// Hundredths of a KiB, rounded as `printf` does: what is just between goes to the even one.
const fn hundredths(bytes: usize) -> usize {
    let (down, rest) = (bytes * 100 / 1024, bytes * 100 % 1024);
    down + (rest + down % 2 > 512) as usize
}

/// Bytes in KiB, with hundredths.
struct Kib(usize);

impl fmt::Display for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = hundredths(self.0);
        write!(f, "{}.{:02}K", hundredths / 100, hundredths % 100)
    }
}

/// Writes one screen of `slabtop` (procps): the head, and the first `rows` of the caches in the order that they have.
///
/// # Errors
///
/// Those of the writer.
pub fn slabtop<W: fmt::Write>(w: &mut W, caches: &[CacheInfo], rows: usize) -> fmt::Result {
    let sum = |of: fn(&CacheInfo) -> usize| caches.iter().map(of).sum::<usize>();
    let (active, all) = (sum(|cache| cache.active_objects), sum(|cache| cache.objects));
    writeln!(w, " Active / Total Objects (% used)    : {active} / {all} {}", Share(active, all))?;
    let (active, slabs) = (sum(|cache| cache.active_slabs), sum(|cache| cache.slabs));
    writeln!(w, " Active / Total Slabs (% used)      : {active} / {slabs} {}", Share(active, slabs))?;
    let active = caches.iter().filter(|cache| cache.active_objects > 0).count();
    writeln!(w, " Active / Total Caches (% used)     : {active} / {} {}", caches.len(), Share(active, caches.len()))?;
    let used = sum(|cache| cache.active_objects * cache.object_size);
    let total = sum(|cache| cache.objects * cache.object_size);
    writeln!(w, " Active / Total Size (% used)       : {} / {} {}", Kib(used), Kib(total), Share(used, total))?;
    let sizes = || caches.iter().map(|cache| cache.object_size);
    let average = total.checked_div(all).unwrap_or(0);
    let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    writeln!(w, " Minimum / Average / Maximum Object : {} / {} / {}\n", Kib(least), Kib(average), Kib(most))?;
    writeln!(
        w,
        "{:>6} {:>6} {:>4} {:>8} {:>6} {:>8} {:>10} {:<23}",
        "OBJS", "ACTIVE", "USE", "OBJ SIZE", "SLABS", "OBJ/SLAB", "CACHE SIZE", "NAME"
    )?;
    for cache in caches.iter().take(rows) {
        let hundredths = hundredths(cache.object_size);
        writeln!(
            w,
            "{:6} {:6} {:3}% {:4}.{:02}K {:6} {:8} {:9}K {:<23}",
            cache.objects,
            cache.active_objects,
            cache.percent_used(),
            hundredths / 100,
            hundredths % 100,
            cache.slabs,
            cache.per_slab,
            cache.bytes() / 1024,
            cache.name
        )?;
    }
    Ok(())
}

/// A place in the source that allocated, and what of it is in use.
#[derive(Clone, Copy, Debug)]
pub struct CallSite {
    /// The call.
    pub caller: &'static Location<'static>,
    /// Objects in use.
    pub objects: usize,
    /// Bytes asked for.
    pub bytes: usize,
}

/// Writes `kmem`: the call sites, most bytes first.
///
/// # Errors
///
/// Those of the writer.
pub fn kmem<W: fmt::Write>(w: &mut W, sites: &[CallSite], left_out: usize) -> fmt::Result {
    writeln!(w, "{:>10} {:>8}  CALLER", "BYTES", "OBJECTS")?;
    for site in sites {
        writeln!(w, "{:10} {:8}  {}", site.bytes, site.objects, site.caller)?;
    }
    if left_out > 0 {
        writeln!(w, "{left_out} objects of further call sites")?;
    }
    Ok(())
}

impl<A: Arch, S: PageSource> Slab<'_, A, S> {
    /// Who allocated what is in use, where owners are tracked (`slub_debug=U`). Fills `sites`, most bytes first;
    /// returns how many it filled and how many objects had no room. O(objects) for each object: for debugging.
    pub fn call_sites(&self, sites: &mut [Option<CallSite>]) -> (usize, usize) {
        let mut left_out = 0;
        self.each_owned(|caller, bytes| {
            let found = sites.iter_mut().find(|site| site.is_none_or(|site| site.caller == caller));
            match found {
                Some(site) => {
                    let site = site.get_or_insert(CallSite { caller, objects: 0, bytes: 0 });
                    site.objects += 1;
                    site.bytes += bytes;
                }
                None => left_out += 1,
            }
        });
        let bytes = |site: &Option<CallSite>| site.map_or(0, |site| site.bytes);
        sort_short(sites, &|a, b| bytes(a) > bytes(b));
        (sites.iter().flatten().count(), left_out)
    }
}

/// Sorts a short list. The library's sorts are made for long ones, and each use of them adds kilobytes to the image.
fn sort_short<T>(list: &mut [T], is_less: &dyn Fn(&T, &T) -> bool) {
    for end in 1..list.len() {
        let mut at = end;
        while at > 0
            && let Some([before, item]) = list.get(at - 1..=at)
            && is_less(item, before)
        {
            list.swap(at - 1, at);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHES: [CacheInfo; 2] = [
        CacheInfo {
            name: "kmalloc-64",
            active_objects: 100,
            objects: 126,
            object_size: 64,
            per_slab: 63,
            pages_per_slab: 1,
            slabs: 2,
            active_slabs: 2,
        },
        CacheInfo {
            name: "dentry",
            active_objects: 7,
            objects: 42,
            object_size: 192,
            per_slab: 21,
            pages_per_slab: 1,
            slabs: 2,
            active_slabs: 1,
        },
    ];

    #[test]
    fn slabinfo_is_what_parsers_of_2_1_expect() {
        let mut text = String::new();
        slabinfo(&mut text, CACHES).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "slabinfo - version: 2.1");
        assert!(lines[1].starts_with("# name            <active_objs> <num_objs> <objsize>"));
        assert_eq!(
            lines[2],
            "kmalloc-64           100    126     64   63    1 : tunables    0    0    0 : slabdata      2      2      0"
        );
    }

    #[test]
    fn slabtop_has_the_layout_of_procps() {
        let mut caches = CACHES;
        SortKey::from_letter('n').unwrap().sort(&mut caches);
        assert_eq!(caches[0].name, "dentry");
        SortKey::default().sort(&mut caches);
        assert_eq!(caches[0].name, "kmalloc-64");
        let mut text = String::new();
        slabtop(&mut text, &caches, 1).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], " Active / Total Objects (% used)    : 107 / 168 (63.6%)");
        assert_eq!(lines[1], " Active / Total Slabs (% used)      : 3 / 4 (75.0%)");
        assert_eq!(lines[2], " Active / Total Caches (% used)     : 2 / 2 (100.0%)");
        assert_eq!(lines[3], " Active / Total Size (% used)       : 7.56K / 15.75K (48.0%)");
        assert_eq!(lines[4], " Minimum / Average / Maximum Object : 0.06K / 0.09K / 0.19K");
        assert_eq!(lines[6], "  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME                   ");
        assert_eq!(lines[7], "   126    100  79%    0.06K      2       63         8K kmalloc-64             ");
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn every_letter_of_procps_is_a_key() {
        assert!("abclvnopsu".chars().all(|letter| SortKey::from_letter(letter).is_some()));
        assert_eq!(SortKey::from_letter('x'), None);
    }
}
