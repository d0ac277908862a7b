// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses, frame numbers and ranges, and the only casts between them.
//!
//! A *frame* is 4 KiB of physical memory, a *page* is 4 KiB of virtual memory. Physical, virtual and
//! frame numbers are different types, so that one cannot be passed for another; arithmetic is
//! checked here, once. Ends are exclusive.

use core::fmt;

/// log2 of [`PAGE_SIZE`]: the 4 KiB granule.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page and in a frame.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The largest order of a block: 2^10 frames, 4 MiB (Linux's `MAX_PAGE_ORDER` with 4 KiB pages).
pub const MAX_ORDER: usize = 10;
/// Number of orders, 0 to [`MAX_ORDER`].
pub const NR_ORDERS: usize = MAX_ORDER + 1;

/// A physical address: at most 52 bits wide, the most that the architecture has (Arm ARM D8.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// One past the largest physical address.
    pub const LIMIT: u64 = 1 << 52;
    /// Address 0: real RAM on a Raspberry Pi.
    pub const ZERO: Self = Self(0);

    /// `None` if `raw` is above [`PhysAddr::LIMIT`]. The limit itself is allowed, as an exclusive end.
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw <= Self::LIMIT { Some(Self(raw)) } else { None }
    }

    /// The address `raw`, or [`PhysAddr::LIMIT`] if that is less.
    #[must_use]
    pub const fn new_saturating(raw: u64) -> Self {
        if raw <= Self::LIMIT { Self(raw) } else { Self(Self::LIMIT) }
    }

    /// The address as a number.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// This address plus `bytes`, or `None` beyond [`PhysAddr::LIMIT`].
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Self::new(raw),
            None => None,
        }
    }

    /// Rounded down to a multiple of `align`, a power of two.
    #[must_use]
    pub const fn align_down(self, align: u64) -> Self {
        Self(self.0 & !(align - 1))
    }

    /// Rounded up to a multiple of `align`, a power of two; saturates at [`PhysAddr::LIMIT`].
    #[must_use]
    pub const fn align_up(self, align: u64) -> Self {
        Self::new_saturating((self.0 + (align - 1)) & !(align - 1))
    }

    /// Whether the address is a multiple of `align`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }

    /// The frame that holds this address.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

/// A virtual address, canonical or not: which half it lies in is the translation tables' affair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// The address `raw`.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The address as a number.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// This address plus `bytes`, or `None` past the end of the address space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// Whether the address is a multiple of `align`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }
}

/// A physical frame number: a physical address divided by [`PAGE_SIZE`]. Frame 0 is a frame as any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// Frame number `raw`; `None` if its address is beyond [`PhysAddr::LIMIT`].
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        if raw <= PhysAddr::LIMIT >> PAGE_SHIFT { Some(Self(raw)) } else { None }
    }

    /// Frame number `raw`, of which the caller knows that it exists.
    #[inline(always)]
    pub(crate) const fn known(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn as_raw(self) -> u64 {
        self.0
    }

    /// The first address of the frame.
    #[must_use]
    pub const fn addr(self) -> PhysAddr {
        PhysAddr(self.0 << PAGE_SHIFT)
    }

    /// The other half of the order-`order + 1` block that holds this block.
    #[must_use]
    pub const fn buddy(self, order: Order) -> Self {
        Self(self.0 ^ order.pages())
    }

    /// The frame so many frames further on, which the caller knows to exist.
    #[inline(always)]
    pub(crate) const fn plus(self, frames: u32) -> Self {
        Self(self.0 + frames as u64)
    }

    /// Whether a block of this order may begin here.
    #[must_use]
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & (order.pages() - 1) == 0
    }
}

/// log2 of a block's frames, 0 to [`MAX_ORDER`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Order(Exponent);

/// The values are spelt out so that the compiler knows the others for impossible: it needs no bounds check for an
/// array of [`NR_ORDERS`], and keeps a `Result` with an order in it in two registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
enum Exponent {
    #[default]
    E0,
    E1,
    E2,
    E3,
    E4,
    E5,
    E6,
    E7,
    E8,
    E9,
    E10,
}

const EXPONENTS: [Exponent; NR_ORDERS] = {
    use Exponent::{E0, E1, E2, E3, E4, E5, E6, E7, E8, E9, E10};
    [E0, E1, E2, E3, E4, E5, E6, E7, E8, E9, E10]
};

impl Order {
    /// One frame.
    pub const ZERO: Self = Self(Exponent::E0);
    /// The largest block.
    pub const MAX: Self = Self(Exponent::E10);

    /// `None` above [`MAX_ORDER`].
    #[must_use]
    #[inline]
    pub const fn new(order: usize) -> Option<Self> {
        Some(Self(match order {
            0 => Exponent::E0,
            1 => Exponent::E1,
            2 => Exponent::E2,
            3 => Exponent::E3,
            4 => Exponent::E4,
            5 => Exponent::E5,
            6 => Exponent::E6,
            7 => Exponent::E7,
            8 => Exponent::E8,
            9 => Exponent::E9,
            10 => Exponent::E10,
            _ => return None,
        }))
    }

