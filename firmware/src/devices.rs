// SPDX-License-Identifier: MIT OR Apache-2.0
//! The board's small devices, where the tree has them: pins, activity LED, and the Raspberry Pi's firmware behind its
//! mailbox. They are opened before the console, which may need a pin and a clock from them.
//!
//! *Lock:* one each, never taken by a handler. A report of a failure only tries: whoever holds a lock may be dead.

use bsp::delay::{Delay, GenericTimer};
use bsp::gpio::{Gpio, Output};
use bsp::info::{BootInfo, DmaWindow, LedLine, Mailbox, Uart, UartKind};
use bsp::led::Led;
use bsp::mailbox::message::{clock, tag};
use bsp::mailbox::revision::Revision;
use bsp::mailbox::{Buffer, Firmware, MailboxError, MailboxRegisters};
use embedded_hal::delay::DelayNs;
use embedded_hal::digital::{ErrorKind, ErrorType, OutputPin};
use mm::addr::{VirtAddr, VirtRange};
use mm::dma::{Reach, Spec, Window};
use mm::gfp::Gfp;
use spin::Once;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::dma::KernelMapper;
use crate::layout::Image;
use crate::{pr_info, pr_warn};

static PINS: Once<SpinMutex<Gpio>> = Once::new();
static FIRMWARE: Once<SpinMutex<Firmware<MailboxRegisters>>> = Once::new();
static BUFFER: SpinMutex<Buffer> = SpinMutex::new(Buffer::new());
static LED: Once<SpinMutex<Led<LedPin>>> = Once::new();

/// What drives the LED.
enum LedPin {
    Pin(Output),
    /// A line of the expander that the firmware reaches.
    Firmware(u8),
}

/// The lines of the expander come behind the processor's pins.
const EXPANDER: u32 = 128;

/// Opens the devices that `info` has; `map` maps the registers of one.
pub(crate) fn start(info: &BootInfo, image: Image, mut map: impl FnMut(u64) -> Option<VirtAddr>) {
    if let Some(gpio) = info.gpio
        && let Some(virt) = map(gpio.base)
    {
        // SAFETY: the tree says that the block is there; its page is mapped for good, and this is the only user.
        PINS.call_once(|| SpinMutex::new(unsafe { Gpio::new(gpio.kind, virt.as_raw() as usize) }));
    }
    if let Some(mailbox) = info.mailbox
        && let Some(virt) = map(mailbox.base)
    {
        open_firmware(mailbox, virt, image);
    }
    let pin = info.act_led.and_then(|led| match led.line {
        LedLine::Pin(pin) => PINS.get()?.lock().output(pin).ok().map(LedPin::Pin),
        LedLine::Firmware(line) => FIRMWARE.get().map(|_| LedPin::Firmware(line)),
    });
    if let (Some(pin), Some(led)) = (pin, info.act_led) {
        LED.call_once(|| SpinMutex::new(Led::new(pin, led.active_low)));
    }
}

fn open_firmware(mailbox: Mailbox, registers: VirtAddr, image: Image) {
    let Some(mut buffer) = BUFFER.try_lock() else { return };
    let start = VirtAddr::new((&raw mut *buffer).addr() as u64);
    let end = VirtAddr::new(start.as_raw() + size_of::<Buffer>() as u64);
    let phys = image.phys_of(VirtRange::new(start, end).unwrap_or_default());
    let bus = mailbox.dma.bus_address(phys.start().as_raw(), phys.size());
    let Some(bus) = bus.and_then(|bus| u32::try_from(bus).ok()) else { return };
    // SAFETY: the tree says that the mailboxes are there; their page is mapped for good, and this is the only user.
    let boxes = unsafe { MailboxRegisters::new(registers.as_raw() as usize) };
    let buffer = SpinMutexGuard::leak(buffer);
    // SAFETY: the buffer is part of the image's data, at this physical address, which the firmware sees at `bus`.
    if let Some(firmware) = unsafe { Firmware::new(boxes, buffer, bus) } {
        FIRMWARE.call_once(|| SpinMutex::new(firmware));
    }
}

