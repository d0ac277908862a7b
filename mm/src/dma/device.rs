// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device as a master of the bus: which RAM it reaches, by which addresses, and whether it sees the CPU's caches.
//!
//! ```text
//!   CPU address --- windows (dma-ranges) ---> bus address --- mask ---> what the device can send out
//! ```
#![forbid(unsafe_code)]

use core::fmt;

use super::DmaError;
use crate::addr::PhysAddr;

/// An address as a device sends it out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct DmaAddr(u64);

impl DmaAddr {
    /// An address of 64 bits, which any number is.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The bits.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for DmaAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dma:{:#x}", self.0)
    }
}

/// RAM as the masters of a bus see it: an entry of `dma-ranges`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The masters' address for
    pub bus: u64,
    /// this CPU address
    pub cpu: u64,
    /// and so many bytes from there on.
    pub size: u64,
}

/// Most windows of a device.
pub const MAX_WINDOWS: usize = 4;

/// All that a device sees of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    windows: [Window; MAX_WINDOWS],
    /// How many of them count; with none, the device sees what the CPU sees.
    count: usize,
}

impl Reach {
    /// The device's addresses are the CPU's.
    pub const IDENTITY: Self = Self { windows: [Window { bus: 0, cpu: 0, size: 0 }; MAX_WINDOWS], count: 0 };

    /// What is in one of these windows; everything, if there are none. `None` if there are more than [`MAX_WINDOWS`].
    #[must_use]
    pub fn new(windows: &[Window]) -> Option<Self> {
        let mut reach = Self { count: windows.len(), ..Self::IDENTITY };
        reach.windows.get_mut(..windows.len())?.copy_from_slice(windows);
        Some(reach)
    }

    fn windows(&self) -> &[Window] {
        self.windows.get(..self.count).unwrap_or_default()
    }

    /// What the device calls the `size` bytes at `phys`, if one window has them all.
    #[inline]
    fn bus_address(&self, phys: u64, size: u64) -> Option<u64> {
        if self.count == 0 {
            return Some(phys);
        }
        self.windows().iter().find_map(|window| {
            let offset = phys.checked_sub(window.cpu)?;
            if offset <= window.size && size <= window.size - offset { window.bus.checked_add(offset) } else { None }
        })
    }

    /// Where the CPU finds what the device calls `bus`.
    #[inline]
    fn phys_address(&self, bus: u64) -> Option<u64> {
        if self.count == 0 {
            return Some(bus);
        }
        self.windows().iter().find_map(|window| {
            let offset = bus.checked_sub(window.bus)?;
            if offset < window.size { window.cpu.checked_add(offset) } else { None }
        })
    }
}

/// What is known of a device when its driver begins.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// By which reports name it.
    pub name: &'static str,
    /// What it sees of RAM.
    pub reach: Reach,
    /// Whether it sees the CPU's caches (`dma-coherent`): then nothing is cleaned or invalidated for it.
    pub is_coherent: bool,
    /// The addresses that it can send out, as a mask: `DMA_BIT_MASK(32)` until the driver knows better, as in Linux.
    pub mask: u64,
}

impl Spec {
    /// A device with addresses of 32 bits that are the CPU's, and without a view of the caches.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, reach: Reach::IDENTITY, is_coherent: false, mask: bit_mask(32) }
    }
}

/// Linux's `DMA_BIT_MASK`: the lowest `bits` bits.
#[must_use]
pub const fn bit_mask(bits: u32) -> u64 {
    match 1u64.checked_shl(bits) {
        Some(end) => end - 1,
        None => u64::MAX,
    }
}

/// A device whose memory is kept account of. Made and given up by [`Mapper::add_device`](super::Mapper::add_device) and
/// [`release`](super::Mapper::release).
#[derive(PartialEq, Eq, Debug)]
pub struct Device {
    pub(super) number: u16,
    name: &'static str,
    reach: Reach,
    is_coherent: bool,
    pub(super) mask: u64,
}

