// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boot order in Rust: find the tree, open the console, take the memory, start the program.
//!
//! Whatever goes wrong ends in one clear line and a non-zero status. Before the console is open that line
//! goes to the serial port of the board that this seems to be (see `bsp::board`).

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::MIDR_EL1;
use bsp::console::{choose_console, port_named};
use bsp::dt;
use bsp::info::{BootInfo, Uart, UartKind};
use bsp::uart::Port;
use mm::addr::{PhysAddr, PhysRange, VirtAddr};
use spin::Once;
use spin::mutex::{SpinMutex, SpinMutexGuard};
use tock_registers::interfaces::Readable;

use crate::cpu::PerCpu;
use crate::layout::Image;
use crate::log::{record, records};
use crate::memory::{self, Memory};
use crate::options::Options;
use crate::power::Failure;
use crate::window::Windows;
use crate::{devices, dma, exception, keys, output, power, pr_emerg, pr_info, pr_warn, smp, time};

core::arch::global_asm!(
    include_str!("boot/entry.S"),
    MAIR = const mm::pgtable::MAIR,
    PAGE_TEXT = const mm::pgtable::Attributes::TEXT.page_bits(),
    PAGE_RODATA = const mm::pgtable::Attributes::RODATA.page_bits(),
    PAGE_DATA = const mm::pgtable::Attributes::DATA.page_bits(),
    TCR = const TCR,
    SCTLR_OFF = const SCTLR_OFF,
    SCTLR_ON = const SCTLR_ON,
    FAULT_STACK = const PerCpu::FAULT_STACK,
    FIRST_STACK = const PerCpu::FIRST_STACK,
);

/// 48-bit addresses in both halves, 4 KiB granules, walks cached write-back and inner shareable; the size of
/// physical addresses is filled in at boot (Arm ARM D24.2.206).
const TCR: u64 = {
    let half = 16 | 1 << 8 | 1 << 10 | 3 << 12;
    half | half << 16 | 2 << 30
};
/// Little endian, everything off; the bits that are RES1 in ARMv8.0 (Arm ARM D24.2.174).
const SCTLR_OFF: u64 = 0x30d0_0800;
/// MMU, caches, stack alignment check, and what is writable cannot be executed (M, C, SA, SA0, I, WXN).
const SCTLR_ON: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12 | 1 << 19;

/// What a program finds when it starts.
#[derive(Debug)]
pub struct Machine {
    /// What the device tree says.
    pub info: &'static BootInfo,
    /// The command line, understood.
    pub options: Options<'static>,
    /// RAM and the kernel's map of it.
    pub memory: Memory,
    /// The port of the console, if it is one of the tree's.
    pub console: Option<&'static Uart>,
}

/// Makes a function the program's main: `fn(&'static Machine) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// Called when the machine is up.
        #[unsafe(no_mangle)]
        extern "Rust" fn quire_main(machine: &'static $crate::boot::Machine) -> ! {
            $main(machine)
        }
    };
}

unsafe extern "Rust" {
    fn quire_main(machine: &'static Machine) -> !;
}

static INFO: SpinMutex<BootInfo> = SpinMutex::new(BootInfo::new());
static MACHINE: Once<Machine> = Once::new();
/// Where the image was loaded, for whoever has to complain before the machine is up.
static IMAGE_START: AtomicU64 = AtomicU64::new(0);

/// The image, as it was loaded.
#[must_use]
pub fn image() -> Image {
    Image::at(PhysAddr::new_saturating(IMAGE_START.load(Ordering::Relaxed)))
}

/// The machine, once it is up.
#[must_use]
pub fn machine() -> Option<&'static Machine> {
    MACHINE.get()
}

/// Nanoseconds since the counter started, which is when the machine did.
#[must_use]
pub fn uptime_ns() -> u64 {
    time::to_ns(time::ticks())
}

/// From `entry.S`: x0 as the loader left it, where the image was loaded, the exception level at entry.
#[unsafe(no_mangle)]
extern "C" fn kernel_start(tree: u64, image: u64, level: u64) -> ! {
    IMAGE_START.store(image, Ordering::Relaxed);
    let image = Image::at(PhysAddr::new_saturating(image));
    // SAFETY: we came here on the boot tables, and nothing else of Rust has run.
    let mut windows = unsafe { Windows::new(image) };
    let machine = match start(tree, image, level, &mut windows) {
        Ok(machine) => MACHINE.call_once(|| machine),
        Err(error) => {
            open_last_resort();
            pr_emerg!("quire: fatal: {error}");
            power::fail(Failure::Boot)
        }
    };
    smp::start(machine);
    dma::start(machine);
    keys::start(machine);
    let time_ns = uptime_ns();
    pr_info!("boot: {time_ns} ns since the counter started");
    record!(info, "boot: done after {=u64} ns", time_ns);
    // SAFETY: `entry!` defines this function with this signature.
    unsafe { quire_main(machine) }
}