/// Moves the messages into coherent memory: what is cacheable needs care, and is part of the image.
pub(crate) fn use_coherent_memory(info: &BootInfo, mapper: &'static KernelMapper) {
    let (Some(mailbox), Some(firmware)) = (info.mailbox, FIRMWARE.get()) else { return };
    let DmaWindow { bus, cpu, size } = mailbox.dma;
    let reach = if mailbox.dma == DmaWindow::IDENTITY {
        Some(Reach::IDENTITY)
    } else {
        Reach::new(&[Window { bus, cpu, size }])
    };
    let spec = Spec { reach: reach.unwrap_or(Reach::IDENTITY), ..Spec::new("mailbox") };
    let moved = mapper.add_device(&spec).and_then(|device| {
        let memory = mapper.alloc_coherent(&device, size_of::<Buffer>() as u64, Gfp::KERNEL)?;
        // SAFETY: coherent memory, whole pages, ours for good; any bits are a buffer.
        let buffer = unsafe { memory.pointer.cast::<Buffer>().as_mut() };
        let bus = u32::try_from(memory.addr.as_raw()).unwrap_or(u32::MAX);
        // SAFETY: the firmware sees that memory there.
        Ok(unsafe { firmware.lock().move_to(buffer, bus) })
    });
    match moved {
        Ok(true) => {}
        Ok(false) => pr_warn!("mailbox: messages stay in the image: their place is misaligned"),
        Err(error) => pr_warn!("mailbox: messages stay in the image: {error}"),
    }
}

/// Asks the firmware for two values. `None` if there is none, or somebody asks already.
fn ask(tag: u32, values: &[u32]) -> Option<Result<[u32; 2], MailboxError>> {
    let mut firmware = FIRMWARE.get()?.try_lock()?;
    let mut answer = [0; 2];
    let error = firmware.ask(tag, values, &mut answer, &mut Delay::new(GenericTimer)).err();
    Some(error.map_or(Ok(answer), Err))
}

/// The rate of the clock that feeds a serial port, as the firmware knows it.
#[must_use]
pub fn uart_clock(kind: UartKind) -> Option<u32> {
    let clock = match kind {
        UartKind::Pl011 => clock::UART,
        UartKind::BcmAux => clock::CORE,
    };
    let [_, rate] = ask(tag::CLOCK_RATE, &[clock])?.ok()?;
    (rate != 0).then_some(rate)
}

/// The board's revision, as the firmware knows it.
#[must_use]
pub fn revision() -> Option<Revision> {
    let [code, _] = ask(tag::BOARD_REVISION, &[])?.ok()?;
    Some(Revision(code))
}

/// Gives the pins that the tree wants for a serial port to it.
pub(crate) fn connect_pins(uart: &Uart) {
    let Some(mut pins) = PINS.get().and_then(SpinMutex::try_lock) else { return };
    for setting in uart.pins.iter().flatten() {
        if pins.apply(*setting, &mut Delay::new(GenericTimer)).is_err() {
            pr_warn!("{}: there is no pin {}", uart.name, setting.pin);
        }
    }
}

/// Logs what the firmware says of the board.
pub(crate) fn report() {
    match ask(tag::BOARD_REVISION, &[]) {
        None => return,
        Some(Ok([code, _])) => pr_info!("board: {}", Revision(code)),
        Some(Err(error)) => {
            pr_warn!("board: {error}");
            return;
        }
    }
    if let Some(Ok([base, size])) = ask(tag::ARM_MEMORY, &[]) {
        let clock = |kind| uart_clock(kind).unwrap_or(0);
        pr_info!(
            "board: the firmware leaves us {size} bytes from {base:#x}; UART clock {} Hz, core clock {} Hz",
            clock(UartKind::Pl011),
            clock(UartKind::BcmAux)
        );
    }
}

/// Blinks the activity LED so many times, and pauses; without one, only the time passes. For the end of a machine:
/// takes no lock that may be held.
pub(crate) fn signal(blinks: u32) {
    let mut delay = Delay::new(GenericTimer);
    match LED.get().and_then(SpinMutex::try_lock) {
        // Whether it could be seen or not, there is nobody to tell.
        Some(mut led) => drop(led.signal(blinks, &mut delay)),
        None => delay.delay_ms(1000),
    }
}

/// A line that cannot be driven: the firmware does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NoAnswer;

impl embedded_hal::digital::Error for NoAnswer {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl ErrorType for LedPin {
    type Error = NoAnswer;
}

impl LedPin {
    fn set(&mut self, high: bool) -> Result<(), NoAnswer> {
        match self {
            Self::Pin(pin) => {
                let Ok(()) = if high { pin.set_high() } else { pin.set_low() };
                Ok(())
            }
            Self::Firmware(line) => match ask(tag::SET_LINE, &[EXPANDER + u32::from(*line), high.into()]) {
                Some(Ok(_)) => Ok(()),
                _ => Err(NoAnswer),
            },
        }
    }
}

impl OutputPin for LedPin {
    fn set_low(&mut self) -> Result<(), NoAnswer> {
        self.set(false)
    }

    fn set_high(&mut self) -> Result<(), NoAnswer> {
        self.set(true)
    }
}