impl Device {
    pub(super) const fn new(number: u16, spec: &Spec) -> Self {
        let Spec { name, reach, is_coherent, mask } = *spec;
        Self { number, name, reach, is_coherent, mask }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it sees the CPU's caches.
    #[must_use]
    pub const fn is_coherent(&self) -> bool {
        self.is_coherent
    }

    /// The addresses that it can send out.
    #[must_use]
    pub const fn mask(&self) -> u64 {
        self.mask
    }

    /// What it calls the `size` bytes at `phys`.
    ///
    /// # Errors
    ///
    /// [`DmaError::Unreachable`]: they lie in no window, or beyond the mask.
    #[inline]
    pub fn bus_address(&self, phys: PhysAddr, size: u64) -> Result<DmaAddr, DmaError> {
        let bus = self.reach.bus_address(phys.as_raw(), size);
        let is_sent = |bus: &u64| bus.checked_add(size.saturating_sub(1)).is_some_and(|last| last <= self.mask);
        bus.filter(is_sent).map(DmaAddr).ok_or(DmaError::Unreachable(phys))
    }

    /// Where the CPU finds what it calls `addr`, if that can be RAM at all.
    #[must_use]
    #[inline]
    pub fn phys_address(&self, addr: DmaAddr) -> Option<PhysAddr> {
        PhysAddr::new(self.reach.phys_address(addr.0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As legacy masters of the Raspberry Pi 4 see RAM.
    const PI: Window = Window { bus: 0xc000_0000, cpu: 0, size: 0x4000_0000 };

    fn device(windows: &[Window], mask: u64) -> Device {
        Device::new(0, &Spec { reach: Reach::new(windows).unwrap(), mask, ..Spec::new("test") })
    }

    fn at(raw: u64) -> PhysAddr {
        PhysAddr::new(raw).unwrap()
    }

    #[test]
    fn windows_and_mask_decide_what_is_reached() {
        let pi = device(&[PI], bit_mask(32));
        assert_eq!(pi.bus_address(at(0), 0x4000_0000), Ok(DmaAddr(0xc000_0000)));
        assert_eq!(pi.bus_address(at(0x3fff_f000), 4096), Ok(DmaAddr(0xffff_f000)));
        assert_eq!(pi.bus_address(at(0x3fff_f001), 4096), Err(DmaError::Unreachable(at(0x3fff_f001))));
        assert_eq!(pi.phys_address(DmaAddr(0xc000_1234)), Some(at(0x1234)));
        assert_eq!(pi.phys_address(DmaAddr(0x1234)), None);
        let narrow = device(&[PI], bit_mask(30));
        assert!(narrow.bus_address(at(0), 1).is_err());
        let plain = device(&[], bit_mask(30));
        assert_eq!(plain.bus_address(at(0x3fff_ffff), 1), Ok(DmaAddr(0x3fff_ffff)));
        assert!(plain.bus_address(at(0x3fff_ffff), 2).is_err());
        assert!(device(&[], u64::MAX).bus_address(at(0xffff_ffff_f000), 4096).is_ok());
    }

    #[test]
    fn a_range_is_in_one_window_or_in_none() {
        let two =
            [Window { bus: 0, cpu: 0x8000_0000, size: 0x1000 }, Window { bus: 0x9000, cpu: 0x8000_1000, size: 0x1000 }];
        let device = device(&two, u64::MAX);
        assert_eq!(device.bus_address(at(0x8000_1800), 0x800), Ok(DmaAddr(0x9800)));
        assert!(device.bus_address(at(0x8000_0800), 0x1000).is_err());
        assert!(Reach::new(&[PI; MAX_WINDOWS + 1]).is_none());
    }

    #[test]
    fn a_mask_has_as_many_bits_as_it_says() {
        assert_eq!([0, 1, 30, 64, 200].map(bit_mask), [0, 1, 0x3fff_ffff, u64::MAX, u64::MAX]);
    }
}