fn start(tree: u64, image: Image, level: u64, windows: &mut Windows) -> Result<Machine, BootError> {
    let mut guard = INFO.lock();
    let (blob, blob_range) = find_tree(tree, windows)?;
    dt::read(blob, &mut guard).map_err(BootError::Tree)?;
    // The lock is never opened again: from here on nobody writes.
    let info: &'static BootInfo = SpinMutexGuard::leak(guard);
    power::configure(info);
    let options = Options::read(&info.bootargs);
    options.configure_log();
    power::set_panic_seconds(options.panic_seconds);
    devices::start(info, image, |base| map_device(info, windows, base));
    let console = open_console(info, image, windows);
    exception::unmask_serror();
    banner(info, tree, image, level, console);
    devices::report();
    options.report();
    open_records(info, &options, console, windows);
    let (at, midr) = (image.range().start(), MIDR_EL1.get());
    record!(info, "boot: EL{=u64}, image at {}, tree at {=u64:#x}, MIDR {=u64:#x}", level, at, tree, midr);
    if let Some(base) = info.watchdog
        && let Some(virt) = map_device(info, windows, base)
    {
        // SAFETY: the tree says that the block is there; device windows are never unmapped.
        unsafe { power::set_watchdog(virt.as_raw()) };
    }
    let memory = memory::start(info, &options, image, blob, blob_range, windows).map_err(BootError::Memory)?;
    Ok(Machine { info, options, memory, console })
}

/// Looks at what x0 points to, and maps all of the tree if it is one.
fn find_tree(tree: u64, windows: &mut Windows) -> Result<(&'static [u8], PhysRange), BootError> {
    let phys = match PhysAddr::new(tree) {
        // The boot protocol wants 8-byte alignment; anything else is no tree, and may be no RAM.
        Some(phys) if tree != 0 && tree.is_multiple_of(8) && tree < memory::phys_limit().as_raw() => phys,
        _ => return Err(BootError::NoTree(tree)),
    };
    let prefix = windows.device_tree(phys, dt::header::PREFIX as u64).map_err(|_| BootError::NoTree(tree))?;
    let size = dt::header::total_size(prefix).map_err(|error| match error {
        dt::DtError::BadMagic { .. } if is_atags(prefix) => BootError::Atags(tree),
        dt::DtError::BadMagic { .. } => BootError::NoTree(tree),
        other => BootError::Tree(other),
    })?;
    let blob = windows.device_tree(phys, size as u64).map_err(|_| BootError::NoTree(tree))?;
    let end = phys.checked_add(size as u64).ok_or(BootError::NoTree(tree))?;
    Ok((blob, PhysRange::new(phys, end).unwrap_or_default()))
}

/// The list of a 32-bit boot protocol begins with a core tag: size 2 or 5 words, then `ATAG_CORE`.
fn is_atags(prefix: &[u8]) -> bool {
    prefix.get(4..8) == Some(&0x5441_0001_u32.to_le_bytes())
}

/// Opens the port that command line or tree choose; if that cannot be, another one of the tree's. Tells which.
fn open_console<'a>(info: &'a BootInfo, image: Image, windows: &mut Windows) -> Option<&'a Uart> {
    let chosen = choose_console(info, &info.bootargs);
    let opened = chosen.into_iter().chain(&info.uarts).find(|uart| match open_uart(info, uart, windows) {
        Some(port) => {
            output::set_port(port);
            true
        }
        None => false,
    });
    // The tree knows no port that we can drive. Only a board that says its name is written to.
    if opened.is_none() && (info.is_raspberry_pi() || info.compatible.starts_with("linux,dummy-virt")) {
        open_plain_uart(image, windows);
    }
    if let Some(uart) = chosen.filter(|_| opened != chosen) {
        pr_warn!("console: {} at {:#x} is out of reach, misaligned, or in RAM", uart.name, uart.base);
    }
    opened
}

/// Sends records where the command line wants them: between the text, or to a port of their own.
fn open_records(info: &BootInfo, options: &Options<'_>, console: Option<&Uart>, windows: &mut Windows) {
    let Some(wanted) = options.records else { return };
    if let Some(name) = wanted {
        let uart = port_named(info, name).filter(|uart| Some(*uart) != console);
        match uart.and_then(|uart| open_uart(info, uart, windows)) {
            Some(port) => output::set_record_port(port),
            None => {
                pr_warn!("log: no port {name} besides the console: records are not sent");
                return;
            }
        }
    }
    records::start();
}

