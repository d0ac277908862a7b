// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the device tree says, as plain data: no borrowed text, no pointers into the blob.
//!
//! Numbers are as the tree writes them, even where they are absurd; who uses them checks them. Device
//! addresses are CPU addresses, translated through every bus's `ranges`.

mod masters;
mod pins;

use core::fmt;

use arrayvec::{ArrayString, ArrayVec};

pub use self::masters::{DmaWindows, Master, MasterKind};
pub use self::pins::{DmaWindow, Gpio, GpioKind, Led, LedLine, Mailbox, PinSetting, Pull};

/// Owned text of at most `N` bytes. Longer text is cut, and what is not printable becomes `?`.
pub type Text<const N: usize> = ArrayString<N>;

/// Most banks of RAM.
pub const MAX_BANKS: usize = 64;
/// Most static reservations.
pub const MAX_RESERVATIONS: usize = 192;

/// `size` bytes from `base`. May be empty, and may run past the end of the address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct RawRange {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// A bank of RAM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MemoryBank {
    /// Where it is.
    pub range: RawRange,
    /// `numa-node-id`; 0 where the tree has none.
    pub node: u32,
    /// Whether the bank may be taken out while the machine runs.
    pub hotpluggable: bool,
}

/// What a reservation asks for (Devicetree Specification 3.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ReservedKind {
    /// Leave it alone.
    Plain,
    /// Leave it alone, and do not even map it.
    NoMap,
    /// Usable until its owner wants it.
    Reusable,
    /// An entry of the blob's header: leave it alone.
    MemReserve,
}

impl ReservedKind {
    /// `no-map`, `reusable`, `memreserve`, or nothing.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::NoMap => "no-map",
            Self::Reusable => "reusable",
            Self::MemReserve => "memreserve",
        }
    }
}

/// A reservation at a given place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Where it is.
    pub range: RawRange,
    /// What it asks for.
    pub kind: ReservedKind,
    /// The node's name, or `memreserve`.
    pub name: Text<48>,
}

/// A reservation that the firmware is to place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DynamicReservation {
    /// Bytes.
    pub size: u64,
    /// Alignment in bytes; 0 if the tree names none.
    pub align: u64,
    /// Where it may lie: the first of `alloc-ranges`.
    pub within: Option<RawRange>,
    /// What it asks for.
    pub kind: ReservedKind,
    /// `linux,cma-default`: the pool for contiguous allocations.
    pub is_cma_default: bool,
    /// The node's name.
    pub name: Text<48>,
}

/// The serial ports that there are drivers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UartKind {
    /// Arm PL011, or a subset of it that firmware has set up (SBSA).
    Pl011,
    /// The Raspberry Pi's mini UART.
    BcmAux,
}

/// A serial port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// Which driver.
    pub kind: UartKind,
    /// The `compatible` string that chose the driver.
    pub compatible: &'static str,
    /// CPU address of its registers.
    pub base: u64,
    /// Bytes of them.
    pub size: u64,
    /// Input clock, if the tree names a fixed one.
    pub clock_hz: Option<u32>,
    /// N of the alias `serialN` that names this port.
    pub serial_index: Option<u32>,
    /// Its interrupt, if it leads to a controller that there is a driver for.
    pub interrupt: Option<Interrupt>,
    /// How its pins are to be set, as far as they are to be.
    pub pins: [Option<PinSetting>; 4],
    /// The node's name.
    pub name: Text<48>,
}

/// How a processor is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnableMethod {
    /// By a PSCI call.
    Psci,
    /// By writing its entry point to this address.
    SpinTable {
        /// Physical address of the 64-bit release word.
        release: u64,
    },
    /// In a way that is not supported, or not at all.
    Unknown,
}

/// A processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Affinity fields of MPIDR_EL1.
    pub mpidr: u64,
    /// How to start it.
    pub method: EnableMethod,
    /// `numa-node-id`; 0 where the tree has none.
    pub node: u32,
}

/// The instruction that reaches the PSCI firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// `SMC`, to EL3.
    Smc,
    /// `HVC`, to EL2.
    Hvc,
}

/// Power management firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Psci {
    /// How to call it.
    pub conduit: Conduit,
}

/// Interrupt controllers that this firmware may meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntcKind {
    /// Arm GIC, version 1 or 2: distributor, CPU interface.
    GicV2,
    /// Arm GIC, version 3: distributor, redistributors.
    GicV3,
    /// The per-core controller of the Pi 2 and 3.
    BcmL1,
    /// The shared controller of the older Pis.
    BcmArmctrl,
}

