// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a program that broke its own rules. Takes no lock for good, allocates nothing.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use crate::fatal::{self, Cause, Event};
use crate::log::record;
use crate::power::Failure;
use crate::{backtrace, exception};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fatal::end(&Panic { info, frame_pointer: backtrace::frame_pointer() })
}

struct Panic<'a, 'b> {
    info: &'a PanicInfo<'b>,
    frame_pointer: u64,
}

impl fmt::Display for Panic<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

impl Event for Panic<'_, '_> {
    fn cause(&self) -> Cause {
        Cause::Panic
    }

    fn failure(&self) -> Failure {
        Failure::Panic
    }

    fn write(&self, w: &mut dyn Write) -> fmt::Result {
        exception::write_cpu(w)?;
        backtrace::write(w, None, None, self.frame_pointer)
    }

    fn record(&self) {
        let (file, line) = self.info.location().map_or(("?", 0), |at| (at.file(), at.line()));
        record!(error, "panic at {=str}:{=u32}", file, line);
    }
}