/// Whether there can be registers at `base`: what is RAM, or our own image, must not be written to as a device.
fn is_device(info: &BootInfo, base: u64) -> bool {
    let in_ram = info.memory.iter().any(|bank| base.wrapping_sub(bank.range.base) < bank.range.size);
    base < memory::phys_limit().as_raw() && base.is_multiple_of(4) && !in_ram
}

/// Maps the page of a device for good; tells where its registers are then.
fn map_device(info: &BootInfo, windows: &mut Windows, base: u64) -> Option<VirtAddr> {
    if is_device(info, base) { windows.device(base).ok() } else { None }
}

/// A port of the tree, if it can be one.
fn open_uart(info: &BootInfo, uart: &Uart, windows: &mut Windows) -> Option<Port> {
    let registers = map_device(info, windows, uart.base)?;
    // SAFETY: the tree says that the port is there, and its whole page is mapped; nobody opens a port twice.
    Some(unsafe { start_uart(uart.kind, registers, Some(uart), info.stdout_baud) })
}

/// A port that works. `uart` is what the tree says of it: one that is off gets its pins and its clock from there, or
/// from whoever else knows them.
///
/// # Safety
///
/// The registers of a `kind` UART are mapped at `registers`, with the rest of their page, for good, and only here.
unsafe fn start_uart(kind: UartKind, registers: VirtAddr, uart: Option<&Uart>, baud: Option<u32>) -> Port {
    // SAFETY: the caller's promise, passed on.
    let mut port = unsafe { Port::new(kind, registers.as_raw() as usize) };
    if !port.is_started() {
        uart.into_iter().for_each(devices::connect_pins);
        port.start(uart.and_then(|uart| uart.clock_hz).or_else(|| devices::uart_clock(kind)), baud);
    }
    port
}

/// Opens some console, if there is none, for the last lines of a machine that does not come up.
pub(crate) fn open_last_resort() {
    // Once the kernel's own map is live there is a console, or nobody to talk to.
    if !output::has_port() && MACHINE.get().is_none() && !memory::is_mapped() {
        let image = image();
        // SAFETY: the boot tables are live; whoever used the windows before has failed and does not come back.
        let mut windows = unsafe { Windows::new(image) };
        open_plain_uart(image, &mut windows);
    }
}

/// Guesses the board's port: the last resort for a last line.
fn open_plain_uart(image: Image, windows: &mut Windows) {
    let Some(mut uart) = bsp::board::plain_uart(image.range().start().as_raw(), MIDR_EL1.get()) else { return };
    if let Some(gpio) = uart.gpio
        && let Ok(virt) = windows.device(gpio)
    {
        let gpfsel1: *const u32 = core::ptr::with_exposed_provenance(virt.as_raw() as usize + 4);
        // SAFETY: the GPIO block's page is mapped as Device memory; reading GPFSEL1 has no side effect.
        uart = uart.on_the_pins(unsafe { gpfsel1.read_volatile() });
    }
    if let Ok(registers) = windows.device(uart.base) {
        // SAFETY: the board has the port there, if it is what it seems to be; its whole page is mapped.
        output::set_port(unsafe { start_uart(uart.kind, registers, None, None) });
    }
    pr_info!("quire: this looks like a {}", uart.board);
}

fn banner(info: &BootInfo, tree: u64, image: Image, level: u64, console: Option<&Uart>) {
    pr_info!(
        "Quire {} on {}",
        env!("CARGO_PKG_VERSION"),
        if info.model.is_empty() { "a board without a name" } else { &info.model }
    );
    pr_info!(
        "boot: entered at EL{level}, image at {:#x} ({} bytes in the file), device tree at {tree:#x}, MIDR {:#x}",
        image.range().start().as_raw(),
        image.file_size(),
        MIDR_EL1.get()
    );
    if level == 3 {
        pr_warn!("boot: no firmware ran before us: interrupts and PSCI are not set up");
    }
    if let Some(uart) = console {
        pr_info!("console: {} at {:#x} ({})", uart.compatible, uart.base, uart.name);
    }
    for problem in &info.problems {
        pr_warn!("device tree: {problem}");
    }
}

/// Why there is no machine to run a program on.
#[derive(Debug)]
pub(crate) enum BootError {
    NoTree(u64),
    Atags(u64),
    Tree(dt::DtError),
    Memory(memory::MemoryError),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree(0) => write!(f, "no device tree: x0 is 0 at entry"),
            Self::NoTree(at) => write!(f, "no device tree: x0 is {at:#x} at entry, and no tree is there"),
            Self::Atags(at) => {
                write!(f, "no device tree: x0 points at ATAGs at {at:#x}; give QEMU -dtb FILE, or the loader a tree")
            }
            Self::Tree(error) => write!(f, "bad device tree: {error}"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}