/// An interrupt, as the node of a device names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interrupt {
    /// Index of its controller in [`BootInfo::intcs`].
    pub controller: usize,
    /// The specifier; what the cells mean is the controller's affair. Cells behind the first three are left out.
    pub cells: [u32; 3],
}

/// An interrupt controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterruptController {
    /// Which.
    pub kind: IntcKind,
    /// Its register blocks, in the binding's order.
    pub regs: ArrayVec<RawRange, 8>,
    /// Where it passes its own interrupts on, if that is another controller.
    pub parent: Option<Interrupt>,
    /// Number of blocks with redistributors; they follow the distributor (GICv3).
    pub redistributor_regions: usize,
}

/// The generic timer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Timer {
    /// Of the secure, non-secure physical, virtual and hypervisor timer, in this order, as far as the tree goes.
    pub interrupts: ArrayVec<Interrupt, 5>,
}

impl Timer {
    /// The non-secure physical timer's.
    #[must_use]
    pub fn physical(&self) -> Option<Interrupt> {
        self.interrupts.get(1).copied()
    }

    /// The virtual timer's.
    #[must_use]
    pub fn virtual_(&self) -> Option<Interrupt> {
        self.interrupts.get(2).copied()
    }
}

/// What is odd about a tree, but no reason to give up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oddity {
    /// `reg` or a list like it is no whole number of entries.
    PartialEntry,
    /// Addresses or sizes of more cells than a 64-bit number has.
    TooManyCells,
    /// The address does not lead to the CPU through every bus's `ranges`.
    Unreachable,
    /// Text was too long, or had unprintable bytes in it.
    BadText,
    /// The initrd ends before it begins.
    InvertedInitrd,
    /// More of these than there is room for.
    TooMany,
    /// `stdout-path` names nothing that there is a driver for.
    UnknownStdout,
}

/// An oddity and the node it was found in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What.
    pub oddity: Oddity,
    /// The node's name.
    pub node: Text<48>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.oddity {
            Oddity::PartialEntry => "a list ends in the middle of an entry, which is ignored",
            Oddity::TooManyCells => "addresses or sizes of more than 64 bits are ignored",
            Oddity::Unreachable => "its address does not lead to the CPU: ignored",
            Oddity::BadText => "text was cut, or had unprintable bytes",
            Oddity::InvertedInitrd => "the initrd ends before it begins: ignored",
            Oddity::TooMany => "more entries than there is room for: the rest is ignored",
            Oddity::UnknownStdout => "stdout-path names no serial port that there is a driver for",
        };
        write!(f, "{}: {what}", self.node)
    }
}

/// All that the firmware wants to know of a board. About 30 KiB: it lives in a static, and is filled in place.
#[derive(Debug)]
pub struct BootInfo {
    /// The board's name.
    pub model: Text<64>,
    /// The first `compatible` of the root.
    pub compatible: Text<64>,
    /// RAM, sorted by address; not merged, empty banks left out.
    pub memory: ArrayVec<MemoryBank, MAX_BANKS>,
    /// Static reservations, sorted by address; empty ones left out.
    pub reserved: ArrayVec<Reservation, MAX_RESERVATIONS>,
    /// Reservations to be placed.
    pub dynamic: ArrayVec<DynamicReservation, 16>,
    /// The initial ram disk.
    pub initrd: Option<RawRange>,
    /// The kernel's command line.
    pub bootargs: Text<4096>,
    /// `stdout-path` as written, options included.
    pub stdout: Option<Text<256>>,
    /// The speed that `stdout-path` asks for.
    pub stdout_baud: Option<u32>,
    /// Enabled serial ports that there are drivers for, in the tree's order.
    pub uarts: ArrayVec<Uart, 16>,
    /// Which of them `stdout-path` names.
    pub stdout_uart: Option<usize>,
    /// Enabled processors, the first 64.
    pub cpus: ArrayVec<Cpu, 64>,
    /// Number of all enabled processors.
    pub nr_cpus: usize,
    /// Power management firmware.
    pub psci: Option<Psci>,
    /// Interrupt controllers.
    pub intcs: ArrayVec<InterruptController, 4>,
    /// The generic timer.
    pub timer: Option<Timer>,
    /// First address that some bus master cannot reach (the tightest `dma-ranges`); `None` without any limit.
    pub dma_limit: Option<u64>,
    /// Devices that are masters of a bus, and that there are drivers for.
    pub masters: ArrayVec<Master, 40>,
    /// How RAM looks from their buses.
    pub dma_buses: ArrayVec<DmaWindows, 8>,
    /// CPU address of the Raspberry Pi's power management block.
    pub watchdog: Option<u64>,
    /// The Raspberry Pi's pin controller.
    pub gpio: Option<Gpio>,
    /// The mailbox of the Raspberry Pi's firmware.
    pub mailbox: Option<Mailbox>,
    /// The activity LED.
    pub act_led: Option<Led>,
    /// What is odd about the tree; the first 16 of them.
    pub problems: ArrayVec<Problem, 16>,
    /// Banks and reservations that there was no room for: using the RAM would be unsafe.
    pub lost_ranges: usize,
    is_raspberry_pi: bool,
}

