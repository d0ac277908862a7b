// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/vmallocinfo`.
#![forbid(unsafe_code)]

use core::fmt;

use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::vmalloc::{Area, Kind};

/// A line of `/proc/vmallocinfo`: an area in use, its guard page included. `caller` is what its caller is called, if anybody
/// knows.
///
/// # Errors
///
/// Those of `w`.
pub fn vmallocinfo<W: fmt::Write>(w: &mut W, area: &Area, caller: Option<&dyn fmt::Display>) -> fmt::Result {
    // What holds nothing yet has a size all the same.
    let bytes = area.size().max(area.bytes.next_multiple_of(PAGE_SIZE)) + PAGE_SIZE;
    write_range(w, area.start, bytes)?;
    if let Some(caller) = caller {
        write!(w, " {caller}")?;
    }
    if area.kind != Kind::Io && area.pages != 0 {
        write!(w, " pages={}", area.pages)?;
    }
    if let Some(phys) = area.phys {
        write!(w, " phys={:#018x}", phys.as_raw())?;
    }
    w.write_str(match area.kind {
        Kind::Alloc => " vmalloc\n",
        Kind::User => " vmalloc user\n",
        Kind::Map => " vmap\n",
        Kind::Io => " ioremap\n",
        Kind::Ram => " vm_map_ram\n",
        Kind::Reserved | Kind::Pending => "\n",
    })
}

/// A line of `/proc/vmallocinfo`: an area that waits for its flush.
///
/// # Errors
///
/// Those of `w`.
pub fn vmallocinfo_lazy<W: fmt::Write>(w: &mut W, start: VirtAddr, bytes: u64) -> fmt::Result {
    write_range(w, start, bytes)?;
    w.write_str(" unpurged vm_area\n")
}

fn write_range<W: fmt::Write>(w: &mut W, start: VirtAddr, bytes: u64) -> fmt::Result {
    let start = start.as_raw();
    write!(w, "{start:#018x}-{:#018x} {bytes:>7}", start.wrapping_add(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;

    #[test]
    fn lines_are_those_of_linux() {
        let area = Area {
            start: VirtAddr::new(0xffff_8000_0001_0000),
            pages: 4,
            bytes: 16000,
            kind: Kind::Alloc,
            caller: 0,
            phys: None,
        };
        let line = |area: &Area, caller: Option<&dyn fmt::Display>| {
            let mut text = String::new();
            vmallocinfo(&mut text, area, caller).unwrap();
            text
        };
        assert_eq!(
            line(&area, Some(&"run+0x1c/0x40")),
            "0xffff800000010000-0xffff800000015000   20480 run+0x1c/0x40 pages=4 vmalloc\n"
        );
        let io = Area { kind: Kind::Io, phys: PhysAddr::new(0x900_0000), pages: 1, bytes: 4096, ..area };
        assert_eq!(line(&io, None), "0xffff800000010000-0xffff800000012000    8192 phys=0x0000000009000000 ioremap\n");
        let mut lazy = String::new();
        vmallocinfo_lazy(&mut lazy, area.start, 8192).unwrap();
        assert_eq!(lazy, "0xffff800000010000-0xffff800000012000    8192 unpurged vm_area\n");
    }
}
