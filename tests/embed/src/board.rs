// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a firmware has anyway: its board's addresses, a serial port, vectors, a panic handler, an end.

use core::fmt::{self, Write};

use aarch64_rt::{ExceptionHandlers, exception_handlers};
use mm::addr::{PhysAddr, PhysRange};
use qemu_exit::QEMUExit;

exception_handlers!(Vectors);
struct Vectors;
impl ExceptionHandlers for Vectors {}

/// What QEMU gives without being asked.
pub(crate) const RAM: PhysRange = range(1 << 30, 128 << 20);
/// Image, boot stack and device tree.
pub(crate) const IMAGE_AND_TREE: PhysRange = range(1 << 30, 4 << 20);
/// Where `fw_cfg` takes requests for DMA.
pub(crate) const FW_CFG_DMA: usize = 0x0902_0010;

#[expect(clippy::unwrap_used, reason = "while compiling")]
const fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start).unwrap(), PhysAddr::new(start + size).unwrap()).unwrap()
}

/// virt's PL011.
pub(crate) struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let data: *mut u8 = core::ptr::with_exposed_provenance_mut(0x0900_0000);
        // SAFETY: the data register of virt's PL011, identity-mapped as a device.
        text.bytes().for_each(|byte| unsafe { data.write_volatile(byte) });
        Ok(())
    }
}

/// Ends QEMU, with status 0 if all went well.
pub(crate) fn exit(is_good: bool) -> ! {
    let exit = qemu_exit::AArch64::new();
    if is_good { exit.exit_success() } else { exit.exit_failure() }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "{info}");
    exit(false)
}
