// SPDX-License-Identifier: MIT OR Apache-2.0
//! The physical address map, as `/proc/iomem` shows it.
//!
//! As on arm64 Linux, RAM is `System RAM` with the kernel's code and data inside, and RAM that must not be mapped is
//! `reserved` at the top level. Besides, every reservation has its owner's name below it.

use core::fmt;
use core::ops::Range;

use bsp::info::BootInfo;
use mm::addr::{PAGE_SIZE, PhysRange};
use mm::memblock::{Reservation, ReserveFlags, Tag};
use mm::report;

use super::Memory;
use super::owner;

/// Linux's names for text with constants, and for data; the sections are numbered as in `Image::sections`.
const CODE_AND_DATA: [(&str, Range<usize>); 2] = [("Kernel code", 0..2), ("Kernel data", 2..3)];

/// What a line says behind the colon.
enum Label<'a> {
    Words(&'a str),
    Owner(&'a BootInfo, Tag),
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Owner(info, tag) => owner::write_name(info, *tag, f),
        }
    }
}

impl Memory {
    /// Writes the map: banks, what is in them, and the serial ports, in order of address.
    ///
    /// # Errors
    ///
    /// Those of `w`.
    pub fn write_iomem(&self, info: &BootInfo, w: &mut impl fmt::Write) -> fmt::Result {
        let mut written = 0;
        let banks = || self.memblock.memory().iter().map(|bank| bank.range).chain(self.added());
        // Those of the boot are in order, and so are those that were added.
        while let Some(bank) =
            banks().filter(|bank| bank.start().as_raw() >= written).min_by_key(|bank| bank.start().as_raw())
        {
            write_devices(info, w, written, bank.start().as_raw())?;
            self.write_bank(info, w, bank)?;
            written = bank.end().as_raw();
        }
        write_devices(info, w, written, u64::MAX)
    }

    fn write_bank(&self, info: &BootInfo, w: &mut impl fmt::Write, bank: PhysRange) -> fmt::Result {
        let mut start = bank.start();
        for region in self.reserved_in(bank).filter(|region| region.flags.contains(ReserveFlags::NOMAP)) {
            self.write_ram(info, w, PhysRange::new(start, region.range.start()).unwrap_or_default())?;
            let name = Label::Owner(info, region.tag);
            report::iomem(w, [(region.range, 0, Label::Words("reserved")), (region.range, 1, name)])?;
            start = region.range.end();
        }
        self.write_ram(info, w, PhysRange::new(start, bank.end()).unwrap_or_default())
    }

    fn write_ram(&self, info: &BootInfo, w: &mut impl fmt::Write, ram: PhysRange) -> fmt::Result {
        report::iomem(w, [(ram, 0, Label::Words("System RAM"))])?;
        for region in self.reserved_in(ram) {
            match CODE_AND_DATA.iter().find(|(_, part)| self.image_part(part.clone()).contains(region.range.start())) {
                // One line for each of the two, where it begins.
                Some((words, part)) => {
                    let part = self.image_part(part.clone());
                    if part.start() == region.range.start() {
                        report::iomem(w, [(part, 1, Label::Words(words))])?;
                    }
                }
                None => report::iomem(w, [(region.range, 1, Label::Words("reserved"))])?,
            }
            report::iomem(w, [(region.range, 2, Label::Owner(info, region.tag))])?;
        }
        Ok(())
    }

    /// Where some neighbouring sections of the image are.
    fn image_part(&self, part: Range<usize>) -> PhysRange {
        let sections = self.image.sections();
        let parts = sections.get(part).unwrap_or_default();
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return PhysRange::default() };
        let start = self.image.phys_of(first.virt).start();
        PhysRange::new(start, self.image.phys_of(last.virt).end()).unwrap_or_default()
    }

    fn reserved_in(&self, range: PhysRange) -> impl Iterator<Item = Reservation> {
        self.memblock
            .reserved_memory()
            .filter_map(move |region| Some(Reservation { range: region.range.intersection(range)?, ..region }))
    }
}

/// The serial ports whose registers begin in `from..to`, lowest first.
fn write_devices(info: &BootInfo, w: &mut impl fmt::Write, from: u64, to: u64) -> fmt::Result {
    let mut next = from;
    while let Some(uart) = info.uarts.iter().filter(|uart| (next..to).contains(&uart.base)).min_by_key(|uart| uart.base)
    {
        let size = if uart.size == 0 { PAGE_SIZE } else { uart.size };
        let (range, _) = PhysRange::clipped(uart.base, size, mm::addr::PhysAddr::new_saturating(u64::MAX));
        report::iomem(w, [(range, 0, &*uart.name)])?;
        next = uart.base + 1;
    }
    Ok(())
}