impl Default for BootInfo {
    fn default() -> Self {
        Self::new()
    }
}

impl BootInfo {
    /// Knows nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            model: Text::new_const(),
            compatible: Text::new_const(),
            memory: ArrayVec::new_const(),
            reserved: ArrayVec::new_const(),
            dynamic: ArrayVec::new_const(),
            initrd: None,
            bootargs: Text::new_const(),
            stdout: None,
            stdout_baud: None,
            uarts: ArrayVec::new_const(),
            stdout_uart: None,
            cpus: ArrayVec::new_const(),
            nr_cpus: 0,
            psci: None,
            intcs: ArrayVec::new_const(),
            timer: None,
            dma_limit: None,
            masters: ArrayVec::new_const(),
            dma_buses: ArrayVec::new_const(),
            watchdog: None,
            gpio: None,
            mailbox: None,
            act_led: None,
            problems: ArrayVec::new_const(),
            lost_ranges: 0,
            is_raspberry_pi: false,
        }
    }

    /// Forgets everything, in place.
    pub(crate) fn clear(&mut self) {
        self.model.clear();
        self.compatible.clear();
        self.memory.clear();
        self.reserved.clear();
        self.dynamic.clear();
        self.initrd = None;
        self.bootargs.clear();
        self.stdout = None;
        self.stdout_baud = None;
        self.uarts.clear();
        self.stdout_uart = None;
        self.cpus.clear();
        self.nr_cpus = 0;
        self.psci = None;
        self.intcs.clear();
        self.timer = None;
        self.dma_limit = None;
        self.masters.clear();
        self.dma_buses.clear();
        self.watchdog = None;
        self.gpio = None;
        self.mailbox = None;
        self.act_led = None;
        self.problems.clear();
        self.lost_ranges = 0;
        self.is_raspberry_pi = false;
    }

    /// The serial port that `stdout-path` names, else the first.
    #[must_use]
    pub fn console(&self) -> Option<&Uart> {
        self.stdout_uart.and_then(|index| self.uarts.get(index)).or(self.uarts.first())
    }

    /// Whether banks or reservations are missing from the lists.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.lost_ranges != 0
    }

    /// Whether the board says that it is a Raspberry Pi.
    #[must_use]
    pub const fn is_raspberry_pi(&self) -> bool {
        self.is_raspberry_pi
    }

    pub(crate) const fn set_raspberry_pi(&mut self) {
        self.is_raspberry_pi = true;
    }

    /// Notes an oddity; the first 16 are kept.
    pub(crate) fn note(&mut self, oddity: Oddity, node: &str) {
        let problem = Problem { oddity, node: name(node.as_bytes()) };
        if !self.problems.contains(&problem) {
            let _ = self.problems.try_push(problem);
        }
    }
}

/// Sets `text` to these bytes, up to the first NUL. Tells whether anything was cut or replaced.
///
/// In place, since a command line is too large to pass through a small stack.
pub(crate) fn set_text<const N: usize>(text: &mut Text<N>, bytes: &[u8]) -> bool {
    text.clear();
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut changed = false;
    for chunk in bytes.utf8_chunks() {
        let replaced = (!chunk.invalid().is_empty()).then_some('\u{fffd}');
        for char in chunk.valid().chars().chain(replaced) {
            let printable = match char {
                '\t' | '\n' => ' ',
                '\u{fffd}' => '?',
                other if other.is_control() => '?',
                other => other,
            };
            changed |= printable == '?' && char != '?';
            if text.try_push(printable).is_err() {
                return true;
            }
        }
    }
    changed
}

/// A node's name as text: longer than the specification allows it is cut.
pub(crate) fn name(bytes: &[u8]) -> Text<48> {
    let mut name = Text::new();
    set_text(&mut name, bytes);
    name
}