    /// The smallest order whose block holds `bytes`; `None` if no block does.
    #[must_use]
    pub const fn for_bytes(bytes: u64) -> Option<Self> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        Self::new(if pages <= 1 { 0 } else { 64 - (pages - 1).leading_zeros() as usize })
    }

    /// As an index, 0 to [`MAX_ORDER`].
    #[must_use]
    #[inline]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Frames in a block.
    #[must_use]
    #[inline]
    pub const fn pages(self) -> u64 {
        1 << self.as_usize()
    }

    /// Bytes in a block.
    #[must_use]
    #[inline]
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << self.as_usize()
    }

    /// All orders, smallest first.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        EXPONENTS.into_iter().map(Self)
    }
}

/// Physical addresses from `start` up to and without `end`; never inverted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysRange {
    start: PhysAddr,
    end: PhysAddr,
}

impl PhysRange {
    /// No byte.
    pub const EMPTY: Self = Self { start: PhysAddr::ZERO, end: PhysAddr::ZERO };
    /// All physical addresses.
    pub const EVERYTHING: Self = Self::below(PhysAddr(PhysAddr::LIMIT));

    /// All addresses below `end`.
    #[must_use]
    pub const fn below(end: PhysAddr) -> Self {
        Self { start: PhysAddr::ZERO, end }
    }

    /// `None` if `end` does not lie above `start`.
    #[must_use]
    pub fn non_empty(start: PhysAddr, end: PhysAddr) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// `None` if `end` lies below `start`.
    #[must_use]
    pub const fn new(start: PhysAddr, end: PhysAddr) -> Option<Self> {
        if start.0 <= end.0 { Some(Self { start, end }) } else { None }
    }

    /// `size` bytes from `base`; what lies beyond `limit` is cut off. The second value is how many bytes
    /// were lost, so that nothing that a device tree promised goes missing without a word.
    #[must_use]
    pub const fn clipped(base: u64, size: u64, limit: PhysAddr) -> (Self, u64) {
        let end = base.saturating_add(size);
        let start = if base < limit.0 { base } else { limit.0 };
        let kept_end = if end < limit.0 { end } else { limit.0 };
        let kept_end = if kept_end < start { start } else { kept_end };
        let range = Self { start: PhysAddr(start), end: PhysAddr(kept_end) };
        (range, size - (kept_end - start))
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> PhysAddr {
        self.start
    }

    /// One past the last address.
    #[must_use]
    pub const fn end(self) -> PhysAddr {
        self.end
    }

    /// Bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub const fn contains(self, addr: PhysAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end.0
    }

    /// What both have in common; `None` if that is nothing.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        if start < end { Some(Self { start, end }) } else { None }
    }

    /// What lies outside `hole`: the part below it, then the part above it, without empty ones.
    pub fn around(self, hole: Self) -> impl Iterator<Item = Self> {
        let parts = match self.intersection(hole) {
            Some(hole) => [Self::non_empty(self.start, hole.start), Self::non_empty(hole.end, self.end)],
            None => [Self::non_empty(self.start, self.end), None],
        };
        parts.into_iter().flatten()
    }

    /// The whole frames inside: start rounded up, end rounded down. Empty if there is none.
    #[must_use]
    pub fn frames_inside(self) -> Self {
        let start = self.start.align_up(PAGE_SIZE);
        let end = self.end.align_down(PAGE_SIZE);
        if start < end { Self { start, end } } else { Self { start: self.start, end: self.start } }
    }

    /// The whole frames that touch this range: start rounded down, end rounded up.
    #[must_use]
    pub fn frames_touched(self) -> Self {
        if self.is_empty() {
            return self;
        }
        Self { start: self.start.align_down(PAGE_SIZE), end: self.end.align_up(PAGE_SIZE) }
    }
}

/// Virtual addresses from `start` up to and without `end`; never inverted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtRange {
    start: VirtAddr,
    end: VirtAddr,
}

impl VirtRange {
    /// `None` if `end` lies below `start`.
    #[must_use]
    pub const fn new(start: VirtAddr, end: VirtAddr) -> Option<Self> {
        if start.0 <= end.0 { Some(Self { start, end }) } else { None }
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// One past the last address.
    #[must_use]
    pub const fn end(self) -> VirtAddr {
        self.end
    }

    /// Bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.end.0 - self.start.0
    }
}

/// Sixteen hex digits in groups of four, so that a log line can be read and not be misread.
fn grouped(f: &mut fmt::Formatter<'_>, tag: &str, raw: u64) -> fmt::Result {
    write!(
        f,
        "{tag}:0x{:04x}_{:04x}_{:04x}_{:04x}",
        raw >> 48,
        (raw >> 32) & 0xffff,
        (raw >> 16) & 0xffff,
        raw & 0xffff
    )
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        grouped(f, "pa", self.0)
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        grouped(f, "va", self.0)
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn:{:#x}", self.0)
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", self.start, self.end)
    }
}

/// As Linux writes resources: hexadecimal, the last address inclusive.
impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08x}", self.start.0, self.end.0.saturating_sub(1))
    }
}

impl fmt::Debug for VirtRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests;
